//! Flat binaries: bytes at a real-mode address.

use crate::entry::{Entry, RealMode};
use crate::place::Placer;
use crate::ram::GuestRam;
use crate::{Guest, Problem};

/// Where the stack of a flat binary ends: below the usual place of a boot sector.
const STACK_TOP: u16 = 0x7c00;
/// The BIOS's number of the first hard disk.
const FIRST_DISK: u8 = 0x80;
const SECTOR_BYTES: usize = 512;

/// Whether a file is one sector with the BIOS's boot signature.
pub(crate) fn is_boot_sector(file: &[u8]) -> bool {
    file.len() == SECTOR_BYTES && file.ends_with(&[0x55, 0xaa])
}

/// Places the file at CS:IP. It gets neither command line nor modules; given ones are
/// refused rather than dropped.
pub(crate) fn load(
    guest: &Guest,
    segment: u16,
    offset: u16,
    place: &mut Placer<impl GuestRam>,
) -> Result<Entry, Problem> {
    if guest.bytes.is_empty() {
        return Err(Problem::Field {
            field: "the size of the flat binary",
            value: 0,
            remedy: "give a file with at least one instruction",
        });
    }
    refuse_arguments(guest)?;
    let start = u64::from(segment) * 16 + u64::from(offset);
    place.claim("the flat binary", start, guest.bytes.len() as u64)?;
    place.write(start, guest.bytes)?;
    let stack = RealMode { cs: segment, ip: offset, ss: 0, sp: STACK_TOP, dl: FIRST_DISK };
    Ok(Entry::Real(stack))
}

fn refuse_arguments(guest: &Guest) -> Result<(), Problem> {
    if !guest.modules.is_empty() {
        return Err(Problem::TooManyModules {
            given: guest.modules.len(),
            limit: 0,
            remedy: "a flat binary cannot be told of modules; append them to the file",
        });
    }
    if !guest.command_line.is_empty() {
        return Err(Problem::TextTooLong {
            what: "the command line of a flat binary",
            bytes: guest.command_line.len() as u64,
            limit: 0,
        });
    }
    Ok(())
}
