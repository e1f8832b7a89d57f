//! Which format a file has, or is said to have.

use core::fmt;
use core::str::FromStr;

use crate::{Guest, Problem, elf, flat, hermit, linux, multiboot, multiboot2};

/// How a file is to be taken.
///
/// As text: `auto`, `linux`, `linux64`, `multiboot`, `multiboot2`, `pvh`, `hermit`, `elf`, `flat`
/// (at 0:0x7c00) or `flat:CS:IP` with numbers in hexadecimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// As what it is; a file that nothing recognizes is refused.
    #[default]
    Auto,
    /// As this format.
    Is(Format),
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A Linux bzImage, entered by the 32-bit boot protocol.
    Linux,
    /// A Linux bzImage, entered by the 64-bit boot protocol.
    Linux64,
    /// A multiboot 1 kernel.
    Multiboot,
    /// A multiboot 2 kernel.
    Multiboot2,
    /// An ELF file with a PVH entry.
    Pvh,
    /// A Hermit kernel, entered as the hypervisor uhyve does.
    Hermit,
    /// An ELF file without any boot protocol.
    Elf,
    /// A flat binary, entered in real mode at CS:IP, where its first byte is placed.
    Flat {
        /// CS.
        segment: u16,
        /// IP.
        offset: u16,
    },
}

impl Format {
    /// A boot sector's place: a flat binary at 0:0x7c00.
    pub const BOOT_SECTOR: Self = Self::Flat { segment: 0, offset: 0x7c00 };
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linux => f.write_str("linux"),
            Self::Linux64 => f.write_str("linux64"),
            Self::Multiboot2 => f.write_str("multiboot2"),
            Self::Multiboot => f.write_str("multiboot"),
            Self::Pvh => f.write_str("pvh"),
            Self::Hermit => f.write_str("hermit"),
            Self::Elf => f.write_str("elf"),
            Self::Flat { segment, offset } => write!(f, "flat:{segment:x}:{offset:x}"),
        }
    }
}

/// A text that names no [`Kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownKind;

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a kind of guest; say auto, linux, linux64, multiboot, multiboot2, pvh, hermit, elf, flat or flat:CS:IP")
    }
}

impl core::error::Error for UnknownKind {}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Ok(Self::Is(match text {
            "auto" => return Ok(Self::Auto),
            "linux" => Format::Linux,
            "linux64" => Format::Linux64,
            "multiboot2" => Format::Multiboot2,
            "multiboot" => Format::Multiboot,
            "pvh" => Format::Pvh,
            "hermit" => Format::Hermit,
            "elf" => Format::Elf,
            "flat" => Format::BOOT_SECTOR,
            _ => flat_at(text).ok_or(UnknownKind)?,
        }))
    }
}

/// `flat:CS:IP`, hexadecimal with or without 0x.
fn flat_at(text: &str) -> Option<Format> {
    let (segment, offset) = text.strip_prefix("flat:")?.split_once(':')?;
    let number = |text: &str| u16::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    Some(Format::Flat { segment: number(segment)?, offset: number(offset)? })
}

/// The format to load `guest` as.
pub(crate) fn format_of(guest: &Guest) -> Result<Format, Problem> {
    match guest.kind {
        Kind::Is(format) => Ok(format),
        Kind::Auto => detect(guest.bytes),
    }
}

fn detect(file: &[u8]) -> Result<Format, Problem> {
    if linux::is_kernel(file) {
        Ok(Format::Linux)
    } else if multiboot2::is_kernel(file) {
        Ok(Format::Multiboot2)
    } else if multiboot::is_kernel(file) {
        Ok(Format::Multiboot)
    } else if elf::is_elf(file) {
        elf_format(file)
    } else if flat::is_boot_sector(file) {
        Ok(Format::BOOT_SECTOR)
    } else {
        Err(Problem::Unrecognized)
    }
}

fn elf_format(file: &[u8]) -> Result<Format, Problem> {
    let elf = elf::Elf::parse(file)?;
    if elf.pvh_entry()?.is_some() {
        Ok(Format::Pvh)
    } else if hermit::is_kernel(&elf)? {
        Ok(Format::Hermit)
    } else {
        Ok(Format::Elf)
    }
}
