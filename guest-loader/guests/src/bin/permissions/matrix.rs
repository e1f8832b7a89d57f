//! One paging mode's run over the matrix: accesses, made in batches, against the oracle.

use anchorite_guests::deviations::{
    AC_SUSPENDS_IMPLICIT, ACCESSED_EARLY, Known, MARKED_PDPTES, RESERVED_WITHOUT_P,
    UPDATE_READS_FIRST,
};
use anchorite_guests::format::Format;
use anchorite_guests::instructions::reload_cr3;
use anchorite_guests::machine::physical_address_bits;
use anchorite_guests::memory;
use anchorite_guests::oracle::{Controls, Model, Prediction, code};
use anchorite_guests::paging::{Frames, Space, bits::A};
use anchorite_guests::println;
use anchorite_guests::probe::{Access, Kind, Outcome};
use anchorite_guests::script::{Runner, Step};

use crate::Checks;
use crate::combinations::{accesses, all_controls};
use crate::geometry::Geometry;
use crate::random;
use crate::target::Target;

/// Accesses made one after the other: a way into 32-bit mode and back is dear, and the
/// predictions must fit the stack.
const BATCH: usize = 32;

/// One mode's run over the matrix.
pub(crate) struct Matrix<'a> {
    pub(crate) checks: &'a mut Checks,
    pub(crate) model: Model,
    pub(crate) runner: Runner,
    pub(crate) target: Target,
    cases: u64,
}

/// What an access must come to, and what it comes to by a deviation that was declared.
#[derive(Clone, Copy)]
struct Expected {
    strict: Prediction,
    otherwise: Option<(Known, Prediction)>,
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(
        checks: &'a mut Checks,
        frames: &mut Frames,
        format: Format,
        target: Target,
    ) -> Self {
        let model = Model {
            format,
            physical_bits: physical_address_bits(),
            gigabyte_pages: checks.features.gigabyte_pages,
            controls: Controls::default(),
        };
        let runner = Runner::new(Space::of(format, frames));
        Self { checks, model, runner, target: target.for_width(format.is_long()), cases: 0 }
    }

    /// All levels under all control bits, then random cases.
    pub(crate) fn run(mut self, frames: &mut Frames) {
        let geometry = Geometry::new(frames, &self.runner, self.target.page);
        let (features, format) = (self.checks.features, self.model.format);
        for controls in all_controls(features, format, self.checks.full) {
            self.set(controls);
            let before = self.cases;
            for level in geometry.levels() {
                self.level(&geometry, level);
            }
            let cases = self.cases - before;
            println!("permissions: {}, {controls:?}: {cases} cases", format.name());
        }
        random::run(&mut self, frames);
        println!("permissions: {}: {} cases", format.name(), self.cases);
    }

    pub(crate) fn set(&mut self, controls: Controls) {
        controls.apply();
        self.model.controls = controls;
    }

    /// All combinations of the bits of an entry of `level`, by all kinds of access.
    fn level(&mut self, geometry: &Geometry, level: u32) {
        let has_keys = self.model.format.is_long() && self.model.controls.pkru.is_some();
        for access in accesses(self.model.controls) {
            geometry.fill(level, has_keys.into(), &self.model);
            reload_cr3();
            let mut batch = [access; BATCH];
            let mut combinations = geometry.combinations(level).peekable();
            while combinations.peek().is_some() {
                let mut used = 0;
                for (slot, combination) in batch.iter_mut().zip(&mut combinations) {
                    *slot = Target::access(access, geometry.address(level, combination));
                    used += 1;
                }
                self.batch(&batch[..used]);
            }
        }
    }

    /// Makes the accesses one after the other and checks everything about them. No two may
    /// differ and use entries whose bits the other changes.
    pub(crate) fn batch(&mut self, accesses: &[Access]) {
        const STEPS: usize = BATCH * Target::STEPS;
        self.cases += accesses.len() as u64;
        let mut steps = [Step::Invalidate(0); STEPS];
        let mut outcomes = [Outcome::default(); STEPS];
        let expected: [Option<Expected>; BATCH] =
            core::array::from_fn(|index| accesses.get(index).map(|access| self.expect(access)));
        for (steps, access) in steps.chunks_exact_mut(Target::STEPS).zip(accesses) {
            steps.copy_from_slice(&self.target.steps(*access));
        }
        self.runner.run(&steps[..accesses.len() * Target::STEPS], &mut outcomes);
        let outcomes = outcomes.chunks_exact(Target::STEPS);
        for ((access, expected), outcomes) in
            accesses.iter().zip(expected.iter().flatten()).zip(outcomes)
        {
            self.check(access, expected, &outcomes[Target::ACCESS], outcomes[Target::DATA].value);
        }
    }

