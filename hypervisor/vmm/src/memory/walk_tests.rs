//! The walk against the shadow engine's reference walker, which shares nothing with it.

extern crate std;

use super::*;
use crate::fake::{FakeMemory, HOST_BASE};
use crate::memory::{Memslot, SlotId};
use anchorite_addr::Gfn;
use anchorite_shadow::AccessKind;
use oorandom::Rand64;
use proptest::prelude::*;

#[path = "../../../shadow/tests/support/reference.rs"]
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "an oracle written elsewhere"
)]
mod reference;

const PHYSICAL_BITS: u32 = 40;
/// Tables lie in so many frames from 0.
const TABLES: u64 = 8;

fn memory() -> GuestMemory<FakeMemory> {
    let mut memory = GuestMemory::new(FakeMemory::default());
    let host = Hpa::new(HOST_BASE).frame();
    let (id, first, frames) = (SlotId(0), Gfn::new(0), 1024);
    memory.add_slot(Memslot { id, first, frames, host, read_only: false }).unwrap();
    memory
}

/// Fills the tables with entries that mostly lead to each other, and mostly permit.
fn fill(memory: &mut GuestMemory<FakeMemory>, mode: PagingMode, seed: u64) {
    let mut random = Rand64::new(seed.into());
    let wide = mode != PagingMode::TwoLevel;
    for index in 0..TABLES * 512 {
        let mut entry = random.rand_range(0..TABLES) << 12
            | random.rand_u64() & (LARGE | ACCESSED | DIRTY | 0xf18);
        for bit in [PRESENT, WRITABLE, USER] {
            entry |= if random.rand_range(0..16) != 0 { bit } else { 0 };
        }
        if wide && random.rand_range(0..16) == 0 {
            entry |= 1 << random.rand_range(52..64);
        }
        if random.rand_range(0..16) == 0 {
            entry |= 1 << random.rand_range(12..52);
        }
        if wide {
            memory.place(Gpa::new(index * 8), &entry.to_le_bytes()).unwrap();
        } else {
            let pair = entry & 0xffff_ffff | entry << 32;
            memory.place(Gpa::new(index * 8), &pair.to_le_bytes()).unwrap();
        }
    }
    // PDPTEs that MOV to CR3 would refuse are never walked.
    for index in (0..4).filter(|_| mode == PagingMode::Pae) {
        let entry = memory.load_u64(Gpa::new(index * 8)).unwrap();
        let loadable = entry & !0x1e6 & ((1 << PHYSICAL_BITS) - 1);
        memory.place(Gpa::new(index * 8), &loadable.to_le_bytes()).unwrap();
    }
}

fn registers(
    mode: PagingMode,
    [wp, nxe, no_execute, no_access, pse, keys]: [bool; 6],
) -> Registers {
    let paged = mode != PagingMode::None;
    let pae = paged && mode != PagingMode::TwoLevel;
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    let cr0 = bit(paged, 1 << 31) | bit(wp, 1 << 16);
    let la57 = bit(mode == PagingMode::FiveLevel, 1 << 12);
    let cr4 = bit(pae, 1 << 5)
        | bit(no_execute, 1 << 20)
        | bit(no_access, 1 << 21)
        | bit(pse, 1 << 4)
        | bit(keys, 1 << 22)
        | la57;
    Registers {
        cr0: Cr0::from_bits_retain(cr0),
        cr3: 0,
        cr4: Cr4::from_bits_retain(cr4),
        efer: Efer::from_bits_retain(bit(nxe, 1 << 11) | bit(mode.is_long(), 1 << 8)),
    }
}

/// The same question to the oracle: the byte's address, or an error code.
fn expected(
    memory: &GuestMemory<FakeMemory>,
    registers: &Registers,
    gva: u64,
    access: Access,
) -> Result<u64, u32> {
    let cpu = reference::Cpu {
        cr0: registers.cr0.bits(),
        cr3: registers.cr3,
        cr4: registers.cr4.bits(),
        efer: registers.efer.bits(),
        pkru: access.pkru,
        pdptes: core::array::from_fn(|index| memory.load_u64(Gpa::new(index as u64 * 8)).unwrap()),
        maxphyaddr: PHYSICAL_BITS,
        gib_pages: true,
        pse36: true,
        amd_mbz: false,
    };
    let op = match access.kind {
        AccessKind::Read => reference::Op::Read,
        AccessKind::Write => reference::Op::Write,
        AccessKind::Execute => reference::Op::Fetch,
    };
    let (cpl3, implicit, ac) = (access.user, access.implicit, access.ac);
    let access = reference::Access { op, cpl3, implicit, ac };
    let translation = reference::translate(&cpu, gva, access, |entry| {
        let mut bytes = [0; 8];
        memory.read(Gpa::new(entry.gpa), &mut bytes[..entry.bytes as usize]).ok()?;
        Some(u64::from_le_bytes(bytes))
    });
    match translation.answer {
        reference::Answer::Ok(leaf) => Ok(leaf.gpa),
        reference::Answer::PageFault(code) => Err(code),
        reference::Answer::NonCanonical => panic!("{gva:#x} is canonical"),
    }
}

