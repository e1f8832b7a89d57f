//! The header in a kernel's first 8 KiB (3.1.1 "The layout of Multiboot header").

use crate::Problem;
use crate::bytes::{Structure, slice};

const MAGIC: u32 = 0x1bad_b002;
/// The header lies wholly in this many bytes.
const SEARCHED_BYTES: usize = 8192;

/// Bits 0–15 are requirements: a loader that does not know one must refuse. Modules
/// always lie on pages and the memory map is always given, so 0 and 1 are met.
const REQUIREMENTS: u32 = 0xffff;
const PAGE_ALIGN: u32 = 1 << 0;
const MEMORY_INFO: u32 = 1 << 1;
const VIDEO_MODE: u32 = 1 << 2;
const ADDRESSES: u32 = 1 << 16;

/// A header with a good checksum.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) addresses: Option<Addresses>,
    pub(super) wants_video_mode: bool,
}

/// The address fields, physical but for `offset`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// Where the header itself lies in the file.
    pub(crate) offset: u64,
    pub(crate) header: u32,
    pub(crate) load: u32,
    pub(crate) load_end: u32,
    pub(crate) bss_end: u32,
    pub(crate) entry: u32,
}

/// What the address fields describe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image<'a> {
    pub(super) start: u64,
    pub(super) contents: &'a [u8],
    /// Bytes in memory, bss included.
    pub(super) memory_bytes: u64,
    pub(super) entry: u32,
}

/// Offset of the first place in the file that is a header.
pub(super) fn find(file: &[u8]) -> Option<usize> {
    let searched = &file[..file.len().min(SEARCHED_BYTES)];
    (0..searched.len()).step_by(4).find(|&offset| {
        let Some(words) = searched.get(offset..offset + 12) else { return false };
        let word = |at: usize| {
            u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]])
        };
        word(0) == MAGIC && word(0).wrapping_add(word(4)).wrapping_add(word(8)) == 0
    })
}

impl Header {
    pub(super) fn parse(file: &[u8]) -> Result<Self, Problem> {
        let mark = "a multiboot header with a good checksum in the first 8 KiB";
        let offset = find(file).ok_or(Problem::NoMark { mark })? as u64;
        let fixed = Structure::new(file, "the multiboot header", offset, 12)?;
        let flags = fixed.u32(4);
        check_requirements(flags)?;
        let addresses = match flags & ADDRESSES {
            0 => None,
            _ => Some(Addresses::parse(file, offset)?),
        };
        Ok(Self { addresses, wants_video_mode: flags & VIDEO_MODE != 0 })
    }
}

fn check_requirements(flags: u32) -> Result<(), Problem> {
    let unknown = flags & REQUIREMENTS & !(PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE);
    if unknown != 0 {
        return Err(Problem::Field {
            field: "flags of the multiboot header",
            value: flags.into(),
            remedy: "of bits 0-15, which are requirements, only 0, 1 and 2 are known",
        });
    }
    Ok(())
}

impl Addresses {
    fn parse(file: &[u8], offset: u64) -> Result<Self, Problem> {
        let fields =
            Structure::new(file, "the address fields of the multiboot header", offset + 12, 20)?;
        Ok(Self {
            offset,
            header: fields.u32(0),
            load: fields.u32(4),
            load_end: fields.u32(8),
            bss_end: fields.u32(12),
            entry: fields.u32(16),
        })
    }

    /// The image: `load_end` 0 means up to the end of the file, `bss_end` 0 means that
    /// there is no bss.
    pub(super) fn image<'a>(&self, file: &'a [u8]) -> Result<Image<'a>, Problem> {
        let before = field(
            self.header.checked_sub(self.load),
            "load_addr of the multiboot header",
            self.load,
            "it must not exceed header_addr",
        )?;
        let start = field(
            self.offset.checked_sub(before.into()),
            "header_addr of the multiboot header",
            self.header,
            "header_addr - load_addr must not exceed the header's offset in the file",
        )?;
        let contents = self.contents(file, start)?;
        let memory_bytes = self.memory_bytes(contents.len() as u64)?;
        let entry = field(
            self.entry.checked_sub(self.load).filter(|&at| u64::from(at) < memory_bytes),
            "entry_addr of the multiboot header",
            self.entry,
            "it must lie between load_addr and bss_end_addr",
        )?;
        let start = u64::from(self.load);
        Ok(Image { start, contents, memory_bytes, entry: self.load + entry })
    }

    fn contents<'a>(&self, file: &'a [u8], start: u64) -> Result<&'a [u8], Problem> {
        let rest = (file.len() as u64).saturating_sub(start);
        let bytes = match self.load_end {
            0 => Some(rest),
            end => end.checked_sub(self.load).map(u64::from),
        };
        let remedy = "it must not lie below load_addr";
        let bytes = field(bytes, "load_end_addr of the multiboot header", self.load_end, remedy)?;
        slice(file, start, bytes).ok_or(Problem::Truncated {
            what: "the multiboot image",
            offset: start,
            bytes,
            file_bytes: file.len() as u64,
        })
    }

    fn memory_bytes(&self, file_bytes: u64) -> Result<u64, Problem> {
        let bytes = match self.bss_end {
            0 => Some(file_bytes),
            end => end.checked_sub(self.load).map(u64::from).filter(|&all| all >= file_bytes),
        };
        let remedy = "it must not lie below load_end_addr";
        field(bytes, "bss_end_addr of the multiboot header", self.bss_end, remedy)
    }
}

fn field<T>(
    good: Option<T>,
    field: &'static str,
    value: u32,
    remedy: &'static str,
) -> Result<T, Problem> {
    good.ok_or(Problem::Field { field, value: value.into(), remedy })
}
