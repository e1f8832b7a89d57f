//! Arithmetic on operands of 1, 2, 4 or 8 bytes, and the RFLAGS it leaves.
//!
//! Operands are zero-extended; so are results. Flags that the manual leaves
//! undefined get a value all the same, the same on every run.
//!
//! Source: SDM vol. 1, appendix A "EFLAGS Cross-Reference"; vol. 2, the instructions.

use anchorite_vcpu::Rflags;

const CF: u64 = Rflags::CF.bits();
const PF: u64 = Rflags::PF.bits();
const AF: u64 = Rflags::AF.bits();
const ZF: u64 = Rflags::ZF.bits();
const SF: u64 = Rflags::SF.bits();
const OF: u64 = Rflags::OF.bits();
/// The six flags that arithmetic sets.
pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// A result and what it does to RFLAGS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computed {
    /// The result, zero-extended.
    pub value: u64,
    /// The flags that are set, out of `affected`.
    flags: u64,
    /// The flags that change.
    affected: u64,
}

impl Computed {
    /// RFLAGS after the instruction.
    pub const fn apply(self, rflags: u64) -> u64 {
        rflags & !self.affected | self.flags & self.affected
    }

    /// The same result with one flag left alone, as INC and DEC leave CF.
    const fn keeping(self, flag: u64) -> Self {
        Self { affected: self.affected & !flag, ..self }
    }

    const fn unchanged(value: u64) -> Self {
        Self { value, flags: 0, affected: 0 }
    }
}

/// All ones in `size` bytes.
pub const fn mask(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// `value`, of `size` bytes, sign-extended to 64 bits.
pub const fn sign_extend(value: u64, size: u8) -> u64 {
    let sign = sign(size);
    ((value & mask(size)) ^ sign).wrapping_sub(sign)
}

/// Bytes from the operand named to the one that holds bit `number` (signed).
pub(crate) const fn operand_distance(number: u64, size: u8) -> u64 {
    let bits = 8 * size as u64;
    let shift = bits.trailing_zeros();
    // An arithmetic shift: fill with the sign.
    let fill = if number >> 63 != 0 { !(u64::MAX >> shift) } else { 0 };
    (number >> shift | fill).wrapping_mul(size as u64)
}

/// ADD and ADC.
pub fn add(a: u64, b: u64, carry: bool, size: u8) -> Computed {
    let value = a.wrapping_add(b).wrapping_add(carry.into()) & mask(size);
    let carries = a & b | (a | b) & !value;
    let overflow = (a ^ value) & (b ^ value);
    arithmetic(a, b, value, carries, overflow, size)
}

/// SUB, SBB, CMP.
pub fn subtract(a: u64, b: u64, borrow: bool, size: u8) -> Computed {
    let value = a.wrapping_sub(b).wrapping_sub(borrow.into()) & mask(size);
    let borrows = !a & b | (!a | b) & value;
    let overflow = (a ^ b) & (a ^ value);
    arithmetic(a, b, value, borrows, overflow, size)
}

/// INC.
pub fn increment(a: u64, size: u8) -> Computed {
    add(a, 1, false, size).keeping(CF)
}

/// DEC.
pub fn decrement(a: u64, size: u8) -> Computed {
    subtract(a, 1, false, size).keeping(CF)
}

/// AND, OR, XOR, TEST: the flags of a result that cannot carry.
pub fn logic(value: u64, size: u8) -> Computed {
    Computed { value, flags: of_result(value, size), affected: STATUS }
}

/// BT and its kin: CF is `bit`, and nothing else changes.
pub fn carry(value: u64, bit: bool) -> Computed {
    Computed { value, flags: flag(bit, CF), affected: CF }
}

/// CMPXCHG8B and CMPXCHG16B: ZF says whether they stored.
pub fn zero(equal: bool) -> Computed {
    Computed { value: 0, flags: flag(equal, ZF), affected: ZF }
}

/// A shift or rotation by `count` (masked here as the CPU masks it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// ROL.
    RotateLeft,
    /// ROR.
    RotateRight,
    /// RCL.
    RotateCarryLeft,
    /// RCR.
    RotateCarryRight,
    /// SHL, SAL.
    Left,
    /// SHR.
    Right,
    /// SAR.
    ArithmeticRight,
}

