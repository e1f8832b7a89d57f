//! What stands between the devices' interrupt lines and a vCPU.
//!
//! [`Interrupts`] is what the run loop asks before every entry: one flag that says
//! whether a vector waits, kept up to date by whoever changes something. Vectors come
//! from two places: a queue in front of the vCPU, which guests fill through a
//! test port and which keeps interrupts that were taken but not delivered, and the
//! interrupt controllers that the devices' lines end in.

use super::apic::{LocalApic, Request};
use super::ioapic::IoApic;
use super::pic::Pic;
use super::time::Now;
use super::vectors::VectorSet;
use anchorite_vcpu::Vector;

/// The I/O APIC's input that timer channel 0 is wired to; the others have the number
/// of their line.
pub const TIMER_PIN: u8 = 2;
/// Where firmware puts the local APIC.
pub const APIC_BASE: u64 = 0xfee0_0000;
/// IA32_APIC_BASE: the bootstrap processor; the APIC is enabled.
const BOOTSTRAP: u64 = 1 << 8;
const GLOBALLY_ENABLED: u64 = 1 << 11;

/// The lines of a PC, by their IRQ.
pub mod line {
    /// Timer channel 0.
    pub const TIMER: u8 = 0;
    /// Keyboard.
    pub const KEYBOARD: u8 = 1;
    /// First serial line.
    pub const UART: u8 = 4;
    /// Real-time clock.
    pub const CLOCK: u8 = 8;
    /// Power management.
    pub const SCI: u8 = 9;
    /// Mouse.
    pub const MOUSE: u8 = 12;
}

/// The local and the I/O APIC.
#[derive(Clone, Debug)]
struct Apics {
    local: LocalApic,
    io: IoApic,
    enabled: bool,
}

/// What a store to an APIC's register asks of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// An NMI.
    Nmi,
    /// CR8 has this value now.
    Priority(u8),
}

/// Lines, controllers and the queue in front of the vCPU.
#[derive(Clone, Debug, Default)]
pub struct Interrupts {
    /// Vectors that go past all controllers.
    queue: VectorSet,
    pic: Pic,
    apics: Option<Apics>,
    /// Bit n: line n is high.
    lines: u16,
    /// A vector waits.
    pending: bool,
}

impl Interrupts {
    /// The same with APICs beside the 8259 pair.
    pub fn with_apics() -> Self {
        let apics = Apics { local: LocalApic::default(), io: IoApic::default(), enabled: true };
        Self { apics: Some(apics), ..Self::default() }
    }

    /// Makes `vector` pending past all controllers; one that waits already is not
    /// counted twice.
    pub fn raise(&mut self, vector: Vector) {
        self.queue.insert(vector);
        self.pending = true;
    }

    /// Moves input line `irq` (0–15); a line beyond does not exist.
    #[inline]
    pub fn set_line(&mut self, irq: u8, high: bool) {
        let bit = 1_u16.checked_shl(irq.into()).unwrap_or(0);
        if (self.lines & bit != 0) != high {
            self.move_line(irq, bit);
        }
    }

    /// Whether a vector waits.
    #[inline]
    pub const fn is_pending(&self) -> bool {
        self.pending
    }

    /// Takes the vector to deliver next: the queue's highest, else the controllers'.
    pub fn acknowledge(&mut self) -> Option<Vector> {
        let vector = self.queue.take_highest().or_else(|| self.acknowledge_controllers());
        self.update();
        vector
    }

    /// How many vectors wait in the queue, at most 256.
    pub fn queued(&self) -> u32 {
        self.queue.len()
    }

    /// Reads a port of the 8259 pair.
    pub fn read_pic(&mut self, port: u16) -> u8 {
        let value = self.pic.read(port);
        self.update();
        value
    }

    /// Writes a port of the 8259 pair.
    pub fn write_pic(&mut self, port: u16, value: u8) {
        self.pic.write(port, value);
        self.update();
    }

    /// Reads a trigger register of the 8259 pair.
    pub const fn read_trigger(&self, port: u16) -> u8 {
        self.pic.read_trigger(port)
    }

    /// Writes a trigger register of the 8259 pair.
    pub fn write_trigger(&mut self, port: u16, value: u8) {
        self.pic.write_trigger(port, value);
        self.update();
    }

