//! Large guest pages become large shadow entries where memory and write protection allow, and
//! are split where they do not.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::{PolicyKind, ShadowMmu};
use support::fixture::*;
use support::ops::{LogAction, Op, Place};
use support::world::Position;

/// Frames of a 1 GiB page.
const GIB: u64 = 1 << 18;
/// The size bit of a guest entry.
const PS: u64 = 0x80;

/// Faults until all of `addresses` have been read.
fn faults(f: &mut Fixture, addresses: impl IntoIterator<Item = u64>) -> u64 {
    let before = f.0.mmu.stats().pf_taken;
    for gva in addresses {
        f.read(0, gva);
    }
    f.0.mmu.stats().pf_taken - before
}

/// Some addresses of the 1 GiB page that [`with_gib`] maps, none in the same 2 MiB.
fn spread() -> impl Iterator<Item = u64> {
    (0..8).map(|n| 1 << 30 | n * 61 << 21 | n << 12)
}

/// A guest with 1 GiB of memory at 1 GiB, mapped at 1 GiB by one entry.
fn with_gib(host: u64) -> Fixture {
    let mut f = Fixture::new(PolicyKind::Tagged, 1);
    let position = Position { base: GIB, pages: GIB, host, read_only: false };
    f.0.extra_slot(position).expect("the slot fits");
    f.poke(entry(PDPT, 1), GIB << 12 | FULL | PS);
    f
}

#[test]
fn a_guest_page_of_1_gib_takes_one_entry_where_both_sides_are_aligned() {
    let mut f = with_gib(512 * GIB);
    assert_eq!(faults(&mut f, spread()), 1);
    let seen = f.read(0, 1 << 30 | 500 << 21 | 7 << 12);
    assert_eq!(gpa(seen), Some(1 << 30 | 500 << 21 | 7 << 12));
}

#[test]
fn a_guest_page_of_1_gib_is_split_to_what_the_hosts_side_allows() {
    let mut f = with_gib(512 * GIB + 512);
    assert_eq!(faults(&mut f, spread()), 8, "one for each 2 MiB");
    assert_eq!(faults(&mut f, [1 << 30 | 5 << 12, 1 << 30 | 511 << 12]), 0);
    let mut f = with_gib(512 * GIB + 1);
    assert_eq!(faults(&mut f, [1 << 30, 1 << 30 | 100 << 12]), 2, "one for each 4 KiB");
}

#[test]
fn a_table_inside_a_large_page_splits_it_and_only_there() {
    let mut f = with_gib(512 * GIB);
    assert_eq!(faults(&mut f, spread()), 1);
    // A leaf table in the middle of the page; its frame may not be writable.
    let table = GIB + 512 * 100 + 3;
    f.poke(entry(table, 0), frame(0, 0) << 12 | FULL);
    f.poke(entry(PD, 40), table << 12 | FULL);
    assert_eq!(gpa(f.read(0, gva(40, 0))), Some(frame(0, 0) << 12));
    assert_eq!(faults(&mut f, [1 << 30, 1 << 30 | 9 << 12]), 1, "2 MiB elsewhere");
    let inside = 1 << 30 | 100 << 21;
    assert_eq!(faults(&mut f, [inside, inside | 9 << 12]), 2, "4 KiB around the table");
    f.write(0, inside | 3 << 12, frame(0, 1) << 12 | FULL);
    f.step(Op::Invlpg { vcpu: 0, gva: gva(40, 0) });
    assert_eq!(gpa(f.read(0, gva(40, 0))), Some(frame(0, 1) << 12));
}

#[test]
fn a_page_of_2_mib_takes_one_entry_unless_its_slot_is_logged() {
    let mut f = Fixture::new(PolicyKind::Tagged, 1);
    let pages = |region: u64| [gva(region, 0), gva(region, 77), gva(region, 511)];
    assert_eq!(faults(&mut f, pages(8)), 1);
    f.step(Op::DirtyLog { slot: 1, action: LogAction::On });
    f.0.settle_pending().expect("all vCPUs can be kicked");
    assert_eq!(faults(&mut f, pages(8)), 3, "4 KiB entries can be logged one by one");
    f.step(Op::DirtyLog { slot: 1, action: LogAction::Off });
    f.step(Op::Slot { slot: 1, place: Place::Gone });
    f.step(Op::Slot { slot: 1, place: Place::Home { bank: 2, read_only: false } });
    assert_eq!(faults(&mut f, pages(8)), 3, "the host's side is not aligned");
}
