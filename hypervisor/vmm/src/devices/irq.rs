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
/// … in x2APIC mode.
const EXTENDED: u64 = 1 << 10;

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

/// How the local APIC is reached. Source: SDM vol. 3, 10.12.5 "x2APIC State Transitions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Not at all.
    Off,
    /// In memory.
    Memory,
    /// By MSRs.
    Registers,
}

/// The local and the I/O APIC.
#[derive(Clone, Debug)]
struct Apics {
    local: LocalApic,
    io: IoApic,
    mode: Mode,
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
        let apics =
            Apics { local: LocalApic::default(), io: IoApic::default(), mode: Mode::Memory };
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

    /// Whether there is a local APIC, in whatever mode.
    pub fn has_apic(&self) -> bool {
        self.apics.as_ref().is_some_and(Apics::is_enabled)
    }

    /// Whether it answers at [`APIC_BASE`].
    pub fn has_apic_in_memory(&self) -> bool {
        self.apics.as_ref().is_some_and(|apics| apics.mode == Mode::Memory)
    }

    /// IA32_APIC_BASE; `None` where there is no APIC.
    pub fn apic_base(&self) -> Option<u64> {
        let mode = match self.apics.as_ref()?.mode {
            Mode::Off => 0,
            Mode::Memory => GLOBALLY_ENABLED,
            Mode::Registers => GLOBALLY_ENABLED | EXTENDED,
        };
        Some(APIC_BASE | BOOTSTRAP | mode)
    }

    /// Writes IA32_APIC_BASE: the APIC can be switched off and on, not moved, and into x2APIC
    /// mode where there is one, `extended`. Whether the value is one that it takes.
    pub fn set_apic_base(&mut self, value: u64, extended: bool) -> bool {
        let Some(apics) = &mut self.apics else { return false };
        let mode = match value ^ (APIC_BASE | BOOTSTRAP) {
            0 => Mode::Off,
            GLOBALLY_ENABLED => Mode::Memory,
            bits if extended && bits == GLOBALLY_ENABLED | EXTENDED => Mode::Registers,
            _ => return false,
        };
        let done = apics.switch(mode);
        self.update();
        done
    }

    /// RDMSR of 0x800 + `number`; `None` where that faults.
    pub fn read_apic_msr(&self, number: u8, now: Now) -> Option<u64> {
        let apics = self.apics.as_ref().filter(|apics| apics.mode == Mode::Registers)?;
        apics.local.read_msr(number, now)
    }

    /// WRMSR of `value` to 0x800 + `number`; `None` where that faults.
    pub fn write_apic_msr(&mut self, number: u8, value: u64, now: Now) -> Option<Asked> {
        let apics = self.apics.as_mut().filter(|apics| apics.mode == Mode::Registers)?;
        let request = apics.local.write_msr(number, value, now)?;
        let asked = apics.carry_out(request);
        self.update();
        Some(asked)
    }

    /// Reads the local APIC's register `number`; see [`super::apic`].
    #[inline]
    pub fn read_apic(&self, number: u8, now: Now) -> u32 {
        self.apics.as_ref().map_or(0, |apics| apics.local.read(number, now))
    }

    /// Writes the local APIC's register `number`.
    pub fn write_apic(&mut self, number: u8, value: u32, now: Now) -> Asked {
        let Some(apics) = &mut self.apics else { return Asked::Nothing };
        let request = apics.local.write(number, value, now);
        let asked = apics.carry_out(request);
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
            Some(apics) if apics.is_enabled() => apics.local.acknowledge(),
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
    fn is_enabled(&self) -> bool {
        self.mode != Mode::Off
    }

    /// Goes over to `mode`, if there is a way from the present one. Off is where registers
    /// forget what they hold.
    fn switch(&mut self, mode: Mode) -> bool {
        match (self.mode, mode) {
            (Mode::Off, Mode::Registers) | (Mode::Registers, Mode::Memory) => return false,
            (Mode::Memory, Mode::Registers) => self.local.set_extended(true),
            (from, to) if from != to => self.local = LocalApic::default(),
            _ => {}
        }
        self.mode = mode;
        true
    }

    fn carry_out(&mut self, request: Request) -> Asked {
        match request {
            Request::Nothing => Asked::Nothing,
            Request::Nmi => Asked::Nmi,
            Request::Priority => Asked::Priority(self.local.priority()),
            Request::EndOfInterrupt(vector) => {
                self.io.end_of_interrupt(vector, &mut self.local);
                Asked::Nothing
            }
        }
    }

    fn requests(&self) -> bool {
        self.is_enabled() && self.local.request().is_some()
    }

    fn takes_external(&self) -> bool {
        !self.is_enabled() || self.local.takes_external() || self.io.takes_external()
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
        for refused in [0xfee0_1900, 0xfee0_0d00, 0xfee0_0800, 0xfee0_0901, 1 << 40 | 0xfee0_0900] {
            assert!(!interrupts.set_apic_base(refused, false), "{refused:#x}");
        }
        assert!(interrupts.set_apic_base(0xfee0_0100, false));
        assert!(!interrupts.has_apic());
        assert!(Interrupts::default().apic_base().is_none());
    }

    #[test]
    fn the_apics_mode_changes_only_in_the_ways_that_the_manual_draws() {
        const BASES: [u64; 4] = [0xfee0_0100, 0xfee0_0900, 0xfee0_0d00, 0xfee0_0500];
        let [off, memory, registers, _] = BASES;
        // The ways to get to a mode, and from there those that go on.
        let cases: [(&[u64], &[u64]); 3] = [
            (&[off], &[off, memory]),
            (&[memory], &[off, memory, registers]),
            (&[registers], &[off, registers]),
        ];
        for (way, permitted) in cases {
            for next in BASES {
                let mut interrupts = Interrupts::with_apics();
                assert!(way.iter().all(|&base| interrupts.set_apic_base(base, true)));
                let taken = interrupts.set_apic_base(next, true);
                assert_eq!(taken, permitted.contains(&next), "{way:x?} to {next:x}");
                let now = if taken { next } else { way[way.len() - 1] };
                assert_eq!(interrupts.apic_base(), Some(now));
                assert_eq!(interrupts.has_apic_in_memory(), now == memory);
                assert_eq!(interrupts.read_apic_msr(3, NOW).is_some(), now == registers);
            }
        }
    }

    #[test]
    fn what_was_programmed_in_memory_holds_in_x2apic_mode_until_the_apic_is_switched_off() {
        const TPR: u8 = super::super::apic::register::TPR;
        let mut interrupts = Interrupts::with_apics();
        assert_eq!(interrupts.write_apic(TPR, 0x50, NOW), Asked::Priority(5));
        assert!(interrupts.set_apic_base(0xfee0_0d00, true));
        assert_eq!(interrupts.read_apic_msr(TPR, NOW), Some(0x50));
        assert_eq!(interrupts.write_apic_msr(TPR, 0x20, NOW), Some(Asked::Priority(2)));
        assert!(interrupts.set_apic_base(0xfee0_0100, true));
        assert!(interrupts.set_apic_base(0xfee0_0900, true));
        assert_eq!(interrupts.read_apic(TPR, NOW), 0);
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
