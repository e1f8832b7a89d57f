extern crate std;

use super::*;
use crate::fake::{FakeMemory, HOST_BASE};
use crate::memory::GuestWrite;
use anchorite_addr::Hfn;
use std::vec;

/// Slots that touch at 0x3000 in guest-physical memory but not in the host's: RAM
/// below, a ROM above.
fn memory() -> GuestMemory<FakeMemory> {
    let mut memory = GuestMemory::new(FakeMemory::default());
    let host = HOST_BASE >> 12;
    let ram = Memslot {
        id: SlotId(0),
        first: Gfn::new(1),
        frames: 2,
        host: Hfn::new(host + 8),
        read_only: false,
    };
    let rom = Memslot {
        id: SlotId(1),
        first: Gfn::new(3),
        frames: 1,
        host: Hfn::new(host + 2),
        read_only: true,
    };
    memory.add_slot(ram).unwrap();
    memory.add_slot(rom).unwrap();
    memory
}

#[test]
fn bytes_across_slots_are_placed_and_read_in_order() {
    let mut memory = memory();
    let bytes: [u8; 32] = core::array::from_fn(|index| index as u8);
    memory.place(Gpa::new(0x2ff0), &bytes).unwrap();
    let mut read = [0; 32];
    memory.read(Gpa::new(0x2ff0), &mut read).unwrap();
    assert_eq!(read, bytes);
    let mut host = [0; 16];
    memory.host().read(Hpa::new(HOST_BASE + 0x2000), &mut host).unwrap();
    assert_eq!(host, bytes[16..]);
}

#[test]
fn the_guest_cannot_write_read_only_memory_and_nothing_is_half_written() {
    let mut memory = memory();
    let refused = memory.write(Gpa::new(0x2ffc), &[0xff; 8]);
    assert_eq!(refused, Err(AccessError::ReadOnly { gpa: Gpa::new(0x3000) }));
    assert_eq!(memory.load_u32(Gpa::new(0x2ffc)), Ok(0));
    assert!(memory.writes().is_empty());
    let refused = memory.compare_exchange(Gpa::new(0x3000), 4, 0, 1);
    assert_eq!(refused, Err(AccessError::ReadOnly { gpa: Gpa::new(0x3000) }));
}

#[test]
fn an_access_beyond_memory_names_the_first_byte_without_memory() {
    let mut memory = memory();
    let gone = Err(AccessError::NoMemory { gpa: Gpa::new(0x4000) });
    assert_eq!(memory.read(Gpa::new(0x3ffc), &mut [0; 8]), gone);
    assert_eq!(memory.place(Gpa::new(0x3ffc), &[1; 8]), gone);
    assert_eq!(memory.zero(Gpa::new(0x1000), u64::MAX), gone);
    assert_eq!(
        memory.load_u64(Gpa::new(0x4000)),
        Err(AccessError::NoMemory { gpa: Gpa::new(0x4000) })
    );
    let top = Gpa::new(u64::MAX);
    assert!(memory.read(top, &mut [0; 8]).is_err() && memory.write(top, &[0; 8]).is_err());
    assert!(memory.writes().is_empty());
}

#[test]
fn every_write_passes_the_door() {
    let at = Gpa::new(0x1100);
    let mut all = memory();
    all.write(at, &[1, 2, 3]).unwrap();
    assert_eq!(all.writes().take(), Some(GuestWrite::Range { first: at, bytes: 3 }));
    all.place(at, &[1; 5]).unwrap();
    assert_eq!(all.writes().take(), Some(GuestWrite::Range { first: at, bytes: 5 }));
    all.zero(at, 7).unwrap();
    assert_eq!(all.writes().take(), Some(GuestWrite::Range { first: at, bytes: 7 }));
    assert_eq!(all.compare_exchange(at, 8, 0, 9), Ok(true));
    assert_eq!(all.writes().take(), Some(GuestWrite::Range { first: at, bytes: 8 }));
    assert_eq!(all.compare_exchange(at, 8, 0, 9), Ok(false), "it holds 9 by now");
    assert!(all.writes().is_empty());
}

#[test]
fn an_exchange_replaces_exactly_its_bytes_at_every_size_and_place() {
    for size in [1u8, 2, 4, 8] {
        for offset in 0..16 {
            let mut memory = memory();
            let before = vec![0x55; 32];
            memory.place(Gpa::new(0x1000), &before).unwrap();
            let gpa = Gpa::new(0x1000 + offset);
            let old = 0x5555_5555_5555_5555;
            assert_eq!(memory.compare_exchange(gpa, size, old, 0x1122_3344_5566_7788), Ok(true));

            let mut expected = before.clone();
            let new = 0x1122_3344_5566_7788u64.to_le_bytes();
            expected[offset as usize..][..size.into()].copy_from_slice(&new[..size.into()]);
            let mut after = vec![0; 32];
            memory.read(Gpa::new(0x1000), &mut after).unwrap();
            assert_eq!(after, expected, "size {size} offset {offset}");
            assert_eq!(memory.compare_exchange(gpa, size, old, 0), Ok(false));
        }
    }
}

#[test]
fn slots_over_memory_that_is_not_for_guests_are_refused() {
    let mut memory = GuestMemory::new(FakeMemory::default());
    let slot = |host, frames| Memslot {
        id: SlotId(0),
        first: Gfn::new(0),
        frames,
        host: Hfn::new(host),
        read_only: false,
    };
    let end = (HOST_BASE + crate::fake::HOST_BYTES) >> 12;
    for bad in [slot(0, 1), slot(end, 1), slot(end - 1, 2), slot(HOST_BASE >> 12, u64::MAX)] {
        assert_eq!(memory.add_slot(bad), Err(SlotError::BeyondHostMemory(bad)));
    }
    memory.add_slot(slot(end - 1, 1)).unwrap();
}
