//! The machine as an emulated instruction sees it.

use crate::action::{ExitAction, Stop};
use crate::devices::Effect;
use crate::emulate::address::linearize;
use crate::emulate::{
    Access, Environment, Exception, Fault, MemoryOperand, Mode, Outcome, emulate,
};
use crate::host::Host;
use crate::machine::Machine;
use crate::memory::{AccessError, WalkError};
use crate::translation::Translation;
use anchorite_addr::{Gpa, Gva, PAGE_BYTES};
use anchorite_shadow::AccessKind;
use anchorite_vcpu::{ControlRegister, Segment, SegmentRegister, Vcpu};

/// How often a walk is repeated because the guest changed an entry meanwhile.
const WALK_ATTEMPTS: usize = 4;

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// Carries out the instruction at RIP in the guest's place: `what` and `gpa` say
    /// in a verdict what it was to do, should that not be possible.
    #[cold]
    pub(super) fn emulate(&mut self, what: &'static str, gpa: Option<Gpa>) -> ExitAction {
        self.try_to_emulate(what, gpa).unwrap_or_else(ExitAction::Stop)
    }

    /// The same; the error is why the run must end because nobody can carry it out.
    pub(super) fn try_to_emulate(
        &mut self,
        what: &'static str,
        gpa: Option<Gpa>,
    ) -> Result<ExitAction, Stop> {
        if self.events.has_next() {
            // No instruction did it: an event's delivery met an IDT or a stack there.
            return Err(Stop::Unsupported { what: "an event through this memory" });
        }
        let bytes = match self.instruction_bytes() {
            Ok(bytes) => bytes,
            Err(action) => return Ok(action),
        };
        self.counters.emulated += 1;
        let mode = Mode::of(&self.vcpu);
        let mut registers = self.vcpu.regs().clone();
        let mut guest = Guest::new(self);
        let mut environment: &mut dyn Environment = &mut guest;
        let outcome = emulate(bytes.as_slice(), &mut registers, mode, &mut environment);
        let stop = guest.stop;
        *self.vcpu.regs_mut() = registers;
        self.rearm();
        match (stop, outcome) {
            (Some(stop), _) => Ok(ExitAction::Stop(stop)),
            (None, Ok(outcome)) => Ok(self.emulated(outcome)),
            (None, Err(_)) => Err(Stop::Emulation { what, gpa }),
        }
    }

    fn emulated(&mut self, outcome: Outcome) -> ExitAction {
        match outcome {
            Outcome::Completed => self.instruction_done(),
            Outcome::Unfinished | Outcome::Retry => {}
            Outcome::Exception(exception) => {
                if let Some(address) = exception.cr2 {
                    self.vcpu.set_control(ControlRegister::Cr2, address.as_u64());
                }
                return ExitAction::Inject(exception.event());
            }
        }
        ExitAction::Resume
    }

    /// Loads the 16-bit memory operand of LMSW, or stores that of SMSW; or what to do
    /// instead, where the access faults.
    pub(super) fn word_operand(
        &mut self,
        operand: &MemoryOperand,
        stored: Option<u16>,
    ) -> Result<u16, ExitAction> {
        let access = if stored.is_some() { Access::Write } else { Access::Read };
        self.reach(operand, 2, access, |guest, address| match stored {
            Some(value) => guest.store(address, 2, value.into()).map(|()| value),
            None => guest.load(address, 2, access).map(|value| value as u16),
        })
    }

    /// Loads the 16-byte memory operand of INVPCID, or the same.
    pub(super) fn pair_operand(&mut self, operand: &MemoryOperand) -> Result<[u64; 2], ExitAction> {
        let access = Access::Read;
        self.reach(operand, 16, access, |guest, address| {
            let low = guest.load(address, 8, access)?;
            Ok([low, guest.load(address.wrapping_add(8), 8, access)?])
        })
    }

    /// Does `body` with the address of a memory operand of `bytes` bytes.
    fn reach<V>(
        &mut self,
        operand: &MemoryOperand,
        bytes: u8,
        access: Access,
        body: impl FnOnce(&mut Guest<'_, B, T, H>, Gva) -> Result<V, Fault>,
    ) -> Result<V, ExitAction> {
        let offset = operand.offset(self.vcpu.regs());
        let mode = Mode::of(&self.vcpu);
        let mut guest = Guest::new(self);
        let done = linearize(&guest, mode, operand.segment, offset, bytes, access)
            .map_err(Fault::Exception)
            .and_then(|address| body(&mut guest, address));
        match (guest.stop, done) {
            (Some(stop), _) => Err(ExitAction::Stop(stop)),
            (None, Ok(value)) => Ok(value),
            (None, Err(Fault::Retry)) => Err(ExitAction::Resume),
            (None, Err(Fault::Exception(exception))) => {
                Err(self.emulated(Outcome::Exception(exception)))
            }
            (None, Err(_)) => {
                let what = "an operand in memory";
                Err(ExitAction::Stop(Stop::Emulation { what, gpa: None }))
            }
        }
    }
}