/// Shifts `a`; `carry_in` is CF before.
pub fn shift(kind: Shift, a: u64, count: u8, carry_in: bool, size: u8) -> Computed {
    let count = u32::from(count & if size == 8 { 63 } else { 31 });
    let bits = 8 * u32::from(size);
    if count == 0 {
        return Computed::unchanged(a);
    }
    match kind {
        Shift::RotateLeft | Shift::RotateRight => rotate(kind, a, count, size),
        Shift::RotateCarryLeft => rotate_carry(a, count % (bits + 1), carry_in, size, true),
        Shift::RotateCarryRight => rotate_carry(a, count % (bits + 1), carry_in, size, false),
        Shift::Left => {
            let wide = u128::from(a) << count;
            let carry = wide >> bits & 1 != 0;
            let value = wide as u64 & mask(size);
            shifted(value, carry, carry != negative(value, size), size)
        }
        Shift::Right => shifted(a >> count, a >> (count - 1) & 1 != 0, negative(a, size), size),
        Shift::ArithmeticRight => {
            let fill = if negative(a, size) { u128::MAX << 64 } else { 0 };
            let wide = u128::from(sign_extend(a, size)) | fill;
            let value = (wide >> count) as u64 & mask(size);
            shifted(value, wide >> (count - 1) & 1 != 0, false, size)
        }
    }
}

/// SHLD (`left`) and SHRD: shifts `a` and fills with the bits of `b`.
pub fn double_shift(left: bool, a: u64, b: u64, count: u8, size: u8) -> Computed {
    let count = u32::from(count & if size == 8 { 63 } else { 31 });
    let bits = 8 * u32::from(size);
    if count == 0 {
        return Computed::unchanged(a);
    }

    let (value, carry) = if left {
        let wide = u128::from(a) << bits | u128::from(b);
        let rotated = wide.rotate_left(128 - 2 * bits);
        let value = (rotated << count >> (128 - bits)) as u64;
        (value, rotated >> (128 - count) & 1 != 0)
    } else {
        let wide = u128::from(b) << bits | u128::from(a);
        ((wide >> count) as u64, wide >> (count - 1) & 1 != 0)
    };
    let value = value & mask(size);
    shifted(value, carry, negative(value ^ a, size), size)
}

fn rotate(kind: Shift, a: u64, count: u32, size: u8) -> Computed {
    let bits = 8 * u32::from(size);
    let left = if kind == Shift::RotateLeft { count % bits } else { bits - count % bits };
    let wide = u128::from(a) << (left % bits);
    let value = (wide | wide >> bits) as u64 & mask(size);
    let top = negative(value, size);
    let (carry, overflow) = match kind {
        Shift::RotateLeft => (value & 1 != 0, top != (value & 1 != 0)),
        _ => (top, top != (value & sign(size) >> 1 != 0)),
    };
    let flags = flag(carry, CF) | flag(overflow, OF);
    Computed { value, flags, affected: CF | OF }
}

/// Rotates `a` with the carry as its highest bit, one place at a time.
fn rotate_carry(a: u64, count: u32, carry_in: bool, size: u8, left: bool) -> Computed {
    if count == 0 {
        return Computed::unchanged(a);
    }
    let (mut value, mut carry) = (a, carry_in);
    for _ in 0..count {
        let filled = u64::from(carry);
        if left {
            carry = negative(value, size);
            value = (value << 1 | filled) & mask(size);
        } else {
            carry = value & 1 != 0;
            value = value >> 1 | if filled != 0 { sign(size) } else { 0 };
        }
    }
    let top = negative(value, size);
    let overflow = if left { top != carry } else { top != (value & sign(size) >> 1 != 0) };
    Computed { value, flags: flag(carry, CF) | flag(overflow, OF), affected: CF | OF }
}

fn shifted(value: u64, carry: bool, overflow: bool, size: u8) -> Computed {
    let flags = of_result(value, size) | flag(carry, CF) | flag(overflow, OF);
    Computed { value, flags, affected: STATUS }
}

/// `carries` and `overflow` have their answer in the sign bit of the size.
fn arithmetic(a: u64, b: u64, value: u64, carries: u64, overflow: u64, size: u8) -> Computed {
    let flags = of_result(value, size)
        | flag(negative(carries, size), CF)
        | flag(negative(overflow, size), OF)
        | flag((a ^ b ^ value) & 0x10 != 0, AF);
    Computed { value, flags, affected: STATUS }
}

/// ZF, SF and PF; PF looks at the lowest byte only.
fn of_result(value: u64, size: u8) -> u64 {
    let even = (value as u8).count_ones() % 2 == 0;
    flag(value & mask(size) == 0, ZF) | flag(negative(value, size), SF) | flag(even, PF)
}

const fn sign(size: u8) -> u64 {
    mask(size) ^ mask(size) >> 1
}

const fn negative(value: u64, size: u8) -> bool {
    value & sign(size) != 0
}

const fn flag(set: bool, flag: u64) -> u64 {
    if set { flag } else { 0 }
}
