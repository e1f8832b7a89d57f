//! The real-time clock and the CMOS memory of a PC (ports 0x70, 0x71): an MC146818.
//!
//! The clock is computed from the time alone. Its three interrupts (periodic, alarm,
//! end of update) are IRQ 8, level as long as register C has not been read.
//!
//! A machine without a clock ([`Cmos::flat`]) has the chip with a flat battery: every
//! byte reads zero until it is written, the clock's registers always, so that register
//! D says that the time is not valid and register A that no update is in progress.
//! (All ones, an absent chip's answer, would read as an update that never ends: a Linux
//! spends 80,000 reads on it.)
//!
//! Known differences from the chip: daylight saving and the square wave do nothing;
//! the divider chain cannot be held in reset.
//!
//! Source: Motorola MC146818A data sheet, 1988; the century byte and the memory's sizes
//! are where PC firmware has them.

mod date;

use super::time::Now;
use core::num::NonZeroU64;
use core::ops::Range;
use date::Date;

const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;
/// First byte that is plain memory; below are the clock and its status registers.
const FIRST_MEMORY_BYTE: u8 = 0x0e;

/// Register A: an update is in progress, or will be in 244 µs.
const UPDATING: u8 = 1 << 7;
/// Register A: a crystal of 32768 Hz, and 1024 periodic interrupts a second.
const A_INITIAL: u8 = 0x26;
/// Register B: the clock stands while it is being set.
const SET: u8 = 1 << 7;
/// Registers B and C: periodic, alarm and update interrupts; enabled, and due.
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATED: u8 = 1 << 4;
/// Register C: the interrupt line is active.
const ACTIVE: u8 = 1 << 7;
/// Register B: numbers are binary, not BCD.
const BINARY: u8 = 1 << 2;
/// Register B: hours count to 24.
const HOURS_24: u8 = 1 << 1;
/// Hours to 12: the afternoon.
const AFTERNOON: u8 = 1 << 7;
/// Register D: the battery has kept time and memory.
const VALID: u8 = 1 << 7;
/// An alarm byte from here on matches anything.
const ANY: u8 = 0xc0;
/// Time before an update during which register A announces it: 1 s / 4096, 244 µs.
const ANNOUNCED: u64 = 4096;
/// Seconds looked back over for an alarm that nobody asked to be told of.
const ALARM_SECONDS: u64 = 60;
const ONE_HERTZ: NonZeroU64 = NonZeroU64::MIN;

/// What the chip finds when it is switched on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Seconds since 1970 when the TSC stood at 0.
    pub unix_time: u64,
    /// RAM below 4 GiB, which firmware notes in the memory.
    pub ram_bytes: u64,
}

/// The chip's bytes, the index that selects one, and the clock.
#[derive(Clone, Debug)]
pub struct Cmos {
    index: u8,
    memory: [u8; 128],
    clock: Option<Clock>,
}

impl Cmos {
    /// A chip with a flat battery.
    pub const fn flat() -> Self {
        Self { index: 0, memory: [0; 128], clock: None }
    }

    /// A chip that works.
    pub fn new(config: Config) -> Self {
        let mut memory = [0; 128];
        for (first, value) in sizes(config.ram_bytes) {
            memory[first] = value as u8;
            memory[first + 1] = (value >> 8) as u8;
        }
        // A coprocessor, and a display of 80 columns.
        memory[0x14] = 0x06;
        Self { index: 0, memory, clock: Some(Clock::new(config.unix_time)) }
    }

    /// Selects a byte. Bit 7, which masks NMIs on a PC, is ignored: the only NMIs of
    /// this machine are those that the guest asks for.
    pub const fn select(&mut self, value: u8) {
        self.index = value & 0x7f;
    }

    /// Reads the selected byte.
    pub fn read(&mut self, now: Now) -> u8 {
        match &mut self.clock {
            Some(clock) if is_clock(self.index) => clock.read(self.index, now),
            _ => self.memory[usize::from(self.index)],
        }
    }

    /// Writes the selected byte.
    pub fn write(&mut self, value: u8, now: Now) {
        match &mut self.clock {
            Some(clock) if is_clock(self.index) => clock.write(self.index, value, now),
            None if self.index < FIRST_MEMORY_BYTE => {}
            _ => self.memory[usize::from(self.index)] = value,
        }
    }

