//! Hermit kernels, entered as the hypervisor uhyve enters them.
//!
//! The kernel lies at the addresses it was linked for, or at 4 MiB, and finds everything else
//! below itself: it counts RAM from its own end on as free. It is told what it needs by a
//! `RawBootInfo` and a device tree, and asks for the rest (console, files, exit) by hypercalls.
//!
//! Crate hermit-entry has a loader too. It is the reference that the tests compare this one
//! with, not what runs here: it unwraps, indexes and asserts its way through the file, and a
//! file must not be able to bring the hypervisor down.
//!
//! Source: hermit-entry 0.10, `Entry`, `boot_info`, `elf`; uhyve, `arch/x86_64` (memory layout,
//! page tables, first registers).

mod boot_info;
mod device_tree;
mod relocate;

use alloc::format;
use alloc::string::String;
use core::ops::Range;

use anchorite_addr::{Gpa, PAGE_BYTES};

use crate::bytes::Structure;
use crate::elf::{Class, Elf};
use crate::entry::{Entry, LongMode};
use crate::place::{LOWEST, Placer, Room};
use crate::plain::{
    CODE_SELECTOR, DATA_SELECTOR, LARGE_PAGE_BYTES, TABLE_ENTRY, identity_map, place_gdt,
};
use crate::ram::GuestRam;
use crate::{Guest, Problem};

/// Hermit's note with the version of its entry; and that version.
const NOTE_ENTRY_VERSION: u32 = 0x5a00;
const ENTRY_VERSION: u8 = 4;
/// Hermit's note with the version of the hypercalls, big-endian; and that version.
const NOTE_UHYVE_VERSION: u32 = 0x5b00;
const UHYVE_VERSION: u64 = 1;
/// Where a kernel goes that may lie anywhere.
const MOVABLE_START: u64 = 0x40_0000;
/// `KERNEL_STACK_SIZE`; the kernel adds it to RSP by itself.
const STACK_BYTES: u64 = 0x8000;
/// What is mapped one to one, and therefore where a kernel must end.
const MAPPED_GIB: u64 = 1;
const MAPPED_END: u64 = MAPPED_GIB << 30;
/// The entry of the PML4 through which a kernel edits its tables: it points at the PML4.
const RECURSIVE_ENTRY: usize = 511;

/// Whether an ELF file is a Hermit kernel.
pub(crate) fn is_kernel(elf: &Elf) -> Result<bool, Problem> {
    Ok(elf.note(b"HERMIT\0", NOTE_ENTRY_VERSION)?.is_some())
}

pub(crate) fn load(guest: &Guest, place: &mut Placer<impl GuestRam>) -> Result<Entry, Problem> {
    let elf = Elf::parse(guest.bytes)?;
    check_versions(&elf)?;
    let kernel = Kernel::of(&elf)?;
    kernel.place(place)?;
    relocate::apply(&kernel, guest.bytes, place)?;

    let below = kernel.pages().start;
    let tree = device_tree::build(place.memory_map(), guest.command_line)?;
    let tree = place.store("the device tree", &tree, Room { limit: below, ..Room::STRUCTURE })?;
    let info = boot_info::BootInfo {
        ram_end: ram_end(place),
        device_tree: tree,
        kernel: kernel.range.clone(),
        tls: kernel.tls()?,
        clock: guest.clock,
    };
    let info = place.store(
        "the Hermit boot information",
        info.to_bytes().as_bytes(),
        Room { limit: below, ..Room::STRUCTURE },
    )?;
    enter(kernel.entry()?, info, below, place)
}

/// The first registers, on tables and a stack that end `below` the kernel.
fn enter(
    rip: u64,
    info: u64,
    below: u64,
    place: &mut Placer<impl GuestRam>,
) -> Result<Entry, Problem> {
    let pages = Room { limit: below, ..Room::PAGES };
    let cr3 = place.reserve("the page tables", (2 + MAPPED_GIB) * PAGE_BYTES, pages)?;
    let mut tables = identity_map(cr3, MAPPED_GIB);
    tables.put(8 * RECURSIVE_ENTRY, &(cr3 | TABLE_ENTRY).to_le_bytes());
    place.write(cr3, tables.as_bytes())?;
    let stack = place.reserve("the first stack", STACK_BYTES, pages)?;
    Ok(Entry::Long(LongMode {
        rip,
        rsp: stack,
        rdi: info,
        rsi: 0,
        cr3: Gpa::new(cr3),
        code_selector: CODE_SELECTOR,
        data_selector: DATA_SELECTOR,
        gdt: place_gdt(place, Room { limit: below, ..Room::STRUCTURE })?,
    }))
}

fn check_versions(elf: &Elf) -> Result<(), Problem> {
    let mark = "the note of a Hermit kernel (HERMIT, type 0x5a00)";
    let version = elf.note(b"HERMIT\0", NOTE_ENTRY_VERSION)?.ok_or(Problem::NoMark { mark })?;
    if version != [ENTRY_VERSION] {
        return Err(Problem::Field {
            field: "the version in Hermit's entry note",
            value: version.first().copied().unwrap_or(0).into(),
            remedy: "4 is taken: build with a Hermit kernel from 0.7 to 0.10",
        });
    }
    // A kernel that says nothing speaks version 1.
    let Some(version) = elf.note(b"UHYVEIF\0", NOTE_UHYVE_VERSION)? else { return Ok(()) };
    let version = Structure::new(version, "Hermit's note of its hypercalls", 0, 4)?.u32(0);
    match u64::from(version.swap_bytes()) {
        UHYVE_VERSION => Ok(()),
        value => Err(Problem::Field {
            field: "the version in Hermit's note of its hypercalls",
            value,
            remedy: "1 is taken: build with a Hermit kernel up to 0.10",
        }),
    }
}

