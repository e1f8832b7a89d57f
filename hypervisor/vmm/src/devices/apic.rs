//! The local APIC of the machine's one processor.
//!
//! Registers have the numbers of the x2APIC's MSRs less 0x800, which are the offsets in
//! the page at 0xfee0_0000 divided by 16; `extended` is the way to them by MSRs.
//!
//! It starts as firmware leaves it: software-enabled, the 8259 pair behind LINT0
//! ("virtual wire"), NMI at LINT1. Its timer counts 1 GHz divided as programmed.
//!
//! Known differences from the chip: no thermal, performance or error interrupt ever
//! has a cause but illegal vectors; INIT and start-up IPIs to oneself do nothing; of
//! lowest priority there is only one.
//!
//! Source: SDM vol. 3, chapter 10 "Advanced Programmable Interrupt Controller (APIC)".

mod extended;
mod timer;

use super::time::Now;
use super::vectors::VectorSet;
use anchorite_vcpu::Vector;
use timer::Timer;

/// Numbers of the registers.
pub mod register {
    #![expect(missing_docs, reason = "the names are the manual's")]
    pub const ID: u8 = 0x02;
    pub const VERSION: u8 = 0x03;
    pub const TPR: u8 = 0x08;
    pub const PPR: u8 = 0x0a;
    pub const EOI: u8 = 0x0b;
    pub const LDR: u8 = 0x0d;
    pub const DFR: u8 = 0x0e;
    pub const SVR: u8 = 0x0f;
    pub const ISR: u8 = 0x10;
    pub const TMR: u8 = 0x18;
    pub const IRR: u8 = 0x20;
    pub const ESR: u8 = 0x28;
    pub const ICR_LOW: u8 = 0x30;
    pub const ICR_HIGH: u8 = 0x31;
    pub const LVT_TIMER: u8 = 0x32;
    pub const LVT_ERROR: u8 = 0x37;
    pub const INITIAL_COUNT: u8 = 0x38;
    pub const CURRENT_COUNT: u8 = 0x39;
    pub const DIVIDE: u8 = 0x3e;
}

/// An integrated APIC with six entries in its local vector table.
const VERSION: u32 = 0x0005_0014;
/// SVR bit 8: enabled by software.
const ENABLED: u32 = 1 << 8;
/// SVR: the bits that there are.
const SVR_BITS: u32 = 0x1ff;
/// The identifier of the one processor.
const ID: u8 = 0;
/// LVT bit 16.
const MASKED: u32 = 1 << 16;
/// Delivery modes of LVT entries and IPIs, bits 10 to 8.
const FIXED: u32 = 0;
const LOWEST_PRIORITY: u32 = 1;
const NMI: u32 = 4;
const EXTERNAL: u32 = 7;
/// ESR: an illegal vector was sent, or received.
const SENT_ILLEGAL: u32 = 1 << 5;
const RECEIVED_ILLEGAL: u32 = 1 << 6;
/// Vectors below are exceptions'.
const FIRST_LEGAL_VECTOR: u8 = 16;

/// The bits of the divide configuration register.
const DIVISOR_BITS: u32 = 0b1011;

/// The entries of the local vector table.
const ENTRIES: usize = 6;
const LINT0: usize = 3;
const ERROR: usize = 5;
/// The bits of each that can be written: timer, thermal, performance, LINT0, LINT1, error.
const ENTRY_BITS: [u32; ENTRIES] = [0x3_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

/// What a write asks of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Request {
    Nothing,
    /// The handler of this level-triggered vector is done.
    EndOfInterrupt(Vector),
    /// The processor gets an NMI.
    Nmi,
    /// The task priority, which is CR8 as well, has changed.
    Priority,
}

/// The state of the APIC.
#[derive(Clone, Debug)]
pub(super) struct LocalApic {
    requests: VectorSet,
    in_service: VectorSet,
    level: VectorSet,
    task_priority: u8,
    logical: u32,
    format: u32,
    spurious: u32,
    /// Errors since ESR was written, and what ESR shows.
    errors: (u32, u32),
    command: (u32, u32),
    entries: [u32; ENTRIES],
    timer: Timer,
    /// In x2APIC mode.
    extended: bool,
}