/// One instruction's way to the machine.
pub(super) struct Guest<'a, B, T, H: Host> {
    machine: &'a mut Machine<B, T, H>,
    /// Why the run must end although the instruction went well.
    pub(super) stop: Option<Stop>,
}

/// A part of an access that lies in one page.
#[derive(Clone, Copy)]
struct Part {
    gpa: Gpa,
    bytes: u8,
}

/// An access in at most two pages.
struct Parts([Option<Part>; 2]);

impl Parts {
    fn iter(&self) -> impl Iterator<Item = Part> + '_ {
        self.0.iter().flatten().copied()
    }
}

impl<'a, B: Vcpu, T: Translation, H: Host> Guest<'a, B, T, H> {
    pub(super) fn new(machine: &'a mut Machine<B, T, H>) -> Self {
        Self { machine, stop: None }
    }

    /// Where `size` bytes at `address` lie. Both pages are looked up before either
    /// is touched.
    fn locate(&mut self, address: Gva, size: u8, access: Access) -> Result<Parts, Fault> {
        let there = PAGE_BYTES - address.page_offset();
        let first = u64::from(size).min(there) as u8;
        let mut parts = [Some(Part { gpa: self.translate(address, access)?, bytes: first }), None];
        if first < size {
            let gpa = self.translate(address.wrapping_add(first.into()), access)?;
            parts[1] = Some(Part { gpa, bytes: size - first });
        }
        Ok(Parts(parts))
    }

    /// Walks the guest's tables for one byte, and sets the bits that the access sets.
    fn translate(&mut self, address: Gva, access: Access) -> Result<Gpa, Fault> {
        let kind = if access.writes() { AccessKind::Write } else { AccessKind::Read };
        for _ in 0..WALK_ATTEMPTS {
            let walk = self.machine.walk_to(address, kind).map_err(|error| self.refuse(error))?;
            // Tables in a ROM keep their bits as they are.
            if self.machine.memory.mark(&walk).unwrap_or(true) {
                return Ok(walk.gpa);
            }
        }
        Err(Fault::Retry)
    }

    fn refuse(&mut self, error: WalkError) -> Fault {
        match error {
            WalkError::Fault(fault) => {
                Fault::Exception(Exception::page_fault(fault.cr2, fault.code.bits()))
            }
            WalkError::NoTable(AccessError::NoMemory { gpa }) => {
                self.stop = Some(Stop::TableOutsideMemory { gpa });
                Fault::Unsupported
            }
            WalkError::NoTable(_) => Fault::Unsupported,
        }
    }

