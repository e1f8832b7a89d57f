//! The ports that reset a PC, beside the keyboard controller.
//!
//! | port | register |
//! |---|---|
//! | 0x92 | system control port A: bit 0 resets the processor when it rises, bit 1 is A20 |
//! | 0xcf9 | reset control: bit 2 resets when it rises, bits 1 and 3 say how |
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "System Control Port A";
//! Intel 82371SB data sheet, 2.5.4.3 "RC: Reset Control Register".

/// Port 0x92: the processor is reset when this rises.
const FAST_RESET: u8 = 1 << 0;
/// Port 0x92: address line 20 is let through.
const A20: u8 = 1 << 1;
/// Port 0xcf9: the machine is reset when this rises.
const RESET: u8 = 1 << 2;
/// Port 0xcf9: bits that read back.
const KIND: u8 = 1 << 1 | 1 << 3;

/// Whether a write pulled the processor's reset line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ResetLine {
    /// It stays high.
    Idle,
    /// The machine is to be reset.
    Pulled,
}

/// What the two registers hold.
#[derive(Clone, Debug)]
pub struct ResetPorts {
    port_a: u8,
    control: u8,
}

impl Default for ResetPorts {
    fn default() -> Self {
        Self { port_a: A20, control: 0 }
    }
}

impl ResetPorts {
    /// Port 0x92.
    pub const fn read_port_a(&self) -> u8 {
        self.port_a
    }

    /// Port 0x92. A20 is remembered only: the machine has no address wrap at 1 MiB.
    pub const fn write_port_a(&mut self, value: u8) -> ResetLine {
        let rises = value & !self.port_a & FAST_RESET != 0;
        self.port_a = value;
        if rises { ResetLine::Pulled } else { ResetLine::Idle }
    }

    /// Port 0xcf9.
    pub const fn read_control(&self) -> u8 {
        self.control
    }

    /// Port 0xcf9.
    pub const fn write_control(&mut self, value: u8) -> ResetLine {
        self.control = value & KIND;
        if value & RESET != 0 { ResetLine::Pulled } else { ResetLine::Idle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_a_resets_when_its_bit_rises_and_keeps_the_others() {
        let mut ports = ResetPorts::default();
        assert_eq!(ports.write_port_a(A20 | 0x80), ResetLine::Idle);
        assert_eq!(ports.read_port_a(), A20 | 0x80);
        assert_eq!(ports.write_port_a(A20 | FAST_RESET), ResetLine::Pulled);
        assert_eq!(ports.write_port_a(A20 | FAST_RESET), ResetLine::Idle);
    }

    #[test]
    fn linux_resets_by_the_control_register_in_two_steps() {
        let mut ports = ResetPorts::default();
        let before = ports.read_control() & !0x0e;
        assert_eq!(ports.write_control(before | 0x02), ResetLine::Idle);
        assert_eq!(ports.read_control(), 0x02);
        assert_eq!(ports.write_control(before | 0x06), ResetLine::Pulled);
    }
}
