//! One test for each hazard H1 to H18 of the design: what went wrong elsewhere, tried here.
//!
//! Each comment names the changes of the engine under which the test was seen to fail, one at a
//! time. H8 is in `wrap.rs`, H11 beside what it tests, in `directory.rs`,
//! H7's second line in `past_the_door.rs`.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_addr::Gpa;
use anchorite_shadow::{AnyMmu, PolicyKind, ShadowMmu};
use support::fixture::*;
use support::machine::Machine;
use support::ops::{LogAction, Op, Place};
use support::reference::{Access, Op as AccessOp};
use support::world::Visible;

const HOME: Place = Place::Home { bank: 0, read_only: false };
const SKEWED: Place = Place::Home { bank: 2, read_only: false };
const OTHER: Place = Place::Home { bank: 1, read_only: false };

fn in_use(fixture: &Fixture) -> u32 {
    let usage = fixture.0.mmu.usage();
    usage.active + usage.stale + usage.limbo
}

/// vCPU 0 leaves paging, so that it needs direct pages only: many of them, in a slot that
/// no large entry can map. Tables would have to wait for the other vCPUs anyway, because a
/// TLB may let them write where a table is about to be read.
fn without_paging(f: &mut Fixture) {
    let position = support::world::Position {
        base: 1 << 16,
        pages: 64 * 512,
        host: 0x730_0001,
        read_only: false,
    };
    f.0.extra_slot(position).expect("the slot fits");
    f.step(Op::Control { vcpu: 0, cr0: 1, cr4: 0x20, efer: 0x100, pkru: 0 });
}

const fn direct(page: u64) -> u64 {
    1 << 28 | page << 21
}

/// Seen to fail when `recycle` takes a stale page of any generation, and when `drain_limbo` frees
/// a page whose epoch is not acknowledged.
#[test]
fn h1_no_frame_is_reused_before_every_vcpu_flushed() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 2);
        without_paging(&mut f);
        f.read_everything(1);
        f.0.hold = true;
        let mut intact = 0;
        for page in 0..60 {
            if page % 20 == 0 {
                f.step(Op::ZapAll);
                while f.0.mmu.zap_continue() {}
            }
            assert_eq!(gpa(f.read(0, direct(page))), Some(direct(page)));
            if !f.0.inside(1) {
                continue;
            }
            for region in 0..5 {
                let got = f.0.table_walk(1, gva(region, 3), false);
                let home = f.0.host_of(frame(region, 3) << 12);
                assert!(got.is_err() || got == Ok(home), "{policy:?}: {got:x?}");
                intact += u32::from(got.is_ok());
            }
        }
        assert!(!f.0.inside(1), "{policy:?}: the frames never ran out, the test is too small");
        if policy == PolicyKind::Tagged {
            assert!(intact >= 25, "stale tables were taken apart under a walker: {intact}");
        }
        f.0.settle_pending().expect("all vCPUs can be kicked");
        f.read_everything(1);
    }
}

/// Seen to fail when a revived page is linked before its old entries are cleared (`revive`
/// without `clear`), and when a frame is taken as it was left (`take_free` without `clear`).
#[test]
fn h2_a_walker_in_the_guest_never_sees_a_reused_table() {
    // `World` lets vCPU 1 walk at every single entry that the engine writes.
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 2);
        f.widen(4096, 64);
        for round in 0..6 {
            for region in 0..64 {
                f.read(1, gva(region % 5, region % ENTRIES));
                f.read(0, gva(512 + region, 0));
                if region % 16 == round {
                    f.step(Op::ZapAll);
                }
            }
        }
    }
}

/// Seen to fail when `zap_everything` leaves the vCPUs their roots.
#[test]
fn h3_a_fault_that_began_before_the_zap_installs_nothing_old() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 2);
        f.read(0, gva(8, 0));
        f.read(1, gva(8, 0));
        f.0.hold = true;
        f.step(Op::Slot { slot: 1, place: Place::Gone });
        // vCPU 0 entered before the deletion and faults after it, on its old root.
        f.read(0, gva(2, 2));
        assert!(matches!(f.read(0, gva(8, 0)), Visible::Device(_)));
        f.0.settle_pending().expect("all vCPUs can be kicked");
        assert!(matches!(f.read(1, gva(9, 0)), Visible::Device(_)));
        f.step(Op::Slot { slot: 1, place: OTHER });
        assert_eq!(gpa(f.read(0, gva(8, 0))), Some(1024 << 12));
        assert_eq!(gpa(f.read(1, gva(8, 0))), Some(1024 << 12));
    }
}

