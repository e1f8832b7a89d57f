extern crate std;

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::format;

fn slot(id: u16, first: u64, frames: u64) -> Memslot {
    let (first, host) = (Gfn::new(first), Hfn::new(0x10_0000 + first));
    Memslot { id: SlotId(id), first, frames, host, read_only: false }
}

#[test]
fn a_frame_is_found_in_its_slot_from_the_first_to_the_last() {
    let mut slots = Memslots::default();
    slots.add(slot(1, 0x100, 0x10)).unwrap();
    slots.add(slot(2, 0x110, 1)).unwrap();
    for (gfn, id) in [(0xff, None), (0x100, Some(1)), (0x10f, Some(1)), (0x110, Some(2))] {
        let found = slots.find(Gfn::new(gfn)).map(|slot| slot.id.0);
        assert_eq!(found, id, "{gfn:#x}");
    }
    assert!(slots.find(Gfn::new(0x111)).is_none() && slots.find(Gfn::new(u64::MAX)).is_none());
    assert_eq!(slots.host_address(Gpa::new(0x10_3456)), Some(Hpa::new(0x1_0010_3456)));
}

#[test]
fn slots_may_touch_but_not_overlap() {
    let mut slots = Memslots::default();
    let present = slot(1, 0x100, 0x10);
    slots.add(present).unwrap();
    for (first, frames) in [(0xf1, 0x10), (0x10f, 1), (0x100, 1), (0x108, 0x100), (0, 0x1000)] {
        let wanted = slot(2, first, frames);
        assert_eq!(slots.add(wanted), Err(SlotError::Overlap { wanted, present }));
    }
    slots.add(slot(2, 0xf0, 0x10)).unwrap();
    slots.add(slot(3, 0x110, 0x10)).unwrap();
}

#[test]
fn senseless_slots_are_refused_and_change_nothing() {
    let mut slots = Memslots::default();
    let end = END_OF_GUEST_FRAMES;
    assert_eq!(slots.add(slot(1, 5, 0)), Err(SlotError::Empty(SlotId(1))));
    for (first, frames) in [(end, 1), (end - 1, 2), (0, end + 1), (1, u64::MAX)] {
        let beyond = slot(1, first, frames);
        assert_eq!(slots.add(beyond), Err(SlotError::BeyondGuestSpace(beyond)));
    }
    let host = Memslot { host: Hfn::new((1 << 40) - 1), ..slot(1, 0, 2) };
    assert_eq!(slots.add(host), Err(SlotError::BeyondHostMemory(host)));
    assert_eq!(slots.delete(SlotId(1)), Err(SlotError::Unknown(SlotId(1))));
    assert_eq!((slots.generation(), slots.iter().count()), (0, 0));

    slots.add(slot(1, end - 1, 1)).unwrap();
    assert_eq!(slots.add(slot(1, 0, 1)), Err(SlotError::Exists(SlotId(1))));
}

#[test]
fn there_is_room_for_so_many_slots_and_no_more() {
    let mut slots = Memslots::default();
    for id in 0..MAX_SLOTS as u16 {
        slots.add(slot(id, u64::from(id) * 2, 1)).unwrap();
    }
    assert_eq!(slots.add(slot(999, 0x10_0000, 1)), Err(SlotError::TooMany));
}

#[test]
fn a_slot_may_move_onto_a_part_of_itself() {
    let mut slots = Memslots::default();
    let from = slot(1, 0x100, 0x10);
    slots.add(from).unwrap();
    slots.add(slot(2, 0x200, 1)).unwrap();
    let to = Memslot { first: Gfn::new(0x108), ..from };
    assert_eq!(slots.move_to(SlotId(1), to.first), Ok(SlotChange::Moved { from, to }));
    assert!(slots.find(Gfn::new(0x100)).is_none());
    assert_eq!(slots.find(Gfn::new(0x108)).map(|slot| slot.host), Some(from.host));
    assert!(matches!(slots.move_to(SlotId(1), Gfn::new(0x1f8)), Err(SlotError::Overlap { .. })));
    assert_eq!(slots.get(SlotId(1)), Some(&to), "a refused move changes nothing");
}

