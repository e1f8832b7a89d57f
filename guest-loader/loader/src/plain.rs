//! ELF files without a boot protocol: entered at `e_entry` with a PVH start-info block.
//!
//! A 32-bit file starts as PVH does. A 64-bit file starts in 64-bit mode with the first
//! 4 GiB mapped one to one, so that it needs no assembly before its first function.

use anchorite_addr::{Gpa, PAGE_BYTES};

use crate::bytes::Builder;
use crate::elf::{Class, Elf};
use crate::entry::{DescriptorTable, Entry, LongMode, ProtectedMode};
use crate::place::{Placer, Room};
use crate::ram::GuestRam;
use crate::{Guest, Problem, pvh};

/// Present and writable.
pub(crate) const TABLE_ENTRY: u64 = 0x3;
/// Present, writable, large.
const LARGE_PAGE: u64 = 0x83;
pub(crate) const LARGE_PAGE_BYTES: u64 = 1 << 21;
/// Page directories for 4 GiB.
const DIRECTORIES: u64 = 4;
const ENTRIES: u64 = 512;
/// The code segment of [`place_gdt`].
pub(crate) const CODE_SELECTOR: u16 = 0x08;
/// Its data segment.
pub(crate) const DATA_SELECTOR: u16 = 0x10;
/// Null, 64-bit code, data: flat, ring 0, accessed.
const GDT: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

pub(crate) fn load(guest: &Guest, place: &mut Placer<impl GuestRam>) -> Result<Entry, Problem> {
    let elf = Elf::parse(guest.bytes)?;
    let entry = elf.physical_entry()?;
    elf.place(place)?;
    let info = pvh::place_start_info(guest, place)?;
    match elf.class {
        Class::Bits32 => Ok(Entry::Protected(ProtectedMode::with_info(entry as u32, 0, info))),
        Class::Bits64 => long_mode(entry, info, place),
    }
}

fn long_mode(rip: u64, info: u32, place: &mut Placer<impl GuestRam>) -> Result<Entry, Problem> {
    let tables = place_identity_map(place)?;
    let stack = place.reserve("the first stack", PAGE_BYTES, Room::PAGES)?;
    let gdt = place_gdt(place, Room::STRUCTURE)?;
    Ok(Entry::Long(LongMode {
        rip,
        rsp: stack + PAGE_BYTES,
        rdi: info.into(),
        rsi: 0,
        cr3: Gpa::new(tables),
        code_selector: CODE_SELECTOR,
        data_selector: DATA_SELECTOR,
        gdt,
    }))
}

/// The GDT that [`CODE_SELECTOR`] and [`DATA_SELECTOR`] are for.
pub(crate) fn place_gdt(
    place: &mut Placer<impl GuestRam>,
    room: Room,
) -> Result<DescriptorTable, Problem> {
    let mut gdt = Builder::default();
    for descriptor in GDT {
        gdt.u64(descriptor);
    }
    let base = place.store("the GDT", gdt.as_bytes(), room)?;
    Ok(DescriptorTable { base: Gpa::new(base), limit: 23 })
}

/// PML4, page-directory-pointer table, four page directories of 2 MiB pages.
pub(crate) fn place_identity_map(place: &mut Placer<impl GuestRam>) -> Result<u64, Problem> {
    let start = place.reserve("the page tables", (2 + DIRECTORIES) * PAGE_BYTES, Room::PAGES)?;
    place.write(start, identity_map(start, DIRECTORIES).as_bytes())?;
    Ok(start)
}

/// The same tables for the first `gib` GiB, to lie at `start`; 2 + `gib` pages.
pub(crate) fn identity_map(start: u64, gib: u64) -> Builder {
    let mut tables = Builder::zeroed(2 * PAGE_BYTES as usize);
    tables.put(0, &((start + PAGE_BYTES) | TABLE_ENTRY).to_le_bytes());
    for index in 0..gib {
        let directory = start + (2 + index) * PAGE_BYTES;
        let at = (PAGE_BYTES + 8 * index) as usize;
        tables.put(at, &(directory | TABLE_ENTRY).to_le_bytes());
    }
    for page in 0..gib * ENTRIES {
        tables.u64((page * LARGE_PAGE_BYTES) | LARGE_PAGE);
    }
    tables
}
