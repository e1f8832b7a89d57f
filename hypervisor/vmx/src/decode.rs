//! What a raw exit means.
//!
//! Reads only the VMCS fields that the exit reason makes valid.
//!
//! Source: SDM 28.2 "Recording VM-Exit Information and Updating VM-Entry Control
//! Fields"; appendix C "VMX Basic Exit Reasons".

use crate::FieldSource;
use crate::event::{self, ExitEvent};
use anchorite_addr::{Gpa, Gva};
use anchorite_vcpu::exit::{
    ControlAccess, ControlExit, DebugExit, Direction, ExceptionExit, IoExit, NestedAccess,
    NestedFault,
};
use anchorite_vcpu::{Event, EventKind, Gpr, Vector, VmExit};
use x86::vmx::vmcs::ro;

/// Basic exit reasons. Source: SDM appendix C, table C-1.
pub mod reason {
    #![expect(missing_docs, reason = "each constant is the reason of that name in the table")]
    pub const EXCEPTION_OR_NMI: u32 = 0;
    pub const EXTERNAL_INTERRUPT: u32 = 1;
    pub const TRIPLE_FAULT: u32 = 2;
    pub const INTERRUPT_WINDOW: u32 = 7;
    pub const NMI_WINDOW: u32 = 8;
    pub const TASK_SWITCH: u32 = 9;
    pub const CPUID: u32 = 10;
    pub const GETSEC: u32 = 11;
    pub const HLT: u32 = 12;
    pub const INVD: u32 = 13;
    pub const INVLPG: u32 = 14;
    pub const RDPMC: u32 = 15;
    pub const VMCALL: u32 = 18;
    pub const VMCLEAR: u32 = 19;
    pub const VMXON: u32 = 27;
    pub const CONTROL_REGISTER: u32 = 28;
    pub const DEBUG_REGISTER: u32 = 29;
    pub const IO: u32 = 30;
    pub const RDMSR: u32 = 31;
    pub const WRMSR: u32 = 32;
    pub const INVALID_GUEST_STATE: u32 = 33;
    pub const MSR_LOADING: u32 = 34;
    pub const MWAIT: u32 = 36;
    pub const MONITOR: u32 = 39;
    pub const PAUSE: u32 = 40;
    pub const MACHINE_CHECK: u32 = 41;
    pub const EPT_VIOLATION: u32 = 48;
    pub const INVEPT: u32 = 50;
    pub const PREEMPTION_TIMER: u32 = 52;
    pub const INVVPID: u32 = 53;
    pub const WBINVD: u32 = 54;
    pub const XSETBV: u32 = 55;
    pub const INVPCID: u32 = 58;
    pub const VMFUNC: u32 = 59;
}

/// Bit 31 of an exit reason: entry failed after the guest's state was looked at.
pub const ENTRY_FAILURE: u32 = 1 << 31;

/// An exit, and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What happened.
    pub exit: VmExit,
    /// Bytes of the instruction that did it, where the field is valid.
    pub instruction_length: Option<u8>,
    /// The event whose delivery the exit interrupted.
    pub interrupted: Option<Event>,
    /// An IRET that ended NMI blocking faulted: the blocking must be set again.
    pub nmi_unblocked: bool,
}

impl Decoded {
    /// An exit that nothing goes with.
    const fn plain(exit: VmExit) -> Self {
        Self { exit, instruction_length: None, interrupted: None, nmi_unblocked: false }
    }

    /// An exit that an instruction caused.
    fn instruction(vmcs: &impl FieldSource, exit: VmExit) -> Self {
        let instruction_length = Some(vmcs.read(ro::VMEXIT_INSTRUCTION_LEN) as u8);
        Self { instruction_length, ..Self::plain(exit) }
    }

    /// An exit that an event's delivery can have caused.
    fn in_delivery(vmcs: &impl FieldSource, exit: VmExit) -> Self {
        Self { interrupted: event::interrupted(vmcs), ..Self::plain(exit) }
    }
}

/// Decodes the exit with this value of the exit-reason field.
#[inline]
pub fn decode(raw: u32, vmcs: &impl FieldSource) -> Decoded {
    if raw & ENTRY_FAILURE != 0 {
        return Decoded::plain(VmExit::EntryFailure { code: u64::from(raw) });
    }
    let qualification = || vmcs.read(ro::EXIT_QUALIFICATION);
    let exit = match raw & 0xffff {
        reason::IO => io(qualification()),
        reason::CPUID => VmExit::Cpuid,
        reason::VMCALL => VmExit::Hypercall,
        reason::CONTROL_REGISTER => control(qualification()),
        reason::RDMSR => VmExit::ReadMsr,
        reason::WRMSR => VmExit::WriteMsr,
        reason::INVLPG => VmExit::Invlpg(Some(Gva::new(qualification()))),
        reason::HLT => VmExit::Halt,
        reason::DEBUG_REGISTER => debug(qualification()),
        reason::INVPCID => VmExit::Invpcid,
        reason::INVD => VmExit::Invd,
        reason::WBINVD => VmExit::Wbinvd,
        reason::XSETBV => VmExit::Xsetbv,
        reason::RDPMC => VmExit::Rdpmc,
        reason::PAUSE => VmExit::Pause,
        reason::MONITOR | reason::MWAIT => VmExit::MonitorMwait,
        reason::GETSEC
        | reason::VMCLEAR..=reason::VMXON
        | reason::INVEPT
        | reason::INVVPID
        | reason::VMFUNC => VmExit::VirtualizationInstruction,
        _ => return without_instruction(raw, vmcs),
    };
    Decoded::instruction(vmcs, exit)
}

