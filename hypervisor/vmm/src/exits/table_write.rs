//! Writes to the guest's page tables that the shadow engine keeps in step.
//!
//! One store is emulated, and the engine drops the entries it changed. That is short for the
//! MOV by which kernels write their tables: the engine, walking the guest's tables for the
//! fault, has found where it goes. A repeated string
//! store means that the frame is no page table any more (a kernel clears or copies a
//! page): one instruction would be 512 emulated stores. Then, and where nobody can carry
//! out the write, the frame's shadow is given up and the guest writes it itself.

use crate::action::ExitAction;
use crate::emulate::{
    CodeSize, Intercepted, Mode, Operation, Store, StoredValue, is_repeated_store,
};
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_addr::{Gfn, Gpa, Gva};
use anchorite_vcpu::{ExitReason, Vcpu};

/// An instruction that writes the very tables that lead to it takes so many page faults
/// at the most before it meets the same frame again: tables of code, stack and operands.
const REBUILT_WITHIN: u64 = 16;
/// Times in a row after which an instruction that cannot be emulated is hopeless.
const HOPELESS: u32 = 100;

/// The frame that was last given to the guest to write to, for which instruction, how
/// many page faults there had been, and how often in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unprotected {
    frame: Option<Gfn>,
    rip: u64,
    faults: u64,
    times: u32,
}

impl Unprotected {
    /// Counts another time, after `faults` page faults; returns how many in a row.
    fn again(&mut self, frame: Gfn, rip: u64, faults: u64) -> u32 {
        let same = (self.frame, self.rip) == (Some(frame), rip);
        let stuck = same && faults - self.faults <= REBUILT_WITHIN;
        let times = if stuck { self.times + 1 } else { 1 };
        *self = Self { frame: Some(frame), rip, faults, times };
        times
    }
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// The instruction at RIP faulted at `gva`, writing to a page table at `gpa`.
    pub(super) fn table_write_at(&mut self, gva: Gva, gpa: Gpa) -> ExitAction {
        match self.store_directly(gva, gpa) {
            Some(length) => ExitAction::SkipInstruction(length),
            None => self.table_write(gpa),
        }
    }

    /// Carries out a MOV in 64-bit code whose operand begins at `gva`, translated to `gpa`
    /// already: permitted, A and D set. Its length, or `None` where nothing was done because it
    /// is something else.
    fn store_directly(&mut self, gva: Gva, gpa: Gpa) -> Option<u8> {
        if self.events.has_next() {
            return None;
        }
        let Intercepted { length, operation: Operation::Store(store) } = self.known_or_store()?
        else {
            return None;
        };
        let Store { to, size, value } = store;
        // Aligned, it lies in one page, and begins where the fault was.
        let begins = !to.has_long_base() && to.offset(self.vcpu.regs()) == gva.as_u64();
        if !begins || gva.as_u64() % u64::from(size) != 0 || self.linear_rip().1 != CodeSize::Bits64
        {
            return None;
        }
        let value = match value {
            StoredValue::Register(register) => self.vcpu.regs()[register],
            StoredValue::Constant(constant) => i64::from(constant) as u64,
        };
        let bytes = value.to_le_bytes();
        self.memory.write_in_page(gpa, bytes.get(..usize::from(size))?).ok()?;
        self.counters.emulated += 1;
        Some(length)
    }

    #[cold]
    pub(super) fn table_write(&mut self, gpa: Gpa) -> ExitAction {
        if self.at_repeated_store() && self.times_unprotected(gpa) == 1 {
            return self.unprotect(gpa);
        }
        match self.try_to_emulate("a write to a page table", Some(gpa)) {
            Ok(action) => action,
            // The tables may be on the way to the very page, so that they are shadowed anew
            // before the write comes.
            Err(stop) if self.times_unprotected(gpa) > HOPELESS => ExitAction::Stop(stop),
            Err(_) => self.unprotect(gpa),
        }
    }

    fn at_repeated_store(&mut self) -> bool {
        let code = Mode::of(&self.vcpu).code;
        !self.events.has_next()
            && self.instruction_bytes().is_ok_and(|bytes| is_repeated_store(bytes.as_slice(), code))
    }

    fn times_unprotected(&mut self, gpa: Gpa) -> u32 {
        let faults = self.counters.cost(ExitReason::PageFault).count;
        self.unprotected.again(gpa.frame(), self.vcpu.regs().rip, faults)
    }

    fn unprotect(&mut self, gpa: Gpa) -> ExitAction {
        self.counters.unprotected += 1;
        self.translation.unprotect(gpa);
        ExitAction::Resume
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeMachine, FakeVcpu, machine};
    use crate::memory::{GuestWrite, SlotId};
    use anchorite_vcpu::{ControlRegister, Gpr, Segment, SegmentRegister};

    const CODE: u64 = 0x8000;
    /// Where the operand lies in the guest's address space, and where in its memory.
    const OPERAND: u64 = 0x7008;
    const TABLE: Gpa = Gpa::new(0x5008);
    const VALUE: u64 = 0x8877_6655_4433_2211;
    /// MOV [RBX], RAX.
    const STORE: [u8; 3] = [0x48, 0x89, 0x03];

