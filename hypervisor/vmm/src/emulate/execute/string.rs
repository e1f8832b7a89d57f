//! String instructions, repeated or not.
//!
//! Source: SDM vol. 1, 7.3.9.1 "String Instructions"; vol. 2, "REP/REPE/REPZ/REPNE/
//! REPNZ—Repeat String Operation Prefix".

use super::plain::Part;
use super::{Flow, MAX_ITERATIONS};
use crate::emulate::address::{Access, address_mask, linearize};
use crate::emulate::cursor::Cursor;
use crate::emulate::environment::{Environment, Fault};
use crate::emulate::flags::subtract;
use crate::emulate::length::MAX_LENGTH;
use crate::emulate::mode::{CodeSize, Mode};
use anchorite_addr::Gva;
use anchorite_vcpu::{Gpr, Registers, Rflags, SegmentRegister};

/// The REPNE prefix.
const REPNE: u8 = 0xf2;

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

/// A string instruction.
#[derive(Clone, Copy)]
pub(super) struct Strings {
    element: Element,
    /// Bytes of an element: 1, 2, 4 or 8.
    size: u8,
    address_bytes: u8,
    /// Segment of the source; the destination's is always ES.
    source: SegmentRegister,
    /// The prefix that repeats it, 0xf2 or 0xf3.
    repeat: Option<u8>,
    length: u8,
}

impl Strings {
    /// The instruction at the start of `bytes`, if it is a string instruction.
    pub(super) fn decode(bytes: &[u8], code: CodeSize) -> Option<Self> {
        let bytes = &bytes[..bytes.len().min(MAX_LENGTH)];
        let mut cursor = Cursor::new(bytes, 0, code);
        let opcode = cursor.skip_prefixes()?;
        let element = match opcode {
            0x6c | 0x6d => Element::Input,
            0x6e | 0x6f => Element::Output,
            0xa4 | 0xa5 => Element::Move,
            0xa6 | 0xa7 => Element::Compare,
            0xaa | 0xab => Element::Store,
            0xac | 0xad => Element::Load,
            0xae | 0xaf => Element::Scan,
            _ => return None,
        };
        if cursor.lock {
            return None;
        }
        // REX.W does not widen a port.
        let size = match (opcode & 1, element) {
            (0, _) => 1,
            (_, Element::Input | Element::Output) => cursor.word_bytes(),
            _ if cursor.is_wide() => 8,
            _ => cursor.word_bytes(),
        };
        Some(Self {
            element,
            size,
            address_bytes: cursor.address_bytes(),
            source: cursor.segment.unwrap_or(SegmentRegister::Ds),
            repeat: cursor.repeat,
            length: cursor.position as u8,
        })
    }

    /// Whether it writes memory again and again: STOS or MOVS with a REP prefix.
    pub(super) fn is_repeated_store(self) -> bool {
        self.repeat.is_some() && matches!(self.element, Element::Move | Element::Store)
    }

    /// Executes it. What finished iterations did stands in `registers`.
    pub(super) fn execute<E: Environment>(
        self,
        registers: &mut Registers,
        mode: Mode,
        environment: &mut E,
    ) -> Result<Flow, Fault> {
        let next = registers.rip.wrapping_add(self.length.into());
        StringStep { strings: self, next, mode, registers, environment }.run()
    }
}

/// A string instruction on its way.
struct StringStep<'a, E> {
    strings: Strings,
    /// Where the next instruction lies.
    next: u64,
    mode: Mode,
    registers: &'a mut Registers,
    environment: &'a mut E,
}

impl<E: Environment> StringStep<'_, E> {
    fn run(&mut self) -> Result<Flow, Fault> {
        let strings = self.strings;
        if strings.repeat.is_none() {
            self.element(strings)?;
            return Ok(Flow::Jump(self.next));
        }

        for _ in 0..MAX_ITERATIONS {
            if self.count(strings) == 0 {
                return Ok(Flow::Jump(self.next));
            }
            if let Err(fault) = self.element(strings) {
                return Ok(Flow::Partial(Some(fault)));
            }
            self.advance(Gpr::Rcx, strings, u64::MAX);
            if self.count(strings) == 0 || self.ends_early(strings) {
                return Ok(Flow::Jump(self.next));
            }
        }
        Ok(Flow::Partial(None))
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
        let value = Part::ACCUMULATOR.value(self.registers, strings.size);
        let to = self.destination(strings, Access::Write)?;
        self.environment.store(to, strings.size, value)?;
        self.advance_destination(strings);
        Ok(())
    }

    fn load_element(&mut self, strings: Strings) -> Result<(), Fault> {
        let value = self.load_source(strings)?;
        Part::ACCUMULATOR.set(self.registers, strings.size, value);
        self.advance_source(strings);
        Ok(())
    }

    fn scan_element(&mut self, strings: Strings) -> Result<(), Fault> {
        let left = Part::ACCUMULATOR.value(self.registers, strings.size);
        let right = self.load_destination(strings)?;
        self.compare(left, right, strings);
        self.advance_destination(strings);
        Ok(())
    }

    fn compare_element(&mut self, strings: Strings) -> Result<(), Fault> {
        let left = self.load_source(strings)?;
        let right = self.load_destination(strings)?;
        self.compare(left, right, strings);
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
        if self.registers.rflags & Rflags::DF.bits() != 0 { size.wrapping_neg() } else { size }
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

    fn compare(&mut self, left: u64, right: u64, strings: Strings) {
        let difference = subtract(left, right, false, strings.size);
        self.registers.rflags = difference.apply(self.registers.rflags);
    }

    /// Whether REPE or REPNE ends a comparison; the other instructions only count.
    fn ends_early(&self, strings: Strings) -> bool {
        let compares = matches!(strings.element, Element::Scan | Element::Compare);
        let equal = self.registers.rflags & Rflags::ZF.bits() != 0;
        compares && equal == (strings.repeat == Some(REPNE))
    }

    fn port(&self) -> u16 {
        self.registers[Gpr::Rdx] as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stos_and_movs_with_a_repeat_prefix_are_repeated_stores() {
        let decode = |bytes: &[u8]| Strings::decode(bytes, CodeSize::Bits64);
        let repeats = |bytes: &[u8]| decode(bytes).is_some_and(Strings::is_repeated_store);
        assert!(repeats(&[0xf3, 0x48, 0xab]) && repeats(&[0xf3, 0xa4]) && repeats(&[0xf2, 0xaa]));
        // STOSQ alone; REP LODSB; REP SCASB; MOV; nothing.
        for other in [&[0x48, 0xab][..], &[0xf3, 0xac], &[0xf3, 0xae], &[0x48, 0x89, 0x07], &[]] {
            assert!(!repeats(other), "{other:x?}");
        }
    }
}
