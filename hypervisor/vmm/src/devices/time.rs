//! What time it is, as a value that comes with every access.

use core::num::NonZeroU64;

/// A moment: the host's time stamp counter and how fast it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Ticks of the host's TSC. Never runs backwards between two accesses; where a
    /// host lets it, a device sees no time pass.
    pub tsc: u64,
    /// Ticks a second.
    pub hertz: NonZeroU64,
}

impl Now {
    /// The moment `tsc` on a host whose counter runs at `hertz`.
    pub const fn new(tsc: u64, hertz: NonZeroU64) -> Self {
        Self { tsc, hertz }
    }

    /// Periods of a clock of `rate` Hz that ended since the TSC stood at `start`.
    pub fn periods_since(self, start: u64, rate: u64) -> u64 {
        let ticks = u128::from(self.tsc.saturating_sub(start));
        let periods = ticks * u128::from(rate) / u128::from(self.hertz.get());
        u64::try_from(periods).unwrap_or(u64::MAX)
    }

    /// TSC ticks that `periods` of a clock of `rate` Hz take, rounded up.
    pub fn ticks(self, periods: u64, rate: NonZeroU64) -> u64 {
        let ticks = u128::from(periods) * u128::from(self.hertz.get());
        u64::try_from(ticks.div_ceil(u128::from(rate.get()))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GHZ: NonZeroU64 = NonZeroU64::new(1_000_000_000).unwrap();

    #[test]
    fn a_second_has_as_many_periods_as_the_rate_says() {
        let now = Now::new(5_000_000_000, GHZ);
        assert_eq!(now.periods_since(4_000_000_000, 1_193_182), 1_193_182);
        assert_eq!(now.ticks(1_193_182, NonZeroU64::new(1_193_182).unwrap()), 1_000_000_000);
    }

    #[test]
    fn a_counter_that_ran_backwards_shows_no_time_passing() {
        assert_eq!(Now::new(5, GHZ).periods_since(10, u64::MAX), 0);
    }

    #[test]
    fn extreme_rates_saturate() {
        let one = NonZeroU64::new(1).unwrap();
        assert_eq!(Now::new(u64::MAX, one).periods_since(0, u64::MAX), u64::MAX);
        assert_eq!(Now::new(0, NonZeroU64::MAX).ticks(u64::MAX, one), u64::MAX);
    }
}
