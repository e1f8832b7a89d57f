//! What the machine asks of the host under it.

use crate::cpuid::Leaf;
use crate::memory::HostMemory;
use core::num::NonZeroU64;

/// The host: its clock, console, CPUID and sleep. Implemented by `platform`.
pub trait Host {
    /// The memory that backs guest RAM.
    type Memory: HostMemory;

    /// The time stamp counter. Called twice a round trip: RDTSC and nothing else.
    fn ticks(&self) -> u64;

    /// Ticks a second.
    fn hertz(&self) -> NonZeroU64;

    /// What CPUID says on the physical CPU. Asked once, when the machine is made.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf;

    /// Writes bytes to the console, in order. The guest's bytes come one at a time.
    fn console_write(&mut self, bytes: &[u8]);

    /// A byte typed at the console, if one waits.
    fn console_read(&mut self) -> Option<u8>;

    /// Makes sure that a physical interrupt ends the guest's turn no later than at
    /// tick `at`, or soon after. Replaces what was asked for before, and holds until
    /// the next physical interrupt.
    fn wake_at(&mut self, at: u64);

    /// Sleeps until a physical interrupt or tick `until`; may return early.
    fn idle(&mut self, until: u64);
}
