//! Multiboot 1 kernels.
//!
//! Source: Multiboot Specification 0.6.96: 3.1 "OS image format", 3.2 "Machine state",
//! 3.3 "Boot information format".

mod header;
mod info;

use alloc::vec::Vec;

use crate::elf::Elf;
use crate::entry::{Entry, ProtectedMode};
use crate::place::Placer;
use crate::ram::GuestRam;
use crate::{Guest, Note, Problem};
pub(crate) use header::Addresses;
use header::Header;
pub(crate) use info::{LOADER_NAME, memory_sizes};

/// EAX at the entry.
const BOOT_MAGIC: u32 = 0x2bad_b002;

/// Whether a file has a multiboot header with a good checksum.
pub(crate) fn is_kernel(file: &[u8]) -> bool {
    header::find(file).is_some()
}

pub(crate) fn load(
    guest: &Guest,
    place: &mut Placer<impl GuestRam>,
    notes: &mut Vec<Note>,
) -> Result<Entry, Problem> {
    let header = Header::parse(guest.bytes)?;
    if header.wants_video_mode {
        notes.push(Note::VideoModeIgnored);
    }
    let eip = match &header.addresses {
        Some(addresses) => place_image(guest.bytes, addresses, place)?,
        None => place_by_elf(guest.bytes, place)?,
    };
    let ebx = info::place(guest, place)?;
    Ok(Entry::Protected(ProtectedMode::with_info(eip, BOOT_MAGIC, ebx)))
}

/// The a.out kludge: the header's address fields describe one contiguous image.
pub(crate) fn place_image(
    file: &[u8],
    addresses: &Addresses,
    place: &mut Placer<impl GuestRam>,
) -> Result<u32, Problem> {
    let image = addresses.image(file)?;
    place.claim("the multiboot image", image.start, image.memory_bytes)?;
    place.write(image.start, image.contents)?;
    let filled = image.contents.len() as u64;
    place.zero(image.start + filled, image.memory_bytes - filled)?;
    Ok(image.entry)
}

fn place_by_elf(file: &[u8], place: &mut Placer<impl GuestRam>) -> Result<u32, Problem> {
    if !crate::elf::is_elf(file) {
        return Err(Problem::Field {
            field: "flags bit 16 of the multiboot header",
            value: 0,
            remedy: "a file that is not ELF must set it and give its addresses",
        });
    }
    let elf = Elf::parse(file)?;
    let entry = elf.physical_entry()?;
    elf.place(place)?;
    Ok(entry as u32)
}