impl Default for LocalApic {
    fn default() -> Self {
        let mut entries = [MASKED; ENTRIES];
        entries[LINT0] = EXTERNAL << 8;
        entries[LINT0 + 1] = NMI << 8;
        Self {
            requests: VectorSet::default(),
            in_service: VectorSet::default(),
            level: VectorSet::default(),
            task_priority: 0,
            logical: 0,
            format: u32::MAX,
            spurious: 0xff | ENABLED,
            errors: (0, 0),
            command: (0, 0),
            entries,
            timer: Timer::default(),
            extended: false,
        }
    }
}

impl LocalApic {
    /// Reads a register; 0 for those that do not exist or cannot be read.
    pub(super) fn read(&self, number: u8, now: Now) -> u32 {
        match number {
            register::ID => u32::from(ID) << 24,
            register::VERSION => VERSION,
            register::TPR => self.task_priority.into(),
            register::PPR => self.processor_priority().into(),
            register::LDR => self.logical,
            register::DFR => self.format,
            register::SVR => self.spurious,
            register::ISR..register::TMR => self.in_service.register(number - register::ISR),
            register::TMR..register::IRR => self.level.register(number - register::TMR),
            register::IRR..register::ESR => self.requests.register(number - register::IRR),
            register::ESR => self.errors.1,
            register::ICR_LOW => self.command.0,
            register::ICR_HIGH => self.command.1,
            register::LVT_TIMER..=register::LVT_ERROR => {
                self.entries[usize::from(number - register::LVT_TIMER)]
            }
            register::INITIAL_COUNT => self.timer.initial(),
            register::CURRENT_COUNT => self.timer.current(now),
            register::DIVIDE => self.timer.divide(),
            _ => 0,
        }
    }

    /// Writes a register; nothing for those that do not exist or cannot be written.
    pub(super) fn write(&mut self, number: u8, value: u32, now: Now) -> Request {
        match number {
            register::TPR => {
                self.task_priority = value as u8;
                return Request::Priority;
            }
            register::EOI => return self.end_of_interrupt(),
            register::LDR => self.logical = value & 0xff00_0000,
            register::DFR => self.format = value | 0x0fff_ffff,
            register::SVR => self.set_spurious(value),
            register::ESR => self.errors = (0, self.errors.0),
            register::ICR_LOW => {
                self.command.0 = value & 0xc_cfff;
                return self.send();
            }
            register::ICR_HIGH => self.command.1 = value & 0xff00_0000,
            register::LVT_TIMER..=register::LVT_ERROR => self.set_entry(number, value, now),
            register::INITIAL_COUNT => self.timer.start(value, now),
            register::DIVIDE => self.timer.set_divide(value, now),
            _ => {}
        }
        Request::Nothing
    }

    /// A message with `vector` arrives.
    pub(super) fn accept(&mut self, vector: Vector, level: bool) {
        if vector.0 < FIRST_LEGAL_VECTOR {
            return self.error(RECEIVED_ILLEGAL);
        }
        if !self.is_enabled() {
            return;
        }
        self.requests.insert(vector);
        if level {
            self.level.insert(vector);
        } else {
            self.level.remove(vector);
        }
    }

    /// Whether a message to `destination` is for this processor.
    pub(super) fn is_addressed(&self, destination: u8, logical: bool) -> bool {
        if !logical {
            return destination == ID || destination == 0xff;
        }
        if self.extended {
            return Self::is_addressed_extended(destination.into(), true);
        }
        let mine = (self.logical >> 24) as u8;
        if self.format >> 28 == 0xf {
            return mine & destination != 0;
        }
        // Cluster model: the upper half names the cluster, 15 all of them.
        let same = mine >> 4 == destination >> 4 || destination >> 4 == 0xf;
        same && mine & destination & 0xf != 0
    }