/// Seen to fail when `switch_root` does not ask for the page's generation.
#[test]
fn h4_a_stale_previous_root_is_not_found_again() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 1);
        for root in [PML4, OTHER_PML4] {
            f.step(Op::Cr3 { vcpu: 0, root: root << 12 });
            f.read_everything(0);
        }
        f.step(Op::ZapAll);
        // Nobody tracks these tables now; a stale root would still show the old map.
        f.poke(entry(PD, 0), pt(1) << 12 | FULL);
        f.step(Op::Cr3 { vcpu: 0, root: PML4 << 12 });
        assert_eq!(gpa(f.read(0, gva(0, 0))), Some(frame(1, 0) << 12));
        f.step(Op::Cr3 { vcpu: 0, root: OTHER_PML4 << 12 });
        assert_eq!(gpa(f.read(0, gva(0, 0))), Some(frame(1, 0) << 12));
    }
}

/// Seen to fail when `prepare_entry` asks for no flush. (That a new root comes with one and that
/// an epoch not acknowledged does are two guards; each covers the other here.)
#[test]
fn h5_a_new_root_at_an_old_address_comes_with_a_flush() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 1);
        for bank in 0..8 {
            f.read(0, gva(8, 0));
            f.write(0, gva(9, 1), bank);
            f.step(Op::Slot { slot: 1, place: Place::Gone });
            f.step(Op::Slot { slot: 1, place: Place::Home { bank: bank % 2, read_only: false } });
            // The judge refuses what the TLB still has of the old bank.
            f.read(0, gva(8, 0));
            f.write(0, gva(9, 1), bank);
        }
    }
}

/// Seen to fail when a fault reserves one frame instead of what it may need at most.
#[test]
fn h6_the_walk_in_progress_is_not_recycled() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 1);
        f.widen(4096, 96);
        for round in 0..3 {
            for index in 0..96 {
                let region = 512 + (index * (2 * round + 1)) % 96;
                assert_eq!(gpa(f.read(0, gva(region, 0))), Some(frame(0, 0) << 12));
            }
        }
        assert!(f.0.mmu.stats().mmu_evicted > 50, "nothing was evicted, the test is too small");
    }
}

/// Seen to fail when `drop_one_written` leaves the entry of what the guest has changed. That `child`
/// compares gfn and role is a second line, which `past_the_door` tries: behind the one door no
/// history reaches an entry that leads to another table.
#[test]
fn h7_a_child_is_followed_only_with_its_gfn_and_role() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 2);
        // Skewed memory cannot be mapped large: a large page becomes a direct child with
        // the gfn 1024; the same frame then serves as a leaf table.
        f.step(Op::Slot { slot: 1, place: Place::Gone });
        f.step(Op::Slot { slot: 1, place: SKEWED });
        for index in 0..4 {
            f.poke(entry(1024, index), frame(3, index) << 12 | FULL);
        }
        for round in 0..6 {
            f.poke(entry(PD, 8), 1024 << 12 | FULL | 0x80);
            for vcpu in [0, 1] {
                f.step(Op::Invlpg { vcpu, gva: gva(8, 1) });
                assert_eq!(gpa(f.read(vcpu, gva(8, 1))), Some(1025 << 12));
            }
            f.poke(entry(PD, 8), 1024 << 12 | FULL);
            for vcpu in [1, 0] {
                f.step(Op::Invlpg { vcpu, gva: gva(8, 1) });
                assert_eq!(gpa(f.read(vcpu, gva(8, 1))), Some(frame(3, 1) << 12));
            }
            f.write(round % 2, gva(8, 2), 7);
        }
        // Without WP a supervisor's write and a user's read of one page take turns.
        f.poke(entry(PD, 8), 1024 << 12 | FULL & !2 | 0x80);
        f.step(Op::Control { vcpu: 0, cr0: 0x8000_0001, cr4: 0x20, efer: 0x900, pkru: 0 });
        for cpl3 in [false, true, false] {
            let op = if cpl3 { AccessOp::Read } else { AccessOp::Write };
            let access = Access { op, cpl3, implicit: false, ac: false };
            let seen = f.step(Op::Access { vcpu: 0, gva: gva(8, 1), access, value: 3 });
            assert_eq!(gpa(seen), Some(1025 << 12));
        }
        f.step(Op::DirtyLog { slot: 1, action: LogAction::On });
        f.step(Op::Slot { slot: 1, place: Place::Gone });
        f.step(Op::DirtyLog { slot: 0, action: LogAction::On });
        f.step(Op::DirtyLog { slot: 0, action: LogAction::Harvest });
        f.step(Op::Slot { slot: 1, place: HOME });
        f.read_everything(0);
    }
}

