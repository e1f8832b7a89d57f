//! Writes to the guest's page tables that the shadow engine keeps in step.
//!
//! One store is emulated, and the engine drops the entries it changed. A repeated string
//! store means that the frame is no page table any more (a kernel clears or copies a
//! page): one instruction would be 512 emulated stores. Then, and where nobody can carry
//! out the write, the frame's shadow is given up and the guest writes it itself.

use crate::action::ExitAction;
use crate::emulate::{Mode, is_repeated_store};
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_addr::{Gfn, Gpa};
use anchorite_vcpu::{ExitReason, Vcpu};

/// An instruction that writes the very tables that lead to it takes so many page faults
/// at the most before it meets the same frame again: tables of code, stack and operands.
const REBUILT_WITHIN: u64 = 16;
/// Times in a row after which an instruction that cannot be emulated is hopeless.
const HOPELESS: u32 = 100;

/// The frame that was last given to the guest to write to, for which instruction, how
/// many page faults there had been, and how often in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unprotected {
    frame: Option<Gfn>,
    rip: u64,
    faults: u64,
    times: u32,
}

impl Unprotected {
    /// Counts another time, after `faults` page faults; returns how many in a row.
    fn again(&mut self, frame: Gfn, rip: u64, faults: u64) -> u32 {
        let same = (self.frame, self.rip) == (Some(frame), rip);
        let stuck = same && faults - self.faults <= REBUILT_WITHIN;
        let times = if stuck { self.times + 1 } else { 1 };
        *self = Self { frame: Some(frame), rip, faults, times };
        times
    }
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    #[cold]
    pub(super) fn table_write(&mut self, gpa: Gpa) -> ExitAction {
        if self.at_repeated_store() && self.times_unprotected(gpa) == 1 {
            return self.unprotect(gpa);
        }
        match self.try_to_emulate("a write to a page table", Some(gpa)) {
            Ok(action) => action,
            // The tables may be on the way to the very page, so that they are shadowed anew
            // before the write comes.
            Err(stop) if self.times_unprotected(gpa) > HOPELESS => ExitAction::Stop(stop),
            Err(_) => self.unprotect(gpa),
        }
    }

    fn at_repeated_store(&mut self) -> bool {
        let code = Mode::of(&self.vcpu).code;
        !self.events.has_next()
            && self.instruction_bytes().is_ok_and(|bytes| is_repeated_store(bytes.as_slice(), code))
    }

    fn times_unprotected(&mut self, gpa: Gpa) -> u32 {
        let faults = self.counters.cost(ExitReason::PageFault).count;
        self.unprotected.again(gpa.frame(), self.vcpu.regs().rip, faults)
    }

    fn unprotect(&mut self, gpa: Gpa) -> ExitAction {
        self.counters.unprotected += 1;
        self.translation.unprotect(gpa);
        ExitAction::Resume
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_instruction_at_the_same_frame_soon_after_is_stuck() {
        let mut unprotected = Unprotected::default();
        let frame = Gfn::new(5);
        assert_eq!(unprotected.again(frame, 0x100, 10), 1);
        assert_eq!(unprotected.again(frame, 0x100, 10 + REBUILT_WITHIN), 2);
        assert_eq!(unprotected.again(frame, 0x100, 11 + REBUILT_WITHIN), 3);
        assert_eq!(unprotected.again(frame, 0x100, 12 + 2 * REBUILT_WITHIN), 1, "much later");
        assert_eq!(unprotected.again(Gfn::new(6), 0x100, 13 + 2 * REBUILT_WITHIN), 1);
        assert_eq!(unprotected.again(Gfn::new(6), 0x104, 14 + 2 * REBUILT_WITHIN), 1);
    }
}
