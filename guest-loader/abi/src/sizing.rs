//! How much memory a run takes, as its options ask for it.
//!
//! The image divides the machine's RAM by these figures before it has a heap, and the
//! tools size the emulated machine by them.

use crate::hypercall::WINDOW_BYTES;
use crate::{Mmu, Options};

const MIB: u64 = 1 << 20;
const FRAME_BYTES: u64 = 4096;
/// The granule by which Hermit maps its heap.
const WINDOW_GRANULE: u64 = 2 * MIB;

/// Hermit's window where nothing large is asked for. It comes up with 12 MiB; 16 leave
/// it a heap of 6 MiB.
pub const HERMIT_BYTES: u64 = 16 * MIB;
/// The engine's metadata that this window holds besides everything else.
const METADATA_WITHIN: u64 = 3 * MIB;

/// Shadow pages kept where no number is given: no fewer than these, …
const LEAST_DEFAULT_PAGES: u64 = 4096;
/// … and one for so many frames of guest RAM.
const FRAMES_A_PAGE: u64 = 8;
/// Most shadow pages that the engine numbers; more are not kept.
const MOST_PAGES: u64 = (1 << 22) - 8;

/// A shadow page: a table and its links.
const SHADOW_PAGE_BYTES: u64 = 8192;
/// Shadow pages come in slabs of so many, of which `talc` takes one page more.
const SLAB_PAGES: u64 = 64;
/// Heap for a shadow page: 64 bytes of metadata, at most 23 of directory, a share of its
/// slab's.
const METADATA_BYTES: u64 = 96;
/// Heap for a frame of guest RAM: 16 bytes of heads, twice, because a slot that moves has
/// old ones and new ones.
const HEAD_BYTES: u64 = 32;

/// Image, modules' padding, control structures, firmware.
const FIXED_BYTES: u64 = 24 * MIB;

impl Options<'_> {
    /// Bytes of guest RAM.
    pub const fn guest_bytes(&self) -> u64 {
        self.mem_mib as u64 * MIB
    }

    /// Shadow pages that memory is kept for; 0 under nested paging.
    pub const fn shadow_quota(&self) -> u32 {
        let frames = self.guest_bytes() / FRAME_BYTES;
        let pages = match (self.mmu, self.shadow_pages) {
            (Mmu::Nested, _) => 0,
            (Mmu::Shadow, 0) if frames / FRAMES_A_PAGE < LEAST_DEFAULT_PAGES => LEAST_DEFAULT_PAGES,
            (Mmu::Shadow, 0) => frames / FRAMES_A_PAGE,
            (Mmu::Shadow, pages) => pages as u64,
        };
        if pages < MOST_PAGES { pages as u32 } else { MOST_PAGES as u32 }
    }

    /// Bytes of the pool of shadow pages, with what the allocator takes of it.
    pub const fn shadow_pool_bytes(&self) -> u64 {
        match self.shadow_quota() as u64 {
            0 => 0,
            pages => (pages.div_ceil(SLAB_PAGES) + 1) * (SLAB_PAGES + 1) * SHADOW_PAGE_BYTES,
        }
    }

    /// Bytes of the window that Hermit gets for its heap, stacks and tables: enough for
    /// the engine's metadata besides.
    pub const fn hermit_bytes(&self) -> u64 {
        let frames = match self.mmu {
            Mmu::Nested => 0,
            Mmu::Shadow => self.guest_bytes() / FRAME_BYTES,
        };
        let metadata = self.shadow_quota() as u64 * METADATA_BYTES + frames * HEAD_BYTES;
        // Hermit sets a tenth of its window aside for stacks.
        let beyond = metadata.saturating_sub(METADATA_WITHIN) * 9 / 8;
        HERMIT_BYTES + beyond.next_multiple_of(WINDOW_GRANULE)
    }

    /// Bytes of RAM that the whole machine needs, besides the guest's files.
    pub const fn machine_bytes(&self) -> u64 {
        // Nested tables, were the guest's RAM mapped by 4 KiB pages.
        let nested = self.guest_bytes() / 256;
        let pools = self.shadow_pool_bytes() + nested;
        self.guest_bytes() + WINDOW_BYTES + pools + self.hermit_bytes() + FIXED_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shadow(mem_mib: u32, shadow_pages: u32) -> Options<'static> {
        Options { mmu: Mmu::Shadow, mem_mib, shadow_pages, ..Options::default() }
    }

    #[test]
    fn a_guest_has_a_shadow_page_for_every_eighth_frame_and_no_fewer_than_4096() {
        assert_eq!(shadow(64, 0).shadow_quota(), 4096);
        assert_eq!(shadow(768, 0).shadow_quota(), 24_576);
        assert_eq!(shadow(768, 100).shadow_quota(), 100);
        assert_eq!(Options { mmu: Mmu::Nested, ..shadow(768, 100) }.shadow_quota(), 0);
        assert_eq!(u64::from(shadow(1 << 20, 0).shadow_quota()), MOST_PAGES);
    }

    #[test]
    fn the_pool_holds_every_page_and_the_allocators_share() {
        for pages in [1, 64, 65, 24_576, 65_536] {
            let bytes = shadow(64, pages).shadow_pool_bytes();
            assert!(bytes > u64::from(pages) * SHADOW_PAGE_BYTES, "{pages}");
            assert!(bytes < (u64::from(pages) + 130) * 8400, "{pages}");
        }
        assert_eq!(Options { mmu: Mmu::Nested, ..shadow(64, 0) }.shadow_pool_bytes(), 0);
    }

    #[test]
    fn hermits_window_grows_only_where_the_engine_has_much_to_keep() {
        assert_eq!(shadow(64, 0).hermit_bytes(), HERMIT_BYTES);
        assert_eq!(shadow(256, 0).hermit_bytes(), HERMIT_BYTES);
        assert_eq!(Options { mmu: Mmu::Nested, ..shadow(1 << 18, 0) }.hermit_bytes(), HERMIT_BYTES);
        let window = shadow(2048, 65_536).hermit_bytes();
        assert!(window - HERMIT_BYTES > 65_536 * 87 + (2048 << 20) / 4096 * 16);
        assert_eq!(window % WINDOW_GRANULE, 0);
    }

    #[test]
    fn sizes_beyond_reason_do_not_overflow() {
        assert!(shadow(u32::MAX, u32::MAX).machine_bytes() > u64::from(u32::MAX) * MIB);
    }
}