/// Seen to fail when `zap_continue` goes on as long as there are pages, as without a generation.
#[test]
fn h9_faulting_vcpus_do_not_keep_a_zap_from_ending() {
    for policy in PolicyKind::ALL {
        let vcpus = 4;
        let mut f = Fixture::<AnyMmu<Machine>>::with(support::world::Setup {
            spare: 40,
            ..setup(policy, vcpus)
        });
        f.widen(4096, 48);
        for round in 0..20 {
            for region in 0..32 {
                f.read(region as usize % vcpus, gva(512 + (round + region) % 48, 0));
            }
            let pages = f.0.mmu.usage().active;
            f.step(Op::ZapAll);
            let mut calls = 0;
            while f.0.mmu.zap_continue() {
                calls += 1;
                for vcpu in 0..vcpus {
                    let region = 512 + (round * 7 + calls as u64 * 3 + vcpu as u64) % 48;
                    assert_eq!(gpa(f.read(vcpu, gva(region, 0))), Some(frame(0, 0) << 12));
                }
                assert!(calls <= pages, "{policy:?}: {calls} batches for {pages} pages");
            }
            let breaks = policy == PolicyKind::Batch;
            assert_eq!(calls > 1, breaks, "{policy:?}: {calls} lock breaks, the test is too small");
            for vcpu in 0..vcpus {
                f.read(vcpu, gva(512 + round, 0));
                f.step(Op::ZapAll);
                f.read(vcpu, gva(512 + round, 0));
            }
        }
    }
}

/// Seen to fail when stale pages do not count against the quota (`Pool::in_use`).
#[test]
fn h10_back_to_back_zaps_stay_below_the_quota() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 2);
        f.widen(4096, 32);
        let quota = f.0.mmu.usage().quota;
        for round in 0..100 {
            f.step(Op::ZapAll);
            for index in 0..12 {
                f.read(round % 2, gva(512 + (round as u64 * 5 + index) % 32, 0));
                assert!(in_use(&f) <= quota, "{policy:?}: {:?}", f.0.mmu.usage());
            }
        }
        assert!(f.0.mmu.usage().taken <= quota.next_multiple_of(64));
    }
}

/// Seen to fail when `log_harvest` leaves the right to write.
#[test]
fn h12_dirty_information_survives_zaps() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 2);
        f.step(Op::DirtyLog { slot: 0, action: LogAction::On });
        for round in 0..4 {
            for vcpu in [0, 1] {
                f.read(vcpu, gva(1, 1));
                f.write(vcpu, gva(1, 2), round);
            }
            f.step(Op::DirtyLog { slot: 0, action: LogAction::Harvest });
            f.0.settle_pending().expect("all vCPUs can be kicked");
            // The TLB may not let this write pass by the log.
            f.write(0, gva(1, 2), 8);
            assert!(f.0.mmu.is_dirty(anchorite_addr::Gfn::new(frame(1, 2))));
            f.step(Op::ZapAll);
            assert!(f.0.mmu.is_dirty(anchorite_addr::Gfn::new(frame(1, 2))));
            // The guest clears D: the next write sets it again, zap or not.
            f.poke(entry(pt(1), 2), (frame(1, 2) << 12 | FULL) & !0x40);
            f.step(Op::Invlpg { vcpu: 0, gva: gva(1, 2) });
            f.read(0, gva(1, 2));
            assert_eq!(f.0.peek(entry(pt(1), 2)) & 0x40, 0);
            f.write(0, gva(1, 2), 9);
            assert_ne!(f.0.peek(entry(pt(1), 2)) & 0x40, 0);
        }
    }
}

