//! The two 8259A interrupt controllers of a PC and their trigger registers.
//!
//! The second controller's output is input 2 of the first. Lines are numbered as a
//! PC does: 0–7 at the first controller, 8–15 at the second.
//!
//! | port | A0 = 0 | A0 = 1 |
//! |---|---|---|
//! | 0x20, 0xa0 | ICW1, OCW2, OCW3; IRR, ISR, poll | |
//! | 0x21, 0xa1 | | ICW2 to ICW4, OCW1; IMR |
//! | 0x4d0, 0x4d1 | ELCR: a bit for each level-triggered line | |
//!
//! Known difference from the chip: the buffered modes of ICW4 and the CALL sequence of
//! an 8085 do nothing; there is neither a bus buffer nor an 8085.
//!
//! Source: Intel 8259A data sheet, order number 231468-003; Intel 82371SB data sheet,
//! 2.5.5.3 "ELCR1, ELCR2".

mod chip;

use anchorite_vcpu::Vector;
use chip::Chip;

/// The input of the first controller that the second one drives.
const CASCADE: u8 = 2;
/// Lines that can be level-triggered: not the timer, keyboard and cascade.
const FIRST_LEVEL_LINES: u8 = 0xf8;
/// Nor the clock and the coprocessor.
const SECOND_LEVEL_LINES: u8 = 0xde;

/// Both controllers.
#[derive(Clone, Debug)]
pub struct Pic {
    first: Chip,
    second: Chip,
}

impl Default for Pic {
    /// As firmware leaves them, but for the mask: vectors 8 and 0x70, nothing let through.
    fn default() -> Self {
        Self { first: Chip::new(0x08), second: Chip::new(0x70) }
    }
}

impl Pic {
    /// Moves input line `irq`; 2 is the second controller's, and those beyond 15 do
    /// not exist.
    pub fn set_line(&mut self, irq: u8, high: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.first.set_line(irq, high),
            8..16 => {
                self.second.set_line(irq - 8, high);
                self.cascade();
            }
            _ => {}
        }
    }

    /// The level of the output to the processor.
    pub fn is_pending(&self) -> bool {
        self.first.request().is_some()
    }

    /// The processor takes the interrupt: its vector.
    ///
    /// Without a request, because it was withdrawn meanwhile, it is that of line 7.
    pub fn acknowledge(&mut self) -> Vector {
        let line = self.first.acknowledge();
        if line != CASCADE {
            return self.first.vector(line);
        }
        let line = self.second.acknowledge();
        self.cascade();
        self.second.vector(line)
    }

    /// Ports 0x20, 0x21, 0xa0 and 0xa1.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = self.chip(port).read(port & 1 != 0);
        self.cascade();
        value
    }

    /// Ports 0x20, 0x21, 0xa0 and 0xa1.
    pub fn write(&mut self, port: u16, value: u8) {
        self.chip(port).write(port & 1 != 0, value);
        self.cascade();
    }

    /// Ports 0x4d0 and 0x4d1: which lines are level-triggered.
    pub const fn read_trigger(&self, port: u16) -> u8 {
        if port & 1 == 0 { self.first.level_lines() } else { self.second.level_lines() }
    }

    /// Ports 0x4d0 and 0x4d1.
    pub fn write_trigger(&mut self, port: u16, value: u8) {
        if port & 1 == 0 {
            self.first.set_level_lines(value & FIRST_LEVEL_LINES);
        } else {
            self.second.set_level_lines(value & SECOND_LEVEL_LINES);
        }
        self.cascade();
    }

    fn chip(&mut self, port: u16) -> &mut Chip {
        if port & 0x80 == 0 { &mut self.first } else { &mut self.second }
    }

    fn cascade(&mut self) {
        self.first.set_line(CASCADE, self.second.request().is_some());
    }
}

#[cfg(test)]
mod tests;
