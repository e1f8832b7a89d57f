//! Random differential runs: engine and simulated hardware against the reference walker.
//!
//! `ANCHORITE_SHADOW_OPS` sets the operations per mode (a million by default),
//! `ANCHORITE_SHADOW_SEED` the first seed. A failure prints the command that repeats it and a
//! shrunk script that can be pasted into `regressions.rs`.
//!
//! The long run, 100 million operations a mode:
//! `ANCHORITE_SHADOW_OPS=100000000 cargo test --release -p anchorite-shadow --test random`

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::{AnyMmu, PolicyKind};
use support::machine::Machine;
use support::reference::Mode;
use support::rng::Rng;
use support::run::{Script, env};
use support::world::{Coverage, Setup};

/// Operations of one script: long enough for pools to fill, short enough to shrink.
const SCRIPT: u64 = 4000;

fn setup(mode: Mode, seed: u64) -> Setup {
    let mut rng = Rng::new(seed ^ 0x5e7_0b5e);
    Setup {
        mode,
        vcpus: rng.pick(&[1, 2, 2, 3]),
        policy: rng.pick(&PolicyKind::ALL),
        spare: rng.pick(&[0, 0, 3, 24]),
        prefetch: rng.pick(&[0, 3, 15]),
        gib_pages: rng.chance(1, 2),
        start_generation: 1,
        disciplined: false,
        audit_every: env("ANCHORITE_SHADOW_AUDIT", 1),
        physical_bits: 40,
    }
}

fn run(mode: Mode, name: &str) {
    let operations = env("ANCHORITE_SHADOW_OPS", 1_000_000);
    let first = env("ANCHORITE_SHADOW_SEED", 1);
    let mut total = Coverage::default();
    for seed in first..first + operations.div_ceil(SCRIPT) {
        let script = Script::random(setup(mode, seed), seed, SCRIPT as usize);
        let coverage = script.check::<AnyMmu<Machine>>(&format!(
            "ANCHORITE_SHADOW_SEED={seed} ANCHORITE_SHADOW_OPS=1 cargo test -p anchorite-shadow \
             --test random {name}"
        ));
        total.add(coverage);
    }
    println!("{name}: {total:?}");
    if operations >= 100_000 {
        assert!(total.reached_everything(mode), "the run missed something: {total:?}");
    }
}

#[test]
fn no_paging_agrees_with_the_reference() {
    run(Mode::Off, "no_paging");
}

#[test]
fn two_levels_agree_with_the_reference() {
    run(Mode::Bits32, "two_levels");
}

#[test]
fn pae_agrees_with_the_reference() {
    run(Mode::Pae, "pae");
}

#[test]
fn four_levels_agree_with_the_reference() {
    run(Mode::Level4, "four_levels");
}

#[test]
fn five_levels_agree_with_the_reference() {
    run(Mode::Level5, "five_levels");
}
