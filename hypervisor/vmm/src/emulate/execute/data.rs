//! Moves: MOV with extension, byte order, condition.

use super::Step;
use crate::emulate::environment::{Environment, Fault};
use crate::emulate::flags::sign_extend;
use anchorite_vcpu::Rflags;
use iced_x86::{ConditionCode, Mnemonic};

impl<E: Environment> Step<'_, E> {
    /// `None` where the instruction is of another group.
    pub(super) fn data(&mut self) -> Option<Result<(), Fault>> {
        use Mnemonic as M;
        Some(match self.instruction.mnemonic() {
            M::Movsx | M::Movsxd => self.move_signed(),
            M::Movbe => self.move_swapped(),
            M::Seta
            | M::Setae
            | M::Setb
            | M::Setbe
            | M::Sete
            | M::Setg
            | M::Setge
            | M::Setl
            | M::Setle
            | M::Setne
            | M::Setno
            | M::Setnp
            | M::Setns
            | M::Seto
            | M::Setp
            | M::Sets => self.set_condition(),
            M::Cmova
            | M::Cmovae
            | M::Cmovb
            | M::Cmovbe
            | M::Cmove
            | M::Cmovg
            | M::Cmovge
            | M::Cmovl
            | M::Cmovle
            | M::Cmovne
            | M::Cmovno
            | M::Cmovnp
            | M::Cmovns
            | M::Cmovo
            | M::Cmovp
            | M::Cmovs => self.move_condition(),
            _ => return None,
        })
    }

    /// MOV, MOVNTI, MOVZX.
    pub(super) fn mov(&mut self) -> Result<(), Fault> {
        let value = self.read(1)?;
        self.write(0, value)
    }

    fn move_signed(&mut self) -> Result<(), Fault> {
        let value = self.read(1)?;
        self.write(0, sign_extend(value, self.size(1)))
    }

    fn move_swapped(&mut self) -> Result<(), Fault> {
        let value = self.read(1)?;
        let unused = 64 - 8 * u32::from(self.size(1));
        self.write(0, value.swap_bytes() >> unused)
    }

    fn set_condition(&mut self) -> Result<(), Fault> {
        let holds = self.condition();
        self.write(0, holds.into())
    }

    /// The source is loaded, and may fault, whatever the condition; a destination of
    /// four bytes loses its upper half even where nothing is moved.
    fn move_condition(&mut self) -> Result<(), Fault> {
        let moved = self.read(1)?;
        let kept = self.read(0)?;
        let value = if self.condition() { moved } else { kept };
        self.write(0, value)
    }

    /// Source: SDM vol. 1, appendix B "EFLAGS Condition Codes".
    fn condition(&self) -> bool {
        let flag = |flag: Rflags| self.has_flag(flag);
        let less = flag(Rflags::SF) != flag(Rflags::OF);
        match self.instruction.condition_code() {
            ConditionCode::None => true,
            ConditionCode::o => flag(Rflags::OF),
            ConditionCode::no => !flag(Rflags::OF),
            ConditionCode::b => flag(Rflags::CF),
            ConditionCode::ae => !flag(Rflags::CF),
            ConditionCode::e => flag(Rflags::ZF),
            ConditionCode::ne => !flag(Rflags::ZF),
            ConditionCode::be => flag(Rflags::CF) || flag(Rflags::ZF),
            ConditionCode::a => !flag(Rflags::CF) && !flag(Rflags::ZF),
            ConditionCode::s => flag(Rflags::SF),
            ConditionCode::ns => !flag(Rflags::SF),
            ConditionCode::p => flag(Rflags::PF),
            ConditionCode::np => !flag(Rflags::PF),
            ConditionCode::l => less,
            ConditionCode::ge => !less,
            ConditionCode::le => less || flag(Rflags::ZF),
            ConditionCode::g => !less && !flag(Rflags::ZF),
        }
    }
}
