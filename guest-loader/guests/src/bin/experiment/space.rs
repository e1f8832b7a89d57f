//! Address spaces of the guest's own, and where everything lies in physical memory.
#![expect(unsafe_code, reason = "loads page tables of its own; reads through them")]

use anchorite_guests::instructions::{read_cr3, write_cr3};
use anchorite_guests::memory;

/// First virtual address of the test region: the second entry of the PML4.
pub(crate) const REGION: u64 = 0x80_0000_0000;
/// What one page table maps.
pub(crate) const TABLE_SPAN: u64 = 2 << 20;
pub(crate) const PAGE: u64 = 4096;

/// Frames for tables, up to [`ORDER`].
const POOL: u64 = 16 << 20;
/// The order in which pages are touched: 32-bit words.
pub(crate) const ORDER: u64 = 98 << 20;
/// Figures of zaps, 2 MiB, and of faults, up to [`DATA`].
pub(crate) const ZAPS: u64 = 100 << 20;
pub(crate) const FAULTS: u64 = 102 << 20;
/// The pages that the test region maps.
pub(crate) const DATA: u64 = 128 << 20;

/// Present, writable, accessed.
const TABLE: u64 = 0x23;
/// The same, and dirty: nothing about the entry changes any more.
const LEAF: u64 = 0x63;

/// Hands out frames for page tables, each zero.
#[derive(Debug)]
pub(crate) struct Pool {
    next: u64,
}

impl Pool {
    pub(crate) const fn new() -> Self {
        Self { next: POOL }
    }

    pub(crate) fn take(&mut self) -> u64 {
        let frame = self.next;
        assert!(frame < ORDER, "no frame is left for page tables");
        self.next += PAGE;
        clear(frame);
        frame
    }
}

/// Zeroes a frame as a kernel does.
pub(crate) fn clear(frame: u64) {
    assert!((POOL..ORDER).contains(&frame), "{frame:#x} is not from the pool");
    // SAFETY: a frame of the pool, mapped one to one, that holds no Rust object.
    unsafe {
        core::arch::asm!("rep stosq", inout("rcx") 512 => _, inout("rdi") frame => _,
            in("rax") 0, options(nostack, preserves_flags));
    }
}

/// A root whose first entry maps physical memory one to one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) root: u64,
}

impl Space {
    /// An address space at `root`, a zero frame, with the mappings of the one in use.
    pub(crate) fn at(root: u64) -> Self {
        let current: u64 = memory::read(read_cr3() & !0xfff);
        memory::write(root, current);
        Self { root }
    }

    /// Puts the tables of `frames` under the root: a PDPT, then page directories and page
    /// tables as they are needed, so that `tables` page tables follow one another in the
    /// test region. Gives each page table's number and frame to `fill`.
    pub(crate) fn build(
        self,
        tables: u64,
        mut frames: impl FnMut() -> u64,
        mut fill: impl FnMut(u64, u64),
    ) {
        let pdpt = self.pdpt(REGION, &mut frames);
        let mut directory = 0;
        for table in 0..tables {
            if table % 512 == 0 {
                directory = frames();
                memory::write(pdpt + 8 * (table / 512), directory | TABLE);
            }
            let frame = frames();
            enter(directory, table % 512, frame);
            fill(table, frame);
        }
    }

    /// Puts a PDPT under the root, for `address`, which had none.
    fn pdpt(self, address: u64, mut frames: impl FnMut() -> u64) -> u64 {
        let pdpt = frames();
        memory::write(self.root + 8 * (address >> 39 & 0x1ff), pdpt | TABLE);
        pdpt
    }

    /// The same, and its first page directory below it.
    pub(crate) fn directory(self, address: u64, mut frames: impl FnMut() -> u64) -> u64 {
        let pdpt = self.pdpt(address, &mut frames);
        let directory = frames();
        memory::write(pdpt, directory | TABLE);
        directory
    }

    /// Makes this the address space in use.
    pub(crate) fn load(self) {
        // SAFETY: every address space maps the guest's image and its memory one to one, as
        // the boot tables do.
        let loaded = unsafe { write_cr3(self.root) };
        assert!(loaded.is_ok(), "CR3 takes no {:#x}", self.root);
    }
}

/// Enters data page `page` as entry `leaf` of the page table in `frame`.
pub(crate) fn map(frame: u64, leaf: u64, page: u64) {
    map_at(frame, leaf, DATA + page * PAGE);
}

/// Enters the page at `physical` as entry `leaf` of the page table in `frame`.
pub(crate) fn map_at(frame: u64, leaf: u64, physical: u64) {
    memory::write(frame + 8 * leaf, physical | LEAF);
}

/// Enters a page table as entry `index` of the page directory in `directory`.
pub(crate) fn enter(directory: u64, index: u64, table: u64) {
    memory::write(directory + 8 * index, table | TABLE);
}

/// The virtual address of an entry of the `table`th page table.
#[inline]
pub(crate) const fn address(table: u64, leaf: u64) -> u64 {
    REGION + table * TABLE_SPAN + leaf * PAGE
}

/// Reads the first word of the page at an address of the test region or behind it.
#[inline]
pub(crate) fn read(address: u64) -> u64 {
    debug_assert!(address >= REGION);
    // SAFETY: the caller names a page that `build` or `map_at` mapped; it lies behind all memory
    // that Rust knows of.
    unsafe { (address as *const u64).read_volatile() }
}

/// Writes the first word of the page at an address of the test region or behind it.
pub(crate) fn write(address: u64, value: u64) {
    debug_assert!(address >= REGION);
    // SAFETY: as for `read`.
    unsafe { (address as *mut u64).write_volatile(value) }
}
