//! VMCALL and VMMCALL.

use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_abi::hypercall::{DENIED, NOP, UNKNOWN, ZAP_ALL};
use anchorite_vcpu::{Gpr, Vcpu};

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// The number comes in EAX, the answer goes there; see [`anchorite_abi::hypercall`].
    #[inline]
    pub(crate) fn hypercall(&mut self) {
        let number = self.vcpu.regs()[Gpr::Rax] as u32;
        let answer = if number == NOP { 0 } else { self.kernel_call(number) };
        self.vcpu.regs_mut()[Gpr::Rax] = answer.into();
    }

    /// What changes the machine is the kernel's business.
    fn kernel_call(&mut self, number: u32) -> u32 {
        if self.vcpu.cpl() != 0 {
            return DENIED;
        }
        if number == ZAP_ALL {
            self.translation.zap_all();
            return 0;
        }
        self.window_call(number).unwrap_or(UNKNOWN)
    }
}
