//! Page faults of accesses that the tables permit already.
//!
//! One such fault is nothing: the processor's cached translation was older than the tables. The
//! fault makes it forget that, so that on one vCPU the access succeeds the next time. One that
//! the processor goes on refusing, while nothing here changes, it refuses for a reason that it
//! does not report: SMAP, for an access of its own to a descriptor table or a TSS. To those
//! EFLAGS.AC = 1 opens no user's page (Intel SDM vol. 3, 4.6.1 "Determination of Access
//! Rights"), and no bit of the error code tells them from the instruction's operands.

use crate::action::{ExitAction, Stop};
use crate::counters::Counters;
use crate::host::Host;
use crate::machine::Machine;
use crate::memory::WalkError;
use crate::translation::Translation;
use anchorite_addr::Gva;
use anchorite_shadow::Access;
use anchorite_vcpu::exit::ExceptionExit;
use anchorite_vcpu::{ExitReason, FlushScope, Vcpu};

/// The time in a row at which the vCPU is told to forget the translation.
const FORGET: u32 = 2;
/// The time at which no old translation can be the reason.
const IMPLICIT: u32 = 3;
/// The time at which it never ends.
const HOPELESS: u32 = 100;

/// Where an access was last refused although permitted, by which instruction, after how many
/// page faults and other exits, and how often in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refused {
    at: Option<(Gva, u64)>,
    faults: u64,
    /// Counted only from the second time on.
    others: Option<u64>,
    times: u32,
}

impl Refused {
    /// Counts another time; returns how many in a row, without a page fault or an exit between
    /// them by which the guest could have changed its tables.
    fn again(&mut self, gva: Gva, rip: u64, counters: &Counters) -> u32 {
        let faults = counters.cost(ExitReason::PageFault).count;
        let at = Some((gva, rip));
        if (self.at, self.faults + 1) != (at, faults) {
            *self = Self { at, faults, others: None, times: 1 };
            return 1;
        }
        let others = Some(counters.exits() - faults - interruptions(counters));
        let alone = self.others.is_none_or(|before| Some(before) == others);
        let times = if alone { self.times + 1 } else { 1 };
        *self = Self { at, faults, others, times };
        times
    }
}

