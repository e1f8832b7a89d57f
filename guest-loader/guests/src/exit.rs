//! The end of a run.

use anchorite_abi::port::{END_OF_RUN, EXIT};

use crate::instructions::{halt_forever, outl};

/// The guest's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// All checks passed.
    pub const PASS: Self = Self(0);
    /// A check failed.
    pub const FAIL: Self = Self(1);
    /// The guest panicked.
    pub const PANIC: Self = Self(2);
    /// An exception that nobody expected.
    pub const EXCEPTION: Self = Self(3);
}

/// Ends the run. QEMU's isa-debug-exit turns status n into its own 2n + 1, so a
/// passing guest ends a bare QEMU with 1.
pub fn exit(status: Status) -> ! {
    outl(EXIT, status.0);
    outl(END_OF_RUN, status.0);
    halt_forever()
}
