//! Intercepted exceptions, #PF among them.

use crate::action::{ExitAction, Stop};
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::{FaultOutcome, Translation};
use anchorite_addr::Gva;
use anchorite_shadow::{Access, AccessKind, ErrorCode, PageFault};
use anchorite_vcpu::exit::ExceptionExit;
use anchorite_vcpu::{ControlRegister, Event, EventKind, Vcpu, Vector};

/// DR7.GD, which the CPU clears before it enters a #DB handler.
const DR7_GENERAL_DETECT: u64 = 1 << 13;

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    pub(crate) fn exception(&mut self, exit: &ExceptionExit) -> ExitAction {
        match exit.vector {
            Vector::PAGE_FAULT => self.page_fault(exit),
            Vector::DEBUG => self.debug_exception(exit),
            Vector::MACHINE_CHECK => ExitAction::Stop(Stop::MachineCheck),
            Vector::BREAKPOINT | Vector::OVERFLOW => self.software_exception(exit),
            _ => ExitAction::Inject(as_reported(exit)),
        }
    }

    fn page_fault(&mut self, exit: &ExceptionExit) -> ExitAction {
        let gva = Gva::new(exit.qualification);
        let access = self.access(exit);
        match self.translation.page_fault(self.memory.slots(), gva, access) {
            FaultOutcome::Resolved => ExitAction::Resume,
            FaultOutcome::Spurious => self.refused(exit),
            FaultOutcome::Guest(fault) => self.page_fault_for_guest(fault),
            FaultOutcome::Emulate { gpa } => self.table_write_at(gva, gpa),
            FaultOutcome::Reflect => {
                self.vcpu.set_control(ControlRegister::Cr2, gva.as_u64());
                ExitAction::Inject(as_reported(exit))
            }
            FaultOutcome::Mmio { gpa } if access.is_fetch() => super::nested_fault::no_code(gpa),
            outcome => self.resolve(outcome),
        }
    }

    /// What the guest tried, of which the hardware's error code tells the kind and
    /// the privilege rightly even under a shadow root.
    #[inline]
    pub(super) fn access(&self, exit: &ExceptionExit) -> Access {
        let code = ErrorCode::from_bits_retain(exit.error_code.unwrap_or(0));
        let kind = if code.contains(ErrorCode::FETCH) {
            AccessKind::Execute
        } else if code.contains(ErrorCode::WRITE) {
            AccessKind::Write
        } else {
            AccessKind::Read
        };
        let user = code.contains(ErrorCode::USER);
        // A supervisor access while CPL is 3 is the CPU's own, to a table.
        let implicit = !user && self.vcpu.cpl() == 3;
        Access { kind, user, implicit, ac: self.alignment_flag(), pkru: self.pkru() }
    }

    /// Raises #PF in the guest, as our own walk of its tables found it.
    pub(super) fn page_fault_for_guest(&mut self, fault: PageFault) -> ExitAction {
        self.vcpu.set_control(ControlRegister::Cr2, fault.cr2.as_u64());
        ExitAction::Inject(Event::fault(Vector::PAGE_FAULT, fault.code.bits()))
    }

    /// DR6 gets the causes where the CPU has not put them there before the exit.
    fn debug_exception(&mut self, exit: &ExceptionExit) -> ExitAction {
        let dr6 = self.vcpu.debug_register(6) | exit.qualification;
        let dr7 = self.vcpu.debug_register(7);
        self.vcpu.set_debug_register(6, dr6);
        self.vcpu.set_debug_register(7, dr7 & !DR7_GENERAL_DETECT);
        ExitAction::Inject(as_reported(exit))
    }

    /// INT3 and INTO are traps: the handler returns behind the instruction.
    fn software_exception(&mut self, exit: &ExceptionExit) -> ExitAction {
        match self.skip() {
            ExitAction::SkipInstruction(length) => ExitAction::Inject(Event {
                kind: EventKind::SoftwareException,
                instruction_length: length,
                ..as_reported(exit)
            }),
            other => other,
        }
    }
}

fn as_reported(exit: &ExceptionExit) -> Event {
    Event { error_code: exit.error_code, ..Event::exception(exit.vector) }
}
