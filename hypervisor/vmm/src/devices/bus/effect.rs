//! What an access to a device means to the host.

use super::super::irq::Asked;
use super::super::reset::ResetLine;
use anchorite_abi::bench;
use uhyve_interface::HypercallAddress;

/// What a write asks of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// The guest ended with this status, 0 for success.
    Exit {
        /// What it wrote to an exit port.
        status: u32,
    },
    /// The guest wrote this to the port that ends a benchmark's run.
    EndOfRun {
        /// 0 for success, unless the guest said before that it is done.
        status: u32,
    },
    /// Show a byte written to the debug console.
    Print(u8),
    /// Show a byte sent over the serial line.
    Serial(u8),
    /// Carry out a benchmark command.
    Bench(bench::Command),
    /// Deliver an NMI.
    RaiseNmi,
    /// CR8 has this value now: the task priority was written in memory.
    Priority(u8),
    /// The guest pulled its processor's reset line.
    Reset,
    /// The guest switched the machine off.
    PowerOff,
    /// Carry out the configuration device's command at this address.
    FwCfg {
        /// Guest-physical.
        command: u64,
    },
    /// Carry out a hypercall of uhyve.
    Uhyve {
        /// Which.
        call: HypercallAddress,
        /// The guest-physical address of its parameters, or its only one.
        argument: u32,
    },
}

impl Effect {
    /// The first of two that is something. No access reaches two devices that both
    /// have effects on the host.
    pub(super) fn or(self, other: Self) -> Self {
        if self == Self::None { other } else { self }
    }

    /// What a write to the local APIC asks for.
    pub(super) const fn of_apic(asked: Asked) -> Self {
        match asked {
            Asked::Nothing => Self::None,
            Asked::Nmi => Self::RaiseNmi,
            Asked::Priority(priority) => Self::Priority(priority),
        }
    }

    /// What the state of the reset line asks for.
    pub(super) const fn of_reset(line: ResetLine) -> Self {
        match line {
            ResetLine::Idle => Self::None,
            ResetLine::Pulled => Self::Reset,
        }
    }
}
