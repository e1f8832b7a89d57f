extern crate std;

use super::*;
use crate::fake::{FakeFormat, FakeTables, enter};
use crate::memory::SlotId;
use anchorite_addr::{Gpa, Hfn};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

type Map = Nested<FakeFormat, FakeTables>;

fn slot(id: u16, first: u64, frames: u64, host: u64) -> Memslot {
    let (id, first, host) = (SlotId(id), Gfn::new(first), Hfn::new(host));
    Memslot { id, first, frames, host, read_only: false }
}

fn fault(gfn: u64, access: NestedAccess) -> NestedFault {
    NestedFault { gpa: Gpa::new(gfn << 12), gva: None, access }
}

/// A walk of the tables by nothing but their format: host frame, size in frames,
/// rights.
fn look(map: &Map, gfn: u64) -> Option<(u64, u64, NestedRights)> {
    let (mut table, mut span) = (map.root().as_u64(), 1u64 << 27);
    loop {
        let entry = map.tables().read_entry(Hpa::new(table + gfn / span % 512 * 8));
        if entry & 1 == 0 {
            return None;
        }
        if entry & 2 != 0 {
            let frame = (entry >> 12) + gfn % span;
            return Some((frame, span, FakeFormat::rights(entry)));
        }
        table = entry & !0xfff;
        span /= 512;
    }
}

fn map(gigabyte_pages: bool) -> Map {
    Nested::new(FakeTables::new(64), gigabyte_pages).unwrap()
}

fn with(slots: &[Memslot]) -> Memslots {
    let mut all = Memslots::default();
    for slot in slots {
        all.add(*slot).unwrap();
    }
    all
}

#[test]
fn a_fault_maps_the_largest_page_that_slot_and_alignment_permit() {
    // Host sides aligned to 1 GiB, 2 MiB and 4 KiB; a slot that begins and ends inside
    // large pages.
    let slots = with(&[
        slot(0, 0, 0x40000, 0x100_0000),
        slot(1, 0x40000, 0x40000, 0x200_0200),
        slot(2, 0x80000, 0x400, 0x300_0001),
        slot(3, 0x90080, 0x400, 0x400_0080),
    ]);
    let cases = [
        (true, 0x12345, 0x40000),
        (false, 0x12345, 0x200),
        (true, 0x7ffff, 0x200),
        (true, 0x80123, 1),
        (true, 0x90100, 1),
        (true, 0x90200, 0x200),
        (true, 0x90400, 1),
    ];
    for (gigabyte_pages, gfn, frames) in cases {
        let mut map = map(gigabyte_pages);
        assert_eq!(
            map.nested_fault(&slots, &fault(gfn, NestedAccess::WRITE)),
            FaultOutcome::Resolved
        );
        let (host, size, rights) = look(&map, gfn).unwrap();
        assert_eq!(
            Some(host),
            slots.find(Gfn::new(gfn)).map(|slot| slot.host_frame(Gfn::new(gfn)).number())
        );
        assert_eq!(rights, NestedRights::all());
        assert_eq!(size, frames, "{gfn:#x}");
    }
}

#[test]
fn memory_that_no_slot_holds_is_a_devices_and_is_not_mapped() {
    let mut map = map(true);
    let slots = with(&[slot(0, 0x100, 1, 0x100)]);
    let tables = map.stats().tables;
    for gfn in [0xff, 0x101, 1 << 36, u64::MAX >> 12] {
        let gpa = Gpa::new(gfn << 12);
        let outcome = map.nested_fault(&slots, &fault(gfn, NestedAccess::empty()));
        assert_eq!(outcome, FaultOutcome::Mmio { gpa });
    }
    assert_eq!(map.stats().tables, tables);
}

