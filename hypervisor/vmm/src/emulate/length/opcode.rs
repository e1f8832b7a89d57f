//! Prefixes and opcodes of the instructions that have an intercept, and of MOV to memory.

use super::{Intercepted, Operation, Place, PortOperand, Store, StoredValue, StringPort};
use crate::emulate::cursor::Cursor;
use crate::emulate::mode::CodeSize;
use crate::emulate::modrm::{ModRm, RegisterOrMemory};
use anchorite_vcpu::{Gpr, SegmentRegister};

/// Why the lean decoder does not know an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// It goes on beyond the bytes given.
    Truncated,
    /// The complete decoder must look at it.
    Other,
}

/// The instruction at the start of `bytes`, if it is one of those with an intercept.
pub(super) fn decode(bytes: &[u8], rip: u64, code: CodeSize) -> Result<Intercepted, Unknown> {
    let mut cursor = Cursor::new(bytes, rip, code);
    match one_byte(&mut cursor) {
        Some(operation) => Ok(Intercepted { length: cursor.position as u8, operation }),
        None if cursor.truncated => Err(Unknown::Truncated),
        None => Err(Unknown::Other),
    }
}

fn one_byte(cursor: &mut Cursor<'_>) -> Option<Operation> {
    let opcode = cursor.skip_prefixes()?;
    // None of the instructions here takes LOCK.
    if cursor.lock {
        return None;
    }
    Some(match opcode {
        0x0f => return two_byte(cursor),
        0xf4 => Operation::Halt,
        0xe4 | 0xe5 => Operation::In(immediate_port(cursor, opcode)?),
        0xe6 | 0xe7 => Operation::Out(immediate_port(cursor, opcode)?),
        0xec | 0xed => Operation::In(PortOperand { port: None, size: port_bytes(cursor, opcode) }),
        0xee | 0xef => Operation::Out(PortOperand { port: None, size: port_bytes(cursor, opcode) }),
        0x6c | 0x6d => Operation::Ins(string_port(cursor, opcode, Some(SegmentRegister::Es))),
        0x6e | 0x6f => Operation::Outs(string_port(cursor, opcode, cursor.segment)),
        0x90 if cursor.repeat == Some(0xf3) => Operation::Pause,
        0x89 | 0xc7 if cursor.repeat.is_none() => Operation::Store(store(cursor, opcode)?),
        _ => return None,
    })
}

/// Bytes that a port instruction moves; its opcode's bit 0 is clear for one byte.
const fn port_bytes(cursor: &Cursor<'_>, opcode: u8) -> u8 {
    if opcode & 1 == 0 { 1 } else { cursor.word_bytes() }
}

fn immediate_port(cursor: &mut Cursor<'_>, opcode: u8) -> Option<PortOperand> {
    Some(PortOperand { size: port_bytes(cursor, opcode), port: Some(cursor.byte()?) })
}

fn string_port(cursor: &Cursor<'_>, opcode: u8, segment: Option<SegmentRegister>) -> StringPort {
    StringPort {
        size: port_bytes(cursor, opcode),
        address_bytes: cursor.address_bytes(),
        repeat: cursor.repeat.is_some(),
        segment: segment.unwrap_or(SegmentRegister::Ds),
    }
}

/// MOV of a register (89) or a constant (C7 /0) to memory.
fn store(cursor: &mut Cursor<'_>, opcode: u8) -> Option<Store> {
    let size = if cursor.is_wide() { 8 } else { cursor.word_bytes() };
    let constant_bytes = if opcode == 0xc7 { size.min(4) } else { 0 };
    cursor.immediate_bytes = constant_bytes;
    let modrm = ModRm::new(cursor.byte()?);
    if constant_bytes != 0 && modrm.opcode() != 0 {
        return None;
    }
    let RegisterOrMemory::Memory(to) = modrm.operand(cursor)? else { return None };
    let value = match constant_bytes {
        0 => StoredValue::Register(Gpr::from_encoding(modrm.register(cursor))),
        count => StoredValue::Constant(cursor.displacement(count.into())? as i32),
    };
    Some(Store { to, size, value })
}

