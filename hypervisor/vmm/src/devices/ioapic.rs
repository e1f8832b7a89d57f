//! The I/O APIC (0xfec0_0000): 24 inputs, each with a redirection entry.
//!
//! Known differences from the chip: inputs are active high whatever their polarity
//! says; NMI, SMI and INIT as delivery modes do nothing.
//!
//! Source: Intel 82093AA data sheet, order number 290566-001.

use super::apic::LocalApic;
use anchorite_vcpu::Vector;

/// Inputs.
const PINS: usize = 24;
/// Version 0x11, and the number of the last redirection entry.
const VERSION: u32 = 0x11 | (PINS as u32 - 1) << 16;

/// Its identifier, which no processor has.
pub(crate) const IO_APIC_ID: u32 = 1;

/// Registers of the index.
const ID: u8 = 0;
const VERSION_REGISTER: u8 = 1;
const ARBITRATION: u8 = 2;
const FIRST_ENTRY: u8 = 0x10;

/// Bits of a redirection entry.
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Delivery status and remote IRR cannot be written.
const WRITABLE: u64 = 0xff00_0000_0001_afff;
/// Delivery modes.
const LOWEST_PRIORITY: u64 = 1;
const EXTERNAL: u64 = 7;

/// The state of the chip.
#[derive(Clone, Debug)]
pub(super) struct IoApic {
    index: u8,
    id: u32,
    entries: [u64; PINS],
    /// Bit n: input n is high.
    lines: u32,
    /// Bit n: input n has had an edge that its mask held back.
    edges: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { index: 0, id: IO_APIC_ID << 24, entries: [MASKED; PINS], lines: 0, edges: 0 }
    }
}

impl IoApic {
    /// A load from `offset` in the page.
    pub(super) const fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.index as u32,
            0x10 => self.read_register(),
            _ => 0,
        }
    }

    /// A store to `offset` in the page.
    pub(super) fn write(&mut self, offset: u64, value: u32, apic: &mut LocalApic) {
        match offset {
            0x00 => self.index = value as u8,
            0x10 => self.write_register(value, apic),
            _ => {}
        }
    }

    /// Moves an input; those beyond do not exist.
    pub(super) fn set_line(&mut self, pin: u8, high: bool, apic: &mut LocalApic) {
        let Some(bit) = 1_u32.checked_shl(pin.into()).filter(|_| usize::from(pin) < PINS) else {
            return;
        };
        let rises = high && self.lines & bit == 0;
        self.lines = if high { self.lines | bit } else { self.lines & !bit };
        if rises {
            self.edges |= bit;
            self.serve(pin.into(), apic);
        }
    }

    /// The processor is done with a level-triggered vector: inputs that are still high
    /// interrupt again.
    pub(super) fn end_of_interrupt(&mut self, vector: Vector, apic: &mut LocalApic) {
        for pin in 0..PINS {
            let entry = &mut self.entries[pin];
            if *entry as u8 == vector.0 && *entry & LEVEL != 0 {
                *entry &= !REMOTE_IRR;
                self.serve(pin, apic);
            }
        }
    }

    /// Whether the 8259 pair, which is at input 0, reaches the processor.
    pub(super) const fn takes_external(&self) -> bool {
        self.entries[0] & MASKED == 0 && self.entries[0] >> 8 & 7 == EXTERNAL
    }

    const fn read_register(&self) -> u32 {
        match self.index {
            ID | ARBITRATION => self.id,
            VERSION_REGISTER => VERSION,
            index => match pin_of(index) {
                Some(pin) => (self.entries[pin] >> (32 * (index as u32 & 1))) as u32,
                None => 0,
            },
        }
    }

    fn write_register(&mut self, value: u32, apic: &mut LocalApic) {
        if self.index == ID {
            self.id = value & 0x0f00_0000;
        }
        let Some(pin) = pin_of(self.index) else { return };
        let shift = 32 * (u32::from(self.index) & 1);
        let writable = WRITABLE & 0xffff_ffff << shift;
        let entry = &mut self.entries[pin];
        *entry = *entry & !writable | u64::from(value) << shift & writable;
        if *entry & LEVEL == 0 {
            *entry &= !REMOTE_IRR;
        }
        self.serve(pin, apic);
    }

    /// Sends what the input has to say, if its entry lets it.
    fn serve(&mut self, pin: usize, apic: &mut LocalApic) {
        let (bit, entry) = (1 << pin, self.entries[pin]);
        let level = entry & LEVEL != 0;
        let wants = if level { self.lines & bit != 0 } else { self.edges & bit != 0 };
        if !wants || entry & (MASKED | REMOTE_IRR) != 0 {
            return;
        }

        self.edges &= !bit;
        let addressed = apic.is_addressed((entry >> 56) as u8, entry & LOGICAL != 0);
        if entry >> 8 & 7 <= LOWEST_PRIORITY && addressed {
            apic.accept(Vector(entry as u8), level);
            if level {
                self.entries[pin] |= REMOTE_IRR;
            }
        }
    }
}

