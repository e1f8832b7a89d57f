//! Scripts that say of each step what must come of it.

use core::fmt::Display;

use crate::Report;
use crate::probe::{Access, Kind, Outcome};
use crate::script::{Runner, Step};

/// Most steps of a plan: all of it lies on the stack.
pub const CAPACITY: usize = 160;

/// What must come of a step.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// No exception.
    Done,
    /// A load that gives this.
    Value(u64),
    /// A load that gives one or the other: a translation may be cached still.
    Either(u64, u64),
    /// A page fault at the access's address with this error code.
    Fault(u32),
    /// Another exception: vector and error code.
    Exception(u8, u32),
}

/// A script with what is wanted of it. Values are below 2³², which all formats can load.
#[derive(Debug)]
pub struct Plan<'a> {
    runner: &'a Runner,
    steps: [Step; CAPACITY],
    wants: [Want; CAPACITY],
    used: usize,
}

impl<'a> Plan<'a> {
    /// A plan without steps.
    pub const fn new(runner: &'a Runner) -> Self {
        let steps = [Step::Invalidate(0); CAPACITY];
        Self { runner, steps, wants: [Want::Done; CAPACITY], used: 0 }
    }

    /// Steps that it still has room for.
    pub const fn room(&self) -> usize {
        CAPACITY - self.used
    }

    /// Any step.
    pub fn step(&mut self, step: Step, want: Want) -> &mut Self {
        (self.steps[self.used], self.wants[self.used]) = (step, want);
        self.used += 1;
        self
    }

    /// A load that gives `value`.
    pub fn read(&mut self, address: u64, value: u64) -> &mut Self {
        self.step(Step::read(address), Want::Value(value))
    }

    /// A store that goes well.
    pub fn write(&mut self, address: u64, value: u64) -> &mut Self {
        self.step(Step::write(address, value), Want::Done)
    }

    /// An access by the kernel that faults with `code`.
    pub fn fault(&mut self, kind: Kind, address: u64, code: u32) -> &mut Self {
        self.step(Step::Access(Access::kernel(kind, address)), Want::Fault(code))
    }

    /// An entry is written, at a physical address.
    pub fn entry(&mut self, at: u64, value: u64) -> &mut Self {
        self.step(Step::Entry(at, value), Want::Done)
    }

    /// INVLPG.
    pub fn flush(&mut self, address: u64) -> &mut Self {
        self.step(Step::Invalidate(address), Want::Done)
    }

    /// CR3 is loaded.
    pub fn root(&mut self, root: u64) -> &mut Self {
        self.step(Step::Root(root), Want::Done)
    }

    /// Carries it out, compares, and begins a new one. A failure tells `what` it was about,
    /// the step, its place and what came of it.
    pub fn run(&mut self, report: &mut Report, what: impl Display) {
        let mut outcomes = [Outcome::default(); CAPACITY];
        let steps = &self.steps[..self.used];
        self.runner.run(steps, &mut outcomes);
        let name = self.runner.space().format.name();
        for (number, ((step, want), got)) in
            steps.iter().zip(&self.wants).zip(&outcomes).enumerate()
        {
            report.check(
                format_args!(
                    "{name}, {what}: step {number}, {step:x?}: got {got:x?}, want {want:x?}"
                ),
                want.is(step, got),
            );
        }
        self.used = 0;
    }
}

impl Want {
    fn is(self, step: &Step, got: &Outcome) -> bool {
        let address = if let Step::Access(access) = step { access.address } else { 0 };
        match self {
            Self::Done => got.is_done(),
            Self::Value(value) => got.is_done() && got.value == value,
            Self::Either(one, other) => got.is_done() && (got.value == one || got.value == other),
            Self::Fault(code) => got.page_fault_at(address) == Some(code),
            Self::Exception(vector, error) => (got.vector, got.error) == (vector, error),
        }
    }
}
