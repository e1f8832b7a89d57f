//! SSE moves between memory and XMM registers.
//!
//! The CPU has checked CR0.EM, CR0.TS and CR4.OSFXSR before it accessed memory, so
//! an instruction that comes here may use its registers.

use super::Step;
use crate::emulate::address::Access;
use crate::emulate::environment::{Environment, Exception, Fault};
use anchorite_addr::Gva;
use anchorite_vcpu::Vector;
use iced_x86::{Mnemonic, OpKind, Register};

/// Which part of a register is moved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All 16 bytes, at any address.
    Whole,
    /// All 16 bytes, at a multiple of 16.
    Aligned,
    /// The low bytes; a load clears the others.
    Low(u8),
    /// The low half; a load keeps the upper one.
    LowHalf,
    /// The upper half; a load keeps the low one.
    HighHalf,
}

impl Part {
    const fn size(self) -> u8 {
        match self {
            Self::Whole | Self::Aligned => 16,
            Self::Low(size) => size,
            Self::LowHalf | Self::HighHalf => 8,
        }
    }
}

impl<E: Environment> Step<'_, E> {
    pub(super) fn vector(&mut self) -> Result<(), Fault> {
        let part = part(self.instruction.mnemonic()).ok_or(Fault::Unsupported)?;
        match (self.instruction.op0_kind(), self.instruction.op1_kind()) {
            (OpKind::Memory, OpKind::Register) => {
                self.store_vector(self.instruction.op1_register(), part)
            }
            (OpKind::Register, OpKind::Memory) => {
                self.load_vector(self.instruction.op0_register(), part)
            }
            _ => Err(Fault::Unsupported),
        }
    }

    fn store_vector(&mut self, register: Register, part: Part) -> Result<(), Fault> {
        let value = self.environment.xmm(xmm_number(register)?)?;
        let address = self.vector_address(part, Access::Write)?;
        let (low, high) = (value as u64, (value >> 64) as u64);
        match part {
            Part::Whole | Part::Aligned => {
                self.environment.check_store(address, 16)?;
                self.environment.store(address, 8, low)?;
                self.environment.store(address.wrapping_add(8), 8, high)
            }
            Part::HighHalf => self.environment.store(address, 8, high),
            Part::LowHalf => self.environment.store(address, 8, low),
            Part::Low(size) => {
                self.environment.store(address, size, low & crate::emulate::flags::mask(size))
            }
        }
    }

    fn load_vector(&mut self, register: Register, part: Part) -> Result<(), Fault> {
        let number = xmm_number(register)?;
        let old = self.environment.xmm(number)?;
        let address = self.vector_address(part, Access::Read)?;
        let first = self.environment.load(address, part.size().min(8), Access::Read)?;
        let value = match part {
            Part::Whole | Part::Aligned => {
                let second = self.environment.load(address.wrapping_add(8), 8, Access::Read)?;
                u128::from(first) | u128::from(second) << 64
            }
            Part::HighHalf => u128::from(old as u64) | u128::from(first) << 64,
            Part::LowHalf => old >> 64 << 64 | u128::from(first),
            Part::Low(_) => first.into(),
        };
        self.environment.set_xmm(number, value)
    }

    fn vector_address(&self, part: Part, access: Access) -> Result<Gva, Fault> {
        let address = self.address(part.size(), access)?;
        if part == Part::Aligned && address.as_u64() % 16 != 0 {
            return Err(Exception::with_zero_code(Vector::GENERAL_PROTECTION, self.mode).into());
        }
        Ok(address)
    }
}

fn part(mnemonic: Mnemonic) -> Option<Part> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => Part::Whole,
        M::Movaps | M::Movapd | M::Movdqa | M::Movntdq | M::Movntps | M::Movntpd | M::Movntdqa => {
            Part::Aligned
        }
        M::Movd | M::Movss => Part::Low(4),
        M::Movq | M::Movsd => Part::Low(8),
        M::Movlps | M::Movlpd => Part::LowHalf,
        M::Movhps | M::Movhpd => Part::HighHalf,
        _ => return None,
    })
}

/// MMX registers are refused: their file is the x87's.
fn xmm_number(register: Register) -> Result<u8, Fault> {
    if register.is_xmm() { Ok(register.number() as u8 & 15) } else { Err(Fault::Unsupported) }
}