/// The pin whose entry a register is half of.
const fn pin_of(index: u8) -> Option<usize> {
    let pin = (index.wrapping_sub(FIRST_ENTRY) / 2) as usize;
    if index >= FIRST_ENTRY && pin < PINS { Some(pin) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(io: &mut IoApic, apic: &mut LocalApic, register: u8, value: u32) {
        io.write(0, register.into(), apic);
        io.write(0x10, value, apic);
    }

    fn read(io: &mut IoApic, apic: &mut LocalApic, register: u8) -> u32 {
        io.write(0, register.into(), apic);
        io.read(0x10)
    }

    #[test]
    fn an_edge_is_sent_once() {
        let (mut io, mut apic) = (IoApic::default(), LocalApic::default());
        write(&mut io, &mut apic, 0x10 + 8, 0x34);
        io.set_line(4, true, &mut apic);
        assert_eq!(apic.acknowledge(), Some(Vector(0x34)));
        io.set_line(4, true, &mut apic);
        io.set_line(4, false, &mut apic);
        assert_eq!(apic.acknowledge(), None);
    }

    #[test]
    fn an_edge_under_the_mask_is_sent_when_the_mask_goes() {
        let (mut io, mut apic) = (IoApic::default(), LocalApic::default());
        io.set_line(4, true, &mut apic);
        assert_eq!(apic.request(), None);
        write(&mut io, &mut apic, 0x18, 0x34);
        assert_eq!(apic.acknowledge(), Some(Vector(0x34)));
        write(&mut io, &mut apic, 0x18, 0x1_0034);
        write(&mut io, &mut apic, 0x18, 0x34);
        assert_eq!(apic.request(), None, "once");
    }

    #[test]
    fn a_level_is_sent_again_after_its_end_while_the_line_is_high() {
        let (mut io, mut apic) = (IoApic::default(), LocalApic::default());
        write(&mut io, &mut apic, 0x10 + 18, 0x8059);
        io.set_line(9, true, &mut apic);
        for _ in 0..3 {
            assert_eq!(apic.acknowledge(), Some(Vector(0x59)));
            assert_ne!(u64::from(read(&mut io, &mut apic, 0x10 + 18)) & REMOTE_IRR, 0);
            io.end_of_interrupt(Vector(0x59), &mut apic);
            let _ = apic.write(super::super::apic::register::EOI, 0, NOW);
        }
        io.set_line(9, false, &mut apic);
        assert_eq!(apic.acknowledge(), Some(Vector(0x59)), "it was sent before");
        io.end_of_interrupt(Vector(0x59), &mut apic);
        let _ = apic.write(super::super::apic::register::EOI, 0, NOW);
        assert_eq!(apic.acknowledge(), None);
    }

    #[test]
    fn registers_read_back_and_those_beyond_read_zero() {
        let (mut io, mut apic) = (IoApic::default(), LocalApic::default());
        assert_eq!(read(&mut io, &mut apic, VERSION_REGISTER), 0x0017_0011);
        for register in 0..=u8::MAX {
            write(&mut io, &mut apic, register, u32::MAX);
            let expected = match register {
                ID | ARBITRATION => 0x0f00_0000,
                VERSION_REGISTER => VERSION,
                0x10..0x40 if register % 2 == 0 => 0x0001_afff,
                0x10..0x40 => 0xff00_0000,
                _ => 0,
            };
            assert_eq!(read(&mut io, &mut apic, register), expected, "{register:#x}");
        }
    }

    #[test]
    fn a_message_for_another_processor_is_lost() {
        let (mut io, mut apic) = (IoApic::default(), LocalApic::default());
        write(&mut io, &mut apic, 0x19, 0x0700_0000);
        write(&mut io, &mut apic, 0x18, 0x34);
        io.set_line(4, true, &mut apic);
        assert_eq!(apic.request(), None);
    }

    const NOW: crate::devices::Now =
        crate::devices::Now::new(0, core::num::NonZeroU64::new(1_000_000_000).unwrap());
}