    /// The level of IRQ 8.
    pub fn interrupt(&self) -> bool {
        self.clock.as_ref().is_some_and(Clock::interrupt)
    }

    /// Lets time pass.
    pub fn advance(&mut self, now: Now) {
        if let Some(clock) = &mut self.clock {
            clock.advance(now);
        }
    }

    /// The TSC at which [`advance`](Self::advance) may raise the interrupt.
    pub fn deadline(&self, now: Now) -> Option<u64> {
        self.clock.as_ref()?.deadline(now)
    }
}

const fn is_clock(index: u8) -> bool {
    index < FIRST_MEMORY_BYTE || index == CENTURY
}

/// Where firmware notes how much RAM there is: KiB below 1 MiB, KiB above (twice), and
/// 64 KiB pieces above 16 MiB.
fn sizes(ram_bytes: u64) -> [(usize, u16); 4] {
    let above = |start: u64, unit: u64| {
        u16::try_from(ram_bytes.saturating_sub(start) / unit).unwrap_or(u16::MAX)
    };
    let extended = above(1 << 20, 1 << 10);
    [(0x15, 640), (0x17, extended), (0x30, extended), (0x34, above(16 << 20, 64 << 10))]
}

/// The clock's registers.
#[derive(Clone, Debug)]
struct Clock {
    /// Seconds since 1970 when the TSC stood at `since`.
    base: u64,
    since: u64,
    /// What the time registers hold while they are being set.
    frozen: Option<Date>,
    /// Seconds, minutes and hours of the alarm, as written.
    alarm: [u8; 3],
    a: u8,
    b: u8,
    /// What has happened since register C was read.
    due: u8,
    /// The second and the periodic tick up to which that is known.
    seen: (u64, u64),
}

impl Clock {
    fn new(unix_time: u64) -> Self {
        Self {
            base: unix_time,
            since: 0,
            frozen: None,
            alarm: [0; 3],
            a: A_INITIAL,
            b: HOURS_24,
            due: 0,
            seen: (unix_time, 0),
        }
    }

    fn read(&mut self, index: u8, now: Now) -> u8 {
        match index {
            1 | 3 | 5 => self.alarm[usize::from(index / 2)],
            REGISTER_A => self.a | if self.is_updating(now) { UPDATING } else { 0 },
            REGISTER_B => self.b,
            REGISTER_C => self.take_due(now),
            REGISTER_D => VALID,
            _ => self.shown(index, self.date(now)),
        }
    }

    fn write(&mut self, index: u8, value: u8, now: Now) {
        match index {
            1 | 3 | 5 => self.alarm[usize::from(index / 2)] = value,
            REGISTER_A => self.set_rate(value, now),
            REGISTER_B => self.control(value, now),
            REGISTER_C | REGISTER_D => {}
            _ => self.set(index, value, now),
        }
    }

    const fn interrupt(&self) -> bool {
        self.due & self.b & (PERIODIC | ALARM | UPDATED) != 0
    }

    fn advance(&mut self, now: Now) {
        let (second, tick) = (self.seconds(now), self.ticks(now));
        if tick != self.seen.1 {
            self.due |= PERIODIC;
        }
        if second != self.seen.0 && self.frozen.is_none() {
            self.due |= UPDATED;
            let first = self.seen.0.saturating_add(1).max(second.saturating_sub(ALARM_SECONDS));
            if self.due & ALARM == 0 && self.rings(first..second.saturating_add(1)) {
                self.due |= ALARM;
            }
        }
        self.seen = (second, tick);
    }

    /// When the next interrupt that is enabled and not yet due may come.
    fn deadline(&self, now: Now) -> Option<u64> {
        let missing = self.b & !self.due;
        let periodic = match NonZeroU64::new(self.rate()) {
            Some(rate) if missing & PERIODIC != 0 => {
                Some(self.boundary(self.ticks(now), rate, now))
            }
            _ => None,
        };
        let second = missing & (ALARM | UPDATED) != 0 && self.frozen.is_none();
        let passed = self.seconds(now).saturating_sub(self.base);
        let second = second.then(|| self.boundary(passed, ONE_HERTZ, now));
        [periodic, second].into_iter().flatten().min()
    }

    /// The TSC at which period `number` of those since the clock was set ends.
    fn boundary(&self, number: u64, rate: NonZeroU64, now: Now) -> u64 {
        self.since.saturating_add(now.ticks(number.saturating_add(1), rate))
    }

