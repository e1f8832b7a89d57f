//! Pages for experiments: a region behind an entry of the top table that nothing else uses.

use anchorite_guests::instructions::{invlpg, read_cr3};
use core::cell::UnsafeCell;

/// The region's first address: entry 1 of the PML4.
const REGION: u64 = 1 << 39;
pub(crate) const PRESENT: u64 = 1 << 0;
pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
pub(crate) const LARGE: u64 = 1 << 7;
pub(crate) const GLOBAL: u64 = 1 << 8;
pub(crate) const NO_EXECUTE: u64 = 1 << 63;

/// Frames: three tables of the region, two more for others, then pages.
#[repr(C, align(4096))]
struct Frames(UnsafeCell<[[u64; 512]; COUNT]>);

// SAFETY: one processor, no handler touches them, and all accesses are volatile.
unsafe impl Sync for Frames {}

const COUNT: usize = 9;
static FRAMES: Frames = Frames(UnsafeCell::new([[0; 512]; COUNT]));

/// A spare table.
pub(crate) const SPARE_TABLE: usize = 3;
/// A spare page table of four-byte entries, or a PML5.
pub(crate) const SPARE_ROOT: usize = 4;
/// The first page; there are four.
const FIRST_PAGE: usize = 5;

/// The physical address of a frame.
pub(crate) fn frame(index: usize) -> u64 {
    assert!(index < COUNT);
    FRAMES.0.get() as u64 + 4096 * index as u64
}

/// The physical address of a page to be mapped: 0 to 3.
pub(crate) fn page(index: usize) -> u64 {
    frame(FIRST_PAGE + index)
}

/// Writes a word of physical memory that belongs to these frames or to the PML4.
pub(crate) fn put(address: u64, value: u64) {
    // SAFETY: mapped one to one; only tables and pages that nothing else looks at.
    unsafe { (address as *mut u64).write_volatile(value) };
}

/// Builds the region, and marks each page with its number.
pub(crate) fn init() {
    let top = read_cr3() & !0xfff;
    put(top + 8, frame(0) | PRESENT | WRITABLE | USER);
    put(frame(0), frame(1) | PRESENT | WRITABLE | USER);
    put(frame(1), frame(2) | PRESENT | WRITABLE | USER);
    for index in 0..4 {
        put(page(index), mark(index));
    }
}

/// What the first word of a page holds.
pub(crate) const fn mark(index: usize) -> u64 {
    0x5a5a_0000 + index as u64
}

/// Maps a page's frame at slot `slot` without telling the processor; gives its address.
pub(crate) fn map_quietly(slot: u64, index: usize, flags: u64) -> u64 {
    put(frame(2) + 8 * slot, page(index) | PRESENT | flags);
    REGION + 4096 * slot
}

/// The same, and flushes.
pub(crate) fn map(slot: u64, index: usize, flags: u64) -> u64 {
    let address = map_quietly(slot, index, flags);
    invlpg(address);
    address
}
