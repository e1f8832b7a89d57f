//! MOV between a general register or an immediate and memory, without the complete
//! decoder: nearly every access to a device and nearly every store to a page table.

use super::Outcome;
use crate::emulate::address::{Access, MemoryOperand, linearize};
use crate::emulate::cursor::Cursor;
use crate::emulate::environment::{Environment, Fault};
use crate::emulate::flags::mask;
use crate::emulate::length::MAX_LENGTH;
use crate::emulate::mode::{CodeSize, Mode};
use crate::emulate::modrm::{ModRm, RegisterOrMemory};
use anchorite_vcpu::{Gpr, Registers};

/// A decoded move.
#[derive(Clone, Copy)]
struct Move {
    length: u8,
    /// Bytes moved: 1, 2, 4 or 8.
    size: u8,
    memory: MemoryOperand,
    partner: Partner,
}

/// What memory is exchanged with.
#[derive(Clone, Copy)]
enum Partner {
    /// Loads into part of a register.
    Into(Part),
    /// Stores part of a register.
    From(Part),
    /// Stores a constant.
    Immediate(u64),
}

/// A register from bit `shift` (0, or 8 for AH and its kin) on.
#[derive(Clone, Copy)]
struct Part {
    register: Gpr,
    shift: u8,
}

/// Executes the instruction if it is such a move; `None` if it is another, and then
/// nothing has been done.
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

fn decode(bytes: &[u8], rip: u64, code: CodeSize) -> Option<Move> {
    let mut cursor = Cursor::new(bytes, rip, code);
    let opcode = cursor.skip_prefixes()?;
    // XACQUIRE and XRELEASE, or nothing that an assembler writes.
    if !matches!(opcode, 0x88..=0x8b | 0xc6 | 0xc7) || cursor.repeat.is_some() {
        return None;
    }

    let size = operand_bytes(&cursor, opcode);
    let immediate_bytes = if opcode >= 0xc6 { size.min(4) } else { 0 };
    cursor.immediate_bytes = immediate_bytes;
    let modrm = ModRm::new(cursor.byte()?);
    let RegisterOrMemory::Memory(memory) = modrm.operand(&mut cursor)? else { return None };
    let partner = match opcode {
        0x88 | 0x89 => Partner::From(part(modrm.register(&cursor), size, &cursor)),
        0x8a | 0x8b => Partner::Into(part(modrm.register(&cursor), size, &cursor)),
        _ if modrm.opcode() == 0 => {
            Partner::Immediate(cursor.displacement(immediate_bytes.into())?)
        }
        _ => return None,
    };
    Some(Move { length: cursor.position as u8, size, memory, partner })
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

impl Move {
    fn execute<E: Environment>(
        &self,
        registers: &mut Registers,
        mode: Mode,
        environment: &mut E,
    ) -> Result<Outcome, Fault> {
        let (size, segment) = (self.size, self.memory.segment);
        let offset = self.memory.offset(registers);
        let access = if let Partner::Into(_) = self.partner { Access::Read } else { Access::Write };
        let address = linearize(environment, mode, segment, offset, size, access)?;

        match self.partner {
            Partner::Into(part) => {
                let value = environment.load(address, size, Access::Read)?;
                part.set(registers, size, value);
            }
            Partner::From(part) => {
                let value = registers[part.register] >> part.shift & mask(size);
                environment.store(address, size, value)?;
            }
            Partner::Immediate(value) => environment.store(address, size, value & mask(size))?,
        }
        super::complete(registers, registers.rip.wrapping_add(self.length.into()), mode);
        Ok(Outcome::Completed)
    }
}

impl Part {
    /// Four bytes clear the upper half; one or two leave the rest.
    fn set(self, registers: &mut Registers, size: u8, value: u64) {
        let old = registers[self.register];
        let kept = if size >= 4 { 0 } else { old & !(mask(size) << self.shift) };
        registers[self.register] = kept | (value & mask(size)) << self.shift;
    }
}
