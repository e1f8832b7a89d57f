//! The guest's own four-level tables: the first GiB one to one by 2 MiB pages, and the
//! test region.

use core::arch::asm;

use crate::frames::{Frames, load, store};

/// First address of the test region: a slot of the root to itself.
pub(crate) const TEST: u64 = 0x80_0000_0000;
/// Bytes that one PT page maps.
pub(crate) const PT_SPAN: u64 = 2 << 20;
/// Bytes that one PD page maps.
pub(crate) const PD_SPAN: u64 = 1 << 30;

/// Present and writable.
pub(crate) const PW: u64 = 0x3;
pub(crate) const W: u64 = 0x2;
/// Accessed and dirty: what a page has that has been written.
pub(crate) const AD: u64 = 0x60;
pub(crate) const A: u64 = 0x20;
const LARGE: u64 = 0x80;
/// A bit that the processor ignores.
pub(crate) const IGNORED: u64 = 0x200;
const ADDRESS: u64 = 0xf_ffff_ffff_f000;

/// A root and what hangs off it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) root: u64,
}

impl Space {
    /// A space with nothing but the identity map.
    pub(crate) fn new(frames: &mut Frames) -> Self {
        let (root, pdpt, pd) = (frames.table(), frames.table(), frames.table());
        store(root, pdpt | PW | A);
        store(pdpt, pd | PW | A);
        for index in 0..512 {
            store(pd + index * 8, index << 21 | LARGE | PW | AD);
        }
        Self { root }
    }

    /// Takes the test region's tables out.
    pub(crate) fn empty_test_region(self) {
        store(slot_in(self.root, TEST, 4), 0);
    }

    /// Another root with the same entries.
    pub(crate) fn twin(self, frames: &mut Frames) -> Self {
        let root = frames.table();
        for index in 0..512 {
            store(root + index * 8, load(self.root + index * 8));
        }
        Self { root }
    }

    /// Makes this space the one in use.
    #[inline(always)]
    pub(crate) fn enter(self) {
        load_root(self.root);
    }

    /// Address of the PT entry of `address`; missing tables are made with `flags`.
    pub(crate) fn entry(self, frames: &mut Frames, address: u64, flags: u64) -> u64 {
        self.slot(frames, address, flags, 1)
    }

    /// Address of the entry of `address` in its table of `level` (1: PT, 2: PD).
    pub(crate) fn slot(self, frames: &mut Frames, address: u64, flags: u64, level: u32) -> u64 {
        let mut table = self.root;
        for above in (level + 1..=4).rev() {
            table = child(frames, slot_in(table, address, above), flags);
        }
        slot_in(table, address, level)
    }

    /// Maps one page; entry and tables get `flags`.
    pub(crate) fn map(self, frames: &mut Frames, address: u64, page: u64, flags: u64) {
        let entry = self.entry(frames, address, flags & !AD | flags & A);
        store(entry, page | flags);
    }

    /// Maps `leaves` pages in each of `tables` PT pages from `start` on, data pages in order.
    pub(crate) fn map_shape(self, frames: &mut Frames, start: u64, shape: Shape, flags: u64) {
        for table in 0..shape.tables {
            let first = start + table * PT_SPAN;
            let entry = self.entry(frames, first, flags & !AD | flags & A);
            for leaf in 0..shape.leaves {
                let page = frames.data(table * shape.leaves + leaf);
                store(entry + leaf * 8, page | flags);
            }
        }
    }
}

fn slot_in(table: u64, address: u64, level: u32) -> u64 {
    table + (address >> (12 + 9 * (level - 1)) & 511) * 8
}

fn child(frames: &mut Frames, slot: u64, flags: u64) -> u64 {
    let entry = load(slot);
    if entry & 1 != 0 {
        return entry & ADDRESS;
    }
    let table = frames.table();
    store(slot, table | flags);
    table
}

/// How many PT pages, and how many leaves in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) tables: u64,
    pub(crate) leaves: u64,
}

impl Shape {
    pub(crate) const fn new(tables: u64, leaves: u64) -> Self {
        Self { tables, leaves }
    }

    pub(crate) const fn pages(self) -> u64 {
        self.tables * self.leaves
    }
}

/// Reads one word of every page of a shape at `start`.
#[inline(never)]
pub(crate) fn touch(start: u64, shape: Shape) {
    let mut table = start;
    for _ in 0..shape.tables {
        let mut page = table;
        for _ in 0..shape.leaves {
            load(page);
            page += crate::frames::PAGE;
        }
        table += PT_SPAN;
    }
}

/// Writes CR3.
#[inline(always)]
pub(crate) fn load_root(root: u64) {
    // SAFETY: every root of this guest maps its image, stack and tables one to one.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) }
}
