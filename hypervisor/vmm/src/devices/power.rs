//! ACPI's fixed hardware: events that never happen, the power-management timer, and
//! the register that switches the machine off.
//!
//! | offset | register |
//! |---|---|
//! | 0 | PM1 status, 16 bits: the timer's overflow is the only event |
//! | 2 | PM1 enable, 16 bits |
//! | 4 | PM1 control, 16 bits: bit 0 (ACPI mode) is always set |
//! | 8 | power-management timer, 32 bits |
//!
//! Known difference from a chipset: the timer's overflow raises no SCI.
//!
//! Source: ACPI Specification 6.4, 4.8.3 "PM1 Event Registers" and the sections after it.

use super::time::Now;

/// First port, where QEMU's firmware puts it too.
pub const PORT: u16 = 0x600;
/// Last port.
pub const LAST_PORT: u16 = PORT + BYTES as u16 - 1;
/// Offsets of the registers.
pub const CONTROL: u16 = 4;
/// Offset of the timer.
pub const TIMER: u16 = 8;
/// SLP_TYP that means soft-off (S5).
pub const SOFT_OFF: u8 = 0;

const BYTES: usize = 12;
/// Ticks of the timer in a second.
const TIMER_HERTZ: u64 = 3_579_545;
/// Status bit 0: the highest bit of the timer has changed.
const OVERFLOW: u8 = 1 << 0;
/// Control bit 0: power management is ACPI's.
const ACPI_MODE: u8 = 1 << 0;
/// Control bit 13, in the upper byte: sleep.
const SLEEP: u8 = 1 << 5;

/// What the registers hold.
#[derive(Clone, Debug, Default)]
pub struct Power {
    enable: [u8; 2],
    control: [u8; 2],
    /// The timer's highest bit when its overflow was last cleared.
    seen: bool,
}

impl Power {
    /// Reads `size` bytes (1, 2 or 4) at `offset`.
    pub fn read(&self, offset: u16, size: u8, now: Now) -> u32 {
        let timer = ticks(now);
        let overflow = if self.seen == highest(timer) { 0 } else { OVERFLOW };
        let [t0, t1, t2, t3] = timer.to_le_bytes();
        let ([e0, e1], [c0, c1]) = (self.enable, self.control);
        let bytes = [overflow, 0, e0, e1, c0 | ACPI_MODE, c1 & !SLEEP, 0, 0, t0, t1, t2, t3];
        let wanted = bytes.iter().skip(offset.into()).take(size.into());
        wanted.rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
    }

    /// Writes the low `size` bytes (1, 2 or 4) of `value` at `offset`; whether the
    /// machine is switched off by it.
    pub fn write(&mut self, offset: u16, size: u8, value: u32, now: Now) -> bool {
        let bytes = value.to_le_bytes().into_iter().take(size.into());
        let mut off = false;
        for (offset, byte) in (offset..).zip(bytes) {
            match offset {
                0 if byte & OVERFLOW != 0 => self.seen = highest(ticks(now)),
                2 | 3 => self.enable[usize::from(offset - 2)] = byte,
                4 | 5 => self.control[usize::from(offset - 4)] = byte,
                _ => {}
            }
            off |= offset == 5 && byte & SLEEP != 0 && byte >> 2 & 7 == SOFT_OFF;
        }
        off
    }
}

fn ticks(now: Now) -> u32 {
    now.periods_since(0, TIMER_HERTZ) as u32
}

const fn highest(timer: u32) -> bool {
    timer >> 31 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU64;

    fn at(tsc: u64) -> Now {
        Now::new(tsc, NonZeroU64::new(1_000_000).unwrap())
    }

    #[test]
    fn the_timer_counts_its_rate_and_notes_when_its_highest_bit_changes() {
        let mut power = Power::default();
        assert_eq!(power.read(TIMER, 4, at(1_000_000)), 3_579_545);
        assert_eq!(power.read(0, 2, at(599_000_000)), 0);
        assert_eq!(power.read(0, 2, at(600_000_000)), 1);
        assert!(!power.write(0, 2, 1, at(600_000_000)));
        assert_eq!(power.read(0, 2, at(600_000_000)), 0);
    }

    #[test]
    fn soft_off_and_no_other_sleep_switches_the_machine_off() {
        let mut power = Power::default();
        assert_eq!(power.read(CONTROL, 2, at(0)), 1, "ACPI mode");
        assert!(!power.write(CONTROL, 2, 0x0001, at(0)));
        assert!(!power.write(CONTROL, 2, 0x2401, at(0)), "S1");
        assert!(power.write(CONTROL, 2, 0x2000, at(0)));
        assert!(power.write(CONTROL + 1, 1, 0x20, at(0)));
        assert!(!power.write(CONTROL, 1, 0x20, at(0)));
    }

    #[test]
    fn no_access_leaves_the_registers() {
        let mut power = Power::default();
        for offset in 0..16 {
            for size in [1, 2, 4] {
                let _ = power.read(offset, size, at(7));
                let _ = power.write(offset, size, 0xdfff_dfff, at(7));
            }
        }
        assert_eq!(power.read(12, 4, at(7)), 0);
    }
}
