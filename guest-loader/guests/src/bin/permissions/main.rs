//! The permission matrix: all combinations of an entry's bits (P, RW, US, NX, A, D, PS,
//! reserved bits) at every level × kinds of access × control bits, in every paging mode. Each
//! access is checked against the oracle: fault or none, error code, CR2, A and D bits, the
//! data moved.
//!
//! Then combinations across levels at random. Words of the command line: `mode=NAME,NAME` for
//! some of the modes two-level, pae, four-level, five-level; `full` takes all products of the
//! control bits, `random=N` so many random cases a mode (a quarter in the first two), `seed=N`
//! begins them, `deviations=` see the runtime.
#![no_std]
#![no_main]

mod combinations;
mod geometry;
mod matrix;
mod random;
mod target;

use anchorite_guests::control::Features;
use anchorite_guests::deviations::Deviations;
use anchorite_guests::format::Format;
use anchorite_guests::oracle::Controls;
use anchorite_guests::paging::Frames;
use anchorite_guests::{BootInfo, Report, Status, entry};
use matrix::Matrix;
use target::Target;

entry!(run);

/// What the checks of all modes share.
struct Checks {
    report: Report,
    deviations: Deviations,
    features: Features,
    full: bool,
    /// Random cases, and their seed.
    random: u64,
    seed: u64,
}

fn run(boot: &BootInfo) -> Status {
    let mut frames = Frames::new(boot);
    let target = Target::new(&mut frames);
    let number = |name| boot.argument(name).and_then(|text| text.parse::<u64>().ok());
    let mut checks = Checks {
        report: Report::new("permissions"),
        deviations: Deviations::new(boot),
        features: Features::read(),
        full: boot.has_flag("full"),
        random: number("random").unwrap_or(2000),
        seed: number("seed").unwrap_or(1),
    };
    for format in Format::wanted(boot, &mut checks.report) {
        Matrix::new(&mut checks, &mut frames, format, target).run(&mut frames);
        Controls::default().apply();
    }
    checks.finish()
}

impl Checks {
    fn finish(mut self) -> Status {
        let features = self.features;
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
        self.deviations.finish(&mut self.report);
        self.report.finish()
    }
}
