//! What an exit's handler decided, and why a run ended.

use alloc::string::String;
use anchorite_abi::Verdict;
use anchorite_addr::{Gpa, Gva};
use anchorite_vcpu::Event;
use core::fmt;

/// What to do after an exit. The variant has a byte of its own: reading it out of
/// [`Stop`]'s would take longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[repr(u8)]
pub enum ExitAction {
    /// Run on at the same instruction.
    Resume,
    /// The instruction was carried out: go past its so many bytes.
    SkipInstruction(u8),
    /// Raise this event at the same instruction.
    Inject(Event),
    /// End the run.
    Stop(Stop),
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest wrote this status to an exit port.
    Exit {
        /// 0 for success.
        status: u32,
    },
    /// A benchmark guest gave up with this code.
    Panic {
        /// What it wrote.
        code: u32,
    },
    /// The guest printed the text that the run was to go on until.
    Printed,
    /// The time limit ran out.
    Timeout,
    /// The guest pulled the reset line.
    Reset,
    /// The guest switched the machine off.
    PowerOff,
    /// A fault while a double fault was delivered.
    TripleFault,
    /// HLT with nothing left that could wake the CPU.
    Halted,
    /// An exit that the backend does not know.
    UnknownExit {
        /// Its raw code.
        raw: u64,
    },
    /// The hardware refused to enter the guest.
    EntryFailure {
        /// The raw code.
        code: u64,
    },
    /// There is no memory for another page table.
    OutOfTables,
    /// One of the guest's page tables lies where there is no memory, or in a ROM.
    TableOutsideMemory {
        /// The address of the entry.
        gpa: Gpa,
    },
    /// An instruction could not be fetched, decoded or emulated.
    Emulation {
        /// What was tried.
        what: &'static str,
        /// The address it was about, where there is one.
        gpa: Option<Gpa>,
    },
    /// The processor goes on refusing an access that the page tables permit.
    Refused {
        /// The address accessed.
        gva: Gva,
    },
    /// The guest did what this hypervisor does not support.
    Unsupported {
        /// In a few words.
        what: &'static str,
    },
    /// A machine check was raised while the guest ran.
    MachineCheck,
}

impl Stop {
    /// Whether the machine's state helps to understand it.
    pub const fn wants_dump(&self) -> bool {
        !matches!(
            self,
            Self::Exit { .. } | Self::Panic { .. } | Self::Printed | Self::Reset | Self::PowerOff
        )
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit { status } => write!(f, "the guest ended with status {status}"),
            Self::Panic { code } => write!(f, "the guest gave up with code {code}"),
            Self::Printed => f.write_str("the guest printed what was waited for"),
            Self::Timeout => f.write_str("the time limit ran out"),
            Self::Reset => f.write_str("the guest reset the machine"),
            Self::PowerOff => f.write_str("the guest switched the machine off"),
            Self::TripleFault => f.write_str("triple fault"),
            Self::Halted => f.write_str("halted with interrupts off"),
            Self::UnknownExit { raw } => write!(f, "unknown exit {raw:#x}"),
            Self::EntryFailure { code } => write!(f, "entry refused with code {code:#x}"),
            Self::OutOfTables => f.write_str("no memory is left for page tables"),
            Self::TableOutsideMemory { gpa } => {
                write!(f, "guest page table at {gpa} lies outside writable memory")
            }
            Self::Emulation { what, gpa: Some(gpa) } => write!(f, "{what} at {gpa}"),
            Self::Emulation { what, gpa: None } => f.write_str(what),
            Self::Refused { gva } => {
                write!(
                    f,
                    "the processor goes on refusing an access to {gva} that the page tables permit"
                )
            }
            Self::Unsupported { what } => write!(f, "{what} is not supported"),
            Self::MachineCheck => f.write_str("machine check"),
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why.
    pub stop: Stop,
    /// The time limit in seconds.
    pub limit: u32,
    /// Resets by a port count as a good end.
    pub reset_passes: bool,
    /// Triple faults do.
    pub triple_fault_passes: bool,
    /// One line: what happened, and at which instruction.
    pub reason: String,
}

impl Outcome {
    /// The verdict for the console's last line.
    pub fn verdict(&self) -> Verdict<'_> {
        match self.stop {
            Stop::Exit { status: 0 } | Stop::Printed | Stop::PowerOff => Verdict::Pass,
            Stop::Reset if self.reset_passes => Verdict::Pass,
            Stop::TripleFault if self.triple_fault_passes => Verdict::Pass,
            Stop::Exit { status } | Stop::Panic { code: status } => Verdict::Fail { status },
            Stop::Timeout => Verdict::Timeout { seconds: self.limit },
            _ => Verdict::Error { reason: &self.reason },
        }
    }
}