#[test]
fn a_rom_is_mapped_without_write_and_a_write_to_it_is_told() {
    let mut map = map(true);
    let slots = with(&[Memslot { read_only: true, ..slot(0, 0x200, 0x200, 0x400) }]);
    let gpa = Gpa::new(0x20_5000);
    let write =
        map.nested_fault(&slots, &fault(0x205, NestedAccess::WRITE | NestedAccess::PRESENT));
    assert_eq!(write, FaultOutcome::ReadOnly { gpa });
    assert_eq!(
        map.nested_fault(&slots, &fault(0x205, NestedAccess::FETCH)),
        FaultOutcome::Resolved
    );
    assert_eq!(look(&map, 0x205).unwrap().2, NestedRights::READ | NestedRights::EXECUTE);
}

#[test]
fn deleting_a_slot_drops_its_leaves_and_no_others_and_owes_a_flush() {
    let (kept, gone) = (slot(0, 0, 0x201, 0x1000), slot(1, 0x201, 0x5ff, 0x4001));
    let mut slots = with(&[kept, gone]);
    let mut map = map(true);
    let faulted = [0, 0x200, 0x201, 0x3ff, 0x400, 0x7ff];
    for gfn in faulted {
        assert_eq!(
            map.nested_fault(&slots, &fault(gfn, NestedAccess::WRITE)),
            FaultOutcome::Resolved
        );
    }
    let _ = enter(&mut map);
    assert_eq!(enter(&mut map), Entry::default(), "nothing is owed twice");

    let change = slots.delete(SlotId(1)).unwrap();
    map.slot_changed(&slots, &change);
    for gfn in faulted {
        let expected =
            kept.contains(Gfn::new(gfn)).then(|| kept.host_frame(Gfn::new(gfn)).number());
        assert_eq!(look(&map, gfn).map(|found| found.0), expected, "{gfn:#x}");
    }
    assert_eq!(enter(&mut map), Entry { root: None, flush: Some(FlushScope::All) });
}

#[test]
fn tables_that_become_empty_are_freed_only_with_the_flush() {
    let mut slots = with(&[slot(0, 0x1000, 1, 0x4000)]);
    let mut map = map(true);
    assert_eq!(
        map.nested_fault(&slots, &fault(0x1000, NestedAccess::WRITE)),
        FaultOutcome::Resolved
    );
    assert_eq!(map.stats().tables, 4);
    let change = slots.delete(SlotId(0)).unwrap();
    map.slot_changed(&slots, &change);
    assert_eq!((map.stats().tables, map.tables().frames.len()), (1, 4));
    let _ = enter(&mut map);
    assert_eq!(map.tables().frames.len(), 1);
}

#[test]
fn a_moved_slot_is_gone_from_its_old_place() {
    let mut slots = with(&[slot(0, 0, 0x200, 0x400)]);
    let mut map = map(true);
    assert_eq!(map.nested_fault(&slots, &fault(0, NestedAccess::WRITE)), FaultOutcome::Resolved);
    let change = slots.move_to(SlotId(0), Gfn::new(0x100)).unwrap();
    map.slot_changed(&slots, &change);
    assert!((0..0x300).all(|gfn| look(&map, gfn).is_none()));
    assert_eq!(
        map.nested_fault(&slots, &fault(0x1ff, NestedAccess::WRITE)),
        FaultOutcome::Resolved
    );
    assert_eq!(look(&map, 0x1ff).map(|found| (found.0, found.1)), Some((0x4ff, 1)));
}

#[test]
fn running_out_of_frames_at_any_allocation_is_an_outcome_and_leaves_the_map_whole() {
    let slots = with(&[slot(0, 0, 1, 0x4000), slot(1, 0x800_0000, 1, 0x4001)]);
    for limit in 1..7 {
        let mut map: Map = Nested::new(FakeTables::new(limit), true).unwrap();
        let outcomes: Vec<_> = [0, 0x800_0000]
            .map(|gfn| map.nested_fault(&slots, &fault(gfn, NestedAccess::WRITE)))
            .into();
        let expected = match limit {
            1..=3 => vec![FaultOutcome::OutOfTables; 2],
            4..=6 => vec![FaultOutcome::Resolved, FaultOutcome::OutOfTables],
            _ => vec![FaultOutcome::Resolved; 2],
        };
        assert_eq!(outcomes, expected, "limit {limit}");
        assert_eq!(look(&map, 0).is_some(), limit >= 4);
        assert!(look(&map, 0x800_0000).is_none());
    }
    assert_eq!(Map::new(FakeTables::new(0), true).err(), Some(OutOfTables));
}