/// Seen to fail when a head is read whatever its tag (`Head::get`), and, under the policies that
/// unlink, when `unlink` does not take the page out of the counts.
#[test]
fn h13_stale_write_protection_causes_no_faults() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 1);
        f.read_everything(0);
        // The guest puts a new PD in place; the old one becomes data after the zap.
        for index in [0, 1, 2, 3, 4, 11] {
            let copy = f.0.peek(entry(PD, index));
            f.poke(entry(59, index), copy);
        }
        f.poke(entry(PDPT, 0), 59 << 12 | FULL);
        f.step(Op::ZapAll);
        while f.0.mmu.zap_continue() {}
        let emulated = f.0.mmu.stats().pf_emulate;
        let taken = f.0.mmu.stats().pf_taken;
        for value in 0..5 {
            assert_eq!(gpa(f.write(0, gva(11, 5), value)), Some(PD << 12));
        }
        assert_eq!(f.0.mmu.stats().pf_emulate, emulated, "{policy:?}");
        assert!(f.0.mmu.stats().pf_taken <= taken + 4, "{policy:?}: a fault for every write");
    }
}

/// Seen to fail when a zap-all keeps the unsync list.
#[test]
fn h14_a_stale_unsync_page_is_never_synced_into() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 2);
        f.read_everything(0);
        f.read_everything(1);
        f.write(0, gva(11, 0), frame(0, 7) << 12 | FULL);
        assert!(f.0.mmu.stats().mmu_unsync > 0, "the write went through emulation");
        f.0.hold = true;
        f.step(Op::ZapAll);
        while f.0.mmu.zap_continue() {}
        let synced = f.0.mmu.stats().mmu_synced;
        f.poke(entry(pt(0), 0), frame(0, 6) << 12 | FULL);
        f.step(Op::Cr3 { vcpu: 0, root: PML4 << 12 });
        f.step(Op::Invlpg { vcpu: 0, gva: gva(0, 0) });
        assert_eq!(gpa(f.read(0, gva(0, 0))), Some(frame(0, 6) << 12));
        assert_eq!(f.0.mmu.stats().mmu_synced, synced, "{policy:?}: a stale page was synced");
        f.0.settle_pending().expect("all vCPUs can be kicked");
        f.read_everything_but_first(1);
    }
}

/// Seen to fail when the heads of a deleted slot go at once under the policies that unlink.
#[test]
fn h15_pages_of_a_vanished_slot_are_recycled_without_its_heads() {
    for policy in PolicyKind::ALL {
        for bank in [HOME, SKEWED] {
            let mut f = Fixture::<AnyMmu<Machine>>::with(support::world::Setup {
                spare: 20,
                ..setup(policy, 1)
            });
            // Each round maps the same frames before the stale pages of the last are taken apart.
            for _ in 0..3 {
                f.step(Op::Slot { slot: 1, place: Place::Gone });
                f.step(Op::Slot { slot: 1, place: bank });
                for page in 0..6 {
                    f.write(0, gva(8, page), page);
                    f.read(0, gva(9, page));
                }
            }
            f.widen(4096, 40);
            for index in 0..40 {
                f.read(0, gva(512 + index, 0));
            }
            f.step(Op::Slot { slot: 1, place: Place::Gone });
            f.step(Op::Slot { slot: 1, place: OTHER });
            f.step(Op::Reclaim { budget: 100 });
            f.read(0, gva(8, 1));
            f.step(Op::DirtyLog { slot: 1, action: LogAction::On });
            f.step(Op::DirtyLog { slot: 1, action: LogAction::Harvest });
        }
    }
}

