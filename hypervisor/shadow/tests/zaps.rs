//! How far each kind of zap and reclaim goes, and what it says it did.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::{AnyMmu, PolicyKind, ShadowMmu, TableMemory, TlbFlush};
use support::fixture::*;
use support::machine::Machine;
use support::ops::{Op, Place};
use support::world::{Position, Setup};

fn fixture(policy: PolicyKind) -> Fixture {
    Fixture::<AnyMmu<Machine>>::with(Setup { spare: 100, ..setup(policy, 1) })
}

/// Pages that a test has made stale.
fn with_stale_pages(policy: PolicyKind) -> (Fixture, u32) {
    let mut f = fixture(policy);
    f.read_everything(0);
    f.step(Op::Park { vcpu: 0 });
    let promise = f.0.mmu.zap_all();
    f.0.mmu.discharge(promise, |_| ()).expect("the vCPU is outside");
    assert_eq!(f.0.mmu.stats().mmu_rebased, 0, "heads are emptied when the tag wraps only");
    let stale = f.0.mmu.usage().stale;
    (f, stale)
}

/// A slot of a single page.
fn single(base: u64) -> Position {
    Position { base, pages: 1, host: 0x740_0000 + base, read_only: false }
}

#[test]
fn zapping_a_slot_drops_what_maps_it_and_nothing_else() {
    for policy in PolicyKind::ALL {
        let mut f = fixture(policy);
        let slot = f.0.extra_slot(single(5000)).expect("the slot fits");
        f.poke(entry(pt(3), 7), 5000 << 12 | FULL);
        for region in [0, 3, 8] {
            f.read(0, gva(region, 7));
        }
        let id = f.0.slot_id(slot);
        let promise = f.0.mmu.zap_slot(id).expect("the slot is there");
        assert!(f.0.table_walk(0, gva(3, 7), false).is_err(), "{policy:?}: still mapped");
        assert!(f.0.table_walk(0, gva(0, 7), false).is_ok(), "{policy:?}: another slot's page");
        assert!(f.0.table_walk(0, gva(8, 7), false).is_ok(), "{policy:?}: another slot's page");
        f.step(Op::Park { vcpu: 0 });
        f.0.mmu.discharge(promise, |_| ()).expect("the vCPU is outside");
        assert_eq!(gpa(f.read(0, gva(3, 7))), Some(5000 << 12));
    }
}

#[test]
fn zapping_a_slot_takes_the_tables_in_it_out_of_service() {
    for policy in PolicyKind::ALL {
        let mut f = fixture(policy);
        let slot = f.0.extra_slot(single(5000)).expect("the slot fits");
        f.0.preset(entry(5000, 0), 8, frame(0, 0) << 12 | FULL);
        f.0.preset(entry(PD, 40), 8, 5000 << 12 | FULL);
        f.read(0, gva(40, 0));
        f.read(0, gva(1, 0));
        let active = f.0.mmu.usage().active;
        let id = f.0.slot_id(slot);
        let _promise = f.0.mmu.zap_slot(id).expect("the slot is there");
        assert_eq!(f.0.mmu.usage().active, active - 1, "{policy:?}");
        assert!(f.0.table_walk(0, gva(40, 0), false).is_err(), "{policy:?}");
        assert!(f.0.table_walk(0, gva(1, 0), false).is_ok(), "{policy:?}");
    }
}

#[test]
fn an_idle_slice_takes_as_many_stale_pages_apart_as_it_may() {
    for policy in PolicyKind::ALL {
        let (mut f, stale) = with_stale_pages(policy);
        if policy != PolicyKind::Background {
            assert_eq!(f.0.mmu.idle_slice(3), 0, "{policy:?}");
            continue;
        }
        assert!(stale > 5);
        let recycled = f.0.mmu.stats().mmu_recycled;
        assert_eq!(f.0.mmu.idle_slice(3), 3);
        assert_eq!(f.0.mmu.usage().stale, stale - 3);
        assert_eq!(f.0.mmu.idle_slice(100), stale - 3);
        assert_eq!(f.0.mmu.idle_slice(100), 0);
        assert_eq!(f.0.mmu.stats().mmu_recycled, recycled + u64::from(stale));
    }
}

