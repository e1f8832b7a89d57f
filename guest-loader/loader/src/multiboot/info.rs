//! The information that a multiboot kernel finds in EBX (3.3 "Boot information format").

use alloc::format;

use crate::bytes::Builder;
use crate::place::{CONVENTIONAL_END, Placer, Room};
use crate::ram::{GuestRam, RangeKind};
use crate::{Guest, Problem};

pub(crate) const LOADER_NAME: &str = "Anchorite";

const FLAG_MEMORY: u32 = 1 << 0;
const FLAG_COMMAND_LINE: u32 = 1 << 2;
const FLAG_MODULES: u32 = 1 << 3;
const FLAG_MEMORY_MAP: u32 = 1 << 6;
const FLAG_LOADER_NAME: u32 = 1 << 9;
/// Up to the end of the last VBE field; all behind the loader's name stays zero.
const INFO_BYTES: usize = 88;
/// Bytes of a memory map entry, not counting its size field.
const MAP_ENTRY_BYTES: u32 = 20;
const ONE_MIB: u64 = 1 << 20;

/// Places modules, texts, memory map and the structure that names them; gives the
/// structure's address.
///
/// Modules lie on page boundaries whether the header asks for it or not. `mods_count`
/// is told even when it is 0.
pub(super) fn place(guest: &Guest, place: &mut Placer<impl GuestRam>) -> Result<u32, Problem> {
    let modules = place_modules(guest, place)?;
    let command_line = place.store_text("the command line", guest.command_line)? as u32;
    let loader_name = place.store_text("the boot loader's name", LOADER_NAME)? as u32;
    let map = memory_map(place);
    let map_bytes = map.as_bytes().len() as u32;
    let map_at = place.store("the multiboot memory map", map.as_bytes(), Room::STRUCTURE)? as u32;
    let (lower, upper) = memory_sizes(place);

    let mut info = Builder::zeroed(INFO_BYTES);
    let flags = FLAG_MEMORY | FLAG_COMMAND_LINE | FLAG_MODULES | FLAG_MEMORY_MAP | FLAG_LOADER_NAME;
    let fields = [
        (0, flags),
        (4, lower),
        (8, upper),
        (16, command_line),
        (20, guest.modules.len() as u32),
        (24, modules),
        (44, map_bytes),
        (48, map_at),
        (64, loader_name),
    ];
    for (offset, value) in fields {
        info.put(offset, &value.to_le_bytes());
    }
    Ok(place.store("the multiboot information", info.as_bytes(), Room::STRUCTURE)? as u32)
}

/// The list's address, 0 without modules. Everything lies below 4 GiB (see [`Room`]).
fn place_modules(guest: &Guest, place: &mut Placer<impl GuestRam>) -> Result<u32, Problem> {
    let mut list = Builder::default();
    for module in guest.modules {
        let what = format!("module {}", module.name);
        let start = place.store(what, module.bytes, Room::MODULE)? as u32;
        let text = place.store_text("a module's command line", module.command_line)? as u32;
        list.u32(start).u32(start + module.bytes.len() as u32).u32(text).u32(0);
    }
    if guest.modules.is_empty() {
        return Ok(0);
    }
    let at = place.store("the multiboot module list", list.as_bytes(), Room::STRUCTURE)?;
    Ok(at as u32)
}

fn memory_map(place: &Placer<impl GuestRam>) -> Builder {
    let mut map = Builder::default();
    for range in place.memory_map() {
        map.u32(MAP_ENTRY_BYTES).u64(range.start.as_u64()).u64(range.bytes);
        map.u32(range.kind.e820_type());
    }
    map
}

/// `mem_lower` and `mem_upper` in KiB: the RAM that starts at 0, up to 640 KiB, and the
/// RAM that starts at 1 MiB, up to the first hole.
pub(crate) fn memory_sizes(place: &Placer<impl GuestRam>) -> (u32, u32) {
    let lower = ram_from(place, 0).min(CONVENTIONAL_END);
    let upper = ram_from(place, ONE_MIB);
    ((lower / 1024) as u32, (upper / 1024).min(u32::MAX.into()) as u32)
}

/// Bytes of RAM without a hole from `start` on.
fn ram_from(place: &Placer<impl GuestRam>, start: u64) -> u64 {
    let mut end = start;
    for range in place.memory_map().iter().filter(|range| range.kind == RangeKind::Ram) {
        let low = range.start.as_u64();
        if low <= end {
            end = end.max(low.saturating_add(range.bytes));
        }
    }
    end - start
}
