//! CPUID.

use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_vcpu::{ControlRegister, Cr4, Gpr, Vcpu};

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// CPUID, the instruction's length apart.
    #[inline]
    pub(crate) fn cpuid(&mut self) {
        let (leaf, subleaf) = {
            let registers = self.vcpu.regs();
            (registers[Gpr::Rax] as u32, registers[Gpr::Rcx] as u32)
        };
        let shown = self.cpuid.get(leaf, subleaf, || self.extended_control());
        let registers = self.vcpu.regs_mut();
        registers[Gpr::Rax] = shown.eax.into();
        registers[Gpr::Rbx] = shown.ebx.into();
        registers[Gpr::Rcx] = shown.ecx.into();
        registers[Gpr::Rdx] = shown.edx.into();
    }

    /// CR4, and XCR0, which is looked at where the guest has it only.
    fn extended_control(&self) -> (Cr4, u64) {
        let cr4 = Cr4::from_bits_retain(self.vcpu.control(ControlRegister::Cr4));
        let has_xcr0 = self.cpuid.layout().states != 0;
        (cr4, if has_xcr0 { self.vcpu.control(ControlRegister::Xcr0) } else { 1 })
    }
}
