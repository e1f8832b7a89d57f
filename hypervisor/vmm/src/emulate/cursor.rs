//! The bytes of one instruction: prefixes, displacements, immediates.
//!
//! Source: SDM vol. 2, 2.1.1 "Instruction Prefixes", 2.2.1 "REX Prefixes".

use super::mode::CodeSize;
use anchorite_vcpu::SegmentRegister;

/// REX.W, asks for 64-bit operands.
const REX_W: u8 = 1 << 3;

/// The bytes of one instruction and what its prefixes said.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(super) position: usize,
    pub(super) rip: u64,
    pub(super) code: CodeSize,
    pub(super) segment: Option<SegmentRegister>,
    pub(super) address_override: bool,
    pub(super) operand_override: bool,
    pub(super) lock: bool,
    /// 0xf2 or 0xf3.
    pub(super) repeat: Option<u8>,
    /// The REX prefix, 0x40 to 0x4f; 0 where there is none.
    pub(super) rex: u8,
    /// Bytes of the immediate behind the memory operand, which addresses relative to
    /// RIP count too.
    pub(super) immediate_bytes: u8,
    /// More bytes were asked for than there are.
    pub(super) truncated: bool,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8], rip: u64, code: CodeSize) -> Self {
        Self {
            bytes,
            position: 0,
            rip,
            code,
            segment: None,
            address_override: false,
            operand_override: false,
            lock: false,
            repeat: None,
            rex: 0,
            immediate_bytes: 0,
            truncated: false,
        }
    }

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

    /// Address of the next instruction, once only the immediate is left.
    pub(super) fn next_rip(&self) -> u64 {
        self.rip.wrapping_add(self.position as u64 + u64::from(self.immediate_bytes))
    }

    /// Bytes of an address: 2, 4 or 8.
    pub(super) const fn address_bytes(&self) -> u8 {
        match (self.code, self.address_override) {
            (CodeSize::Bits64, false) => 8,
            (CodeSize::Bits64 | CodeSize::Bits16, true) | (CodeSize::Bits32, false) => 4,
            (CodeSize::Bits32, true) | (CodeSize::Bits16, false) => 2,
        }
    }

    /// The first byte of the opcode.
    pub(super) fn skip_prefixes(&mut self) -> Option<u8> {
        loop {
            let byte = self.byte()?;
            match byte {
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => self.override_segment(byte),
                0x66 => self.operand_override = true,
                0x67 => self.address_override = true,
                0xf2 | 0xf3 => self.repeat = Some(byte),
                0xf0 => self.lock = true,
                0x40..=0x4f if matches!(self.code, CodeSize::Bits64) => {
                    self.rex = byte;
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
    pub(super) const fn word_bytes(&self) -> u8 {
        match (self.code, self.operand_override) {
            (CodeSize::Bits64, true) if self.rex & REX_W != 0 => 4,
            (CodeSize::Bits16, false) | (CodeSize::Bits32 | CodeSize::Bits64, true) => 2,
            _ => 4,
        }
    }

    /// Whether REX.W asks for 64-bit operands.
    pub(super) const fn is_wide(&self) -> bool {
        self.rex & REX_W != 0
    }

    /// Whether a prefix is there that selects another instruction in some opcode rows.
    pub(super) const fn has_mandatory_prefix(&self) -> bool {
        self.operand_override || self.repeat.is_some()
    }
}