#[test]
fn a_batch_has_the_size_that_was_asked_for() {
    let (mut f, stale) = with_stale_pages(PolicyKind::Batch);
    let batch = 4;
    let mut left = stale;
    while left > batch {
        assert!(f.0.mmu.zap_continue());
        left -= batch;
        assert_eq!(f.0.mmu.usage().stale, left);
    }
    assert!(!f.0.mmu.zap_continue());
    assert_eq!(f.0.mmu.usage().stale, 0);
}

#[test]
fn a_reclaim_frees_stale_pages_then_current_ones_and_gives_the_slabs_back() {
    for policy in PolicyKind::ALL {
        let (mut f, stale) = with_stale_pages(policy);
        assert_eq!(f.0.mmu.reclaim(0), 0);
        if stale > 0 {
            assert_eq!(f.0.mmu.reclaim(2), 2, "{policy:?}");
            assert_eq!(f.0.mmu.usage().stale, stale - 2, "{policy:?}");
            assert_eq!(f.0.mmu.stats().mmu_evicted, 0, "{policy:?}");
            assert_eq!(f.0.mmu.reclaim(stale - 2), stale - 2, "{policy:?}");
        }
        f.read_everything(0);
        f.step(Op::Park { vcpu: 0 });
        let active = f.0.mmu.usage().active;
        let zapped = f.0.mmu.stats().mmu_shadow_zapped;
        assert_eq!(f.0.mmu.reclaim(2), 2, "{policy:?}");
        assert_eq!(f.0.mmu.stats().mmu_shadow_zapped, zapped + 2, "{policy:?}");
        assert_eq!(f.0.mmu.usage().active, active - 2, "{policy:?}");
        assert_eq!(f.0.mmu.stats().mmu_evicted, 2, "{policy:?}");
        // The root in use is pinned, and no more.
        assert_eq!(f.0.mmu.reclaim(1000), active - 3, "{policy:?}");
        let promise = f.0.mmu.zap_all();
        f.0.mmu.discharge(promise, |_| ()).expect("the vCPU is outside");
        f.0.mmu.reclaim(1000);
        assert_eq!(f.0.mmu.usage().taken, 0, "{policy:?}: {:?}", f.0.mmu.usage());
        assert_eq!(f.0.mmu.machine().held().0, 0, "{policy:?}");
    }
}

/// The heads of dead slots stay for the pages that hang on them, but not without end.
#[test]
fn the_ninth_dead_slot_takes_the_stale_pages_apart() {
    for policy in [PolicyKind::Quota, PolicyKind::Background] {
        let mut f = fixture(policy);
        for dead in 1..=9 {
            let slot = f.0.extra_slot(single(5000 + dead * 16)).expect("the slot fits");
            f.poke(entry(pt(3), 7), (5000 + dead * 16) << 12 | FULL);
            f.read(0, gva(3, 7));
            f.step(Op::Slot { slot, place: Place::Gone });
            let stale = f.0.mmu.usage().stale;
            assert_eq!(stale == 0, dead == 9, "{policy:?}: {stale} stale, {dead} dead slots");
            f.0.audit().expect("the invariants hold");
        }
    }
}

#[test]
fn a_deleted_slot_is_swept_under_the_policies_that_wait_for_it() {
    for policy in PolicyKind::ALL {
        let mut f = fixture(policy);
        f.read_everything(0);
        f.step(Op::Slot { slot: 1, place: Place::Gone });
        let swept = matches!(policy, PolicyKind::Walk | PolicyKind::Batch);
        assert_eq!(f.0.mmu.usage().stale == 0, swept, "{policy:?}");
    }
}

#[test]
fn a_promise_names_the_vcpus_to_kick_until_all_have_left() {
    let mut f = Fixture::new(PolicyKind::Tagged, 3);
    f.read(0, gva(0, 0));
    f.read(2, gva(0, 0));
    let mut promise = f.0.mmu.zap_all();
    for (tries, inside) in [(1, vec![0, 2]), (2, vec![2])] {
        let mut kicked = Vec::new();
        promise = f.0.mmu.discharge(promise, |vcpu| kicked.push(vcpu.index())).expect_err("inside");
        assert_eq!(kicked, inside);
        assert_eq!(f.0.mmu.stats().remote_tlb_flush, tries);
        f.step(Op::Park { vcpu: inside[0] });
    }
    f.0.mmu.discharge(promise, |_| panic!("nobody is inside")).expect("all have left");
    assert_eq!(f.0.mmu.stats().remote_tlb_flush, 2);
}

