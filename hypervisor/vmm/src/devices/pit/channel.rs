//! One counter of an 8254.

use super::{PIT_HERTZ, SHORTEST_PERIOD};
use crate::devices::time::Now;
use core::num::NonZeroU64;

const HERTZ: NonZeroU64 = NonZeroU64::new(PIT_HERTZ).unwrap();

/// Which bytes of a count are moved. Source: 8254 data sheet, "Control Word Format".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low = 1,
    High = 2,
    LowThenHigh = 3,
}

/// A counter: what was programmed, and when it began to count.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    access: Access,
    /// 0 to 5.
    mode: u8,
    bcd: bool,
    /// 1 to 65536 (10000 in BCD); `None` from a control word to the first count.
    reload: Option<u32>,
    gate: bool,
    /// TSC since which the counter runs, and what it had counted before.
    since: u64,
    before: u64,
    /// One-shot modes (1, 5) count only after a rising gate.
    triggered: bool,
    written_low: Option<u8>,
    read_high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    /// A counter that nobody has programmed yet.
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            access: Access::LowThenHigh,
            mode: 3,
            bcd: false,
            reload: None,
            gate,
            since: 0,
            before: 0,
            triggered: false,
            written_low: None,
            read_high_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// A control word for this counter, `access_bits` not 0.
    pub(super) fn program(&mut self, access_bits: u8, mode: u8, bcd: bool) {
        let gate = self.gate;
        *self = Self::new(gate);
        self.access = match access_bits {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        // Modes 6 and 7 are 2 and 3: their highest bit is not decoded.
        self.mode = if mode > 5 { mode - 4 } else { mode };
        self.bcd = bcd;
    }

    /// A byte of a new count.
    pub(super) fn write(&mut self, value: u8, now: Now) {
        let bytes = match (self.access, self.written_low.take()) {
            (Access::Low, _) => [value, 0],
            (Access::High, _) => [0, value],
            (Access::LowThenHigh, Some(low)) => [low, value],
            (Access::LowThenHigh, None) => {
                self.written_low = Some(value);
                return;
            }
        };
        let written = u16::from_le_bytes(bytes);
        let count = if self.bcd { from_bcd(written) } else { u32::from(written) };
        self.load(if count == 0 { self.modulus() } else { count }, now);
    }

    /// The next byte: of a latched status, of a latched count, or of the live count.
    pub(super) fn read(&mut self, now: Now) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }

        let [low, high] = self.latched_count.unwrap_or_else(|| self.count(now)).to_le_bytes();
        let (byte, last) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::LowThenHigh if self.read_high_next => (high, true),
            Access::LowThenHigh => (low, false),
        };
        self.read_high_next = !last;
        if last {
            self.latched_count = None;
        }
        byte
    }

    /// Freezes the count until it has been read; a second latch before that is ignored.
    pub(super) fn latch_count(&mut self, now: Now) {
        let count = self.count(now);
        self.latched_count.get_or_insert(count);
    }

    /// Freezes the status byte until it has been read.
    pub(super) fn latch_status(&mut self, now: Now) {
        let output = u8::from(self.output(now)) << 7;
        let null = u8::from(self.reload.is_none()) << 6;
        let status = output | null | (self.access as u8) << 4 | self.mode << 1 | u8::from(self.bcd);
        self.latched_status.get_or_insert(status);
    }

    /// Moves the gate input. Source: 8254 data sheet, "Gate Pin Operations Summary".
    pub(super) fn set_gate(&mut self, high: bool, now: Now) {
        if high == self.gate {
            return;
        }

        match (self.mode, high) {
            (0 | 4, true) => self.since = now.tsc,
            (_, true) => self.restart(now),
            (1 | 5, false) => {}
            (_, false) => self.before = self.counted(now),
        }
        self.triggered |= high;
        self.gate = high;
    }

    /// The level of the output.
    pub(super) fn output(&self, now: Now) -> bool {
        let Some(reload) = self.reload.map(u64::from) else { return self.mode != 0 };
        let counted = self.counted(now);
        match self.mode {
            0 => counted >= reload,
            1 => !self.triggered || counted >= reload,
            2 => !self.gate || counted % reload != reload - 1,
            3 => !self.gate || counted % reload < reload.div_ceil(2),
            _ => !self.runs() || counted != reload,
        }
    }

    /// The TSC after `now` at which the output rises; `None` where it does not by itself.
    pub(super) fn next_rise(&self, now: Now) -> Option<u64> {
        let reload = u64::from(self.reload?);
        if !self.runs() {
            return None;
        }
        let counted = self.counted(now);
        let pulses = match self.mode {
            0 | 1 => reload,
            2 | 3 => {
                let earliest = counted + SHORTEST_PERIOD.saturating_sub(reload);
                (earliest / reload + 1) * reload
            }
            _ => reload + 1,
        };
        let later = pulses > counted;
        later.then(|| self.since.saturating_add(now.ticks(pulses - self.before, HERTZ)))
    }

    fn load(&mut self, reload: u32, now: Now) {
        self.reload = Some(reload);
        // The one-shot modes finish what they count; a new trigger takes the new count.
        if !matches!(self.mode, 1 | 5) {
            self.restart(now);
        }
    }

    fn restart(&mut self, now: Now) {
        self.since = now.tsc;
        self.before = 0;
    }

    /// Clock pulses counted since the last load or trigger.
    fn counted(&self, now: Now) -> u64 {
        if !self.runs() {
            return self.before;
        }
        self.before.saturating_add(now.periods_since(self.since, PIT_HERTZ))
    }

    const fn runs(&self) -> bool {
        match self.mode {
            1 | 5 => self.triggered,
            _ => self.gate,
        }
    }

    /// The live count as it reads: in BCD where that was asked for.
    fn count(&self, now: Now) -> u16 {
        let Some(reload) = self.reload.map(u64::from) else { return 0 };
        let counted = self.counted(now);
        let left = match self.mode {
            2 => reload - counted % reload,
            3 => reload - counted.wrapping_mul(2) % reload,
            _ => {
                let modulus = u64::from(self.modulus());
                (reload % modulus + modulus - counted % modulus) % modulus
            }
        };
        let left = (left % u64::from(self.modulus())) as u16;
        if self.bcd { to_bcd(left) } else { left }
    }

    const fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }
}

/// Four decimal digits as a number. Digits above nine have no meaning; they are
/// taken at their value and the sum is kept within what a counter holds.
fn from_bcd(digits: u16) -> u32 {
    let digit = |position: u16| u32::from(digits >> (4 * position) & 15);
    (digit(3) * 1_000 + digit(2) * 100 + digit(1) * 10 + digit(0)) % 10_000
}

fn to_bcd(number: u16) -> u16 {
    let digit = |weight: u16| number / weight % 10;
    digit(1) | digit(10) << 4 | digit(100) << 8 | digit(1_000) << 12
}
