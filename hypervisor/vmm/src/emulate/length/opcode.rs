//! Prefixes and opcodes of the instructions that have an intercept.

use super::modrm::{ModRm, RegisterOrMemory};
use super::{Intercepted, Operation, PortOperand, Source, StringPort};
use crate::emulate::mode::CodeSize;
use anchorite_vcpu::{Gpr, SegmentRegister};

/// REX.W, asks for 64-bit operands.
const REX_W: u8 = 1 << 3;

/// The bytes of one instruction and what its prefixes said.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    pub(super) rip: u64,
    pub(super) code: CodeSize,
    pub(super) segment: Option<SegmentRegister>,
    pub(super) address_override: bool,
    operand_override: bool,
    /// 0xf2 or 0xf3.
    repeat: Option<u8>,
    /// The low four bits of a REX prefix: W, R, X, B.
    pub(super) rex: u8,
    /// More bytes were asked for than there are.
    truncated: bool,
}

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
    let mut cursor = Cursor {
        bytes,
        position: 0,
        rip,
        code,
        segment: None,
        address_override: false,
        operand_override: false,
        repeat: None,
        rex: 0,
        truncated: false,
    };
    match one_byte(&mut cursor) {
        Some(operation) => Ok(Intercepted { length: cursor.position as u8, operation }),
        None if cursor.truncated => Err(Unknown::Truncated),
        None => Err(Unknown::Other),
    }
}

impl Cursor<'_> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.position).copied();
        self.position += 1;
        self.truncated |= byte.is_none();
        byte
    }

    /// The next `count` bytes (1, 2 or 4) as a sign-extended number.
    pub(super) fn displacement(&mut self, count: usize) -> Option<u64> {
        let Some(bytes) = self.bytes.get(self.position..self.position + count) else {
            self.truncated = true;
            return None;
        };
        self.position += count;
        let mut padded = [0; 8];
        padded[..count].copy_from_slice(bytes);
        let sign = 1 << (8 * count - 1);
        Some((u64::from_le_bytes(padded) ^ sign).wrapping_sub(sign))
    }

    /// Address of the byte behind the current one.
    pub(super) fn next_rip(&self) -> u64 {
        self.rip.wrapping_add(self.position as u64)
    }

    /// Bytes of an address: 2, 4 or 8.
    pub(super) const fn address_bytes(&self) -> u8 {
        match (self.code, self.address_override) {
            (CodeSize::Bits64, false) => 8,
            (CodeSize::Bits64 | CodeSize::Bits16, true) | (CodeSize::Bits32, false) => 4,
            (CodeSize::Bits32, true) | (CodeSize::Bits16, false) => 2,
        }
    }

    /// The first byte of the opcode; `None` with LOCK, which none of the
    /// instructions here takes.
    fn skip_prefixes(&mut self) -> Option<u8> {
        loop {
            let byte = self.byte()?;
            match byte {
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => self.override_segment(byte),
                0x66 => self.operand_override = true,
                0x67 => self.address_override = true,
                0xf2 | 0xf3 => self.repeat = Some(byte),
                0xf0 => return None,
                0x40..=0x4f if matches!(self.code, CodeSize::Bits64) => {
                    self.rex = byte & 15;
                    continue;
                }
                _ => return Some(byte),
            }
            // A REX prefix counts only right before the opcode.
            self.rex = 0;
        }
    }

    /// In 64-bit mode only FS and GS are looked at.
    fn override_segment(&mut self, prefix: u8) {
        let register = match prefix {
            0x26 => SegmentRegister::Es,
            0x2e => SegmentRegister::Cs,
            0x36 => SegmentRegister::Ss,
            0x3e => SegmentRegister::Ds,
            0x64 => SegmentRegister::Fs,
            _ => SegmentRegister::Gs,
        };
        if prefix >= 0x64 || !matches!(self.code, CodeSize::Bits64) {
            self.segment = Some(register);
        }
    }

    /// 2 or 4 bytes, as the mode and an operand-size prefix say; REX.W overrides it.
    const fn word_bytes(&self) -> u8 {
        match (self.code, self.operand_override) {
            (CodeSize::Bits64, true) if self.rex & REX_W != 0 => 4,
            (CodeSize::Bits16, false) | (CodeSize::Bits32 | CodeSize::Bits64, true) => 2,
            _ => 4,
        }
    }

    /// Bytes that a port instruction moves; its opcode's bit 0 is clear for one byte.
    const fn port_bytes(&self, opcode: u8) -> u8 {
        if opcode & 1 == 0 { 1 } else { self.word_bytes() }
    }

    /// Whether a prefix is there that selects another instruction in some opcode rows.
    const fn has_mandatory_prefix(&self) -> bool {
        self.operand_override || self.repeat.is_some()
    }
}

fn one_byte(cursor: &mut Cursor<'_>) -> Option<Operation> {
    let opcode = cursor.skip_prefixes()?;
    Some(match opcode {
        0x0f => return two_byte(cursor),
        0xf4 => Operation::Halt,
        0xe4 | 0xe5 => Operation::In(immediate_port(cursor, opcode)?),
        0xe6 | 0xe7 => Operation::Out(immediate_port(cursor, opcode)?),
        0xec | 0xed => Operation::In(PortOperand { port: None, size: cursor.port_bytes(opcode) }),
        0xee | 0xef => Operation::Out(PortOperand { port: None, size: cursor.port_bytes(opcode) }),
        0x6c | 0x6d => Operation::Ins(string_port(cursor, opcode, Some(SegmentRegister::Es))),
        0x6e | 0x6f => Operation::Outs(string_port(cursor, opcode, cursor.segment)),
        0x90 if cursor.repeat == Some(0xf3) => Operation::Pause,
        _ => return None,
    })
}

fn immediate_port(cursor: &mut Cursor<'_>, opcode: u8) -> Option<PortOperand> {
    Some(PortOperand { size: cursor.port_bytes(opcode), port: Some(cursor.byte()?) })
}

fn string_port(cursor: &Cursor<'_>, opcode: u8, segment: Option<SegmentRegister>) -> StringPort {
    StringPort {
        size: cursor.port_bytes(opcode),
        address_bytes: cursor.address_bytes(),
        repeat: cursor.repeat.is_some(),
        segment: segment.unwrap_or(SegmentRegister::Ds),
    }
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

/// 0F 01: LMSW, INVLPG, and instructions named by a whole ModRM byte.
fn system_group(cursor: &mut Cursor<'_>) -> Option<Operation> {
    let modrm = ModRm::new(cursor.byte()?);
    let plain = !cursor.has_mandatory_prefix();
    Some(match modrm.byte {
        0xc1 if plain => Operation::Hypercall,
        0xd9 if cursor.repeat.is_none() => Operation::Hypercall,
        0xc8 if plain => Operation::Monitor,
        0xc9 if plain => Operation::Mwait,
        0xd1 if plain => Operation::Xsetbv,
        _ if modrm.opcode() < 6 => return None,
        _ => match (modrm.opcode(), modrm.operand(cursor)?) {
            (6, RegisterOrMemory::Register(register)) => {
                Operation::Lmsw(Source::Register(register))
            }
            (6, RegisterOrMemory::Memory(operand)) => Operation::Lmsw(Source::Memory(operand)),
            (7, RegisterOrMemory::Memory(operand)) => Operation::Invlpg(operand),
            _ => return None,
        },
    })
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