    /// The vector to deliver: the highest that requests, if its class is above the
    /// processor's priority.
    pub(super) fn request(&self) -> Option<Vector> {
        let vector = self.requests.highest()?;
        (vector.0 >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// Takes that vector into service.
    pub(super) fn acknowledge(&mut self) -> Option<Vector> {
        let vector = self.request()?;
        self.requests.remove(vector);
        self.in_service.insert(vector);
        Some(vector)
    }

    /// Whether the 8259 pair's interrupts reach the processor.
    pub(super) const fn takes_external(&self) -> bool {
        let entry = self.entries[LINT0];
        entry & MASKED == 0 && entry >> 8 & 7 == EXTERNAL
    }

    /// CR8: the upper half of the task priority.
    pub(super) const fn priority(&self) -> u8 {
        self.task_priority >> 4
    }

    /// CR8 was written.
    pub(super) const fn set_priority(&mut self, priority: u8) {
        if self.priority() != priority {
            self.task_priority = priority << 4;
        }
    }

    /// Lets time pass: the timer's interrupt if it is due.
    pub(super) fn advance(&mut self, now: Now) {
        if self.timer.expires(now) {
            self.raise(0);
        }
    }

    /// The TSC at which [`advance`](Self::advance) has something to do.
    pub(super) const fn deadline(&self) -> Option<u64> {
        self.timer.deadline()
    }

    const fn is_enabled(&self) -> bool {
        self.spurious & ENABLED != 0
    }

    /// Source: SDM vol. 3, 10.8.3.1 "Task and Processor Priorities".
    fn processor_priority(&self) -> u8 {
        let serving = self.in_service.highest().map_or(0, |vector| vector.0 & 0xf0);
        if self.task_priority & 0xf0 >= serving { self.task_priority } else { serving }
    }

    fn end_of_interrupt(&mut self) -> Request {
        match self.in_service.take_highest() {
            Some(vector) if self.level.contains(vector) => Request::EndOfInterrupt(vector),
            _ => Request::Nothing,
        }
    }

    /// Software-disabling masks every entry. Source: SDM vol. 3, 10.4.7.2 "Local APIC
    /// State After It Has Been Software Disabled".
    fn set_spurious(&mut self, value: u32) {
        self.spurious = value & SVR_BITS;
        if !self.is_enabled() {
            self.entries.iter_mut().for_each(|entry| *entry |= MASKED);
        }
    }

    fn set_entry(&mut self, number: u8, value: u32, now: Now) {
        let index = usize::from(number - register::LVT_TIMER);
        let disabled = if self.is_enabled() { 0 } else { MASKED };
        self.entries[index] = value & ENTRY_BITS[index] | disabled;
        if index == 0 {
            self.timer.set_mode(value >> 17 & 3, now);
        }
    }

    /// An IPI. Source: SDM vol. 3, 10.6.1 "Interrupt Command Register (ICR)".
    fn send(&mut self) -> Request {
        let (low, high) = self.command;
        let addressed = match low >> 18 & 3 {
            0 if self.extended => Self::is_addressed_extended(high, low >> 11 & 1 != 0),
            0 => self.is_addressed((high >> 24) as u8, low >> 11 & 1 != 0),
            1 | 2 => true,
            _ => false,
        };
        let vector = Vector(low as u8);
        match low >> 8 & 7 {
            FIXED | LOWEST_PRIORITY if vector.0 < FIRST_LEGAL_VECTOR => self.error(SENT_ILLEGAL),
            FIXED | LOWEST_PRIORITY if addressed => self.accept(vector, false),
            NMI if addressed => return Request::Nmi,
            _ => {}
        }
        Request::Nothing
    }

    fn error(&mut self, error: u32) {
        self.errors.0 |= error;
        if self.entries[ERROR] as u8 >= FIRST_LEGAL_VECTOR {
            self.raise(ERROR);
        }
    }

    /// Delivers an entry of the local vector table.
    fn raise(&mut self, index: usize) {
        let entry = self.entries[index];
        if entry & MASKED == 0 {
            self.accept(Vector(entry as u8), false);
        }
    }
}

#[cfg(test)]
mod tests;
