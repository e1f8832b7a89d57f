//! ModRM and SIB. Source: SDM vol. 2, 2.1.5 "Addressing-Mode Encoding of ModR/M and
//! SIB Bytes", tables 2-1 to 2-3; 2.2.1.6 "RIP-Relative Addressing".

use super::address::MemoryOperand;
use super::cursor::Cursor;
use super::mode::CodeSize;
use anchorite_vcpu::{Gpr, SegmentRegister};

/// REX.R, extends the register field.
const REX_R: u8 = 1 << 2;
/// REX.X, extends the index.
const REX_X: u8 = 1 << 1;
/// REX.B, extends the base.
const REX_B: u8 = 1 << 0;

/// What the mode and r/m fields name.
pub(super) enum RegisterOrMemory {
    Register(Gpr),
    Memory(MemoryOperand),
}

/// A ModRM byte.
#[derive(Clone, Copy)]
pub(super) struct ModRm {
    pub(super) byte: u8,
}

impl ModRm {
    pub(super) const fn new(byte: u8) -> Self {
        Self { byte }
    }

    /// Bits 3–5 as part of the opcode.
    pub(super) const fn opcode(self) -> u8 {
        self.byte >> 3 & 7
    }

    /// Bits 3–5 as a register's number, with REX.R.
    pub(super) const fn register(self, cursor: &Cursor<'_>) -> u8 {
        self.opcode() | (cursor.rex & REX_R) << 1
    }

    /// Bits 0–2 as a general register, with REX.B.
    pub(super) const fn base(self, cursor: &Cursor<'_>) -> Gpr {
        Gpr::from_encoding(self.rm() | (cursor.rex & REX_B) << 3)
    }

    /// The operand, its SIB byte and displacement taken from the cursor.
    pub(super) fn operand(self, cursor: &mut Cursor<'_>) -> Option<RegisterOrMemory> {
        if self.mode() == 3 {
            return Some(RegisterOrMemory::Register(self.base(cursor)));
        }

        let mut operand = match cursor.address_bytes() {
            2 => self.memory_16(cursor)?,
            _ => self.memory_32(cursor)?,
        };
        operand.segment = cursor.segment.unwrap_or(operand.segment);
        Some(RegisterOrMemory::Memory(operand))
    }

    const fn mode(self) -> u8 {
        self.byte >> 6
    }

    const fn rm(self) -> u8 {
        self.byte & 7
    }

    fn memory_16(self, cursor: &mut Cursor<'_>) -> Option<MemoryOperand> {
        let (base, index) = match (self.rm(), self.mode()) {
            (0, _) => (Some(Gpr::Rbx), Some(Gpr::Rsi)),
            (1, _) => (Some(Gpr::Rbx), Some(Gpr::Rdi)),
            (2, _) => (Some(Gpr::Rbp), Some(Gpr::Rsi)),
            (3, _) => (Some(Gpr::Rbp), Some(Gpr::Rdi)),
            (4, _) => (Some(Gpr::Rsi), None),
            (5, _) => (Some(Gpr::Rdi), None),
            (6, 0) => (None, None),
            (6, _) => (Some(Gpr::Rbp), None),
            _ => (Some(Gpr::Rbx), None),
        };
        let displacement_bytes = if base.is_none() { 2 } else { usize::from(self.mode()) };
        memory(cursor, base, index, 0, displacement_bytes)
    }

    fn memory_32(self, cursor: &mut Cursor<'_>) -> Option<MemoryOperand> {
        let displacement_bytes = [0, 1, 4][usize::from(self.mode().min(2))];
        match (self.rm(), self.mode()) {
            (4, _) => self.memory_sib(cursor, displacement_bytes),
            (5, 0) => memory_absolute(cursor),
            _ => memory(cursor, Some(self.base(cursor)), None, 0, displacement_bytes),
        }
    }

    fn memory_sib(self, cursor: &mut Cursor<'_>, displacement: usize) -> Option<MemoryOperand> {
        let sib = cursor.byte()?;
        let index = sib >> 3 & 7 | (cursor.rex & REX_X) << 2;
        let index = (index != 4).then_some(Gpr::from_encoding(index));
        let without_base = sib & 7 == 5 && self.mode() == 0;
        let base = Gpr::from_encoding(sib & 7 | (cursor.rex & REX_B) << 3);
        let (base, displacement) =
            if without_base { (None, 4) } else { (Some(base), displacement) };
        memory(cursor, base, index, sib >> 6, displacement)
    }
}

/// A memory operand whose displacement, 0 to 4 bytes long, comes next.
fn memory(
    cursor: &mut Cursor<'_>,
    base: Option<Gpr>,
    index: Option<Gpr>,
    shift: u8,
    displacement_bytes: usize,
) -> Option<MemoryOperand> {
    let stack = matches!(base, Some(Gpr::Rbp | Gpr::Rsp));
    Some(MemoryOperand {
        segment: if stack { SegmentRegister::Ss } else { SegmentRegister::Ds },
        base,
        index,
        shift,
        displacement: match displacement_bytes {
            0 => 0,
            count => cursor.displacement(count)?,
        },
        address_bytes: cursor.address_bytes(),
    })
}

/// A displacement alone: absolute, in 64-bit mode relative to the next instruction.
fn memory_absolute(cursor: &mut Cursor<'_>) -> Option<MemoryOperand> {
    let mut operand = memory(cursor, None, None, 0, 4)?;
    if matches!(cursor.code, CodeSize::Bits64) {
        operand.displacement = operand.displacement.wrapping_add(cursor.next_rip());
    }
    Some(operand)
}
