//! Arithmetic on memory, bit tests, XCHG and CMPXCHG, without the complete decoder.

use super::plain::Part;
use crate::emulate::address::Access;
use crate::emulate::environment::{Environment, Fault};
use crate::emulate::flags::{self, Computed, mask, operand_distance, sign_extend};
use anchorite_addr::Gva;
use anchorite_vcpu::Registers;

/// What memory becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Add,
    Or,
    And,
    Subtract,
    Xor,
    Exchange,
    CompareExchange,
    SetBit,
    ResetBit,
    ComplementBit,
}

/// The operand that is not in memory.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Register(Part),
    /// Sign-extended.
    Immediate(u64),
}

/// One read-modify-write of memory.
#[derive(Clone, Copy)]
pub(super) struct Update {
    operation: Operation,
    source: Source,
    locked: bool,
}

/// An opcode, before its ModRM byte is read.
pub(super) struct Row {
    kind: Kind,
    /// Whether operands are 2, 4 or 8 bytes rather than one.
    pub(super) wide: bool,
    /// Bytes of an immediate, where operands are as long; 0 for a register.
    pub(super) immediate_bytes: u8,
}

enum Kind {
    Is(Operation),
    /// Bits 3–5 of ModRM choose among the operations of opcodes 0x00 to 0x3f.
    Arithmetic,
    /// Bits 3–5 of ModRM choose among the bit tests.
    BitTest,
}

impl Row {
    /// Source: SDM vol. 2, table A-2 "One-byte Opcode Map" and A-6 "Opcode Extensions".
    pub(super) fn of_one_byte(opcode: u8) -> Option<Self> {
        let wide = opcode & 1 != 0;
        let (kind, immediate_bytes) = match opcode {
            0x00..=0x3f if opcode & 7 < 2 => (Kind::Is(arithmetic(opcode >> 3)?), 0),
            0x80 | 0x83 => (Kind::Arithmetic, 1),
            0x81 => (Kind::Arithmetic, 4),
            0x86 | 0x87 => (Kind::Is(Operation::Exchange), 0),
            _ => return None,
        };
        Some(Self { kind, wide, immediate_bytes })
    }

    /// Source: SDM vol. 2, table A-3 "Two-byte Opcode Map" and A-6.
    pub(super) fn of_two_bytes(opcode: u8) -> Option<Self> {
        let (kind, immediate_bytes) = match opcode {
            0xab => (Kind::Is(Operation::SetBit), 0),
            0xb3 => (Kind::Is(Operation::ResetBit), 0),
            0xbb => (Kind::Is(Operation::ComplementBit), 0),
            0xba => (Kind::BitTest, 1),
            0xb0 | 0xb1 => (Kind::Is(Operation::CompareExchange), 0),
            _ => return None,
        };
        Some(Self { kind, wide: opcode != 0xb0, immediate_bytes })
    }

    /// The instruction, with bits 3–5 of its ModRM byte as `extension`.
    pub(super) fn complete(&self, extension: u8, source: Source, lock: bool) -> Option<Update> {
        let operation = match self.kind {
            Kind::Is(operation) => operation,
            Kind::Arithmetic => arithmetic(extension)?,
            Kind::BitTest => match extension {
                5 => Operation::SetBit,
                6 => Operation::ResetBit,
                7 => Operation::ComplementBit,
                _ => return None,
            },
        };
        // XCHG with memory is always locked.
        Some(Update { operation, source, locked: lock || operation == Operation::Exchange })
    }
}

fn arithmetic(number: u8) -> Option<Operation> {
    Some(match number {
        0 => Operation::Add,
        1 => Operation::Or,
        4 => Operation::And,
        5 => Operation::Subtract,
        6 => Operation::Xor,
        _ => return None,
    })
}

impl Update {
    /// Bytes from the operand named to the one changed: a bit number in a register
    /// reaches beyond the operand, either way.
    pub(super) fn distance(self, registers: &Registers, size: u8) -> u64 {
        match (self.operation, self.source) {
            (
                Operation::SetBit | Operation::ResetBit | Operation::ComplementBit,
                Source::Register(part),
            ) => operand_distance(sign_extend(part.value(registers, size), size), size),
            _ => 0,
        }
    }

    /// Changes the `size` bytes at `address`, then the registers and RFLAGS.
    pub(super) fn execute<E: Environment>(
        self,
        registers: &mut Registers,
        size: u8,
        address: Gva,
        environment: &mut E,
    ) -> Result<(), Fault> {
        let old = environment.load(address, size, Access::ReadForWrite)?;
        let value = match self.source {
            Source::Register(part) => part.value(registers, size),
            Source::Immediate(value) => value & mask(size),
        };
        let accumulator = Part::ACCUMULATOR.value(registers, size);
        let (new, flags) = self.operation.compute(old, value, accumulator, size);

        if !self.locked {
            environment.store(address, size, new)?;
        } else if !environment.store_if_unchanged(address, size, old, new)? {
            return Err(Fault::Retry);
        }
        match (self.operation, self.source) {
            (Operation::Exchange, Source::Register(part)) => part.set(registers, size, old),
            (Operation::CompareExchange, _) if accumulator != old => {
                Part::ACCUMULATOR.set(registers, size, old);
            }
            _ => {}
        }
        if let Some(flags) = flags {
            registers.rflags = flags.apply(registers.rflags);
        }
        Ok(())
    }
}

impl Operation {
    /// What memory becomes, and RFLAGS.
    fn compute(self, old: u64, value: u64, accumulator: u64, size: u8) -> (u64, Option<Computed>) {
        let bit = 1 << (value % (8 * u64::from(size)));
        let tested = |new| flags::carry(new, old & bit != 0);
        let computed = match self {
            Self::Add => flags::add(old, value, false, size),
            Self::Or => flags::logic(old | value, size),
            Self::And => flags::logic(old & value, size),
            Self::Subtract => flags::subtract(old, value, false, size),
            Self::Xor => flags::logic(old ^ value, size),
            Self::SetBit => tested(old | bit),
            Self::ResetBit => tested(old & !bit),
            Self::ComplementBit => tested(old ^ bit),
            Self::Exchange => return (value, None),
            Self::CompareExchange => {
                // Memory is written either way: the CPU puts the old value back.
                let new = if accumulator == old { value } else { old };
                return (new, Some(flags::subtract(accumulator, old, false, size)));
            }
        };
        (computed.value, Some(computed))
    }
}
