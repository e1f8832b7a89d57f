//! VMCALL and VMMCALL.

use crate::action::ExitAction;
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_abi::{HYPERCALL_NOP, HYPERCALL_UNKNOWN, HYPERCALL_ZAP_ALL};
use anchorite_vcpu::{Gpr, Vcpu};

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// The number comes in EAX, the answer goes there. Any privilege level may call:
    /// no call gives a guest what it does not have.
    #[inline]
    pub(crate) fn hypercall(&mut self) -> ExitAction {
        let number = self.vcpu.regs()[Gpr::Rax] as u32;
        let answer = match number {
            HYPERCALL_NOP => 0,
            HYPERCALL_ZAP_ALL => {
                self.translation.zap_all();
                0
            }
            _ => HYPERCALL_UNKNOWN,
        };
        self.vcpu.regs_mut()[Gpr::Rax] = answer.into();
        self.skip()
    }
}
