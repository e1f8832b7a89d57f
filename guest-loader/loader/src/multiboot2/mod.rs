//! Multiboot 2 kernels.
//!
//! Source: Multiboot2 Specification 2.0: 3.1 "OS image format", 3.2 "Machine state", 3.6 "Boot
//! information format".

mod header;
mod info;

use alloc::vec::Vec;

use crate::elf::Elf;
use crate::entry::{Entry, ProtectedMode};
use crate::multiboot::place_image;
use crate::place::Placer;
use crate::ram::GuestRam;
use crate::{Guest, Note, Problem};
use header::Header;

/// EAX at the entry.
const BOOT_MAGIC: u32 = 0x36d7_6289;

/// Whether a file has a multiboot 2 header with a good checksum.
pub(crate) fn is_kernel(file: &[u8]) -> bool {
    header::find(file).is_some()
}

pub(crate) fn load(
    guest: &Guest,
    place: &mut Placer<impl GuestRam>,
    notes: &mut Vec<Note>,
) -> Result<Entry, Problem> {
    let header = Header::parse(guest.bytes)?;
    if header.wants_framebuffer {
        notes.push(Note::VideoModeIgnored);
    }
    let eip = match &header.addresses {
        Some(addresses) => place_image(guest.bytes, addresses, place)?,
        None => place_elf(guest.bytes, header.entry, place)?,
    };
    let ebx = info::place(guest, place)?;
    Ok(Entry::Protected(ProtectedMode::with_info(eip, BOOT_MAGIC, ebx)))
}

/// The entry address tag stands above the ELF header's field.
fn place_elf(
    file: &[u8],
    entry: Option<u32>,
    place: &mut Placer<impl GuestRam>,
) -> Result<u32, Problem> {
    if !crate::elf::is_elf(file) {
        return Err(Problem::NoMark {
            mark: "the address tag of the multiboot 2 header, which a file that is not ELF needs",
        });
    }
    let elf = Elf::parse(file)?;
    let entry = match entry {
        Some(entry) => elf.check_entry("entry_addr of the multiboot 2 header", entry)?,
        None => elf.physical_entry()? as u32,
    };
    elf.place(place)?;
    Ok(entry)
}
