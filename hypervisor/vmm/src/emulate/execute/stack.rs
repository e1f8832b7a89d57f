//! PUSH, POP, and near branches through memory.

use super::{Flow, Step};
use crate::emulate::address::{Access, address_mask, linearize};
use crate::emulate::environment::{Environment, Exception, Fault};
use crate::emulate::flags::mask;
use crate::emulate::mode::CodeSize;
use anchorite_vcpu::{Gpr, SegmentRegister, Vector};
use iced_x86::OpKind;

impl<E: Environment> Step<'_, E> {
    pub(super) fn push_operand(&mut self) -> Result<(), Fault> {
        let size = self.stack_size();
        let value = match self.instruction.try_immediate(0) {
            Ok(immediate) => immediate,
            Err(_) => self.read(0)?,
        };
        self.push(value, size)
    }

    /// The destination's address is formed with the stack pointer already moved.
    ///
    /// Source: SDM vol. 2, "POP—Pop a Value From the Stack".
    pub(super) fn pop_operand(&mut self) -> Result<(), Fault> {
        let size = self.stack_size();
        let top = self.registers[Gpr::Rsp];
        let address = self.stack_address(top, size, Access::Read)?;
        let value = self.environment.load(address, size, Access::Read)?;
        self.set_stack_pointer(top.wrapping_add(size.into()));
        self.write(0, value)
    }

    pub(super) fn call(&mut self) -> Result<Flow, Fault> {
        let target = self.branch_target()?;
        let return_address = self.instruction.next_ip();
        self.push(return_address, self.stack_size())?;
        Ok(Flow::Jump(target))
    }

    pub(super) fn jump(&mut self) -> Result<Flow, Fault> {
        Ok(Flow::Jump(self.branch_target()?))
    }

    fn push(&mut self, value: u64, size: u8) -> Result<(), Fault> {
        let top = self.registers[Gpr::Rsp].wrapping_sub(size.into());
        let address = self.stack_address(top, size, Access::Write)?;
        self.environment.store(address, size, value & mask(size))?;
        self.set_stack_pointer(top);
        Ok(())
    }

    /// A near branch's target, checked against the code segment.
    fn branch_target(&mut self) -> Result<u64, Fault> {
        let target = match self.instruction.op0_kind() {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                self.instruction.near_branch_target()
            }
            OpKind::Register => self.read(0)?,
            OpKind::Memory if self.is_near() => self.read(0)?,
            _ => return Err(Fault::Unsupported),
        };

        let valid = match self.mode.code {
            CodeSize::Bits64 => self.mode.is_canonical(target),
            _ => target <= self.environment.segment(SegmentRegister::Cs).limit.into(),
        };
        let fault = Exception::with_zero_code(Vector::GENERAL_PROTECTION, self.mode);
        if valid { Ok(target) } else { Err(fault.into()) }
    }

    fn is_near(&self) -> bool {
        let code = self.instruction.code();
        code.is_call_near_indirect() || code.is_jmp_near_indirect()
    }

    fn stack_address(
        &self,
        top: u64,
        size: u8,
        access: Access,
    ) -> Result<anchorite_addr::Gva, Fault> {
        let offset = top & address_mask(self.mode.stack_bytes);
        Ok(linearize(self.environment, self.mode, SegmentRegister::Ss, offset, size, access)?)
    }

    /// Only as many bytes of RSP change as the stack segment has.
    fn set_stack_pointer(&mut self, top: u64) {
        let bits = address_mask(self.mode.stack_bytes);
        let kept = self.registers[Gpr::Rsp] & !bits;
        self.registers[Gpr::Rsp] = kept | top & bits;
    }

    /// Bytes that the instruction moves on the stack.
    fn stack_size(&self) -> u8 {
        match self.instruction.stack_pointer_increment().unsigned_abs() {
            2 => 2,
            4 => 4,
            _ => 8,
        }
    }
}
