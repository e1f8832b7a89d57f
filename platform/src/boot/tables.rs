//! The page tables that Hermit starts on.
//!
//! | range | what |
//! |---|---|
//! | PML4\[0\] | the image, mapped 1:1 with 2 MiB pages; all else unmapped, for Hermit to use |
//! | PML4\[256\] | the direct map: physical address + [`DIRECT_MAP`](crate::memory::DIRECT_MAP), NX |
//! | PML4\[511\] | the recursive entry that Hermit edits tables through |

use super::layout::GRANULE;
use crate::memory::DIRECT_MAP_BYTES;
use core::ops::Range;

/// One page table.
#[repr(C, align(4096))]
pub(super) struct Table(pub(super) [u64; 512]);

impl Table {
    const EMPTY: Self = Self([0; 512]);
}

/// All tables of the start-up address space; lives in the image's own memory.
pub(super) struct Tables {
    pml4: Table,
    image_pdpt: Table,
    image_pd: Table,
    direct_pdpt: Table,
    /// Used where the CPU has no 1 GiB pages.
    direct_pd: [Table; DIRECT_GIB],
}

const DIRECT_GIB: usize = (DIRECT_MAP_BYTES >> 30) as usize;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

impl Tables {
    #[expect(clippy::large_stack_arrays, reason = "initializes a static, never a local")]
    pub(super) const EMPTY: Self = Self {
        pml4: Table::EMPTY,
        image_pdpt: Table::EMPTY,
        image_pd: Table::EMPTY,
        direct_pdpt: Table::EMPTY,
        direct_pd: [Table::EMPTY; DIRECT_GIB],
    };

    /// Fills the tables for an `image` below 1 GiB; returns the root's address.
    ///
    /// The tables must be mapped 1:1 when this runs.
    pub(super) fn fill(&mut self, image: Range<u64>, one_gib_pages: bool) -> u64 {
        self.pml4.0[0] = address(&self.image_pdpt) | PRESENT_WRITABLE;
        self.image_pdpt.0[0] = address(&self.image_pd) | PRESENT_WRITABLE;
        let first = image.start / GRANULE;
        for page in first..image.end.div_ceil(GRANULE) {
            self.image_pd.0[page as usize] = (page * GRANULE) | PRESENT_WRITABLE | LARGE;
        }
        self.pml4.0[256] = address(&self.direct_pdpt) | PRESENT_WRITABLE;
        for gib in 0..DIRECT_GIB {
            self.direct_pdpt.0[gib] = if one_gib_pages {
                (gib as u64) << 30 | PRESENT_WRITABLE | LARGE | NO_EXECUTE
            } else {
                self.fill_direct_directory(gib)
            };
        }
        let root = address(&self.pml4);
        self.pml4.0[511] = root | PRESENT_WRITABLE;
        root
    }

    fn fill_direct_directory(&mut self, gib: usize) -> u64 {
        for (index, entry) in self.direct_pd[gib].0.iter_mut().enumerate() {
            let page = (gib as u64) << 30 | (index as u64) << 21;
            *entry = page | PRESENT_WRITABLE | LARGE | NO_EXECUTE;
        }
        address(&self.direct_pd[gib]) | PRESENT_WRITABLE
    }
}

/// A table's physical address; at this time it is mapped 1:1.
fn address(table: &Table) -> u64 {
    core::ptr::from_ref(table).addr() as u64
}
