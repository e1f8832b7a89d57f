//! String instructions, repeated or not.
//!
//! Source: SDM vol. 1, 7.3.9.1 "String Instructions"; vol. 2, "REP/REPE/REPZ/REPNE/
//! REPNZ—Repeat String Operation Prefix".

use super::{Flow, MAX_ITERATIONS, Step};
use crate::emulate::address::{Access, address_mask, linearize};
use crate::emulate::environment::{Environment, Fault};
use crate::emulate::flags::subtract;
use crate::emulate::operands::memory_segment;
use anchorite_addr::Gva;
use anchorite_vcpu::{Gpr, Rflags, SegmentRegister};
use iced_x86::{Mnemonic, OpKind, Register};

/// One element's work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    Move,
    Store,
    Load,
    Scan,
    Compare,
    Input,
    Output,
}

/// A string instruction's operands.
#[derive(Clone, Copy)]
struct Strings {
    element: Element,
    size: u8,
    address_bytes: u8,
    /// Segment of the source; the destination's is always ES.
    source: SegmentRegister,
}

impl<E: Environment> Step<'_, E> {
    pub(super) fn string(&mut self) -> Result<Flow, Fault> {
        let strings = self.strings()?;
        let repeated = self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix();
        if !repeated {
            self.element(strings)?;
            return Ok(Flow::Next);
        }

        for _ in 0..MAX_ITERATIONS {
            if self.count(strings) == 0 {
                return Ok(Flow::Next);
            }
            if let Err(fault) = self.element(strings) {
                return Ok(Flow::Partial(Some(fault)));
            }
            self.advance(Gpr::Rcx, strings, u64::MAX);
            if self.count(strings) == 0 || self.ends_early(strings.element) {
                return Ok(Flow::Next);
            }
        }
        Ok(Flow::Partial(None))
    }

    fn strings(&self) -> Result<Strings, Fault> {
        use Mnemonic as M;
        let (element, size) = match self.instruction.mnemonic() {
            M::Movsb => (Element::Move, 1),
            M::Movsw => (Element::Move, 2),
            M::Movsd => (Element::Move, 4),
            M::Movsq => (Element::Move, 8),
            M::Stosb => (Element::Store, 1),
            M::Stosw => (Element::Store, 2),
            M::Stosd => (Element::Store, 4),
            M::Stosq => (Element::Store, 8),
            M::Lodsb => (Element::Load, 1),
            M::Lodsw => (Element::Load, 2),
            M::Lodsd => (Element::Load, 4),
            M::Lodsq => (Element::Load, 8),
            M::Scasb => (Element::Scan, 1),
            M::Scasw => (Element::Scan, 2),
            M::Scasd => (Element::Scan, 4),
            M::Scasq => (Element::Scan, 8),
            M::Cmpsb => (Element::Compare, 1),
            M::Cmpsw => (Element::Compare, 2),
            M::Cmpsd => (Element::Compare, 4),
            M::Cmpsq => (Element::Compare, 8),
            M::Insb => (Element::Input, 1),
            M::Insw => (Element::Input, 2),
            M::Insd => (Element::Input, 4),
            M::Outsb => (Element::Output, 1),
            M::Outsw => (Element::Output, 2),
            M::Outsd => (Element::Output, 4),
            _ => return Err(Fault::Unsupported),
        };
        let source = memory_segment(self.instruction, self.mode.code);
        Ok(Strings { element, size, address_bytes: self.string_address_bytes(), source })
    }

    fn string_address_bytes(&self) -> u8 {
        let kinds = [self.instruction.op0_kind(), self.instruction.op1_kind()];
        let has = |wanted: [OpKind; 2]| kinds.iter().any(|kind| wanted.contains(kind));
        if has([OpKind::MemorySegSI, OpKind::MemoryESDI]) {
            2
        } else if has([OpKind::MemorySegESI, OpKind::MemoryESEDI]) {
            4
        } else {
            8
        }
    }

    fn element(&mut self, strings: Strings) -> Result<(), Fault> {
        match strings.element {
            Element::Move => self.move_element(strings),
            Element::Store => self.store_element(strings),
            Element::Load => self.load_element(strings),
            Element::Scan => self.scan_element(strings),
            Element::Compare => self.compare_element(strings),
            Element::Input => self.input_element(strings),
            Element::Output => self.output_element(strings),
        }
    }

    fn move_element(&mut self, strings: Strings) -> Result<(), Fault> {
        let value = self.load_source(strings)?;
        let to = self.destination(strings, Access::Write)?;
        self.environment.store(to, strings.size, value)?;
        self.advance_source(strings);
        self.advance_destination(strings);
        Ok(())
    }

    fn store_element(&mut self, strings: Strings) -> Result<(), Fault> {
        let value = self.register(accumulator(strings.size))?;
        let to = self.destination(strings, Access::Write)?;
        self.environment.store(to, strings.size, value)?;
        self.advance_destination(strings);
        Ok(())
    }

    fn load_element(&mut self, strings: Strings) -> Result<(), Fault> {
        let value = self.load_source(strings)?;
        self.set_register(accumulator(strings.size), value)?;
        self.advance_source(strings);
        Ok(())
    }

    fn scan_element(&mut self, strings: Strings) -> Result<(), Fault> {
        let left = self.register(accumulator(strings.size))?;
        let right = self.load_destination(strings)?;
        self.set_flags(subtract(left, right, false, strings.size));
        self.advance_destination(strings);
        Ok(())
    }

    fn compare_element(&mut self, strings: Strings) -> Result<(), Fault> {
        let left = self.load_source(strings)?;
        let right = self.load_destination(strings)?;
        self.set_flags(subtract(left, right, false, strings.size));
        self.advance_source(strings);
        self.advance_destination(strings);
        Ok(())
    }

    /// What a port gave cannot be put back, so the store is checked first.
    fn input_element(&mut self, strings: Strings) -> Result<(), Fault> {
        let to = self.destination(strings, Access::Write)?;
        self.environment.check_store(to, strings.size)?;
        let value = self.environment.port_in(self.port(), strings.size)?;
        self.environment.store(to, strings.size, value.into())?;
        self.advance_destination(strings);
        Ok(())
    }

    fn output_element(&mut self, strings: Strings) -> Result<(), Fault> {
        let value = self.load_source(strings)?;
        self.environment.port_out(self.port(), strings.size, value as u32)?;
        self.advance_source(strings);
        Ok(())
    }

    fn load_source(&mut self, strings: Strings) -> Result<u64, Fault> {
        let offset = self.index(Gpr::Rsi, strings);
        let (size, source) = (strings.size, strings.source);
        let from = linearize(self.environment, self.mode, source, offset, size, Access::Read)?;
        self.environment.load(from, size, Access::Read)
    }

    fn load_destination(&mut self, strings: Strings) -> Result<u64, Fault> {
        let from = self.destination(strings, Access::Read)?;
        self.environment.load(from, strings.size, Access::Read)
    }

    fn destination(&self, strings: Strings, access: Access) -> Result<Gva, Fault> {
        let offset = self.index(Gpr::Rdi, strings);
        let (es, size) = (SegmentRegister::Es, strings.size);
        Ok(linearize(self.environment, self.mode, es, offset, size, access)?)
    }

    fn advance_source(&mut self, strings: Strings) {
        self.advance(Gpr::Rsi, strings, self.stride(strings));
    }

    fn advance_destination(&mut self, strings: Strings) {
        self.advance(Gpr::Rdi, strings, self.stride(strings));
    }

    /// Bytes to the next element, downwards with the direction flag set.
    fn stride(&self, strings: Strings) -> u64 {
        let size = u64::from(strings.size);
        if self.has_flag(Rflags::DF) { size.wrapping_neg() } else { size }
    }

    fn count(&self, strings: Strings) -> u64 {
        self.index(Gpr::Rcx, strings)
    }

    /// As much of a register as the address size names.
    fn index(&self, register: Gpr, strings: Strings) -> u64 {
        self.registers[register] & address_mask(strings.address_bytes)
    }

    /// Adds to such a register; four bytes clear the upper half, two leave the rest.
    fn advance(&mut self, register: Gpr, strings: Strings, distance: u64) {
        let old = self.registers[register];
        let new = old.wrapping_add(distance) & address_mask(strings.address_bytes);
        let kept = if strings.address_bytes == 2 { old & !0xffff } else { 0 };
        self.registers[register] = kept | new;
    }

    /// Whether REPE or REPNE ends a comparison; the other instructions only count.
    fn ends_early(&self, element: Element) -> bool {
        let compares = matches!(element, Element::Scan | Element::Compare);
        compares && self.has_flag(Rflags::ZF) == self.instruction.has_repne_prefix()
    }

    fn port(&self) -> u16 {
        self.registers[Gpr::Rdx] as u16
    }
}

const fn accumulator(size: u8) -> Register {
    match size {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    }
}