#[test]
fn every_refusal_names_the_slot_and_what_is_wrong() {
    let (wanted, present) = (slot(7, 0x100, 1), slot(8, 0x100, 2));
    let errors = [
        SlotError::Empty(SlotId(7)),
        SlotError::BeyondGuestSpace(wanted),
        SlotError::BeyondHostMemory(wanted),
        SlotError::Overlap { wanted, present },
        SlotError::Exists(SlotId(7)),
        SlotError::Unknown(SlotId(7)),
    ];
    for error in errors {
        let text = format!("{error}");
        assert!(text.contains("slot 7"), "{text}");
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Add(Memslot),
    Delete(u16),
    Move(u16, u64),
    Protect(u16, bool),
}

fn operation() -> impl Strategy<Value = Operation> {
    let slot =
        (0..6u16, 0..48u64, 0..12u64).prop_map(|(id, first, frames)| slot(id, first, frames));
    prop_oneof![
        slot.prop_map(Operation::Add),
        (0..6u16).prop_map(Operation::Delete),
        (0..6u16, 0..48u64).prop_map(|(id, first)| Operation::Move(id, first)),
        (0..6u16, any::<bool>()).prop_map(|(id, to)| Operation::Protect(id, to)),
    ]
}

/// The same, frame by frame.
#[derive(Default)]
struct Model(BTreeMap<u16, Memslot>);

impl Model {
    fn apply(&mut self, operation: &Operation) -> bool {
        let wanted = match operation {
            Operation::Add(slot) if self.0.contains_key(&slot.id.0) => return false,
            Operation::Add(slot) => *slot,
            Operation::Delete(id) => return self.0.remove(id).is_some(),
            Operation::Move(id, first) => match self.0.get(id) {
                Some(slot) => Memslot { first: Gfn::new(*first), ..*slot },
                None => return false,
            },
            Operation::Protect(id, to) => match self.0.get(id) {
                Some(slot) => Memslot { read_only: *to, ..*slot },
                None => return false,
            },
        };
        let mut frames = (0..wanted.frames).map(|offset| wanted.first.number() + offset);
        let taken = frames.any(|gfn| self.holder(gfn).is_some_and(|slot| slot.id != wanted.id));
        if wanted.frames == 0 || taken {
            return false;
        }
        self.0.insert(wanted.id.0, wanted);
        true
    }

    fn holder(&self, gfn: u64) -> Option<&Memslot> {
        self.0
            .values()
            .find(|slot| gfn >= slot.first.number() && gfn - slot.first.number() < slot.frames)
    }
}

proptest! {
    #[test]
    fn slots_are_what_a_naive_model_says_after_any_operations(
        operations in proptest::collection::vec(operation(), 1..60),
        probes in proptest::collection::vec(0..64u64, 8),
    ) {
        let (mut slots, mut model) = (Memslots::default(), Model::default());
        for operation in operations {
            let before = slots.generation();
            let done = match operation.clone() {
                Operation::Add(slot) => slots.add(slot).is_ok(),
                Operation::Delete(id) => slots.delete(SlotId(id)).is_ok(),
                Operation::Move(id, first) => slots.move_to(SlotId(id), Gfn::new(first)).is_ok(),
                Operation::Protect(id, to) => slots.set_read_only(SlotId(id), to).is_ok(),
            };
            prop_assert_eq!(done, model.apply(&operation), "{:?}", operation);
            prop_assert_eq!(slots.generation() != before, done);
            for gfn in &probes {
                prop_assert_eq!(slots.find(Gfn::new(*gfn)), model.holder(*gfn), "{:#x}", gfn);
            }
        }
    }
}
