//! PVH: Xen's direct boot of an ELF file, and its start-info block.
//!
//! Source: Xen, docs/misc/pvh.pandoc "x86/HVM direct boot ABI" and
//! public/arch-x86/hvm/start_info.h (version 1).

use alloc::format;

use crate::bytes::Builder;
use crate::elf::Elf;
use crate::entry::{Entry, ProtectedMode};
use crate::place::{Placer, Room};
use crate::ram::GuestRam;
use crate::{Guest, Problem};

/// `XEN_HVM_START_MAGIC_VALUE`: "xEn3" with the top bit of the E set.
const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;

pub(crate) fn load(guest: &Guest, place: &mut Placer<impl GuestRam>) -> Result<Entry, Problem> {
    let elf = Elf::parse(guest.bytes)?;
    let mark = "the PVH entry note (Xen, type 18)";
    let eip = elf.pvh_entry()?.ok_or(Problem::NoMark { mark })?;
    elf.place(place)?;
    let info = place_start_info(guest, place)?;
    Ok(Entry::Protected(ProtectedMode::with_info(eip, 0, info)))
}

/// Places modules, command line, memory map and the block that names them; gives the
/// block's address.
pub(crate) fn place_start_info(
    guest: &Guest,
    place: &mut Placer<impl GuestRam>,
) -> Result<u32, Problem> {
    let modules = place_modules(guest, place)?;
    let command_line = place.store_text("the command line", guest.command_line)?;
    let map = memory_map(place);
    let entries = place.memory_map().len() as u32;
    let map_at = place.store("the PVH memory map", map.as_bytes(), Room::STRUCTURE)?;

    let mut info = Builder::default();
    info.u32(MAGIC).u32(VERSION).u32(0).u32(guest.modules.len() as u32);
    info.u64(modules).u64(command_line).u64(0);
    info.u64(map_at).u32(entries).u32(0);
    Ok(place.store("the PVH start info", info.as_bytes(), Room::STRUCTURE)? as u32)
}

/// The list's address, 0 without modules.
fn place_modules(guest: &Guest, place: &mut Placer<impl GuestRam>) -> Result<u64, Problem> {
    let mut list = Builder::default();
    for module in guest.modules {
        let what = format!("module {}", module.name);
        let start = place.store(what, module.bytes, Room::MODULE)?;
        let text = place.store_text("a module's command line", module.command_line)?;
        list.u64(start).u64(module.bytes.len() as u64).u64(text).u64(0);
    }
    if guest.modules.is_empty() {
        return Ok(0);
    }
    place.store("the PVH module list", list.as_bytes(), Room::STRUCTURE)
}

fn memory_map(place: &Placer<impl GuestRam>) -> Builder {
    let mut map = Builder::default();
    for range in place.memory_map() {
        map.u64(range.start.as_u64()).u64(range.bytes).u32(range.kind.e820_type()).u32(0);
    }
    map
}
