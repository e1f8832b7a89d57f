//! The instructions that kernels use on page tables and devices, without the complete
//! decoder: moves, exchanges, and arithmetic on memory.
//!
//! The complete decoder builds its tables when it is first used, which takes tens of
//! millions of instructions. Most guests never get there.

use super::Outcome;
use super::update::{Row, Source, Update};
use crate::emulate::address::{Access, MemoryOperand, linearize};
use crate::emulate::cursor::Cursor;
use crate::emulate::environment::{Environment, Fault};
use crate::emulate::flags::mask;
use crate::emulate::length::MAX_LENGTH;
use crate::emulate::mode::{CodeSize, Mode};
use crate::emulate::modrm::{ModRm, RegisterOrMemory};
use anchorite_addr::Gva;
use anchorite_vcpu::{Gpr, Registers};

/// A decoded instruction with one operand in memory.
#[derive(Clone, Copy)]
struct Plain {
    length: u8,
    /// Bytes of the operands: 1, 2, 4 or 8.
    size: u8,
    memory: MemoryOperand,
    action: Action,
}

/// What is done with memory.
#[derive(Clone, Copy)]
enum Action {
    /// Loads into part of a register.
    Into(Part),
    /// Stores part of a register.
    From(Part),
    /// Stores a constant.
    Immediate(u64),
    /// Reads, computes and writes back.
    Update(Update),
}

/// A register from bit `shift` (0, or 8 for AH and its kin) on.
#[derive(Clone, Copy)]
pub(super) struct Part {
    register: Gpr,
    shift: u8,
}

/// Executes the instruction if it is one of those here; `None` if it is another, and
/// then nothing has been done.
#[inline]
pub(super) fn execute<E: Environment>(
    bytes: &[u8],
    registers: &mut Registers,
    mode: Mode,
    environment: &mut E,
) -> Option<Result<Outcome, Fault>> {
    let bytes = &bytes[..bytes.len().min(MAX_LENGTH)];
    let plain = decode(bytes, registers.rip, mode.code)?;
    Some(plain.execute(registers, mode, environment))
}

fn decode(bytes: &[u8], rip: u64, code: CodeSize) -> Option<Plain> {
    let mut cursor = Cursor::new(bytes, rip, code);
    let opcode = cursor.skip_prefixes()?;
    // XACQUIRE and XRELEASE, or nothing that an assembler writes.
    if cursor.repeat.is_some() {
        return None;
    }
    match opcode {
        0x88..=0x8b | 0xc6 | 0xc7 if !cursor.lock => decode_move(cursor, opcode),
        _ => decode_update(cursor, opcode),
    }
}

fn decode_move(mut cursor: Cursor<'_>, opcode: u8) -> Option<Plain> {
    let size = operand_bytes(&cursor, opcode);
    let immediate_bytes = if opcode >= 0xc6 { size.min(4) } else { 0 };
    let (modrm, memory) = memory(&mut cursor, immediate_bytes)?;
    let action = match opcode {
        0x88 | 0x89 => Action::From(part(modrm.register(&cursor), size, &cursor)),
        0x8a | 0x8b => Action::Into(part(modrm.register(&cursor), size, &cursor)),
        _ if modrm.opcode() == 0 => Action::Immediate(cursor.displacement(immediate_bytes.into())?),
        _ => return None,
    };
    Some(Plain { length: cursor.position as u8, size, memory, action })
}

fn decode_update(mut cursor: Cursor<'_>, opcode: u8) -> Option<Plain> {
    let row = match opcode {
        0x0f => Row::of_two_bytes(cursor.byte()?)?,
        _ => Row::of_one_byte(opcode)?,
    };
    let size = if row.wide { operand_bytes(&cursor, 1) } else { 1 };
    let immediate_bytes = row.immediate_bytes.min(size);
    let (modrm, memory) = memory(&mut cursor, immediate_bytes)?;
    let source = match immediate_bytes {
        0 => Source::Register(part(modrm.register(&cursor), size, &cursor)),
        count => Source::Immediate(cursor.displacement(count.into())?),
    };
    let update = row.complete(modrm.opcode(), source, cursor.lock)?;
    Some(Plain { length: cursor.position as u8, size, memory, action: Action::Update(update) })
}

/// The ModRM byte and the memory operand that it names.
fn memory(cursor: &mut Cursor<'_>, immediate_bytes: u8) -> Option<(ModRm, MemoryOperand)> {
    cursor.immediate_bytes = immediate_bytes;
    let modrm = ModRm::new(cursor.byte()?);
    match modrm.operand(cursor)? {
        RegisterOrMemory::Memory(memory) => Some((modrm, memory)),
        RegisterOrMemory::Register(_) => None,
    }
}

/// Bit 0 of the opcode is clear for bytes.
fn operand_bytes(cursor: &Cursor<'_>, opcode: u8) -> u8 {
    match opcode & 1 {
        0 => 1,
        _ if cursor.is_wide() => 8,
        _ => cursor.word_bytes(),
    }
}

/// Without REX the byte registers 4 to 7 are AH, CH, DH, BH.
fn part(number: u8, size: u8, cursor: &Cursor<'_>) -> Part {
    if size == 1 && cursor.rex == 0 && number >= 4 {
        return Part { register: Gpr::from_encoding(number - 4), shift: 8 };
    }
    Part { register: Gpr::from_encoding(number), shift: 0 }
}

impl Plain {
    fn execute<E: Environment>(
        &self,
        registers: &mut Registers,
        mode: Mode,
        environment: &mut E,
    ) -> Result<Outcome, Fault> {
        let size = self.size;
        let address = self.address(registers, mode, environment)?;
        match self.action {
            Action::Into(part) => {
                let value = environment.load(address, size, Access::Read)?;
                part.set(registers, size, value);
            }
            Action::From(part) => {
                environment.store(address, size, part.value(registers, size))?;
            }
            Action::Immediate(value) => environment.store(address, size, value & mask(size))?,
            Action::Update(update) => update.execute(registers, size, address, environment)?,
        }
        super::complete(registers, registers.rip.wrapping_add(self.length.into()), mode);
        Ok(Outcome::Completed)
    }

    fn address<E: Environment>(
        &self,
        registers: &Registers,
        mode: Mode,
        environment: &E,
    ) -> Result<Gva, Fault> {
        let (access, distance) = match self.action {
            Action::Into(_) => (Access::Read, 0),
            Action::From(_) | Action::Immediate(_) => (Access::Write, 0),
            Action::Update(update) => (Access::ReadForWrite, update.distance(registers, self.size)),
        };
        let displacement = self.memory.displacement.wrapping_add(distance);
        let offset = MemoryOperand { displacement, ..self.memory }.offset(registers);
        Ok(linearize(environment, mode, self.memory.segment, offset, self.size, access)?)
    }
}

impl Part {
    /// AL, AX, EAX, RAX.
    pub(super) const ACCUMULATOR: Self = Self { register: Gpr::Rax, shift: 0 };

    /// Its low `size` bytes.
    pub(super) fn value(self, registers: &Registers, size: u8) -> u64 {
        registers[self.register] >> self.shift & mask(size)
    }

    /// Four bytes clear the upper half; one or two leave the rest.
    pub(super) fn set(self, registers: &mut Registers, size: u8, value: u64) {
        let old = registers[self.register];
        let kept = if size >= 4 { 0 } else { old & !(mask(size) << self.shift) };
        registers[self.register] = kept | (value & mask(size)) << self.shift;
    }
}
