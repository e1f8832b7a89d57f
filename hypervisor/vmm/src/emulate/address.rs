//! Memory operands: from registers to an offset, from an offset to a linear address.

use super::environment::{Environment, Exception};
use super::mode::{CodeSize, Mode};
use anchorite_addr::Gva;
use anchorite_vcpu::{Gpr, Registers, Segment, SegmentAttributes, SegmentRegister, Vector};

/// Segment type bit 3: code rather than data.
const TYPE_CODE: u32 = 1 << 3;
/// Segment type bit 2: data that grows down.
const TYPE_EXPAND_DOWN: u32 = 1 << 2;
/// Segment type bit 1: writable data, or readable code.
const TYPE_WRITABLE_OR_READABLE: u32 = 1 << 1;

/// Where an operand lies, before registers are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// The segment, overrides applied; in 64-bit mode only FS and GS have a base.
    pub segment: SegmentRegister,
    /// The base register.
    pub base: Option<Gpr>,
    /// The index register.
    pub index: Option<Gpr>,
    /// log2 of what the index is multiplied by, 0–3.
    pub shift: u8,
    /// The displacement, sign-extended; the target itself where RIP is the base.
    pub displacement: u64,
    /// Bytes of an address: 2, 4 or 8. The offset wraps there.
    pub address_bytes: u8,
}

impl MemoryOperand {
    /// Whether the segment has a base in 64-bit mode.
    #[inline]
    pub const fn has_long_base(&self) -> bool {
        has_long_base(self.segment)
    }

    /// The offset into the segment.
    #[inline]
    pub fn offset(&self, registers: &Registers) -> u64 {
        let base = self.base.map_or(0, |register| registers[register]);
        let index = self.index.map_or(0, |register| registers[register]) << self.shift;
        let sum = base.wrapping_add(index).wrapping_add(self.displacement);
        sum & address_mask(self.address_bytes)
    }

    /// The linear address without any check, as INVLPG uses it: `segment_base` is
    /// the base of [`segment`](Self::segment).
    #[inline]
    pub fn linear(&self, registers: &Registers, segment_base: u64, code: CodeSize) -> Gva {
        let offset = self.offset(registers);
        if code != CodeSize::Bits64 {
            return Gva::new(segment_base.wrapping_add(offset) & 0xffff_ffff);
        }
        let base = if self.has_long_base() { segment_base } else { 0 };
        Gva::new(base.wrapping_add(offset))
    }
}

/// What is done at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A load whose result is stored back: checked, and faults, like a store.
    ReadForWrite,
    /// A store.
    Write,
}

impl Access {
    /// Whether the location must be writable.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

/// All ones in an address of `bytes` bytes: 2, 4 or 8.
pub(crate) const fn address_mask(bytes: u8) -> u64 {
    match bytes {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// The linear address of `size` bytes at `offset` in `register`'s segment, or the
/// exception that the access raises.
///
/// Source: SDM vol. 3, 5.3 "Limit Checking", 5.5 "Privilege Levels" is not redone
/// (the segment was checked when it was loaded); vol. 1, 3.3.7.1 "Canonical Addressing".
pub fn linearize(
    environment: &impl Environment,
    mode: Mode,
    register: SegmentRegister,
    offset: u64,
    size: u8,
    access: Access,
) -> Result<Gva, Exception> {
    if mode.code == CodeSize::Bits64 {
        return linearize_long(environment, mode, register, offset, size);
    }

    let segment = environment.segment(register);
    let last = offset + u64::from(size.saturating_sub(1));
    let permitted = !mode.protected || type_permits(&segment, access);
    if permitted && within_limit(&segment, offset, last) {
        Ok(Gva::new(segment.base.wrapping_add(offset) & 0xffff_ffff))
    } else {
        Err(segment_fault(register, mode))
    }
}

fn linearize_long(
    environment: &impl Environment,
    mode: Mode,
    register: SegmentRegister,
    offset: u64,
    size: u8,
) -> Result<Gva, Exception> {
    let base = if has_long_base(register) { environment.segment(register).base } else { 0 };
    let first = base.wrapping_add(offset);
    let last = first.wrapping_add(u64::from(size.saturating_sub(1)));
    if mode.is_canonical(first) && mode.is_canonical(last) {
        Ok(Gva::new(first))
    } else {
        Err(segment_fault(register, mode))
    }
}

/// Outside 64-bit mode `offset` has at most 32 bits, so `last` cannot wrap.
fn within_limit(segment: &Segment, offset: u64, last: u64) -> bool {
    let limit = u64::from(segment.limit);
    if !expands_down(segment) {
        return last <= limit;
    }
    let wide = segment.attributes.contains(SegmentAttributes::DEFAULT_32);
    let top = if wide { 0xffff_ffff } else { 0xffff };
    offset > limit && last <= top
}

fn type_permits(segment: &Segment, access: Access) -> bool {
    let kind = segment.attributes.bits();
    if segment.attributes.contains(SegmentAttributes::UNUSABLE) {
        return false;
    }
    let code = kind & TYPE_CODE != 0;
    let open = kind & TYPE_WRITABLE_OR_READABLE != 0;
    if access.writes() { !code && open } else { !code || open }
}

fn expands_down(segment: &Segment) -> bool {
    let kind = segment.attributes.bits();
    kind & TYPE_CODE == 0 && kind & TYPE_EXPAND_DOWN != 0
}

const fn has_long_base(register: SegmentRegister) -> bool {
    matches!(register, SegmentRegister::Fs | SegmentRegister::Gs)
}

fn segment_fault(register: SegmentRegister, mode: Mode) -> Exception {
    let vector = match register {
        SegmentRegister::Ss => Vector::STACK_FAULT,
        _ => Vector::GENERAL_PROTECTION,
    };
    Exception::with_zero_code(vector, mode)
}

#[cfg(test)]
mod tests;