    /// Whether the local APIC answers at [`APIC_BASE`].
    pub fn has_apic(&self) -> bool {
        self.apics.as_ref().is_some_and(|apics| apics.enabled)
    }

    /// IA32_APIC_BASE; `None` where there is no APIC.
    pub fn apic_base(&self) -> Option<u64> {
        let enabled = if self.apics.as_ref()?.enabled { GLOBALLY_ENABLED } else { 0 };
        Some(APIC_BASE | BOOTSTRAP | enabled)
    }

    /// Writes IA32_APIC_BASE: the APIC can be switched off and on, not moved. Whether
    /// the value is one that it takes.
    pub fn set_apic_base(&mut self, value: u64) -> bool {
        let Some(apics) = &mut self.apics else { return false };
        if value & !GLOBALLY_ENABLED != APIC_BASE | BOOTSTRAP {
            return false;
        }
        let enabled = value & GLOBALLY_ENABLED != 0;
        if enabled != apics.enabled {
            apics.local = LocalApic::default();
            apics.enabled = enabled;
            self.update();
        }
        true
    }

    /// Reads the local APIC's register `number`; see [`super::apic`].
    #[inline]
    pub fn read_apic(&self, number: u8, now: Now) -> u32 {
        self.apics.as_ref().map_or(0, |apics| apics.local.read(number, now))
    }

    /// Writes the local APIC's register `number`.
    pub fn write_apic(&mut self, number: u8, value: u32, now: Now) -> Asked {
        let Some(apics) = &mut self.apics else { return Asked::Nothing };
        let asked = match apics.local.write(number, value, now) {
            Request::Nothing => Asked::Nothing,
            Request::Nmi => Asked::Nmi,
            Request::Priority => Asked::Priority(apics.local.priority()),
            Request::EndOfInterrupt(vector) => {
                apics.io.end_of_interrupt(vector, &mut apics.local);
                Asked::Nothing
            }
        };
        self.update();
        asked
    }

    /// A load from `offset` in the I/O APIC's page.
    pub fn read_io_apic(&self, offset: u64) -> u32 {
        self.apics.as_ref().map_or(0, |apics| apics.io.read(offset))
    }

    /// A store to `offset` in the I/O APIC's page.
    pub fn write_io_apic(&mut self, offset: u64, value: u32) {
        if let Some(apics) = &mut self.apics {
            apics.io.write(offset, value, &mut apics.local);
            self.update();
        }
    }

    /// The processor's CR8, which it may have changed by itself.
    #[inline]
    pub fn set_priority(&mut self, priority: u8) {
        if let Some(apics) = &mut self.apics {
            if apics.local.priority() != priority {
                apics.local.set_priority(priority);
                self.update();
            }
        }
    }

    /// Lets time pass: the local APIC's timer.
    pub fn advance(&mut self, now: Now) {
        if let Some(apics) = &mut self.apics {
            apics.local.advance(now);
            self.update();
        }
    }

    /// The TSC at which [`advance`](Self::advance) has something to do.
    pub fn deadline(&self) -> Option<u64> {
        self.apics.as_ref()?.local.deadline()
    }

    fn move_line(&mut self, irq: u8, bit: u16) {
        self.lines ^= bit;
        let high = self.lines & bit != 0;
        self.pic.set_line(irq, high);
        if let Some(apics) = &mut self.apics {
            let pin = if irq == line::TIMER { TIMER_PIN } else { irq };
            apics.io.set_line(pin, high, &mut apics.local);
        }
        self.update();
    }

    fn acknowledge_controllers(&mut self) -> Option<Vector> {
        let local = match &mut self.apics {
            Some(apics) if apics.enabled => apics.local.acknowledge(),
            _ => None,
        };
        local.or_else(|| self.external().then(|| self.pic.acknowledge()))
    }

    /// Whether the 8259 pair has an interrupt that reaches the processor.
    fn external(&self) -> bool {
        self.pic.is_pending() && self.apics.as_ref().is_none_or(Apics::takes_external)
    }

    fn update(&mut self) {
        let local = self.apics.as_ref().is_some_and(Apics::requests);
        self.pending = local || !self.queue.is_empty() || self.external();
    }
}

impl Apics {
    fn requests(&self) -> bool {
        self.enabled && self.local.request().is_some()
    }

