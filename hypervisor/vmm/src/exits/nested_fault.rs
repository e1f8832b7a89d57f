//! Accesses that the nested tables do not permit.

use crate::action::{ExitAction, Stop};
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::{FaultOutcome, Translation};
use anchorite_addr::Gpa;
use anchorite_vcpu::Vcpu;
use anchorite_vcpu::exit::{NestedAccess, NestedFault};

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    pub(crate) fn nested_fault(&mut self, fault: &NestedFault) -> ExitAction {
        match self.translation.nested_fault(self.memory.slots(), fault) {
            FaultOutcome::Resolved => ExitAction::Resume,
            FaultOutcome::Mmio { gpa } | FaultOutcome::ReadOnly { gpa }
                if fault.access.contains(NestedAccess::TABLE_WALK) =>
            {
                ExitAction::Stop(Stop::TableOutsideMemory { gpa })
            }
            FaultOutcome::Mmio { gpa } if fault.access.contains(NestedAccess::FETCH) => {
                no_code(gpa)
            }
            outcome => self.resolve(outcome),
        }
    }

    /// What is common to faults under nested and shadow paging.
    pub(super) fn resolve(&mut self, outcome: FaultOutcome) -> ExitAction {
        match outcome {
            FaultOutcome::Resolved | FaultOutcome::Spurious => ExitAction::Resume,
            FaultOutcome::Guest(fault) => self.page_fault_for_guest(fault),
            FaultOutcome::Reflect => ExitAction::Stop(Stop::Unsupported { what: "this #PF" }),
            FaultOutcome::Emulate { gpa } => self.table_write(gpa),
            FaultOutcome::Mmio { gpa } => {
                self.counters.mmio += 1;
                self.emulate("an access to a device", Some(gpa))
            }
            FaultOutcome::ReadOnly { gpa } => self.emulate("a write to a ROM", Some(gpa)),
            FaultOutcome::OutOfTables => ExitAction::Stop(Stop::OutOfTables),
        }
    }
}

pub(super) fn no_code(gpa: Gpa) -> ExitAction {
    ExitAction::Stop(Stop::Emulation {
        what: "no memory to fetch an instruction from",
        gpa: Some(gpa),
    })
}
