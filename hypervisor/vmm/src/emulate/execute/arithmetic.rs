//! Arithmetic, logic, bit tests, shifts.

use super::Step;
use crate::emulate::environment::{Environment, Fault};
use crate::emulate::flags::{
    self, Computed, Shift, add, decrement, increment, logic, mask, operand_distance, sign_extend,
    subtract,
};
use anchorite_vcpu::Rflags;
use iced_x86::{Mnemonic, OpKind};

/// What a bit test does with its bit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bit {
    Keep,
    Set,
    Reset,
    Complement,
}

impl<E: Environment> Step<'_, E> {
    /// `None` where the instruction is of another group.
    pub(super) fn arithmetic(&mut self) -> Option<Result<(), Fault>> {
        use Mnemonic as M;
        let carry = self.has_flag(Rflags::CF);
        Some(match self.instruction.mnemonic() {
            M::Add => self.binary(|a, b, size| add(a, b, false, size)),
            M::Adc => self.binary(|a, b, size| add(a, b, carry, size)),
            M::Sub => self.binary(|a, b, size| subtract(a, b, false, size)),
            M::Sbb => self.binary(|a, b, size| subtract(a, b, carry, size)),
            M::And => self.binary(|a, b, size| logic(a & b, size)),
            M::Or => self.binary(|a, b, size| logic(a | b, size)),
            M::Xor => self.binary(|a, b, size| logic(a ^ b, size)),
            M::Cmp => self.compare(|a, b, size| subtract(a, b, false, size)),
            M::Test => self.compare(|a, b, size| logic(a & b, size)),
            M::Inc => self.unary(increment),
            M::Dec => self.unary(decrement),
            M::Neg => self.unary(|a, size| subtract(0, a, false, size)),
            M::Not => self.not(),
            M::Bt => self.bit(Bit::Keep),
            M::Bts => self.bit(Bit::Set),
            M::Btr => self.bit(Bit::Reset),
            M::Btc => self.bit(Bit::Complement),
            _ => return self.shifts(carry),
        })
    }

    fn shifts(&mut self, carry: bool) -> Option<Result<(), Fault>> {
        let kind = match self.instruction.mnemonic() {
            Mnemonic::Rol => Shift::RotateLeft,
            Mnemonic::Ror => Shift::RotateRight,
            Mnemonic::Rcl => Shift::RotateCarryLeft,
            Mnemonic::Rcr => Shift::RotateCarryRight,
            Mnemonic::Shl | Mnemonic::Sal => Shift::Left,
            Mnemonic::Shr => Shift::Right,
            Mnemonic::Sar => Shift::ArithmeticRight,
            Mnemonic::Shld => return Some(self.double_shift(true)),
            Mnemonic::Shrd => return Some(self.double_shift(false)),
            _ => return None,
        };
        Some(self.binary(|a, count, size| flags::shift(kind, a, count as u8, carry, size)))
    }

    fn binary(&mut self, compute: impl Fn(u64, u64, u8) -> Computed) -> Result<(), Fault> {
        let right = self.read(1)?;
        self.unary(|left, size| compute(left, right, size))
    }

    fn unary(&mut self, compute: impl Fn(u64, u8) -> Computed) -> Result<(), Fault> {
        let (old, target) = self.read_target()?;
        let computed = compute(old, self.size(0));
        self.write_target(target, old, computed.value)?;
        self.set_flags(computed);
        Ok(())
    }

    fn compare(&mut self, compute: impl Fn(u64, u64, u8) -> Computed) -> Result<(), Fault> {
        let (left, right) = (self.read(0)?, self.read(1)?);
        let computed = compute(left, right, self.size(0));
        self.set_flags(computed);
        Ok(())
    }

    fn not(&mut self) -> Result<(), Fault> {
        let (old, target) = self.read_target()?;
        self.write_target(target, old, !old & mask(self.size(0)))
    }

    /// A bit number in a register reaches beyond a memory operand, either way; an
    /// immediate one, or one of a register operand, is taken modulo its size.
    ///
    /// Source: SDM vol. 2, "BT—Bit Test".
    fn bit(&mut self, action: Bit) -> Result<(), Fault> {
        let (number, size) = (self.read(1)?, self.size(0));
        let far = self.instruction.op0_kind() == OpKind::Memory
            && self.instruction.op1_kind() == OpKind::Register;
        let distance = if far { operand_distance(sign_extend(number, size), size) } else { 0 };
        let bit = 1 << (number % (8 * u64::from(size)));

        if action == Bit::Keep {
            let old = self.read_at(distance)?;
            self.set_flags(flags::carry(old, old & bit != 0));
            return Ok(());
        }

        let (old, target) = self.read_target_at(distance)?;
        let new = match action {
            Bit::Set => old | bit,
            Bit::Reset => old & !bit,
            _ => old ^ bit,
        };
        self.write_target(target, old, new)?;
        self.set_flags(flags::carry(new, old & bit != 0));
        Ok(())
    }

    fn double_shift(&mut self, left: bool) -> Result<(), Fault> {
        let (filler, count) = (self.read(1)?, self.read(2)? as u8);
        self.unary(|a, size| flags::double_shift(left, a, filler, count, size))
    }
}
