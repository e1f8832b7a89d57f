//! The permission matrix: all combinations of an entry's bits (P, RW, US, NX, A, D, PS,
//! reserved bits) at every level × kinds of access × control bits. Each access is checked
//! against the oracle: fault or none, error code, CR2, A and D bits, the data moved.
//!
//! Then combinations across levels at random. Words of the command line: `full` takes all
//! products of the control bits, `random=N` so many random cases, `seed=N` begins them,
//! `deviations=` see the runtime.
#![no_std]
#![no_main]

mod combinations;
mod geometry;
mod random;

use anchorite_guests::control::{Features, load_root};
use anchorite_guests::deviations::{
    ACCESSED_EARLY, Deviations, HIDDEN_GIGABYTE_PAGES, RESERVED_WITHOUT_P, UPDATE_READS_FIRST,
};
use anchorite_guests::instructions::reload_cr3;
use anchorite_guests::machine::physical_address_bits;
use anchorite_guests::oracle::{Controls, Format, Model, Prediction, code};
use anchorite_guests::paging::{Frames, Space, bits::A};
use anchorite_guests::probe::{Access, Kind, Outcome};
use anchorite_guests::{BootInfo, Report, Status, entry, memory, println};
use combinations::{accesses, all_controls};
use geometry::{Geometry, Target};

entry!(run);

fn run(boot: &BootInfo) -> Status {
    let mut frames = Frames::new(boot);
    let space = Space::with_kernel(&mut frames);
    let target = Target::new(&mut frames);
    let geometry = Geometry::new(&mut frames, space, &target);
    let features = Features::read();
    load_root(space.root);

    let mut matrix = Matrix::new(boot, space, target, features);
    for controls in all_controls(features, boot.has_flag("full")) {
        matrix.set(controls);
        let before = matrix.cases;
        for level in 1..=space.levels {
            matrix.level(&geometry, level);
        }
        println!("permissions: {controls:?}: {} cases", matrix.cases - before);
    }
    let number = |name| boot.argument(name).and_then(|text| text.parse::<u64>().ok());
    random::run(&mut matrix, &mut frames, number("random").unwrap_or(2000), number("seed"));
    matrix.finish(features)
}

/// One run over the matrix.
struct Matrix {
    report: Report,
    deviations: Deviations,
    model: Model,
    space: Space,
    target: Target,
    features: Features,
    cases: u64,
}

impl Matrix {
    fn new(boot: &BootInfo, space: Space, target: Target, features: Features) -> Self {
        let deviations = Deviations::new(boot);
        let model = Model {
            format: if space.levels == 5 { Format::Five } else { Format::Four },
            physical_bits: physical_address_bits(),
            gigabyte_pages: features.gigabyte_pages || deviations.expects(HIDDEN_GIGABYTE_PAGES),
            controls: Controls::default(),
        };
        let report = Report::new("permissions");
        Self { report, deviations, model, space, target, features, cases: 0 }
    }

    fn set(&mut self, controls: Controls) {
        controls.apply();
        self.model.controls = controls;
    }

    /// All combinations of the bits of an entry of `level`, by all kinds of access.
    fn level(&mut self, geometry: &Geometry, level: u32) {
        let key = u64::from(self.model.controls.pkru.is_some());
        for access in accesses(self.model.controls) {
            geometry.fill(level, key, &self.model);
            reload_cr3();
            for combination in Geometry::combinations() {
                let address = geometry.address(level, combination);
                self.case(&self.target.access(access, address));
            }
        }
    }

    /// Makes one access and checks everything about it.
    fn case(&mut self, access: &Access) {
        self.cases += 1;
        self.target.prepare();
        let mut prediction = self.model.predict(self.space.root, access);
        let in_two_steps = self.in_two_steps(access, &prediction);
        let outcome = access.run();
        let strict = prediction.agrees(access, &outcome)
            && prediction.wrong_entry(self.model.format).is_none();
        if let (false, Some(other)) = (strict, in_two_steps) {
            self.deviations.see(UPDATE_READS_FIRST);
            prediction = other;
        }
        if !self.judge(access, &prediction, &outcome) {
            self.fail(access, &prediction, &outcome);
        }
        if let Some((step, now)) = prediction.wrong_entry(self.model.format) {
            let early = prediction.result.is_err() && now == step.before | A;
            let declared = early && self.deviations.see(ACCESSED_EARLY);
            self.report.check(
                format_args!("{access:x?}: the entry {step:x?} is {now:#x} afterwards"),
                declared,
            );
        }
        let moved = self.target.moved(access, &outcome);
        let expected = prediction.result.is_ok() && access.kind.writes();
        self.report.check(format_args!("{access:x?}: data moved: {outcome:x?}"), moved == expected);
        if let (Ok(gpa), Kind::Read) = (prediction.result, access.kind) {
            let want = memory::read::<u64>(gpa);
            let right = !outcome.is_done() || outcome.value == want;
            self.report.check(format_args!("{access:x?} read {:#x}", outcome.value), right);
        }
    }

    /// What comes of an update that faults, where it is a read and then a write.
    fn in_two_steps(&self, access: &Access, strict: &Prediction) -> Option<Prediction> {
        let faults = access.kind == Kind::Update && strict.result.is_err();
        if !faults || !self.deviations.expects(UPDATE_READS_FIRST) {
            return None;
        }
        let read = self.model.predict(self.space.root, &Access { kind: Kind::Read, ..*access });
        Some(Prediction { result: read.result.and(strict.result), ..read })
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
        lacks_p && self.deviations.see(RESERVED_WITHOUT_P)
    }

    fn fail(&mut self, access: &Access, prediction: &Prediction, outcome: &Outcome) {
        let entries = prediction.steps.map(|step| step.before);
        self.report.check(
            format_args!(
                "{access:x?} by {entries:x?} with {:?}: got {outcome:x?}, want {:x?}",
                self.model.controls, prediction.result
            ),
            false,
        );
    }

    fn finish(mut self, features: Features) -> Status {
        println!("permissions: {} cases", self.cases);
        for (name, shown) in [
            ("SMEP", features.smep),
            ("SMAP", features.smap),
            ("protection keys", features.pku),
            ("1 GiB pages", features.gigabyte_pages),
        ] {
            if !shown {
                self.report.skip(name, "CPUID does not show them");
            }
        }
        if !features.gigabyte_pages && self.model.gigabyte_pages {
            self.deviations.see(HIDDEN_GIGABYTE_PAGES);
        }
        Controls::default().apply();
        self.deviations.finish(&mut self.report);
        self.report.finish()
    }
}
