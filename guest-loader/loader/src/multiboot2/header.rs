//! The header in a kernel's first 32 KiB (3.1.1 "The layout of Multiboot2 header") and its tags
//! (3.1.3 to 3.1.12).

use crate::Problem;
use crate::bytes::Structure;
use crate::multiboot::Addresses;

const MAGIC: u32 = 0xe852_50d6;
/// The header lies wholly in this many bytes, at a multiple of 8.
const SEARCHED_BYTES: usize = 32768;
const ALIGNMENT: usize = 8;
const FIXED_BYTES: u64 = 16;
/// Tags looked at; real headers have fewer than ten.
const MAX_TAGS: usize = 64;
/// 32-bit protected mode of i386.
const ARCHITECTURE_I386: u32 = 0;

const TAG_END: u16 = 0;
const TAG_INFORMATION_REQUEST: u16 = 1;
const TAG_ADDRESS: u16 = 2;
const TAG_ENTRY_ADDRESS: u16 = 3;
const TAG_CONSOLE_FLAGS: u16 = 4;
const TAG_FRAMEBUFFER: u16 = 5;
const TAG_MODULE_ALIGNMENT: u16 = 6;
const TAG_RELOCATABLE: u16 = 10;
/// A loader that does not know the tag may go on.
const OPTIONAL: u16 = 1 << 0;
/// `load_addr` of a file that is loaded from its first byte on.
const FROM_FILE_START: u32 = u32::MAX;

/// The types of information that [`super::info`] gives.
const INFORMATION_GIVEN: [u32; 5] = [1, 2, 3, 4, 6];

/// A header with a good checksum, its tags taken apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    pub(super) addresses: Option<Addresses>,
    /// Of the entry address tag.
    pub(super) entry: Option<u32>,
    pub(super) wants_framebuffer: bool,
}

/// Offset of the first place in the file that is a header.
pub(super) fn find(file: &[u8]) -> Option<usize> {
    let searched = &file[..file.len().min(SEARCHED_BYTES)];
    (0..searched.len()).step_by(ALIGNMENT).find(|&offset| {
        let Ok(fixed) = Structure::new(searched, "", offset as u64, FIXED_BYTES) else {
            return false;
        };
        let words = [0, 4, 8, 12].map(|at| fixed.u32(at));
        words[0] == MAGIC && words.iter().fold(0u32, |sum, word| sum.wrapping_add(*word)) == 0
    })
}

impl Header {
    pub(super) fn parse(file: &[u8]) -> Result<Self, Problem> {
        let mark = "a multiboot 2 header with a good checksum in the first 32 KiB";
        let offset = find(file).ok_or(Problem::NoMark { mark })? as u64;
        let fixed = Structure::new(file, "the multiboot 2 header", offset, FIXED_BYTES)?;
        if fixed.u32(4) != ARCHITECTURE_I386 {
            return Err(Problem::Field {
                field: "architecture of the multiboot 2 header",
                value: fixed.u32(4).into(),
                remedy: "0 (i386) is taken",
            });
        }
        let bytes = u64::from(fixed.u32(8));
        let whole = Structure::new(file, "the multiboot 2 header", offset, bytes)?;
        let mut header = Self::default();
        header.read_tags(offset, whole.as_bytes())?;
        header.settle_entry(offset)?;
        Ok(header)
    }

    fn read_tags(&mut self, offset: u64, header: &[u8]) -> Result<(), Problem> {
        let mut at = FIXED_BYTES;
        for _ in 0..MAX_TAGS {
            let head = Structure::new(header, "a tag of the multiboot 2 header", at, 8)?;
            let (kind, flags, bytes) = (head.u16(0), head.u16(2), u64::from(head.u32(4)));
            if kind == TAG_END {
                return Ok(());
            }
            if bytes < 8 {
                return Err(Problem::Field {
                    field: "size of a tag of the multiboot 2 header",
                    value: bytes,
                    remedy: "it counts the tag's own first 8 bytes too",
                });
            }
            let tag = Structure::new(header, "a tag of the multiboot 2 header", at, bytes)?;
            self.read_tag(offset, kind, flags & OPTIONAL != 0, tag)?;
            at = at.saturating_add(bytes.next_multiple_of(ALIGNMENT as u64));
        }
        Err(Problem::NoMark { mark: "the end tag of the multiboot 2 header (among the first 64)" })
    }

    fn read_tag(
        &mut self,
        offset: u64,
        kind: u16,
        optional: bool,
        tag: Structure,
    ) -> Result<(), Problem> {
        match kind {
            TAG_INFORMATION_REQUEST => check_request(optional, tag)?,
            TAG_ADDRESS => self.addresses = Some(addresses(offset, tag)),
            TAG_ENTRY_ADDRESS => self.entry = Some(tag.u32(8)),
            // A preference, even where it is not marked as optional.
            TAG_FRAMEBUFFER => self.wants_framebuffer = true,
            // Modules lie on pages in any case, and the addresses in the file serve well.
            TAG_CONSOLE_FLAGS | TAG_MODULE_ALIGNMENT | TAG_RELOCATABLE => {}
            _ if optional => {}
            _ => {
                return Err(Problem::Field {
                    field: "type of a required tag of the multiboot 2 header",
                    value: kind.into(),
                    remedy: "1 to 6 and 10 are known; mark others as optional",
                });
            }
        }
        Ok(())
    }

    /// Both tags describe a file that is no ELF: the image, and where it starts.
    fn settle_entry(&mut self, offset: u64) -> Result<(), Problem> {
        let Some(addresses) = &mut self.addresses else { return Ok(()) };
        let mark = "the entry address tag of the multiboot 2 header, which the address tag needs";
        addresses.entry = self.entry.ok_or(Problem::NoMark { mark })?;
        if addresses.load == FROM_FILE_START {
            let start = u64::from(addresses.header).checked_sub(offset);
            addresses.load = start.ok_or(Problem::Field {
                field: "header_addr of the multiboot 2 header",
                value: addresses.header.into(),
                remedy: "it must not lie below the header's offset in the file",
            })? as u32;
        }
        Ok(())
    }
}

fn addresses(offset: u64, tag: Structure) -> Addresses {
    Addresses {
        offset,
        header: tag.u32(8),
        load: tag.u32(12),
        load_end: tag.u32(16),
        bss_end: tag.u32(20),
        entry: 0,
    }
}

fn check_request(optional: bool, tag: Structure) -> Result<(), Problem> {
    let requests = tag.as_bytes()[8..].chunks_exact(4);
    let unknown = requests
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .find(|kind| !optional && !INFORMATION_GIVEN.contains(kind));
    match unknown {
        None => Ok(()),
        Some(kind) => Err(Problem::Field {
            field: "mbi_tag_types of the multiboot 2 header's information request",
            value: kind.into(),
            remedy: "1, 2, 3, 4 and 6 are given; mark the request as optional",
        }),
    }
}
