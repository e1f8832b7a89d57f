//! Reads guest files and places them in guest memory.
//!
//! [`load`] recognizes the format, checks every field it relies on, puts the file, its
//! modules and the information block its protocol wants into guest RAM, and says in
//! which state the first instruction is to be run:
//!
//! | format | recognized by | entered in | told by |
//! |---|---|---|---|
//! | Linux bzImage | "HdrS" at 0x202 | 32-bit mode | zero page in ESI |
//! | – by its 64-bit entry | asked for by name only | 64-bit mode | zero page in RSI |
//! | multiboot 2 | its header in the first 32 KiB | 32-bit mode | information in EBX |
//! | multiboot 1 | its header in the first 8 KiB | 32-bit mode | information in EBX |
//! | PVH | Xen's note 18 in an ELF file | 32-bit mode | `hvm_start_info` in EBX |
//! | Hermit | Hermit's note 0x5a00 in an ELF file | 64-bit mode | `RawBootInfo` in RDI |
//! | plain ELF | its magic | 32- or 64-bit mode | `hvm_start_info` in EBX / RDI |
//! | boot sector | 512 bytes that end in 0x55 0xAA | real mode at 0:0x7c00 | – |
//! | flat binary | asked for by name only | real mode at a given CS:IP | – |
//!
//! A gzip file is taken for what is in it. A file that is several of these at once is taken as the topmost; [`Kind`] overrides.
//!
//! Nothing is ever placed over something else or outside RAM: whatever has a fixed
//! address is claimed first, then each block that may lie anywhere gets the lowest
//! free place that suits it. The file is not trusted: a malformed one is an error that
//! names file, field, value and remedy.
//!
//! The few structures are read by hand rather than with an ELF crate: those report a
//! parse error without the field it was in, and read more of a file than is used here.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bytes;
mod elf;
mod entry;
mod error;
mod flat;
mod gzip;
mod hermit;
mod kind;
mod linux;
mod multiboot;
mod multiboot2;
mod place;
mod plain;
mod pvh;
mod ram;

pub use entry::{DescriptorTable, Entry, LongMode, ProtectedMode, RealMode};
pub use error::{LoadError, Problem};
pub use kind::{Format, Kind, UnknownKind};
pub use ram::{GuestRam, MemoryRange, OutsideRam, RangeKind};

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use anchorite_addr::Gpa;

/// A file that a guest is given beside its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// Its contents.
    pub bytes: &'a [u8],
    /// The text that the guest finds with it.
    pub command_line: &'a str,
}

/// What is to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// How to take the file.
    pub kind: Kind,
    /// The file's name, for messages.
    pub name: &'a str,
    /// Its contents.
    pub bytes: &'a [u8],
    /// The command line, passed on as it is.
    pub command_line: &'a str,
    /// Modules; a Linux kernel takes one, as its initial RAM disk. A Hermit kernel gets them
    /// by hypercalls from whoever runs it, so here they stay out of its memory.
    pub modules: &'a [Module<'a>],
    /// What time it is; only a Hermit kernel is told.
    pub clock: Clock,
}

/// The clocks of the machine that a guest is loaded for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// The rate of its TSC in kHz; 0 where it is not known.
    pub tsc_khz: u32,
    /// Seconds since 1970 at the guest's start.
    pub unix_time: u64,
}

/// A block that was placed in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What it is.
    pub what: String,
    /// Its first byte.
    pub start: Gpa,
    /// Its size, zero-filled parts included.
    pub bytes: u64,
}

/// Something a guest asked for and does not get, without harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A multiboot header asks for a video mode.
    VideoModeIgnored,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VideoModeIgnored => f.write_str(
                "flags bit 2 of the multiboot header asks for a video mode; there is no display, \
                 so the information carries none (its flags bits 11 and 12 are clear)",
            ),
        }
    }
}

/// A guest in memory, ready to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What the file was taken for.
    pub format: Format,
    /// The state in which to run its first instruction.
    pub entry: Entry,
    /// Everything that was placed, in order of address; no two overlap.
    pub placements: Vec<Placement>,
    /// What the guest asked for in vain.
    pub notes: Vec<Note>,
}

/// Places `guest` in `ram`.
///
/// RAM that is not written keeps what it holds: hand in memory that is all zero.
/// On an error some of it may have been written.
pub fn load(guest: &Guest, mut ram: &mut dyn GuestRam) -> Result<Loaded, LoadError> {
    place_guest(guest, &mut ram).map_err(|problem| LoadError { file: guest.name.into(), problem })
}

fn place_guest(guest: &Guest, ram: &mut impl GuestRam) -> Result<Loaded, Problem> {
    if gzip::is_compressed(guest.bytes) {
        let bytes = gzip::unpack(guest.bytes)?;
        return place_unpacked(&Guest { bytes: &bytes, ..*guest }, ram);
    }
    place_unpacked(guest, ram)
}

fn place_unpacked(guest: &Guest, ram: &mut impl GuestRam) -> Result<Loaded, Problem> {
    let format = kind::format_of(guest)?;
    let mut place = place::Placer::new(ram);
    let mut notes = Vec::new();
    let entry = match format {
        Format::Flat { segment, offset } => flat::load(guest, segment, offset, &mut place)?,
        Format::Elf => plain::load(guest, &mut place)?,
        Format::Multiboot => multiboot::load(guest, &mut place, &mut notes)?,
        Format::Pvh => pvh::load(guest, &mut place)?,
        Format::Hermit => hermit::load(guest, &mut place)?,
        Format::Multiboot2 => multiboot2::load(guest, &mut place, &mut notes)?,
        Format::Linux => linux::load(guest, &mut place)?,
        Format::Linux64 => linux::load_64_bit(guest, &mut place)?,
    };
    Ok(Loaded { format, entry, placements: place.finish(), notes })
}