fn two_byte(cursor: &mut Cursor<'_>) -> Option<Operation> {
    Some(match cursor.byte()? {
        0x01 => return system_group(cursor),
        0x06 => Operation::Clts,
        0x08 => Operation::Invd,
        0x09 if cursor.repeat != Some(0xf3) => Operation::Wbinvd,
        0x20 => control_register(cursor, |number, to| Operation::ReadControl { number, to })?,
        0x22 => control_register(cursor, |number, from| Operation::WriteControl { number, from })?,
        0x21 => debug_register(cursor, |number, to| Operation::ReadDebug { number, to })?,
        0x23 => debug_register(cursor, |number, from| Operation::WriteDebug { number, from })?,
        0x30 => Operation::WriteMsr,
        0x32 => Operation::ReadMsr,
        0x33 => Operation::Rdpmc,
        0x38 => return invpcid(cursor),
        0xa2 => Operation::Cpuid,
        _ => return None,
    })
}

/// 0F 01: SMSW, LMSW, INVLPG, and instructions named by a whole ModRM byte.
fn system_group(cursor: &mut Cursor<'_>) -> Option<Operation> {
    let modrm = ModRm::new(cursor.byte()?);
    let plain = !cursor.has_mandatory_prefix();
    Some(match modrm.byte {
        0xc1 if plain => Operation::Hypercall,
        0xd9 if cursor.repeat.is_none() => Operation::Hypercall,
        0xc8 if plain => Operation::Monitor,
        0xc9 if plain => Operation::Mwait,
        0xd1 if plain => Operation::Xsetbv,
        _ if !matches!(modrm.opcode(), 4 | 6 | 7) => return None,
        _ => match (modrm.opcode(), modrm.operand(cursor)?) {
            (7, RegisterOrMemory::Memory(operand)) => Operation::Invlpg(operand),
            (7, RegisterOrMemory::Register(_)) => return None,
            (4, place) => Operation::Smsw(word(&place), cursor.word_bytes()),
            (_, place) => Operation::Lmsw(word(&place)),
        },
    })
}

const fn word(place: &RegisterOrMemory) -> Place {
    match *place {
        RegisterOrMemory::Register(register) => Place::Register(register),
        RegisterOrMemory::Memory(operand) => Place::Memory(operand),
    }
}

/// The mode bits of ModRM are ignored: the operand is always a register.
///
/// Source: SDM vol. 2, "MOV—Move to/from Control Registers".
fn control_register(
    cursor: &mut Cursor<'_>,
    operation: fn(u8, Gpr) -> Operation,
) -> Option<Operation> {
    let modrm = ModRm::new(cursor.byte()?);
    let number = modrm.register(cursor);
    matches!(number, 0 | 2 | 3 | 4 | 8).then(|| operation(number, modrm.base(cursor)))
}

/// Source: SDM vol. 2, "MOV—Move to/from Debug Registers": REX.R is an error.
fn debug_register(
    cursor: &mut Cursor<'_>,
    operation: fn(u8, Gpr) -> Operation,
) -> Option<Operation> {
    let modrm = ModRm::new(cursor.byte()?);
    let number = modrm.register(cursor);
    (number < 8).then(|| operation(number, modrm.base(cursor)))
}

/// 66 0F 38 82, with a memory operand.
fn invpcid(cursor: &mut Cursor<'_>) -> Option<Operation> {
    if cursor.byte()? != 0x82 || !cursor.operand_override || cursor.repeat.is_some() {
        return None;
    }
    let modrm = ModRm::new(cursor.byte()?);
    let kind = Gpr::from_encoding(modrm.register(cursor));
    match modrm.operand(cursor)? {
        RegisterOrMemory::Memory(descriptor) => Some(Operation::Invpcid(kind, descriptor)),
        RegisterOrMemory::Register(_) => None,
    }
}