    const fn takes_external(&self) -> bool {
        !self.enabled || self.local.takes_external() || self.io.takes_external()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IRQ n at vector 0x20 + n, nothing masked.
    fn programmed() -> Interrupts {
        let mut interrupts = Interrupts::default();
        for (port, value) in [(0x20, 0x13), (0x21, 0x20), (0x21, 0x01)] {
            interrupts.write_pic(port, value);
        }
        interrupts
    }

    #[test]
    fn the_highest_vector_is_delivered_first_and_each_once() {
        let mut interrupts = Interrupts::default();
        for vector in [0x20, 0xff, 0x80, 0x80, 0] {
            interrupts.raise(Vector(vector));
        }
        assert_eq!(interrupts.queued(), 4);
        let order = [0xff, 0x80, 0x20, 0].map(|vector| Some(Vector(vector)));
        assert_eq!(order, [(); 4].map(|()| interrupts.acknowledge()));
        assert!(!interrupts.is_pending() && interrupts.acknowledge().is_none());
    }

    #[test]
    fn a_line_interrupts_through_the_controller_only_once_it_is_programmed() {
        let mut interrupts = Interrupts::default();
        interrupts.set_line(line::UART, true);
        assert!(!interrupts.is_pending());
        let mut interrupts = programmed();
        interrupts.set_line(line::UART, true);
        assert!(interrupts.is_pending());
        assert_eq!(interrupts.acknowledge(), Some(Vector(0x24)));
        assert!(!interrupts.is_pending());
    }

    #[test]
    fn what_waits_in_the_queue_goes_before_the_lines() {
        let mut interrupts = programmed();
        interrupts.set_line(line::TIMER, true);
        interrupts.raise(Vector(3));
        assert_eq!(interrupts.acknowledge(), Some(Vector(3)));
        assert!(interrupts.is_pending());
        assert_eq!(interrupts.acknowledge(), Some(Vector(0x20)));
    }

    #[test]
    fn lines_beyond_fifteen_do_nothing() {
        let mut interrupts = programmed();
        for irq in 16..=u8::MAX {
            interrupts.set_line(irq, true);
        }
        assert!(!interrupts.is_pending());
    }

    #[test]
    fn with_apics_a_line_goes_to_both_controllers_and_each_lets_it_through_by_itself() {
        let mut interrupts = Interrupts::with_apics();
        for (port, value) in [(0x20, 0x13), (0x21, 0x20), (0x21, 0x03)] {
            interrupts.write_pic(port, value);
        }
        interrupts.set_line(line::TIMER, true);
        assert_eq!(interrupts.acknowledge(), Some(Vector(0x20)), "virtual wire");
        for (offset, value) in [(0, 0x14), (0x10, 0x31)] {
            interrupts.write_io_apic(offset, value);
        }
        assert_eq!(interrupts.acknowledge(), Some(Vector(0x31)), "input 2");
        interrupts.set_line(line::TIMER, false);
        interrupts.write_pic(0x21, 0xff);
        interrupts.set_line(line::TIMER, true);
        assert!(!interrupts.is_pending(), "0x31 is in service");
        let asked = interrupts.write_apic(super::super::apic::register::EOI, 0, NOW);
        assert_eq!(asked, Asked::Nothing);
        assert_eq!(interrupts.acknowledge(), Some(Vector(0x31)));
    }

    #[test]
    fn the_apic_can_be_switched_off_but_not_moved() {
        let mut interrupts = Interrupts::with_apics();
        assert_eq!(interrupts.apic_base(), Some(0xfee0_0900));
        assert!(!interrupts.set_apic_base(0xfee0_1900) && !interrupts.set_apic_base(0xfee0_0d00));
        assert!(interrupts.set_apic_base(0xfee0_0100));
        assert!(!interrupts.has_apic());
        assert!(Interrupts::default().apic_base().is_none());
    }

    const NOW: Now = Now::new(0, core::num::NonZeroU64::new(1_000_000_000).unwrap());

    #[test]
    fn every_vector_can_be_raised() {
        let mut interrupts = Interrupts::default();
        for vector in (0..=u8::MAX).map(Vector) {
            interrupts.raise(vector);
            assert_eq!(interrupts.acknowledge(), Some(vector));
            assert!(!interrupts.is_pending());
        }
    }
}
