//! What ended the guest's turn.

use crate::event::Vector;
use crate::regs::Gpr;
use anchorite_addr::{Gpa, Gva};
use bitflags::bitflags;

/// Why the guest stopped running, decoded and vendor-neutral.
///
/// RIP is that of the instruction which caused the exit; the machine moves past it. The
/// variant has a byte of its own: every exit reads it, and would compute it otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VmExit {
    /// A physical interrupt, taken by the host meanwhile.
    HostInterrupt,
    /// A physical NMI, taken by the host meanwhile.
    HostNmi,
    /// The preemption timer ran out (VMX).
    Preempted,
    /// The guest can take an interrupt now; see `request_interrupt_window`.
    InterruptWindow,
    /// The guest can take an NMI now; see `request_nmi_window`.
    NmiWindow,
    /// An intercepted exception. #PF under a shadow root carries its address.
    Exception(ExceptionExit),
    /// An access that the nested tables do not permit.
    NestedFault(NestedFault),
    /// The guest's own CPU shut down: a triple fault.
    TripleFault,
    /// CPUID.
    Cpuid,
    /// HLT.
    Halt,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// IN, OUT, INS, OUTS.
    Io(IoExit),
    /// RDMSR; the index is in ECX.
    ReadMsr,
    /// WRMSR; the index is in ECX, the value in EDX:EAX.
    WriteMsr,
    /// A MOV to or from a control register, CLTS or LMSW.
    Control(ControlExit),
    /// A MOV to or from a debug register.
    Debug(DebugExit),
    /// INVLPG; `None` where the CPU does not tell the address.
    Invlpg(Option<Gva>),
    /// INVPCID.
    Invpcid,
    /// INVD.
    Invd,
    /// WBINVD.
    Wbinvd,
    /// XSETBV; the index is in ECX, the value in EDX:EAX.
    Xsetbv,
    /// RDTSCP that the guest is not permitted (SVM).
    Rdtscp,
    /// RDPMC.
    Rdpmc,
    /// PAUSE.
    Pause,
    /// MONITOR or MWAIT.
    MonitorMwait,
    /// A task switch through a TSS or task gate.
    TaskSwitch {
        /// The new task's selector.
        selector: u16,
    },
    /// An instruction of the virtualization extensions (VMRUN, VMXON, …), which
    /// the guest is not shown.
    VirtualizationInstruction,
    /// The hardware refused to enter the guest; `Vcpu::explain_entry_failure` says why.
    EntryFailure {
        /// The raw code: VM-instruction error or exit reason on VMX, exit code on SVM.
        code: u64,
    },
    /// An exit this backend does not know.
    Unknown {
        /// The raw exit code or reason.
        raw: u64,
    },
}

impl VmExit {
    /// The counter this exit belongs to.
    pub const fn reason(&self) -> ExitReason {
        match self {
            Self::HostInterrupt => ExitReason::HostInterrupt,
            Self::HostNmi => ExitReason::HostNmi,
            Self::Preempted => ExitReason::Preempted,
            Self::InterruptWindow => ExitReason::InterruptWindow,
            Self::NmiWindow => ExitReason::NmiWindow,
            Self::Exception(exception) => match exception.vector {
                Vector::PAGE_FAULT => ExitReason::PageFault,
                _ => ExitReason::Exception,
            },
            Self::NestedFault(_) => ExitReason::NestedFault,
            Self::TripleFault => ExitReason::TripleFault,
            Self::Cpuid => ExitReason::Cpuid,
            Self::Halt => ExitReason::Halt,
            Self::Hypercall => ExitReason::Hypercall,
            Self::Io(io) => match io.direction {
                Direction::In => ExitReason::IoIn,
                Direction::Out => ExitReason::IoOut,
            },
            Self::ReadMsr => ExitReason::ReadMsr,
            Self::WriteMsr => ExitReason::WriteMsr,
            Self::Control(_) => ExitReason::Control,
            Self::Debug(_) => ExitReason::Debug,
            Self::Invlpg(_) => ExitReason::Invlpg,
            Self::Invpcid => ExitReason::Invpcid,
            Self::Invd | Self::Wbinvd => ExitReason::CacheFlush,
            Self::Xsetbv => ExitReason::Xsetbv,
            Self::Rdtscp => ExitReason::Rdtscp,
            Self::Rdpmc => ExitReason::Rdpmc,
            Self::Pause => ExitReason::Pause,
            Self::MonitorMwait => ExitReason::MonitorMwait,
            Self::TaskSwitch { .. } => ExitReason::TaskSwitch,
            Self::VirtualizationInstruction => ExitReason::VirtualizationInstruction,
            Self::EntryFailure { .. } => ExitReason::EntryFailure,
            Self::Unknown { .. } => ExitReason::Unknown,
        }
    }
}

