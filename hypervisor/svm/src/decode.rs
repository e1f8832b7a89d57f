//! What a raw exit means.
//!
//! Reads only the fields that the exit code makes valid.
//!
//! Source: APM vol. 2, appendix C "SVM Intercept Exit Codes"; 15.10.2 "IN and OUT
//! Behavior"; 15.25.6 "Nested Table Walk Faults"; 15.33 "Decode Assists" (section
//! numbers of revision 3.42).

use crate::FieldSource;
use anchorite_addr::{Gpa, Gva};
use anchorite_vcpu::exit::{
    ControlAccess, ControlExit, DebugExit, Direction, ExceptionExit, IoExit, NestedAccess,
    NestedFault,
};
use anchorite_vcpu::{Gpr, Vector, VmExit};

/// Exit codes. Source: APM vol. 2, appendix C, table C-1.
pub mod code {
    #![expect(missing_docs, reason = "each constant is the code of that name in the table")]
    pub const READ_CR0: u64 = 0x00;
    pub const READ_CR15: u64 = 0x0f;
    pub const WRITE_CR0: u64 = 0x10;
    pub const WRITE_CR15: u64 = 0x1f;
    pub const READ_DR0: u64 = 0x20;
    pub const READ_DR15: u64 = 0x2f;
    pub const WRITE_DR0: u64 = 0x30;
    pub const WRITE_DR15: u64 = 0x3f;
    pub const EXCEPTION_0: u64 = 0x40;
    pub const PAGE_FAULT: u64 = 0x4e;
    pub const EXCEPTION_31: u64 = 0x5f;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const VINTR: u64 = 0x64;
    pub const CR0_SELECTIVE_WRITE: u64 = 0x65;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPG: u64 = 0x79;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const TASK_SWITCH: u64 = 0x7d;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const SKINIT: u64 = 0x86;
    pub const RDTSCP: u64 = 0x87;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const MWAIT_CONDITIONAL: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const INVPCID: u64 = 0xa2;
    pub const NESTED_PAGE_FAULT: u64 = 0x400;
    /// The low half of −1: QEMU 7.2 writes no more.
    pub const INVALID: u64 = 0xffff_ffff;
}

/// Bit 63 of EXITINFO1 for an access to a control register: the instruction was MOV,
/// and bits 0–3 hold its general register.
const INFO_MOV: u64 = 1 << 63;

/// Whether the CPU fills in EXITINFO1 for MOV, INVLPG and the like, and instruction
/// bytes for page faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeAssists(pub bool);

/// Whether `raw` says that the CPU refused to enter the guest.
#[inline]
pub const fn is_refusal(raw: u64) -> bool {
    raw as u32 == code::INVALID as u32
}

/// Decodes the exit with this raw `code`.
#[inline]
pub fn decode(raw: u64, assists: DecodeAssists, vmcb: &impl FieldSource) -> VmExit {
    match raw {
        // First what no table of jumps finds quickly.
        code::PAGE_FAULT => VmExit::Exception(page_fault(vmcb)),
        code::IOIO => VmExit::Io(io(vmcb.exit_info_1(), vmcb.exit_info_2())),
        code::CPUID => VmExit::Cpuid,
        code::NESTED_PAGE_FAULT => {
            VmExit::NestedFault(nested_fault(vmcb.exit_info_1(), vmcb.exit_info_2()))
        }
        code::INTR => VmExit::HostInterrupt,
        code::HLT => VmExit::Halt,
        code::VMMCALL => VmExit::Hypercall,
        code::MSR if vmcb.exit_info_1() & 1 == 0 => VmExit::ReadMsr,
        code::MSR => VmExit::WriteMsr,
        code::EXCEPTION_0..=code::EXCEPTION_31 => VmExit::Exception(exception(raw, vmcb)),
        code::READ_CR0..=code::WRITE_CR15 => VmExit::Control(control(raw, assists, vmcb)),
        code::INVLPG => VmExit::Invlpg(assists.0.then(|| Gva::new(vmcb.exit_info_1()))),
        _ => seldom(raw, assists, vmcb),
    }
}

