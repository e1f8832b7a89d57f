//! The local APIC's timer, computed from the time alone.

use crate::devices::time::Now;
use core::num::NonZeroU64;

/// Ticks a second before they are divided.
const HERTZ: u64 = 1_000_000_000;
/// Time between two interrupts of a periodic timer, at least: 50 µs.
const SHORTEST_PERIODS_A_SECOND: u64 = 20_000;

/// Modes, LVT bits 18 and 17. CPUID does not show the others.
const PERIODIC: u32 = 1;

/// A counter that was started at a known time.
#[derive(Clone, Debug, Default)]
pub(super) struct Timer {
    initial: u32,
    divide: u32,
    periodic: bool,
    since: u64,
    due: Option<u64>,
}

impl Timer {
    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    /// What is left of the count.
    pub(super) fn current(&self, now: Now) -> u32 {
        if self.initial == 0 {
            return 0;
        }
        let initial = u64::from(self.initial);
        let counted = self.counted(now);
        let left = if self.periodic {
            initial - counted % initial
        } else {
            initial.saturating_sub(counted)
        };
        left as u32
    }

    pub(super) const fn deadline(&self) -> Option<u64> {
        self.due
    }

    /// Whether the count has reached 0 since it was last asked.
    pub(super) fn expires(&mut self, now: Now) -> bool {
        let due = self.due.is_some_and(|tsc| now.tsc >= tsc);
        if due {
            self.due = self.next(now);
        }
        due
    }

    /// A write to the initial count; 0 stops the timer.
    pub(super) fn start(&mut self, initial: u32, now: Now) {
        self.initial = initial;
        self.since = now.tsc;
        self.due = self.next(now);
    }

    /// Another divisor: what has been counted stays counted.
    pub(super) fn set_divide(&mut self, value: u32, now: Now) {
        let counted = self.counted(now);
        self.divide = value & 0b1011;
        self.since = now.tsc.saturating_sub(now.ticks(counted, self.rate()));
        self.due = self.next(now);
    }

    pub(super) fn set_mode(&mut self, mode: u32, now: Now) {
        if self.periodic != (mode == PERIODIC) {
            self.periodic = !self.periodic;
            self.due = self.next(now);
        }
    }

    /// The TSC after `now` at which the count reaches 0.
    fn next(&self, now: Now) -> Option<u64> {
        let initial = u64::from(self.initial);
        let counted = self.counted(now);
        let end = match (initial, self.periodic) {
            (0, _) => return None,
            (_, false) => initial,
            (_, true) => {
                let shortest = self.rate().get() / SHORTEST_PERIODS_A_SECOND;
                let earliest = counted.saturating_add(shortest.saturating_sub(initial));
                (earliest / initial).saturating_add(1).saturating_mul(initial)
            }
        };
        let later = end > counted;
        later.then(|| self.since.saturating_add(now.ticks(end, self.rate())))
    }

    fn counted(&self, now: Now) -> u64 {
        now.periods_since(self.since, self.rate().get())
    }

    /// Source: SDM vol. 3, figure 10-10 "Divide Configuration Register".
    fn rate(&self) -> NonZeroU64 {
        let code = self.divide >> 1 & 0b100 | self.divide & 0b011;
        let shift = (code + 1) & 7;
        NonZeroU64::new(HERTZ >> shift).unwrap_or(NonZeroU64::MIN)
    }
}
