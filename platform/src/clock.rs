//! Time: the TSC, whose frequency Hermit knows or has measured.

use crate::instructions::rdtsc;

/// Ticks of the time stamp counter since power-on.
pub fn now() -> u64 {
    rdtsc()
}

/// Ticks of the time stamp counter in a second.
pub fn ticks_per_second() -> u64 {
    u64::from(hermit::syscalls::sys_get_processor_frequency()) * 1_000_000
}
