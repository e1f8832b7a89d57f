//! HLT.

use crate::action::{ExitAction, Stop};
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_vcpu::Vcpu;

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// Waits until something wakes the CPU, and goes on behind the instruction.
    pub(crate) fn halt(&mut self) -> ExitAction {
        if !self.interrupts_enabled() && !self.events.nmi {
            return ExitAction::Stop(Stop::Halted);
        }
        while !self.is_woken() {
            if self.left >= self.alarm {
                if let Err(stop) = self.ring() {
                    return ExitAction::Stop(stop);
                }
            }
            self.sleep();
        }
        self.skip()
    }

    fn is_woken(&self) -> bool {
        let held = self.vcpu.queued_event().is_some();
        held || self.events.nmi || self.devices.interrupts.is_pending()
    }

    /// Sleeps once, or works off a little of what the translation put off for such a time.
    /// The time does not count as the exit's cost.
    fn sleep(&mut self) {
        self.serve_devices();
        if self.devices.interrupts.is_pending() {
            return;
        }
        let before = self.host.ticks();
        if !self.translation.idle_slice() {
            self.host.idle(self.wake);
        }
        let slept = self.host.ticks().wrapping_sub(before);
        self.counters.idle_ticks += slept;
        self.left = self.left.wrapping_add(slept);
        self.serve_devices();
    }
}