/// A checked kernel and its place.
struct Kernel<'a> {
    elf: &'a Elf<'a>,
    /// What is added to the file's addresses.
    bias: u64,
    /// Where it lies, from its first segment to the end of its last.
    range: Range<u64>,
}

impl<'a> Kernel<'a> {
    fn of(elf: &'a Elf<'a>) -> Result<Self, Problem> {
        if elf.class != Class::Bits64 {
            return Err(Problem::Field {
                field: "EI_CLASS of the ELF header",
                value: 1,
                remedy: "a Hermit kernel has 2 (64-bit)",
            });
        }
        let (mut first, mut end) = (u64::MAX, 0);
        for segment in &elf.segments {
            first = first.min(segment.virtual_start);
            end = end.max(segment.virtual_start.saturating_add(segment.memory_bytes));
        }
        let bias = if elf.movable { MOVABLE_START } else { 0 };
        let lowest = LOWEST.next_multiple_of(LARGE_PAGE_BYTES);
        if first.saturating_add(bias) < lowest || end.saturating_add(bias) > MAPPED_END {
            return Err(Problem::Field {
                field: "p_vaddr of a program header",
                value: if end.saturating_add(bias) > MAPPED_END { end } else { first },
                remedy: "a Hermit kernel must lie between 2 MiB and 1 GiB; \
                         link it there or position-independent",
            });
        }
        Ok(Self { elf, bias, range: first + bias..end + bias })
    }

    /// The 2 MiB pages that it lies in, which it counts as its own.
    fn pages(&self) -> Range<u64> {
        let start = self.range.start & !(LARGE_PAGE_BYTES - 1);
        start..self.range.end.next_multiple_of(LARGE_PAGE_BYTES)
    }

    /// Claims its pages, clears its range and stores its segments.
    fn place(&self, place: &mut Placer<impl GuestRam>) -> Result<(), Problem> {
        let pages = self.pages();
        place.claim("the Hermit kernel", pages.start, pages.end - pages.start)?;
        self.check_overlaps()?;
        place.zero(self.range.start, self.range.end - self.range.start)?;
        for segment in &self.elf.segments {
            place.write(segment.virtual_start + self.bias, segment.contents)?;
        }
        Ok(())
    }

    fn check_overlaps(&self) -> Result<(), Problem> {
        for (index, one) in self.elf.segments.iter().enumerate() {
            let meets = self.elf.segments[..index].iter().find(|other| {
                one.virtual_start < other.virtual_start + other.memory_bytes
                    && other.virtual_start < one.virtual_start + one.memory_bytes
            });
            if let Some(other) = meets {
                let name = |index: usize| -> String { format!("ELF segment {index}") };
                return Err(Problem::Overlap {
                    what: name(one.index),
                    start: one.virtual_start + self.bias,
                    bytes: one.memory_bytes,
                    other: name(other.index),
                });
            }
        }
        Ok(())
    }

    /// The bytes of its file that a segment puts at the file's address `start`.
    fn contents(&self, start: u64, bytes: u64) -> Option<&'a [u8]> {
        self.elf.segments.iter().find_map(|segment| {
            let offset = start.checked_sub(segment.virtual_start)?;
            crate::bytes::slice(segment.contents, offset, bytes)
        })
    }

    /// Whether a segment fills `bytes` bytes at the file's address `start`.
    fn holds(&self, start: u64, bytes: u64) -> bool {
        self.elf.segments.iter().any(|segment| {
            let offset = start.checked_sub(segment.virtual_start);
            let end = offset.and_then(|offset| offset.checked_add(bytes));
            end.is_some_and(|end| end <= segment.memory_bytes)
        })
    }

    fn entry(&self) -> Result<u64, Problem> {
        let value = self.elf.entry;
        if self.holds(value, 1) {
            return Ok(value + self.bias);
        }
        let remedy = "it must lie in a loadable segment; check the linker script";
        Err(Problem::Field { field: "e_entry of the ELF header", value, remedy })
    }

    /// The image of its thread-local storage, which the kernel copies. An empty one is none: the
    /// kernel insists on that.
    fn tls(&self) -> Result<Option<boot_info::Tls>, Problem> {
        let Some(header) = self.elf.tls.filter(|header| header.memory_bytes > 0) else {
            return Ok(None);
        };
        if !self.holds(header.virtual_start, header.file_bytes) {
            return Err(Problem::Field {
                field: "p_vaddr of the thread-local storage",
                value: header.virtual_start,
                remedy: "its image must lie in a loadable segment; check the linker script",
            });
        }
        Ok(Some(boot_info::Tls {
            start: header.virtual_start + self.bias,
            file_bytes: header.file_bytes,
            memory_bytes: header.memory_bytes,
            align: header.align,
        }))
    }
}

/// The address behind the last byte of RAM.
fn ram_end(place: &Placer<impl GuestRam>) -> u64 {
    let ends = device_tree::ram(place.memory_map());
    ends.map(|(start, bytes)| start.saturating_add(bytes)).max().unwrap_or(0)
}