/// Exits that the host's clock and not the guest brought about.
fn interruptions(counters: &Counters) -> u64 {
    let reasons = [ExitReason::HostInterrupt, ExitReason::HostNmi, ExitReason::Preempted];
    reasons.iter().map(|reason| counters.cost(*reason).count).sum()
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// The processor refused an access that the tables permit. Everything is taken from
    /// `exit` again, so that other page faults keep nothing for this one.
    #[cold]
    #[inline(never)]
    pub(super) fn refused(&mut self, exit: &ExceptionExit) -> ExitAction {
        let gva = Gva::new(exit.qualification);
        match self.refused.again(gva, self.vcpu.regs().rip, &self.counters) {
            FORGET => self.vcpu.flush(FlushScope::Address(gva)),
            IMPLICIT => return self.implicit_access(gva, self.access(exit)),
            HOPELESS.. => return ExitAction::Stop(Stop::Refused { gva }),
            _ => {}
        }
        ExitAction::Resume
    }

    /// Takes the access for one of the processor's own. The tables permit that too unless
    /// SMAP forbids it. The translation need not hear of it: what it holds for the address is
    /// no older than the guest's tables, or it would have changed that.
    fn implicit_access(&mut self, gva: Gva, access: Access) -> ExitAction {
        let implicit = Access { implicit: !access.user, ..access };
        match self.walk_as(gva, implicit) {
            Err(WalkError::Fault(fault)) => {
                // The guest's handler runs: what follows is not in a row any more.
                self.refused = Refused::default();
                self.page_fault_for_guest(fault)
            }
            _ => ExitAction::Resume,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::action::Outcome;
    use crate::fake::{Done, FakeVcpu, ShadowMachine, shadow_machine};
    use anchorite_abi::Verdict;
    use anchorite_vcpu::{ControlRegister, Cr0, Cr4, Efer, Event, Rflags, Vector, VmExit};

    const GVA: u64 = 0x5008;
    /// The error code of a supervisor's read of a page that is present.
    const PROTECTION: u32 = 1;

    fn fault(error_code: u32) -> VmExit {
        let (vector, error_code) = (Vector::PAGE_FAULT, Some(error_code));
        VmExit::Exception(ExceptionExit { vector, error_code, qualification: GVA })
    }

    /// A guest in long mode with SMAP and EFLAGS.AC, its user's page at [`GVA`] shadowed by a
    /// first fault.
    fn guest() -> FakeVcpu {
        let mut vcpu = FakeVcpu::default();
        vcpu.registers.rflags |= Rflags::AC.bits();
        let controls = [
            (ControlRegister::Cr0, (Cr0::PG | Cr0::WP | Cr0::PE).bits()),
            (ControlRegister::Cr3, 0x1000),
            (ControlRegister::Cr4, (Cr4::PAE | Cr4::SMAP).bits()),
            (ControlRegister::Efer, Efer::LME.bits()),
        ];
        vcpu.controls.extend(controls);
        vcpu.then(fault(0))
    }

    fn run(vcpu: FakeVcpu) -> (Outcome, ShadowMachine) {
        let mut machine = shadow_machine(vcpu);
        let registers = machine.paging_registers();
        machine.translation.registers_changed(None, registers).unwrap();
        let outcome = machine.run();
        (outcome, machine)
    }

    /// Faults at `vcpu`'s instruction `times` times, after `between` each.
    fn faults(vcpu: FakeVcpu, times: u32, between: Option<VmExit>) -> FakeVcpu {
        (0..times).fold(vcpu, |vcpu, _| match between {
            // Back from wherever that exit led on to.
            Some(exit) => vcpu.then(exit).after(|vcpu| vcpu.registers.rip = 0, fault(PROTECTION)),
            None => vcpu.then(fault(PROTECTION)),
        })
    }

    /// The guest gets #PF in the end so many times.
    fn is_told(vcpu: FakeVcpu, times: usize) {
        let (outcome, machine) = run(vcpu);
        assert_eq!(outcome.verdict(), Verdict::Pass, "{}", outcome.reason);
        let expected = Event::fault(Vector::PAGE_FAULT, PROTECTION);
        assert_eq!(machine.vcpu.injected(), std::vec![expected; times]);
        if times > 0 {
            assert_eq!(machine.vcpu.controls[&ControlRegister::Cr2], GVA);
        }
    }

    #[test]
    fn the_processors_own_access_to_a_users_page_faults_although_ac_is_set() {
        is_told(faults(guest(), IMPLICIT - 1, None), 0);
        is_told(faults(guest(), IMPLICIT, None), 1);
    }

    #[test]
    fn it_faults_again_for_a_handler_that_returns_without_an_exit() {
        is_told(faults(guest(), 2 * HOPELESS * IMPLICIT, None), 2 * HOPELESS as usize);
    }

    #[test]
    fn the_hosts_clock_in_between_changes_nothing() {
        is_told(faults(guest(), IMPLICIT, Some(VmExit::HostInterrupt)), 1);
    }

    #[test]
    fn an_old_translation_is_forgotten_first() {
        let (_, machine) = run(faults(guest(), FORGET, None));
        let flush = Done::Flush(FlushScope::Address(Gva::new(GVA)));
        assert_eq!(machine.vcpu.log.iter().filter(|done| **done == flush).count(), 1);
    }

    #[test]
    fn accesses_between_which_the_guest_exits_are_not_in_a_row() {
        is_told(faults(guest(), 2 * HOPELESS, Some(VmExit::Pause)), 0);
        let elsewhere = |vcpu: &mut FakeVcpu| vcpu.registers.rip ^= 1;
        let vcpu =
            (0..2 * HOPELESS).fold(guest(), |vcpu, _| vcpu.after(elsewhere, fault(PROTECTION)));
        is_told(vcpu, 0);
    }

    #[test]
    fn what_no_rule_forbids_ends_the_run_with_the_address() {
        let mut vcpu = guest();
        vcpu.controls.insert(ControlRegister::Cr4, Cr4::PAE.bits());
        let (outcome, _) = run(faults(vcpu, HOPELESS - 1, None));
        assert_eq!(outcome.verdict(), Verdict::Pass);

        let user = PROTECTION | 4;
        let vcpu = (0..HOPELESS).fold(guest(), |vcpu, _| vcpu.then(fault(user)));
        let (outcome, _) = run(vcpu);
        assert_eq!(outcome.stop, Stop::Refused { gva: Gva::new(GVA) });
        assert!(outcome.reason.contains("0x5008"), "{}", outcome.reason);
    }
}