proptest! {
    #[test]
    fn a_walk_ends_where_the_reference_says_in_every_mode(
        seed: u64,
        mode in proptest::sample::select(PagingMode::ALL.as_slice()),
        controls: [bool; 6],
        pkru: u32,
        addresses in proptest::collection::vec(any::<u64>(), 64),
        [user, ac, implicit]: [bool; 3],
    ) {
        let mut memory = memory();
        fill(&mut memory, mode, seed);
        let registers = registers(mode, controls);
        for address in addresses {
            let width = if mode == PagingMode::FiveLevel { 57 } else { 48 };
            let gva = (address << (64 - width)).cast_signed() >> (64 - width);
            let gva = if mode.is_long() { gva.cast_unsigned() } else { address & 0xffff_ffff };
            for kind in [AccessKind::Read, AccessKind::Write, AccessKind::Execute] {
                let implicit = implicit && !user && kind != AccessKind::Execute;
                let access = Access { kind, user, implicit, ac, pkru };
                let found = memory.walk(&registers, PHYSICAL_BITS, Gva::new(gva), access);
                let found = match found {
                    Ok(walk) => Ok(walk.gpa.as_u64()),
                    Err(WalkError::Fault(fault)) => {
                        prop_assert_eq!(fault.cr2, Gva::new(gva));
                        Err(fault.code.bits())
                    }
                    // The oracle would read nothing there either.
                    Err(WalkError::NoTable(_)) => continue,
                };
                let expected = expected(&memory, &registers, gva, access);
                prop_assert_eq!(found, expected, "{:?} {:#x} {:?}", mode, gva, access);
            }
        }
    }
}

/// Four-level tables in frames 0 to 3 that map the first page to frame 8.
fn four_level() -> (GuestMemory<FakeMemory>, Registers) {
    let mut memory = memory();
    for (at, entry) in [(0, 0x1007u64), (0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x8007)] {
        memory.place(Gpa::new(at), &entry.to_le_bytes()).unwrap();
    }
    while memory.writes().take().is_some() {}
    (memory, registers(PagingMode::FourLevel, [true, false, false, false, false, false]))
}

#[test]
fn a_read_marks_every_entry_accessed_and_a_write_the_last_one_dirty() {
    let (mut memory, registers) = four_level();
    let entries = |memory: &GuestMemory<FakeMemory>| {
        [0, 0x1000, 0x2000, 0x3000].map(|at| memory.load_u64(Gpa::new(at)).unwrap() & 0xfff)
    };
    for (kind, expected) in
        [(AccessKind::Read, [0x27; 4]), (AccessKind::Write, [0x27, 0x27, 0x27, 0x67])]
    {
        let access = Access::supervisor(kind);
        let walk = memory.walk(&registers, PHYSICAL_BITS, Gva::new(0x123), access).unwrap();
        assert_eq!(walk.gpa, Gpa::new(0x8123));
        assert_eq!(memory.mark(&walk), Ok(true));
        assert_eq!(entries(&memory), expected, "{kind:?}");
        assert!(!memory.writes().is_empty(), "the marks pass the door");
        while memory.writes().take().is_some() {}
        let again = memory.walk(&registers, PHYSICAL_BITS, Gva::new(0x123), access).unwrap();
        assert_eq!(memory.mark(&again), Ok(true));
        assert!(memory.writes().is_empty(), "nothing is left to mark");
    }
}

#[test]
fn an_entry_that_changed_since_the_walk_is_not_marked() {
    let (mut memory, registers) = four_level();
    let access = Access::supervisor(AccessKind::Write);
    let walk = memory.walk(&registers, PHYSICAL_BITS, Gva::new(0), access).unwrap();
    memory.place(Gpa::new(0x3000), &0u64.to_le_bytes()).unwrap();
    assert_eq!(memory.mark(&walk), Ok(false));
    assert_eq!(memory.load_u64(Gpa::new(0x3000)), Ok(0));
}

#[test]
fn a_table_outside_memory_is_told_apart_from_a_fault() {
    let (mut memory, registers) = four_level();
    memory.place(Gpa::new(0x1000), &0x8000_0007u64.to_le_bytes()).unwrap();
    let access = Access::supervisor(AccessKind::Read);
    let walk = memory.walk(&registers, PHYSICAL_BITS, Gva::new(0), access);
    let gpa = Gpa::new(0x8000_0000);
    assert_eq!(walk, Err(WalkError::NoTable(AccessError::NoMemory { gpa })));
}