/// Seen to fail when `relocate_slot` leaves the stale pages under the policies that unlink.
#[test]
fn h15_pages_of_a_moved_slot_are_taken_apart_before_its_heads_go() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::<AnyMmu<Machine>>::with(support::world::Setup {
            spare: 20,
            ..setup(policy, 1)
        });
        let moved = 96;
        f.poke(entry(pt(3), 7), moved << 12 | FULL);
        f.read(0, gva(3, 7));
        f.step(Op::Slot { slot: 2, place: OTHER });
        // A new slot takes the place of the old heads; this is the frame with the same one.
        let twin = moved + 512 * 16;
        let position =
            support::world::Position { base: twin, pages: 1, host: 0x750_0000, read_only: false };
        f.0.extra_slot(position).expect("the slot fits");
        f.poke(entry(pt(3), 6), twin << 12 | FULL);
        assert_eq!(gpa(f.read(0, gva(3, 6))), Some(twin << 12));
        f.step(Op::Park { vcpu: 0 });
        f.step(Op::Reclaim { budget: f.0.mmu.usage().stale });
    }
}

/// Seen to fail when a new slot leaves the MMIO generation, and when a zap-all moves it.
#[test]
fn h16_page_and_mmio_generations_are_independent() {
    let mut f = Fixture::new(PolicyKind::Tagged, 1);
    let device = gva(10, 0);
    f.read(0, device);
    let fast = f.0.mmu.stats().pf_mmio_fast;
    f.read(0, device);
    assert_eq!(f.0.mmu.stats().pf_mmio_fast, fast + 1, "the second access walks again");
    let (pages, mmio) = (f.0.mmu.generation(), f.0.mmu.mmio_generation());
    f.step(Op::ZapAll);
    assert_ne!(f.0.mmu.generation(), pages);
    assert_eq!(f.0.mmu.mmio_generation(), mmio, "a zap-all is no news for devices");
    f.read_everything(0);
    f.read(0, device);
    let pages = f.0.mmu.generation();
    // Memory appears where the device was: no cached entry may answer any more.
    let position =
        support::world::Position { base: 0xfee00, pages: 1, host: 0x710_0000, read_only: false };
    f.0.extra_slot(position).expect("the slot fits");
    assert_ne!(f.0.mmu.mmio_generation(), mmio);
    assert_eq!(f.0.mmu.generation(), pages, "a new slot makes no shadow page stale");
    assert_eq!(gpa(f.read(0, device)), Some(0xfee00 << 12));
}

/// Seen to fail when a zap-all that finds no page opens a new generation.
#[test]
fn h17_zap_alls_without_a_fault_in_between_coalesce() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 2);
        f.read_everything(0);
        let first = f.0.mmu.zap_all();
        let zapped = f.0.mmu.stats().mmu_shadow_zapped;
        let generation = f.0.mmu.generation();
        let second = f.0.mmu.zap_all();
        assert_eq!(f.0.mmu.stats().mmu_shadow_zapped, zapped, "{policy:?}");
        assert_eq!(f.0.mmu.generation(), generation, "{policy:?}");
        assert_eq!(second.epoch(), first.epoch(), "{policy:?}: one kick serves both");
        f.0.audit().expect("the invariants hold");
        let _ = (first, second);
    }
}

/// Seen to fail when `page_for` keeps only the low 32 bits of a gfn.
#[test]
fn h18_keys_are_never_truncated() {
    for policy in [PolicyKind::Tagged, PolicyKind::Walk] {
        let mut f = Fixture::<AnyMmu<Machine>>::with(support::world::Setup {
            physical_bits: 52,
            ..setup(policy, 1)
        });
        // Leaf tables whose frame numbers differ in one high bit only.
        for bit in 20..40 {
            let base = (1 << bit) + pt(0);
            let position = support::world::Position {
                base,
                pages: 1,
                host: 0x720_0000 + bit,
                read_only: false,
            };
            f.0.extra_slot(position).expect("the slot fits");
            f.0.preset(entry(base, 0), 8, (bit + 20) << 12 | FULL);
            f.0.preset(entry(PD, 32 + bit), 8, base << 12 | FULL);
        }
        f.read_everything(0);
        for _ in 0..2 {
            for bit in 20..40 {
                assert_eq!(gpa(f.read(0, gva(32 + bit, 0))), Some((bit + 20) << 12), "bit {bit}");
            }
            f.step(Op::ZapAll);
        }
        f.0.mmu.unshadow(Gpa::new(pt(0) << 12));
        assert_eq!(gpa(f.read(0, gva(52, 0))), Some(40 << 12));
    }
}