    fn expect(&self, access: &Access) -> Expected {
        let mut strict = self.model.predict(self.runner.space().root, access);
        if self.model.format == Format::Pae && self.checks.deviations.expects(MARKED_PDPTES) {
            strict.steps[0].may |= A;
        }
        let otherwise = self.in_two_steps(access, &strict);
        let otherwise = otherwise.or_else(|| self.with_ac(access, &strict));
        Expected { strict, otherwise }
    }

    /// What comes of an update that faults, where it is a read and then a write.
    fn in_two_steps(&self, access: &Access, strict: &Prediction) -> Option<(Known, Prediction)> {
        let faults = access.kind == Kind::Update && strict.result.is_err();
        if !faults || !self.checks.deviations.expects(UPDATE_READS_FIRST) {
            return None;
        }
        let access = Access { kind: Kind::Read, ..*access };
        let read = self.model.predict(self.runner.space().root, &access);
        let mut both = Prediction { result: read.result.and(strict.result), ..read };
        both.steps[0].may |= strict.steps[0].may;
        Some((UPDATE_READS_FIRST, both))
    }

    /// What comes of the processor's own access at privilege level 3, where RFLAGS.AC counts.
    fn with_ac(&self, access: &Access, strict: &Prediction) -> Option<(Known, Prediction)> {
        let Model { controls, .. } = self.model;
        let implicit = access.kind == Kind::Descriptor && access.ac && controls.smap;
        let declared = self.checks.deviations.expects(AC_SUSPENDS_IMPLICIT);
        if !implicit || strict.result.is_ok() || !declared {
            return None;
        }
        let model = Model { controls: Controls { smap: false, ..controls }, ..self.model };
        let mut other = model.predict(self.runner.space().root, access);
        other.steps[0].may |= strict.steps[0].may;
        Some((AC_SUSPENDS_IMPLICIT, other))
    }

    fn check(&mut self, access: &Access, expected: &Expected, outcome: &Outcome, data: u64) {
        let mut prediction = expected.strict;
        let strict = prediction.agrees(access, outcome)
            && prediction.wrong_entry(self.model.format).is_none();
        if let (false, Some((known, other))) = (strict, expected.otherwise) {
            self.checks.deviations.see(known);
            prediction = other;
        }
        if !self.judge(access, &prediction, outcome) {
            self.fail(access, &prediction, outcome);
        }
        self.check_entries(access, &prediction);
        let moved = self.target.moved(access, outcome, data);
        let should = prediction.result.is_ok() && access.kind.writes();
        let report = &mut self.checks.report;
        report.check(format_args!("{access:x?}: data moved: {outcome:x?}"), moved == should);
        if let (Ok(gpa), Kind::Read) = (prediction.result, access.kind) {
            let right = !outcome.is_done() || self.target.was_read(gpa, outcome.value);
            report.check(format_args!("{access:x?} read {:#x}", outcome.value), right);
        }
    }

    fn check_entries(&mut self, access: &Access, prediction: &Prediction) {
        let top = prediction.steps[0];
        if self.model.format == Format::Pae && memory::read::<u64>(top.at) == top.before | A {
            self.checks.deviations.see(MARKED_PDPTES);
        }
        let Some((step, now)) = prediction.wrong_entry(self.model.format) else { return };
        let early = prediction.result.is_err() && now == step.before | A;
        let declared = early && self.checks.deviations.see(ACCESSED_EARLY);
        self.checks.report.check(
            format_args!("{access:x?}: the entry {step:x?} is {now:#x} afterwards"),
            declared,
        );
    }

    /// Whether `outcome` is right or a declared deviation.
    fn judge(&mut self, access: &Access, want: &Prediction, outcome: &Outcome) -> bool {
        if want.agrees(access, outcome) {
            return true;
        }
        let got = outcome.page_fault_at(access.address);
        let lacks_p = want
            .result
            .is_err_and(|error| error & code::RSVD != 0 && got == Some(error & !code::P));
        lacks_p && self.checks.deviations.see(RESERVED_WITHOUT_P)
    }

    fn fail(&mut self, access: &Access, prediction: &Prediction, outcome: &Outcome) {
        let entries = prediction.steps.map(|step| step.before);
        let name = self.model.format.name();
        self.checks.report.check(
            format_args!(
                "{name}: {access:x?} by {entries:x?} with {:?}: got {outcome:x?}, want {:x?}",
                self.model.controls, prediction.result
            ),
            false,
        );
    }
}
