//! The information that a multiboot 2 kernel finds in EBX (3.6 "Boot information format").

use alloc::format;

use crate::bytes::Builder;
use crate::multiboot::{LOADER_NAME, memory_sizes};
use crate::place::{Placer, Room};
use crate::ram::GuestRam;
use crate::{Guest, Problem};

const TAG_END: u32 = 0;
const TAG_COMMAND_LINE: u32 = 1;
const TAG_LOADER_NAME: u32 = 2;
const TAG_MODULE: u32 = 3;
const TAG_MEMORY: u32 = 4;
const TAG_MEMORY_MAP: u32 = 6;
const ALIGNMENT: usize = 8;
const MAP_ENTRY_BYTES: u32 = 24;

/// Places modules and the information that names them; gives the information's address.
pub(super) fn place(guest: &Guest, place: &mut Placer<impl GuestRam>) -> Result<u32, Problem> {
    // Total size and a reserved word, filled in at the end.
    let mut info = Builder::zeroed(8);
    add_text(&mut info, TAG_COMMAND_LINE, &[], ("the command line", guest.command_line))?;
    add_text(&mut info, TAG_LOADER_NAME, &[], ("the boot loader's name", LOADER_NAME))?;
    for module in guest.modules {
        let what = format!("module {}", module.name);
        let start = place.store(what, module.bytes, Room::MODULE)? as u32;
        let range = [start, start + module.bytes.len() as u32];
        let text = ("a module's command line", module.command_line);
        add_text(&mut info, TAG_MODULE, &range, text)?;
    }
    let (lower, upper) = memory_sizes(place);
    info.u32(TAG_MEMORY).u32(16).u32(lower).u32(upper);
    add_memory_map(&mut info, place);
    info.u32(TAG_END).u32(8);

    let bytes = info.as_bytes().len() as u32;
    info.put(0, &bytes.to_le_bytes());
    Ok(place.store("the multiboot 2 information", info.as_bytes(), Room::STRUCTURE)? as u32)
}

/// A tag of words and a text with a zero byte behind it.
fn add_text(
    info: &mut Builder,
    kind: u32,
    words: &[u32],
    (what, text): (&'static str, &str),
) -> Result<(), Problem> {
    if let Some(offset) = text.bytes().position(|byte| byte == 0) {
        return Err(Problem::TextWithZero { what, offset: offset as u64 });
    }
    let bytes = 8 + 4 * words.len() + text.len() + 1;
    info.u32(kind).u32(bytes as u32);
    for &word in words {
        info.u32(word);
    }
    info.text(text).align(ALIGNMENT);
    Ok(())
}

fn add_memory_map(info: &mut Builder, place: &Placer<impl GuestRam>) {
    let ranges = place.memory_map();
    let bytes = 16 + MAP_ENTRY_BYTES * ranges.len() as u32;
    info.u32(TAG_MEMORY_MAP).u32(bytes).u32(MAP_ENTRY_BYTES).u32(0);
    for range in ranges {
        info.u64(range.start.as_u64()).u64(range.bytes).u32(range.kind.e820_type()).u32(0);
    }
}