    fn read_part(&mut self, part: Part) -> u64 {
        let mut bytes = [0; 8];
        let into = &mut bytes[..usize::from(part.bytes)];
        match self.machine.memory.read(part.gpa, into) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => self.read_device(part),
        }
    }

    /// A device's register, or all ones where there is none. Odd sizes, which only
    /// accesses across pages have, go byte by byte.
    fn read_device(&mut self, part: Part) -> u64 {
        if part.bytes.is_power_of_two() {
            return self.read_register(part.gpa, part.bytes);
        }
        (0..part.bytes).fold(0, |value, index| {
            let byte = self.read_register(part.gpa.wrapping_add(index.into()), 1);
            value | byte << (8 * index)
        })
    }

    fn read_register(&mut self, gpa: Gpa, bytes: u8) -> u64 {
        let now = self.machine.now();
        self.machine.tell_priority();
        let value = self.machine.devices.read_mmio(gpa, bytes, now);
        self.machine.counters.mmio_unclaimed += u64::from(value.is_none());
        value.unwrap_or(u64::MAX) & low_bytes(bytes)
    }

    /// A write to a ROM or to nothing is lost, as on a bus.
    fn write_part(&mut self, part: Part, value: u64) {
        let bytes = value.to_le_bytes();
        match self.machine.memory.write(part.gpa, &bytes[..usize::from(part.bytes)]) {
            Ok(()) | Err(AccessError::ReadOnly { .. }) => {}
            Err(_) if part.bytes.is_power_of_two() => {
                self.write_register(part.gpa, part.bytes, value);
            }
            Err(_) => {
                for (index, byte) in (0..u64::from(part.bytes)).zip(bytes) {
                    self.write_register(part.gpa.wrapping_add(index), 1, byte.into());
                }
            }
        }
    }

    fn write_register(&mut self, gpa: Gpa, bytes: u8, value: u64) {
        let now = self.machine.now();
        match self.machine.devices.write_mmio(gpa, bytes, value & low_bytes(bytes), now) {
            Some(effect) => self.perform(effect),
            None => self.machine.counters.mmio_unclaimed += 1,
        }
    }

    fn perform(&mut self, effect: Effect) {
        if let Err(stop) = self.machine.perform(effect) {
            self.stop = Some(stop);
        }
    }
}

impl<B: Vcpu, T: Translation, H: Host> Environment for Guest<'_, B, T, H> {
    fn segment(&self, register: SegmentRegister) -> Segment {
        self.machine.vcpu.segment(register)
    }

    fn load(&mut self, address: Gva, size: u8, access: Access) -> Result<u64, Fault> {
        let parts = self.locate(address, size, access)?;
        let mut shift = 0;
        let mut value = 0;
        for part in parts.iter() {
            value |= self.read_part(part) << shift;
            shift += 8 * u32::from(part.bytes);
        }
        Ok(value & low_bytes(size))
    }

    fn store(&mut self, address: Gva, size: u8, value: u64) -> Result<(), Fault> {
        let parts = self.locate(address, size, Access::Write)?;
        let mut rest = value;
        for part in parts.iter() {
            self.write_part(part, rest);
            rest = rest.checked_shr(8 * u32::from(part.bytes)).unwrap_or(0);
        }
        Ok(())
    }

    fn store_if_unchanged(
        &mut self,
        address: Gva,
        size: u8,
        expected: u64,
        value: u64,
    ) -> Result<bool, Fault> {
        let parts = self.locate(address, size, Access::Write)?;
        let [Some(part), None] = parts.0 else {
            // Across pages nothing is atomic.
            if self.load(address, size, Access::ReadForWrite)? != expected {
                return Ok(false);
            }
            return self.store(address, size, value).map(|()| true);
        };
        let memory = &mut self.machine.memory;
        let stored = memory.compare_exchange(part.gpa, size, expected, value);
        Ok(stored.unwrap_or_else(|_| {
            self.write_part(part, value);
            true
        }))
    }

    fn check_store(&mut self, address: Gva, size: u8) -> Result<(), Fault> {
        self.locate(address, size, Access::Write).map(|_| ())
    }

    fn xmm(&mut self, number: u8) -> Result<u128, Fault> {
        Ok(self.machine.vcpu.xmm(number))
    }

    fn set_xmm(&mut self, number: u8, value: u128) -> Result<(), Fault> {
        self.machine.vcpu.set_xmm(number, value);
        Ok(())
    }

    fn port_in(&mut self, port: u16, size: u8) -> Result<u32, Fault> {
        let now = self.machine.now();
        Ok(self.machine.devices.read(port, size, now))
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) -> Result<(), Fault> {
        let now = self.machine.now();
        let effect = self.machine.devices.write(port, size, value, now);
        self.perform(effect);
        Ok(())
    }
}

const fn low_bytes(bytes: u8) -> u64 {
    if bytes >= 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 }
}