/// The exits that no guest waits for.
#[cold]
fn seldom(raw: u64, assists: DecodeAssists, vmcb: &impl FieldSource) -> VmExit {
    match raw {
        code::NMI => VmExit::HostNmi,
        code::VINTR => VmExit::InterruptWindow,
        code::IRET => VmExit::NmiWindow,
        code::SHUTDOWN => VmExit::TripleFault,
        code::READ_DR0..=code::WRITE_DR15 => VmExit::Debug(debug(raw, assists, vmcb)),
        code::CR0_SELECTIVE_WRITE => VmExit::Control(control(code::WRITE_CR0, assists, vmcb)),
        code::RDPMC => VmExit::Rdpmc,
        code::RDTSCP => VmExit::Rdtscp,
        code::INVD => VmExit::Invd,
        code::WBINVD => VmExit::Wbinvd,
        code::PAUSE => VmExit::Pause,
        code::XSETBV => VmExit::Xsetbv,
        code::INVPCID => VmExit::Invpcid,
        code::MONITOR | code::MWAIT | code::MWAIT_CONDITIONAL => VmExit::MonitorMwait,
        code::TASK_SWITCH => VmExit::TaskSwitch { selector: vmcb.exit_info_1() as u16 },
        code::VMRUN | code::VMLOAD..=code::SKINIT | code::INVLPGA => {
            VmExit::VirtualizationInstruction
        }
        _ if is_refusal(raw) => VmExit::EntryFailure { code: raw },
        _ => VmExit::Unknown { raw },
    }
}

/// EXITINFO1: direction in bit 0, string and repeat in 2 and 3, one of three sizes in
/// 4–6, the port in 16–31. EXITINFO2: the next instruction.
#[inline]
fn io(info: u64, next_rip: u64) -> IoExit {
    IoExit {
        port: (info >> 16) as u16,
        size: (info >> 4) as u8 & 7,
        direction: if info & 1 == 0 { Direction::Out } else { Direction::In },
        string: info & 1 << 2 != 0,
        repeat: info & 1 << 3 != 0,
        next_rip: Some(next_rip),
    }
}

/// EXITINFO1: an error code as for #PF, and in bit 33 whether the guest's own table
/// walk made the access. EXITINFO2: the guest-physical address.
fn nested_fault(info: u64, address: u64) -> NestedFault {
    let bits = [
        (0, NestedAccess::PRESENT),
        (1, NestedAccess::WRITE),
        (4, NestedAccess::FETCH),
        (33, NestedAccess::TABLE_WALK),
    ];
    let set = bits.into_iter().filter(|&(bit, _)| info & 1 << bit != 0);
    let access = set.fold(NestedAccess::empty(), |access, (_, flag)| access | flag);
    NestedFault { gpa: Gpa::new(address), gva: None, access }
}

/// EXITINFO1: the error code. EXITINFO2: the address.
#[inline]
fn page_fault(vmcb: &impl FieldSource) -> ExceptionExit {
    ExceptionExit {
        vector: Vector::PAGE_FAULT,
        error_code: Some(vmcb.exit_info_1() as u32),
        qualification: vmcb.exit_info_2(),
    }
}

/// EXITINFO1: the error code, where one is pushed.
fn exception(raw: u64, vmcb: &impl FieldSource) -> ExceptionExit {
    let vector = Vector((raw - code::EXCEPTION_0) as u8);
    ExceptionExit {
        vector,
        error_code: pushes_error_code(vector).then(|| vmcb.exit_info_1() as u32),
        qualification: match vector {
            Vector::DEBUG => vmcb.dr6(),
            _ => 0,
        },
    }
}

/// Source: APM vol. 2, 8.2 "Vectors", table 8-1, and the vectors above 20.
const fn pushes_error_code(vector: Vector) -> bool {
    matches!(vector.0, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// Without decode assists nothing says whether it was MOV, CLTS, LMSW or SMSW.
fn control(raw: u64, assists: DecodeAssists, vmcb: &impl FieldSource) -> ControlExit {
    let info = if assists.0 { vmcb.exit_info_1() } else { 0 };
    let gpr = (info & INFO_MOV != 0).then(|| Gpr::from_encoding(info as u8));
    let access =
        if raw >= code::WRITE_CR0 { ControlAccess::Write(gpr) } else { ControlAccess::Read(gpr) };
    ControlExit { number: raw as u8 & 15, access }
}

fn debug(raw: u64, assists: DecodeAssists, vmcb: &impl FieldSource) -> DebugExit {
    let direction = if raw >= code::WRITE_DR0 { Direction::Out } else { Direction::In };
    let gpr = assists.0.then(|| Gpr::from_encoding(vmcb.exit_info_1() as u8));
    DebugExit { number: raw as u8 & 15, direction, gpr }
}

#[cfg(test)]
mod tests;