#[test]
fn a_flush_outside_the_guest_saves_the_one_at_entry_and_one_inside_counts_for_nothing() {
    for acknowledges in [true, false] {
        let mut f = fixture(PolicyKind::Tagged);
        f.read(0, gva(8, 0));
        f.step(Op::Park { vcpu: 0 });
        let (vcpu, slot) = (f.0.id(0), f.0.slot_id(1));
        let _kept_outside = f.0.mmu.zap_slot(slot).expect("the slot is there");
        if acknowledges {
            f.0.mmu.acknowledge(vcpu);
        }
        let entry = f.0.mmu.enter(vcpu).expect("the root is there");
        assert_eq!(entry.flush, if acknowledges { TlbFlush::None } else { TlbFlush::All });
        assert!(f.0.mmu.clock().in_guest(vcpu));
        let promise = f.0.mmu.zap_slot(slot).expect("the slot is there");
        f.0.mmu.acknowledge(vcpu);
        let promise = f.0.mmu.discharge(promise, |_| ()).expect_err("the vCPU is inside");
        f.0.mmu.leave(vcpu);
        assert!(!f.0.mmu.clock().in_guest(vcpu));
        f.0.mmu.discharge(promise, |_| ()).expect("the vCPU has left");
    }
}

#[test]
fn of_several_zap_alls_in_a_row_only_the_last_finds_the_root_again() {
    for policy in PolicyKind::ALL {
        let mut f = fixture(policy);
        f.read_everything(0);
        f.step(Op::Park { vcpu: 0 });
        let misses = f.0.mmu.stats().root_miss;
        let vcpu = f.0.id(0);
        for _ in 0..3 {
            let _promise = f.0.mmu.zap_all();
            while f.0.mmu.zap_continue() {}
            assert_eq!(f.0.mmu.reenter(vcpu), None, "{policy:?}: the root is stale");
            let entry = f.0.mmu.enter(vcpu).expect("an empty root takes no memory");
            assert_eq!(entry.flush, TlbFlush::All, "{policy:?}");
            let machine = f.0.mmu.machine();
            let entries =
                (0..512).map(|n| machine.read_entry(entry.root.table.wrapping_add(n * 8)));
            assert!(entries.into_iter().all(|entry| entry == 0), "{policy:?}");
            f.0.mmu.leave(vcpu);
        }
        assert_eq!(f.0.mmu.stats().root_miss, misses, "{policy:?}");
        f.0.core(0).flush_all();
        f.read_everything(0);
        assert_eq!(f.0.mmu.stats().root_miss, misses + 1, "{policy:?}");
    }
}

#[test]
fn a_vcpu_enters_as_before_until_its_root_changes() {
    for policy in PolicyKind::ALL {
        let mut f = fixture(policy);
        let vcpu = f.0.id(0);
        f.read_everything(0);
        f.step(Op::Park { vcpu: 0 });
        assert_eq!(f.0.mmu.reenter(vcpu), Some(TlbFlush::None), "{policy:?}");
        f.0.mmu.leave(vcpu);
        let address = anchorite_addr::Gva::new(gva(0, 3));
        f.0.mmu.invlpg(vcpu, address);
        assert_eq!(f.0.mmu.reenter(vcpu), Some(TlbFlush::Address(address)), "{policy:?}");
        f.0.mmu.leave(vcpu);
        f.0.mmu.set_cr3(vcpu, PML4 << 12).expect("a root");
        assert_eq!(f.0.mmu.reenter(vcpu), Some(TlbFlush::All), "{policy:?}: the same root");
        f.0.mmu.leave(vcpu);
        for root in [OTHER_PML4, PML4, OTHER_PML4] {
            f.0.mmu.set_cr3(vcpu, root << 12).expect("a root");
            assert_eq!(f.0.mmu.reenter(vcpu), None, "{policy:?}: {root}");
            let entry = f.0.mmu.enter(vcpu).expect("there is memory");
            assert_eq!(entry.flush, TlbFlush::All, "{policy:?}: {root}");
            f.0.mmu.leave(vcpu);
            assert_eq!(f.0.mmu.reenter(vcpu), Some(TlbFlush::None), "{policy:?}: {root}");
            f.0.mmu.leave(vcpu);
        }
    }
}
