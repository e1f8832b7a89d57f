//! XCHG, XADD and the compare-and-exchange family.

use super::Step;
use crate::emulate::address::Access;
use crate::emulate::environment::{Environment, Exception, Fault};
use crate::emulate::flags::{self, add, subtract};
use crate::emulate::operands::Target;
use anchorite_vcpu::{Gpr, Vector};
use iced_x86::{Mnemonic, Register};

impl<E: Environment> Step<'_, E> {
    /// `None` where the instruction is of another group.
    pub(super) fn exchange(&mut self) -> Option<Result<(), Fault>> {
        Some(match self.instruction.mnemonic() {
            Mnemonic::Xchg => self.swap(),
            Mnemonic::Xadd => self.exchange_and_add(),
            Mnemonic::Cmpxchg => self.compare_and_exchange(),
            Mnemonic::Cmpxchg8b => self.compare_and_exchange_8(),
            Mnemonic::Cmpxchg16b => self.compare_and_exchange_16(),
            _ => return None,
        })
    }

    fn swap(&mut self) -> Result<(), Fault> {
        let other = self.read(1)?;
        let (old, target) = self.read_target()?;
        self.write_target(target, old, other)?;
        self.write(1, old)
    }

    fn exchange_and_add(&mut self) -> Result<(), Fault> {
        let other = self.read(1)?;
        let (old, target) = self.read_target()?;
        let sum = add(old, other, false, self.size(0));
        self.write(1, old)?;
        self.write_target(target, old, sum.value)?;
        self.set_flags(sum);
        Ok(())
    }

    /// Memory is written either way: the CPU puts the old value back.
    fn compare_and_exchange(&mut self) -> Result<(), Fault> {
        let accumulator = accumulator(self.size(0));
        let (expected, new) = (self.register(accumulator)?, self.read(1)?);
        let (old, target) = self.read_target()?;

        if expected == old {
            self.write_target(target, old, new)?;
        } else {
            if let Target::Memory(_) = target {
                self.write_target(target, old, old)?;
            }
            self.set_register(accumulator, old)?;
        }
        self.set_flags(subtract(expected, old, false, self.size(0)));
        Ok(())
    }

    fn compare_and_exchange_8(&mut self) -> Result<(), Fault> {
        let (old, target) = self.read_target()?;
        let equal = self.pair(Register::EDX, Register::EAX)? == old;
        let new = if equal { self.pair(Register::ECX, Register::EBX)? } else { old };
        self.write_target(target, old, new)?;

        if !equal {
            self.set_register(Register::EAX, old)?;
            self.set_register(Register::EDX, old >> 32)?;
        }
        self.set_flags(flags::zero(equal));
        Ok(())
    }

    /// Two halves, one after the other: other vCPUs can see the first alone. Such a
    /// race needs 16-byte atomics on memory whose writes are emulated.
    fn compare_and_exchange_16(&mut self) -> Result<(), Fault> {
        let address = self.address(16, Access::ReadForWrite)?;
        if address.as_u64() % 16 != 0 {
            return Err(Exception::with_zero_code(Vector::GENERAL_PROTECTION, self.mode).into());
        }
        let halves = [address, address.wrapping_add(8)];
        let old = [
            self.environment.load(halves[0], 8, Access::ReadForWrite)?,
            self.environment.load(halves[1], 8, Access::ReadForWrite)?,
        ];
        let gpr = |register| self.registers[register];
        let equal = old == [gpr(Gpr::Rax), gpr(Gpr::Rdx)];
        let new = if equal { [gpr(Gpr::Rbx), gpr(Gpr::Rcx)] } else { old };

        self.environment.check_store(address, 16)?;
        self.environment.store(halves[0], 8, new[0])?;
        self.environment.store(halves[1], 8, new[1])?;
        if !equal {
            [self.registers[Gpr::Rax], self.registers[Gpr::Rdx]] = old;
        }
        self.set_flags(flags::zero(equal));
        Ok(())
    }

    fn pair(&self, high: Register, low: Register) -> Result<u64, Fault> {
        Ok(self.register(high)? << 32 | self.register(low)?)
    }
}

const fn accumulator(size: u8) -> Register {
    match size {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    }
}
