//! Time: the TSC.
//!
//! Hermit keeps time in microseconds of a TSC rate that it measures (30 ms) or is
//! told, and then waits 30,000 of these microseconds to learn the rate of the local
//! APIC's timer. Where the TSC counts instructions, so that a short wait is as exact
//! as a long one, Hermit is told a much lower rate than the true one: its
//! microseconds are then short, the wait nearly vanishes, and all that it computes
//! from them stays in proportion. Elsewhere a short wait would measure what else the
//! host is doing. `hermit_microseconds` converts.

#![expect(unsafe_code, reason = "Hermit's system calls take raw pointers")]

use crate::boot::boot;
use crate::instructions::rdtsc;
use anchorite_abi::Options;
use hermit::syscalls::sys_clock_gettime;
use hermit::time::timespec;

/// Hermit's number of the clock that knows the date.
const CLOCK_REALTIME: i32 = 1;

/// The rate that Hermit is told where the TSC counts instructions, in MHz. The APIC's
/// timer counts twice in a microsecond of that length on QEMU (1 GHz, divided by 8).
const COUNTED_MHZ: u64 = 16;

/// Ticks of the time stamp counter since power-on.
#[inline]
pub fn now() -> u64 {
    rdtsc()
}

/// Seconds since 1970 by the machine's real-time clock, as Hermit has read it.
pub fn unix_time() -> u64 {
    let mut time = timespec::default();
    // SAFETY: the structure is ours.
    unsafe { sys_clock_gettime(CLOCK_REALTIME, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0)
}

/// Ticks of the time stamp counter in a second.
pub fn ticks_per_second() -> u64 {
    boot().tsc_mhz.map_or_else(hermit_mhz, u64::from) * 1_000_000
}

/// The rate that Hermit is to be told, if any.
pub(crate) fn rate_for_hermit(options: &Options<'_>) -> Option<u64> {
    options.tsc_mhz.map(|mhz| if options.counted { COUNTED_MHZ } else { u64::from(mhz) })
}

/// What Hermit takes for `microseconds`.
pub(crate) fn hermit_microseconds(microseconds: u64) -> u64 {
    microseconds.saturating_mul(ticks_per_second() / 1_000_000) / hermit_mhz()
}

/// The rate by which Hermit counts.
fn hermit_mhz() -> u64 {
    u64::from(hermit::syscalls::sys_get_processor_frequency()).max(1)
}
