//! CPUID.

use crate::action::ExitAction;
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_vcpu::{Gpr, Vcpu};

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    #[inline]
    pub(crate) fn cpuid(&mut self) -> ExitAction {
        let registers = self.vcpu.regs_mut();
        let leaf = self.cpuid.get(registers[Gpr::Rax] as u32, registers[Gpr::Rcx] as u32);
        registers[Gpr::Rax] = leaf.eax.into();
        registers[Gpr::Rbx] = leaf.ebx.into();
        registers[Gpr::Rcx] = leaf.ecx.into();
        registers[Gpr::Rdx] = leaf.edx.into();
        self.skip()
    }
}
