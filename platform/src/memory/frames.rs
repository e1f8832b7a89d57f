//! Frames for tables and control structures.
//!
//! `talc` owns the memory. It writes a tag word behind each allocation, so that
//! single 4 KiB frames would waste half of it; tables therefore come in slabs of 64
//! frames, which a bit map divides.

#![expect(unsafe_code, reason = "hands out raw memory of the direct map")]

use super::direct_map;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anchorite_addr::{Hpa, HpaPage};
use anchorite_shadow::TableMemory;
use anchorite_vcpu::{HostPages, Page, PageSource};
use anchorite_vmm::translation::TableFrames;
use bitvec::array::BitArray;
use core::alloc::Layout;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use spinning_top::RawSpinlock;
use talc::TalcLock;
use talc::source::Manual;

const FRAME_BYTES: u64 = 4096;
const SLAB_FRAMES: usize = 64;
const SLAB_BYTES: usize = SLAB_FRAMES * FRAME_BYTES as usize;

/// The allocator that owns the memory; shared by all pools.
type Arena = Arc<TalcLock<RawSpinlock, Manual>>;

/// A pool of frames. Clones share the memory, not the slabs.
pub struct Frames {
    arena: Arena,
    slabs: Vec<FrameSlab>,
}

/// 64 frames in one allocation.
struct FrameSlab {
    first: u64,
    used: BitArray<u64>,
}

impl Frames {
    /// A pool over `regions`, which nobody else may use from now on.
    pub(super) fn new(regions: impl Iterator<Item = Range<u64>>) -> Self {
        let arena = Arc::new(TalcLock::new(Manual));
        for region in regions.map(direct_map::usable).filter(|region| !region.is_empty()) {
            let bytes = (region.end - region.start) as usize;
            // SAFETY: the regions are RAM that the layout gave to nobody else, mapped
            // and writable through the direct map for as long as the machine runs.
            // One too small for talc's own needs is left unused.
            let _ =
                unsafe { arena.lock().claim(direct_map::pointer(region.start).as_ptr(), bytes) };
        }
        Self { arena, slabs: Vec::new() }
    }

    /// `bytes` of memory at a multiple of 4096, with whatever it holds, or `None`.
    fn allocate_bytes(&self, bytes: usize) -> Option<*mut u8> {
        let layout = Layout::from_size_align(bytes, FRAME_BYTES as usize).ok()?;
        // SAFETY: the layout's size is not zero: every caller asks for whole frames.
        Some(unsafe { self.arena.lock().allocate(layout) }?.as_ptr())
    }

    /// A slab more. Its frames are zeroed one by one as they are taken.
    fn add_slab(&mut self) -> Option<&mut FrameSlab> {
        let start = self.allocate_bytes(SLAB_BYTES)?;
        self.slabs.push(FrameSlab { first: direct_map::physical(start), used: BitArray::ZERO });
        self.slabs.last_mut()
    }

    /// A frame with whatever it holds, to be given back by [`TableFrames::free`].
    pub(super) fn take(&mut self) -> Option<u64> {
        let taken = self.slabs.iter_mut().rev().find_map(FrameSlab::take);
        match taken {
            Some(frame) => Some(frame),
            None => self.add_slab()?.take(),
        }
    }

    /// Gives the slab at `index` back to the arena.
    fn release_slab(&mut self, index: usize) {
        let slab = self.slabs.swap_remove(index);
        if let Ok(layout) = Layout::from_size_align(SLAB_BYTES, FRAME_BYTES as usize) {
            let start = direct_map::pointer(slab.first).as_ptr();
            // SAFETY: allocated by `add_slab` with this layout; no frame of it is in use.
            unsafe { self.arena.lock().deallocate(start, layout) };
        }
    }
}

impl Clone for Frames {
    fn clone(&self) -> Self {
        Self { arena: Arc::clone(&self.arena), slabs: Vec::new() }
    }
}

impl FrameSlab {
    fn take(&mut self) -> Option<u64> {
        let index = self.used.first_zero()?;
        self.used.set(index, true);
        Some(self.first + index as u64 * FRAME_BYTES)
    }

    fn index_of(&self, frame: u64) -> Option<usize> {
        let offset = frame.checked_sub(self.first)?;
        (offset < SLAB_BYTES as u64).then_some((offset / FRAME_BYTES) as usize)
    }
}

impl PageSource for Frames {
    fn pages_as_they_are(&mut self, count: usize) -> Option<HostPages> {
        let bytes = count.checked_mul(FRAME_BYTES as usize).filter(|&bytes| bytes > 0)?;
        let start = self.allocate_bytes(bytes)?;
        let physical = HpaPage::new(Hpa::new(direct_map::physical(start)))?;
        #[expect(clippy::cast_ptr_alignment, reason = "allocated with a page's alignment")]
        let first = start.cast::<Page>();
        // SAFETY: the allocation is page-aligned, `count` pages long, never given back, and
        // referred to by nobody else; it is the machine's RAM, in which every byte has some
        // value.
        let memory = unsafe { core::slice::from_raw_parts_mut(first, count) };
        Some(HostPages { physical, memory })
    }
}

impl TableFrames for Frames {
    fn allocate(&mut self) -> Option<HpaPage> {
        let frame = self.take()?;
        // SAFETY: the frame was marked free, so that nobody refers to it.
        unsafe { direct_map::pointer(frame).as_ptr().write_bytes(0, FRAME_BYTES as usize) };
        HpaPage::new(Hpa::new(frame))
    }

    fn free(&mut self, frame: HpaPage) {
        let frame = frame.as_u64();
        let found = self
            .slabs
            .iter()
            .enumerate()
            .find_map(|(index, slab)| Some((index, slab.index_of(frame)?)));
        let Some((slab, index)) = found else { return };
        self.slabs[slab].used.set(index, false);
        if self.slabs[slab].used.not_any() {
            self.release_slab(slab);
        }
    }
}

impl TableMemory for Frames {
    fn read_entry(&self, at: Hpa) -> u64 {
        entry(at).load(Ordering::Relaxed)
    }

    fn write_entry(&mut self, at: Hpa, value: u64) {
        entry(at).store(value, Ordering::Release);
    }
}

/// The table entry at `at`, which the hardware may read at any time.
fn entry(at: Hpa) -> &'static AtomicU64 {
    debug_assert!(at.as_u64() % 8 == 0, "table entries are 8-byte aligned");
    // SAFETY: the direct map is mapped as long as the machine runs; table entries are
    // only ever accessed through this function and by the hardware, both atomically.
    unsafe { AtomicU64::from_ptr(direct_map::pointer(at.as_u64()).as_ptr().cast()) }
}
