//! Generations that wrap: tags narrowed to a few bits, started shortly before the wrap.
//! This is hazard H8.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::policy::{Linked, Tagged, ZapPolicy};
use anchorite_shadow::{Config, Mmu, PolicyKind, ShadowMmu};
use support::fixture::{Fixture, entry, frame, gpa, gva, pt, setup};
use support::machine::Machine;
use support::ops::Op;
use support::reference::Mode;
use support::run::Script;
use support::world::{Engine, Setup};

impl<P: ZapPolicy, const TAG_BITS: u32> Engine for Mmu<Machine, P, TAG_BITS> {
    fn make(policy: PolicyKind, config: Config, machine: Machine) -> Self {
        let policy = P::of(policy).expect("the engine carries this policy");
        Self::new(policy, machine, config).expect("the configuration is valid")
    }
}

/// Three wraps of a tag of `TAG_BITS` bits, beginning three generations before the first.
fn three_wraps<P: ZapPolicy, const TAG_BITS: u32>(policy: PolicyKind) {
    let setup =
        Setup { start_generation: ((1 << TAG_BITS) - 1 - 3).max(1), spare: 24, ..setup(policy, 2) };
    let mut f = Fixture::<Mmu<Machine, P, TAG_BITS>>::with(setup);
    let first = f.0.mmu.generation();
    let zaps = 3 * (1 << TAG_BITS) + 4;
    for zap in 0..zaps {
        // Pages, write protection, unsync tables and large pages of this generation, and
        // some that are touched only once in a full turn of the tag.
        let often = zap % 3;
        f.read(0, gva(often, zap % 8));
        f.write(1, gva(11, 4), frame(4, zap % 8) << 12 | 0x67);
        f.poke(entry(pt(often), 7), frame(often, zap % 7) << 12 | 0x67);
        if zap % (1 << TAG_BITS) == 2 {
            f.read_everything_of(0, 3);
            f.write(0, gva(8, 5), zap);
        }
        f.step(Op::ZapAll);
        f.read(1, gva(3, zap % 8));
        f.step(Op::Cr3 { vcpu: 1, root: 0 });
        assert_eq!(gpa(f.read(1, gva(4, 0))), Some(f.0.peek(entry(pt(4), 0)) & !0xfff));
    }
    assert_eq!(f.0.mmu.generation(), first + zaps);
    assert!(f.0.mmu.stats().mmu_rebased > 0 || !P::TAGGED);
}

/// Seen to fail when `rebase` empties no head, as `h8_random_operations_survive_constant_wraps`.
#[test]
fn h8_three_wraps_of_narrow_tags_confuse_nothing() {
    three_wraps::<Tagged, 2>(PolicyKind::Tagged);
    three_wraps::<Tagged, 4>(PolicyKind::Tagged);
    three_wraps::<Tagged, 6>(PolicyKind::Tagged);
}

/// Their heads have no tag that could wrap. Seen to fail when `TAG_MASK` gives them one.
#[test]
fn h8_the_other_policies_wrap_too() {
    for policy in PolicyKind::ALL {
        if policy != PolicyKind::Tagged {
            three_wraps::<Linked, 3>(policy);
        }
    }
}

/// Random operations with a zap in every 16, so that tags of two bits wrap all the time.
fn random_wraps(mode: Mode) {
    for seed in 1..=8 {
        let setup = Setup {
            mode,
            vcpus: 2,
            policy: PolicyKind::Tagged,
            spare: [0, 24][seed as usize % 2],
            prefetch: 3,
            gib_pages: false,
            start_generation: 1 + seed,
            disciplined: false,
            audit_every: 1,
            physical_bits: 40,
        };
        let mut script = Script::random(setup, seed, 4000);
        for (index, op) in script.ops.iter_mut().enumerate() {
            if index % 16 == 0 {
                *op = Op::ZapAll;
            }
        }
        script.check::<Mmu<Machine, Tagged, 2>>(&format!("seed {seed} of random_wraps({mode:?})"));
    }
}

#[test]
fn h8_random_operations_survive_constant_wraps() {
    for mode in [Mode::Off, Mode::Bits32, Mode::Pae, Mode::Level4, Mode::Level5] {
        random_wraps(mode);
    }
}