#[derive(Clone, Debug)]
enum Step {
    Fault(u64, bool),
    Add(Memslot),
    Delete(u16),
    Move(u16, u64),
    Protect(u16, bool),
    Enter,
}

fn step() -> impl Strategy<Value = Step> {
    let frames = prop_oneof![1..8u64, Just(0x200), Just(0x400), Just(0x200u64 * 512)];
    let place = prop_oneof![0..0x900u64, Just(0x4_0000), Just(0x8_0000)];
    let host = prop_oneof![Just(0x100_0000u64), Just(0x100_0200), Just(0x100_0003)];
    let fields = (0..4u16, place.clone(), frames, host, any::<bool>());
    let added = fields.prop_map(|(id, first, frames, host, read_only)| Memslot {
        read_only,
        ..slot(id, first, frames, host)
    });
    prop_oneof![
        4 => (0..0x9_0000u64, any::<bool>()).prop_map(|(gfn, write)| Step::Fault(gfn, write)),
        8 => (0..0xa00u64, any::<bool>()).prop_map(|(gfn, write)| Step::Fault(gfn, write)),
        3 => added.prop_map(Step::Add),
        2 => (0..4u16).prop_map(Step::Delete),
        2 => (0..4u16, place).prop_map(|(id, first)| Step::Move(id, first)),
        1 => (0..4u16, any::<bool>()).prop_map(|(id, to)| Step::Protect(id, to)),
        1 => Just(Step::Enter),
    ]
}

proptest! {
    /// What is mapped is always what the slots say, whatever happened before; and a
    /// fault that a slot permits is mapped afterwards.
    #[test]
    fn the_map_never_disagrees_with_the_slots(
        steps in proptest::collection::vec(step(), 1..40),
        probes in proptest::collection::vec(prop_oneof![0..0xa00u64, 0..0x9_0000u64], 12),
        gigabyte_pages: bool,
    ) {
        let mut map: Map = Nested::new(FakeTables::new(4096), gigabyte_pages).unwrap();
        let mut slots = Memslots::default();
        for step in steps {
            let change = match step {
                Step::Fault(gfn, write) => {
                    let access = if write { NestedAccess::WRITE } else { NestedAccess::empty() };
                    let outcome = map.nested_fault(&slots, &fault(gfn, access));
                    prop_assert_eq!(outcome == FaultOutcome::Resolved, look(&map, gfn)
                        .is_some_and(|(.., rights)| !write || rights.contains(NestedRights::WRITE)));
                    None
                }
                Step::Enter => {
                    let _ = enter(&mut map);
                    None
                }
                Step::Add(slot) => slots.add(slot).ok(),
                Step::Delete(id) => slots.delete(SlotId(id)).ok(),
                Step::Move(id, first) => slots.move_to(SlotId(id), Gfn::new(first)).ok(),
                Step::Protect(id, to) => slots.set_read_only(SlotId(id), to).ok(),
            };
            if let Some(change) = change {
                map.slot_changed(&slots, &change);
            }
            for gfn in &probes {
                let Some((host, _, rights)) = look(&map, *gfn) else { continue };
                let slot = slots.find(Gfn::new(*gfn));
                prop_assert_eq!(Some(host), slot.map(|slot| slot.host_frame(Gfn::new(*gfn)).number()));
                let read_only = slot.is_some_and(|slot| slot.read_only);
                prop_assert_eq!(rights.contains(NestedRights::WRITE), !read_only);
            }
        }
    }
}