/// The exits whose instruction length is not valid.
fn without_instruction(raw: u32, vmcs: &impl FieldSource) -> Decoded {
    match raw & 0xffff {
        reason::EXCEPTION_OR_NMI => exception_or_nmi(vmcs),
        reason::EXTERNAL_INTERRUPT => Decoded::plain(VmExit::HostInterrupt),
        reason::PREEMPTION_TIMER => Decoded::plain(VmExit::Preempted),
        reason::INTERRUPT_WINDOW => Decoded::plain(VmExit::InterruptWindow),
        reason::NMI_WINDOW => Decoded::plain(VmExit::NmiWindow),
        reason::TRIPLE_FAULT => Decoded::plain(VmExit::TripleFault),
        reason::EPT_VIOLATION => ept_violation(vmcs),
        reason::TASK_SWITCH => {
            let selector = vmcs.read(ro::EXIT_QUALIFICATION) as u16;
            Decoded::in_delivery(vmcs, VmExit::TaskSwitch { selector })
        }
        _ => Decoded::plain(VmExit::Unknown { raw: u64::from(raw) }),
    }
}

/// Source: SDM 28.2.2 "Information for VM Exits Due to Vectored Events".
fn exception_or_nmi(vmcs: &impl FieldSource) -> Decoded {
    let info = ExitEvent(vmcs.read(ro::VMEXIT_INTERRUPTION_INFO) as u32);
    let kind = info.kind().unwrap_or(EventKind::Exception);
    if kind == EventKind::Nmi {
        return Decoded::in_delivery(vmcs, VmExit::HostNmi);
    }

    let vector = info.vector();
    let qualification = match vector {
        Vector::PAGE_FAULT | Vector::DEBUG => vmcs.read(ro::EXIT_QUALIFICATION),
        _ => 0,
    };
    let error_code =
        info.has_error_code().then(|| vmcs.read(ro::VMEXIT_INTERRUPTION_ERR_CODE) as u32);
    let exit = VmExit::Exception(ExceptionExit { vector, error_code, qualification });
    let mut decoded = Decoded::in_delivery(vmcs, exit);
    decoded.nmi_unblocked = decoded.interrupted.is_none() && info.unblocked_nmi();
    if event::is_software(kind) {
        decoded.instruction_length = Some(vmcs.read(ro::VMEXIT_INSTRUCTION_LEN) as u8);
    }
    decoded
}

/// Source: SDM table 28-7 "Exit Qualification for EPT Violations".
fn ept_violation(vmcs: &impl FieldSource) -> Decoded {
    const GVA_VALID: u64 = 1 << 7;
    const FINAL: u64 = 1 << 8;
    const NMI_UNBLOCKED: u64 = 1 << 12;

    let qualification = vmcs.read(ro::EXIT_QUALIFICATION);
    let gva_valid = qualification & GVA_VALID != 0;
    let mut access = NestedAccess::empty();
    access.set(NestedAccess::WRITE, qualification & 1 << 1 != 0);
    access.set(NestedAccess::FETCH, qualification & 1 << 2 != 0);
    access.set(NestedAccess::PRESENT, qualification & 7 << 3 != 0);
    access.set(NestedAccess::TABLE_WALK, gva_valid && qualification & FINAL == 0);
    let fault = NestedFault {
        gpa: Gpa::new(vmcs.read(ro::GUEST_PHYSICAL_ADDR_FULL)),
        gva: gva_valid.then(|| Gva::new(vmcs.read(ro::GUEST_LINEAR_ADDR))),
        access,
    };
    let mut decoded = Decoded::in_delivery(vmcs, VmExit::NestedFault(fault));
    decoded.nmi_unblocked = decoded.interrupted.is_none() && qualification & NMI_UNBLOCKED != 0;
    decoded
}

/// Source: SDM table 28-5 "Exit Qualification for I/O Instructions".
const fn io(qualification: u64) -> VmExit {
    VmExit::Io(IoExit {
        port: (qualification >> 16) as u16,
        size: (qualification & 7) as u8 + 1,
        direction: if qualification & 1 << 3 != 0 { Direction::In } else { Direction::Out },
        string: qualification & 1 << 4 != 0,
        repeat: qualification & 1 << 5 != 0,
        next_rip: None,
    })
}

/// Source: SDM table 28-3 "Exit Qualification for Control-Register Accesses".
const fn control(qualification: u64) -> VmExit {
    let gpr = Some(Gpr::from_encoding((qualification >> 8) as u8));
    let access = match qualification >> 4 & 3 {
        0 => ControlAccess::Write(gpr),
        1 => ControlAccess::Read(gpr),
        2 => ControlAccess::Clts,
        _ => ControlAccess::Lmsw(Some((qualification >> 16) as u16)),
    };
    VmExit::Control(ControlExit { number: (qualification & 15) as u8, access })
}

/// Source: SDM table 28-4 "Exit Qualification for MOV DR".
const fn debug(qualification: u64) -> VmExit {
    VmExit::Debug(DebugExit {
        number: (qualification & 7) as u8,
        direction: if qualification & 1 << 4 != 0 { Direction::In } else { Direction::Out },
        gpr: Some(Gpr::from_encoding((qualification >> 8) as u8)),
    })
}

#[cfg(test)]
mod tests;
