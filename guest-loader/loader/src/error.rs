//! Why a guest cannot be loaded.

use alloc::string::String;
use core::fmt;

use anchorite_addr::Gpa;

use crate::ram::OutsideRam;

/// A file that cannot be loaded. Its `Display` is one line: file, field, value, remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The file's name.
    pub file: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No format was recognized.
    Unrecognized,
    /// The file was said to be of a format whose mark it lacks.
    NoMark {
        /// The format and its mark.
        mark: &'static str,
    },
    /// Compressed data that does not unpack to what it should.
    Corrupt {
        /// What shows it.
        what: &'static str,
    },
    /// A structure reaches beyond the end of the file.
    Truncated {
        /// The structure.
        what: &'static str,
        /// Its first byte in the file.
        offset: u64,
        /// Its size in bytes.
        bytes: u64,
        /// The file's size in bytes.
        file_bytes: u64,
    },
    /// A field has a value that cannot be taken.
    Field {
        /// The field, with its structure.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Which values are taken, and what to do about others.
        remedy: &'static str,
    },
    /// A block with a fixed address does not lie in RAM.
    OutsideRam {
        /// The block.
        what: String,
        /// Its first byte.
        start: u64,
        /// Its size in bytes.
        bytes: u64,
    },
    /// Two blocks with fixed addresses overlap.
    Overlap {
        /// The block that was placed second.
        what: String,
        /// Its first byte.
        start: u64,
        /// Its size in bytes.
        bytes: u64,
        /// The block it runs into.
        other: String,
    },
    /// There is no free RAM for a block.
    NoRoom {
        /// The block.
        what: String,
        /// Its size in bytes.
        bytes: u64,
        /// The address it must end at or below.
        limit: u64,
    },
    /// A text is too long for its protocol.
    TextTooLong {
        /// The text.
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The size the guest takes.
        limit: u64,
    },
    /// A text holds a zero byte, which would end it early.
    TextWithZero {
        /// The text.
        what: &'static str,
        /// Offset of the first zero byte.
        offset: u64,
    },
    /// More modules than the format takes.
    TooManyModules {
        /// The number given.
        given: usize,
        /// The number taken.
        limit: usize,
        /// What to do instead.
        remedy: &'static str,
    },
    /// Guest memory refused a write that its own memory map allows.
    Refused {
        /// The first byte without memory.
        at: Gpa,
    },
}

impl From<OutsideRam> for Problem {
    fn from(outside: OutsideRam) -> Self {
        Self::Refused { at: outside.at }
    }
}

impl core::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unrecognized => f.write_str(
                "neither a Linux bzImage nor multiboot 1 or 2, ELF or a boot sector; \
                 a raw binary needs the kind flat:CS:IP",
            ),
            Self::Corrupt { what } => write!(f, "{what}; fetch the file again"),
            Self::NoMark { mark } => write!(f, "{mark} is missing; leave the kind on auto"),
            Self::Truncated { what, offset, bytes, file_bytes } => write!(
                f,
                "{what} at offset {offset:#x} takes {bytes:#x} bytes, but the file has \
                 {file_bytes:#x}; is it complete?"
            ),
            Self::Field { field, value, remedy } => write!(f, "{field} is {value:#x}; {remedy}"),
            _ => self.fmt_placement(f),
        }
    }
}

impl Problem {
    /// The problems that depend on the guest's memory and arguments.
    fn fmt_placement(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideRam { what, start, bytes } => write!(
                f,
                "{what} wants {bytes:#x} bytes at {start:#x}, where not all is RAM; \
                 give the guest more memory or link it elsewhere"
            ),
            Self::Overlap { what, start, bytes, other } => write!(
                f,
                "{what} wants {bytes:#x} bytes at {start:#x}, where {other} lies; \
                 link the guest without overlaps"
            ),
            Self::NoRoom { what, bytes, limit } => write!(
                f,
                "no {bytes:#x} bytes of free RAM below {limit:#x} for {what}; \
                 give the guest more memory or fewer modules"
            ),
            Self::TextTooLong { what, bytes, limit } => {
                write!(f, "{what} has {bytes} bytes; shorten it to {limit}")
            }
            Self::TextWithZero { what, offset } => {
                write!(f, "{what} has a zero byte at offset {offset}; remove it")
            }
            Self::TooManyModules { given, limit, remedy } => {
                write!(f, "{given} modules, where at most {limit} can be passed; {remedy}")
            }
            Self::Refused { at } => {
                write!(f, "no memory at {at}, though the memory map says so; a bug of the machine")
            }
            _ => Ok(()),
        }
    }
}