    fn seconds(&self, now: Now) -> u64 {
        self.base.saturating_add(now.periods_since(self.since, 1))
    }

    /// Periodic ticks since the clock was set.
    fn ticks(&self, now: Now) -> u64 {
        now.periods_since(self.since, self.rate())
    }

    /// Periodic interrupts a second; 0 for none. Source: data sheet, table 5 "Periodic
    /// Interrupt Rate", for a 32768 Hz crystal.
    const fn rate(&self) -> u64 {
        match self.a & 15 {
            0 => 0,
            select @ (1 | 2) => 512 >> select,
            select => 65_536 >> select,
        }
    }

    fn is_updating(&self, now: Now) -> bool {
        self.frozen.is_none()
            && now.periods_since(self.since, ANNOUNCED) % ANNOUNCED == ANNOUNCED - 1
    }

    fn take_due(&mut self, now: Now) -> u8 {
        self.advance(now);
        let active = if self.interrupt() { ACTIVE } else { 0 };
        core::mem::take(&mut self.due) | active
    }

    fn set_rate(&mut self, value: u8, now: Now) {
        self.advance(now);
        self.a = value & !UPDATING;
        self.seen.1 = self.ticks(now);
    }

    /// Register B: setting stops the clock, and starts it at what has been written.
    fn control(&mut self, value: u8, now: Now) {
        self.advance(now);
        let date = self.date(now);
        self.b = value;
        if value & SET != 0 {
            self.b &= !UPDATED;
            self.frozen = Some(date);
        } else if self.frozen.take().is_some() {
            self.start(date, now);
        }
    }

    fn start(&mut self, date: Date, now: Now) {
        self.base = date.seconds();
        self.since = now.tsc;
        self.seen = (self.base, 0);
    }

    fn set(&mut self, index: u8, value: u8, now: Now) {
        let mut date = self.date(now);
        let number = self.number(value);
        match index {
            0 => date.second = number,
            2 => date.minute = number,
            4 => date.hour = self.hour(value),
            7 => date.day = number,
            8 => date.month = number,
            9 => date.year = date.year / 100 * 100 + u16::from(number % 100),
            CENTURY => date.year = date.year % 100 + u16::from(number % 100) * 100,
            // The day of the week follows from the date.
            _ => return,
        }
        match &mut self.frozen {
            Some(frozen) => *frozen = date,
            None => self.start(date, now),
        }
    }

    fn date(&self, now: Now) -> Date {
        self.frozen.unwrap_or_else(|| Date::at(self.seconds(now)))
    }

    fn shown(&self, index: u8, date: Date) -> u8 {
        let number = match index {
            0 => date.second,
            2 => date.minute,
            4 => return self.shown_hour(date.hour),
            6 => date.weekday(),
            7 => date.day,
            8 => date.month,
            9 => (date.year % 100) as u8,
            _ => (date.year / 100 % 100) as u8,
        };
        self.coded(number)
    }

    fn shown_hour(&self, hour: u8) -> u8 {
        if self.b & HOURS_24 != 0 {
            return self.coded(hour);
        }
        let afternoon = if hour >= 12 { AFTERNOON } else { 0 };
        self.coded((hour % 12 + 11) % 12 + 1) | afternoon
    }

    fn hour(&self, value: u8) -> u8 {
        if self.b & HOURS_24 != 0 {
            return self.number(value);
        }
        let afternoon = if value & AFTERNOON != 0 { 12 } else { 0 };
        self.number(value & !AFTERNOON) % 12 + afternoon
    }

    fn coded(&self, number: u8) -> u8 {
        if self.b & BINARY != 0 { number } else { number / 10 % 10 << 4 | number % 10 }
    }

    fn number(&self, value: u8) -> u8 {
        if self.b & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 15) }
    }

    /// Whether the alarm is set for one of these seconds.
    fn rings(&self, mut seconds: Range<u64>) -> bool {
        let [second, minute, hour] = self.alarm;
        let matches = |alarm: u8, shown: u8| alarm >= ANY || alarm == shown;
        seconds.any(|at| {
            let date = Date::at(at);
            matches(second, self.coded(date.second))
                && matches(minute, self.coded(date.minute))
                && matches(hour, self.shown_hour(date.hour))
        })
    }
}

#[cfg(test)]
mod tests;