/// An intercepted exception, not yet delivered to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExceptionExit {
    /// The vector.
    pub vector: Vector,
    /// The hardware's error code. For a #PF under a shadow root it describes the
    /// shadow tables, never what the guest should see.
    pub error_code: Option<u32>,
    /// The faulting linear address of a #PF; the DR6 bits of a #DB; else 0.
    pub qualification: u64,
}

bitflags! {
    /// What kind of access a nested fault was.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NestedAccess: u8 {
        /// A store.
        const WRITE = 1 << 0;
        /// An instruction fetch.
        const FETCH = 1 << 1;
        /// The CPU's own access to a guest page table.
        const TABLE_WALK = 1 << 2;
        /// A mapping was present but did not permit the access.
        const PRESENT = 1 << 3;
    }
}

/// An access that the nested tables do not permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedFault {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// The guest-linear address, where the CPU tells.
    pub gva: Option<Gva>,
    /// What was tried.
    pub access: NestedAccess,
}

/// Which way data flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the guest's register or memory.
    In,
    /// Out of it.
    Out,
}

/// A port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoExit {
    /// The port.
    pub port: u16,
    /// Bytes an access moves: 1, 2 or 4.
    pub size: u8,
    /// Which way.
    pub direction: Direction,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub repeat: bool,
    /// Address of the next instruction, where the CPU tells (SVM always does).
    pub next_rip: Option<u64>,
}

/// What an instruction does with a control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlAccess {
    /// MOV to the control register from a general one; `None`: decode to learn which.
    Write(Option<Gpr>),
    /// MOV from the control register to a general one; `None`: decode to learn which.
    Read(Option<Gpr>),
    /// CLTS.
    Clts,
    /// LMSW with this source, where the CPU tells.
    Lmsw(Option<u16>),
}

/// An intercepted access to a control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlExit {
    /// 0, 2, 3, 4 or 8.
    pub number: u8,
    /// What is done with it.
    pub access: ControlAccess,
}

/// An intercepted access to a debug register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugExit {
    /// 0 to 7.
    pub number: u8,
    /// [`Direction::Out`] is a write to the debug register.
    pub direction: Direction,
    /// The general register, where the CPU tells.
    pub gpr: Option<Gpr>,
}

macro_rules! exit_reasons {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// The counter an exit belongs to: dense, for arrays.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each variant is the exit of the same name")]
        pub enum ExitReason { $($variant),* }

        impl ExitReason {
            /// Every reason, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in tables and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

exit_reasons! {
    HostInterrupt = "host_interrupt",
    HostNmi = "host_nmi",
    Preempted = "preempted",
    InterruptWindow = "interrupt_window",
    NmiWindow = "nmi_window",
    PageFault = "page_fault",
    Exception = "exception",
    NestedFault = "nested_fault",
    TripleFault = "triple_fault",
    Cpuid = "cpuid",
    Halt = "halt",
    Hypercall = "hypercall",
    IoIn = "io_in",
    IoOut = "io_out",
    ReadMsr = "read_msr",
    WriteMsr = "write_msr",
    Control = "control_register",
    Debug = "debug_register",
    Invlpg = "invlpg",
    Invpcid = "invpcid",
    CacheFlush = "cache_flush",
    Xsetbv = "xsetbv",
    Rdtscp = "rdtscp",
    Rdpmc = "rdpmc",
    Pause = "pause",
    MonitorMwait = "monitor_mwait",
    TaskSwitch = "task_switch",
    VirtualizationInstruction = "virtualization_instruction",
    EntryFailure = "entry_failure",
    Unknown = "unknown",
}
