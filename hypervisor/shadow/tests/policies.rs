//! One trace under all six policies: the guest must not be able to tell them apart.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::{AnyMmu, PolicyKind, ShadowMmu};
use support::machine::Machine;
use support::ops::Op;
use support::reference::Mode;
use support::run::Script;
use support::world::{Setup, Visible};

/// What must not depend on the policy.
#[derive(Debug, PartialEq, Eq)]
struct Observed {
    seen: Vec<Visible>,
    memory: u64,
    guest_faults: u64,
    mmio_faults: u64,
    invlpg: u64,
    generation: u64,
    mmio_generation: u64,
}

fn observe(mut script: Script, policy: PolicyKind) -> Observed {
    script.setup.policy = policy;
    let (seen, world) =
        script.run::<AnyMmu<Machine>>().unwrap_or_else(|failure| panic!("{policy:?}: {failure:?}"));
    let stats = world.mmu.stats();
    Observed {
        seen,
        memory: world.memory_digest(),
        guest_faults: stats.pf_guest,
        mmio_faults: stats.pf_mmio,
        invlpg: stats.invlpg,
        generation: world.mmu.generation(),
        mmio_generation: world.mmu.mmio_generation(),
    }
}

fn equivalent(mode: Mode) {
    for seed in 1..=6 {
        let setup = Setup {
            mode,
            vcpus: 1 + seed as usize % 3,
            policy: PolicyKind::Tagged,
            spare: [0, 24][seed as usize % 2],
            prefetch: [0, 15][seed as usize / 2 % 2],
            gib_pages: true,
            start_generation: 1,
            // A guest that flushes after each edit sees only what its tables say.
            disciplined: true,
            audit_every: 1,
            physical_bits: 40,
        };
        let mut script = Script::random(setup, seed, 2500);
        // Memory may run out earlier under one policy than under another.
        script.ops.retain(|op| !matches!(op, Op::StarveFrames { .. }));
        let wanted = observe(script.clone(), PolicyKind::Tagged);
        for policy in PolicyKind::ALL {
            let got = observe(script.clone(), policy);
            let differs = got.seen.iter().zip(&wanted.seen).position(|(a, b)| a != b);
            assert_eq!(differs.map(|at| (script.ops[at], got.seen[at], wanted.seen[at])), None);
            assert_eq!(got.memory, wanted.memory, "{policy:?}, seed {seed}");
            assert!(got == wanted, "{policy:?}, seed {seed}: the counters differ");
        }
    }
}

#[test]
fn without_paging_all_policies_look_the_same() {
    equivalent(Mode::Off);
}

#[test]
fn with_two_levels_all_policies_look_the_same() {
    equivalent(Mode::Bits32);
}

#[test]
fn with_pae_all_policies_look_the_same() {
    equivalent(Mode::Pae);
}

#[test]
fn with_four_levels_all_policies_look_the_same() {
    equivalent(Mode::Level4);
}

#[test]
fn with_five_levels_all_policies_look_the_same() {
    equivalent(Mode::Level5);
}
