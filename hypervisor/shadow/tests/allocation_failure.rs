//! Every single request for frames fails once: the guest goes on or stands still, nothing
//! is half done, nothing leaks.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::policy::Tagged;
use anchorite_shadow::{Config, Mmu, PolicyKind, ShadowMmu};
use support::fixture::{Fixture, gva, setup};
use support::machine::Machine;
use support::ops::Op;
use support::world::{Engine, Setup, Visible};

type Plain = Mmu<Machine, Tagged, 32>;

impl Engine for Plain {
    fn make(_: PolicyKind, config: Config, machine: Machine) -> Self {
        Self::new(Tagged, machine, config).expect("the configuration is valid")
    }
}

fn wide() -> Fixture<Plain> {
    let roomy = Setup { spare: 400, ..setup(PolicyKind::Tagged, 2) };
    let mut f = Fixture::with(roomy);
    f.widen(4096, 300);
    f
}

/// A workload that takes slabs, gives them back and takes them again.
fn work(f: &mut Fixture<Plain>) -> u32 {
    let mut starved = 0;
    for round in 0..3 {
        for index in 0..300 {
            let region = 512 + (index * 7 + round) % 300;
            let seen = f.read(index as usize % 2, gva(region, 0));
            starved += u32::from(seen == Visible::Starved);
        }
        f.step(Op::ZapAll);
        f.step(Op::Reclaim { budget: 500 });
        f.0.settle_pending().expect("all vCPUs can be kicked");
        f.step(Op::Reclaim { budget: 500 });
    }
    starved
}

#[test]
fn every_single_request_may_fail() {
    let mut f = wide();
    work(&mut f);
    let requests = f.0.mmu.machine().requests;
    assert!(requests >= 12, "{requests} requests: the work is too small");
    for fail in 0..requests as u32 {
        let mut f = wide();
        f.0.mmu.machine_mut().starve_after = Some(fail);
        work(&mut f);
        if f.0.mmu.machine().refused == 0 {
            // Set-up made some requests before this one could be refused.
            continue;
        }
        f.read_everything(0);
        f.read_everything(1);
        drained(f);
    }
}

/// Gives everything back and finds nothing missing.
fn drained(mut f: Fixture<Plain>) {
    let taken = f.0.mmu.usage().taken;
    let (slabs, _) = f.0.mmu.machine().held();
    assert_eq!(taken, slabs as u32 * 64, "the engine lost count of its frames");
    f.step(Op::ZapAll);
    for vcpu in [0, 1] {
        f.step(Op::Park { vcpu });
    }
    f.0.settle_pending().expect("all vCPUs can be kicked");
    f.0.audit().expect("the invariants hold");
    let machine = f.0.mmu.into_machine();
    assert_eq!(machine.held(), (0, 0), "frames leaked");
}

#[test]
fn with_no_frame_at_all_the_guest_stands_still_and_goes_on_later() {
    let mut f = wide();
    f.0.mmu.machine_mut().starving = true;
    let mut starved = 0;
    for index in 0..100 {
        starved += u32::from(f.read(0, gva(512 + index, 0)) == Visible::Starved);
    }
    assert!(starved > 0, "there was a frame after all");
    f.0.mmu.machine_mut().starving = false;
    assert_eq!(work(&mut f), 0);
    drained(f);
}

#[test]
fn a_vcpu_that_cannot_be_added_leaves_nothing_behind() {
    for fail in 0..3 {
        let mut machine = Machine::new(2, 2);
        machine.starve_after = Some(fail);
        let config = Config { quota: 64, max_vcpus: 2, ..Config::default() };
        let Ok(mut mmu) = Plain::new(Tagged, machine, config) else {
            continue;
        };
        let registers = anchorite_shadow::Registers::RESET;
        let added = [mmu.add_vcpu(registers).is_ok(), mmu.add_vcpu(registers).is_ok()];
        assert_eq!(added.iter().filter(|ok| **ok).count(), if fail < 2 { 1 } else { 2 });
        mmu.audit().expect("the invariants hold");
        assert_eq!(mmu.into_machine().held(), (0, 0), "frames leaked");
    }
}