    /// A guest whose 64-bit code stands at an instruction; one large page maps the lowest
    /// memory to itself.
    fn at(code: &[u8]) -> FakeMachine {
        let mut machine = machine(FakeVcpu::default());
        machine.memory().place(Gpa::new(CODE), code).unwrap();
        for (table, entry) in [(0, 0x1007u64), (0x1000, 0x2007), (0x2000, 0x87)] {
            machine.memory().place(Gpa::new(table), &entry.to_le_bytes()).unwrap();
        }
        while machine.memory.writes().take().is_some() {}
        machine.vcpu.set_control(ControlRegister::Cr0, 1 << 31 | 1);
        machine.vcpu.set_control(ControlRegister::Cr4, 1 << 5);
        machine.vcpu.set_control(ControlRegister::Efer, 1 << 8);
        machine.vcpu.set_segment(SegmentRegister::Cs, Segment::flat(8, true, true));
        machine.vcpu.registers.rip = CODE;
        machine.vcpu.registers[Gpr::Rax] = VALUE;
        machine.vcpu.registers[Gpr::Rbx] = OPERAND;
        machine
    }

    fn store(machine: &mut FakeMachine) -> Option<u8> {
        machine.store_directly(Gva::new(OPERAND), TABLE)
    }

    #[test]
    fn a_mov_goes_where_the_fault_was_translated_to_and_is_reported() {
        let mut machine = at(&STORE);
        for value in [VALUE, 7] {
            machine.vcpu.registers[Gpr::Rax] = value;
            assert_eq!(store(&mut machine), Some(3));
            assert_eq!(machine.memory.load_u64(TABLE), Ok(value));
            let write = GuestWrite::Range { first: TABLE, bytes: 8 };
            assert_eq!(machine.memory.writes().take(), Some(write));
        }
        assert_eq!(machine.memory.load_u64(Gpa::new(OPERAND)), Ok(0));
        assert_eq!((machine.counters.emulated, machine.counters.fetch_walks), (2, 1));
    }

    #[test]
    fn constants_are_extended_and_short_stores_leave_the_rest() {
        let cases: [(&[u8], u64); 4] = [
            (&[0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], u64::MAX - 1),
            (&[0xc7, 0x03, 0x04, 0x03, 0x02, 0x01], 0x0102_0304),
            (&[0x89, 0x03], VALUE & 0xffff_ffff),
            (&[0x66, 0x89, 0x03], VALUE & 0xffff),
        ];
        for (code, expected) in cases {
            let mut machine = at(code);
            assert_eq!(store(&mut machine), Some(code.len() as u8), "{code:x?}");
            assert_eq!(machine.memory.load_u64(TABLE), Ok(expected), "{code:x?}");
        }
    }

    /// What `change` makes of a guest at [`STORE`] is left to the emulator, untouched.
    fn is_left(what: &str, change: impl FnOnce(&mut FakeMachine)) {
        let mut machine = at(&STORE);
        change(&mut machine);
        assert_eq!(store(&mut machine), None, "{what}");
        assert_eq!(machine.memory.load_u64(TABLE), Ok(0), "{what}");
    }

    #[test]
    fn what_is_no_such_mov_is_left_to_the_emulator() {
        let other: [(&str, &[u8]); 7] = [
            ("XCHG", &[0x48, 0x87, 0x03]),
            ("MOV from memory", &[0x48, 0x8b, 0x03]),
            ("a register as destination", &[0x48, 0x89, 0xc3]),
            ("locked", &[0xf0, 0x48, 0x89, 0x03]),
            ("XRELEASE", &[0xf3, 0x48, 0x89, 0x03]),
            ("with a segment's base", &[0x65, 0x48, 0x89, 0x03]),
            ("C7 /1", &[0x48, 0xc7, 0x0b, 0, 0, 0, 0]),
        ];
        for (what, code) in other {
            is_left(what, |machine| machine.memory.place(Gpa::new(CODE), code).unwrap());
        }
        is_left("elsewhere", |machine| machine.vcpu.registers[Gpr::Rbx] += 8);
        is_left("an event's delivery", |machine| {
            machine.events.set_next(Some(anchorite_vcpu::Event::nmi()));
        });
        is_left("compatibility mode", |machine| {
            machine.vcpu.set_segment(SegmentRegister::Cs, Segment::flat(8, true, false));
        });
        is_left("read-only memory", |machine| {
            machine.set_slot_read_only(SlotId(0), true).unwrap();
        });
    }

    #[test]
    fn an_operand_that_is_not_aligned_is_left_to_the_emulator() {
        let mut machine = at(&STORE);
        machine.vcpu.registers[Gpr::Rbx] = 0x7ffc;
        assert_eq!(machine.store_directly(Gva::new(0x7ffc), Gpa::new(0x5ffc)), None);
        assert_eq!(machine.memory.load_u32(Gpa::new(0x5ffc)), Ok(0));
    }

    #[test]
    fn only_the_same_instruction_at_the_same_frame_soon_after_is_stuck() {
        let mut unprotected = Unprotected::default();
        let frame = Gfn::new(5);
        assert_eq!(unprotected.again(frame, 0x100, 10), 1);
        assert_eq!(unprotected.again(frame, 0x100, 10 + REBUILT_WITHIN), 2);
        assert_eq!(unprotected.again(frame, 0x100, 11 + REBUILT_WITHIN), 3);
        assert_eq!(unprotected.again(frame, 0x100, 12 + 2 * REBUILT_WITHIN), 1, "much later");
        assert_eq!(unprotected.again(Gfn::new(6), 0x100, 13 + 2 * REBUILT_WITHIN), 1);
        assert_eq!(unprotected.again(Gfn::new(6), 0x104, 14 + 2 * REBUILT_WITHIN), 1);
    }
}
