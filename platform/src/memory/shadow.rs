//! What the shadow-paging engine asks of the machine: tables, guest memory, frames.

#![expect(unsafe_code, reason = "accesses tables and guest memory by address")]

use super::direct_map;
use super::frames::Frames;
use super::guest_ram::GuestRam;
use anchorite_addr::Hpa;
use anchorite_shadow::memory::{PAGE_BYTES, SLAB_BYTES};
use anchorite_shadow::{Arena, FrameSource, GuestMemory, Slab, TableMemory};
use anchorite_vmm::memory::HostMemory;
use anchorite_vmm::translation::TableFrames;
use core::alloc::Layout;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use talc::TalcCell;
use talc::source::Manual;

/// One contiguous piece of memory that all slabs of an engine come from, owned by an
/// instance of `talc` of its own, and the guest's RAM.
pub struct ShadowMachine {
    guest: GuestRam,
    /// For the roots outside long mode, which must lie below 4 GiB.
    low: Frames,
    slabs: TalcCell<Manual>,
    arena: Arena,
}

impl ShadowMachine {
    /// Slabs from `region`, which nobody else may use from now on.
    pub(super) fn new(region: Range<u64>, guest: GuestRam, low: Frames) -> Self {
        let slabs = TalcCell::new(Manual);
        let base = region.start.next_multiple_of(PAGE_BYTES);
        let bytes = region.end.saturating_sub(base);
        let start = direct_map::pointer(base).as_ptr();
        // SAFETY: the region is RAM that nobody else uses, mapped and writable through
        // the direct map for as long as the machine runs. Where it is too small for
        // talc's own needs it stays unused and no slab is ever handed out.
        let _ = unsafe { slabs.claim(start, bytes as usize) };
        let pages = u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX);
        let pages = pages.min(anchorite_shadow::MAX_PAGES);
        Self { guest, low, slabs, arena: Arena { base: Hpa::new(base), pages } }
    }

    fn layout() -> Option<Layout> {
        Layout::from_size_align(SLAB_BYTES as usize, PAGE_BYTES as usize).ok()
    }
}

impl FrameSource for ShadowMachine {
    fn arena(&self) -> Arena {
        self.arena
    }

    fn take_slab(&mut self) -> Option<Slab> {
        // SAFETY: a slab's size is not zero.
        let start = unsafe { self.slabs.get_mut().allocate(Self::layout()?) }?;
        Some(Slab::new(Hpa::new(direct_map::physical(start.as_ptr()))))
    }

    fn give_slab(&mut self, slab: Slab) {
        let Some(layout) = Self::layout() else { return };
        let start = direct_map::pointer(slab.base().as_u64()).as_ptr();
        // SAFETY: `take_slab` made the slab with this layout, and its owner gave it up.
        unsafe { self.slabs.get_mut().deallocate(start, layout) };
    }

    fn take_low_frame(&mut self) -> Option<Hpa> {
        // The engine writes the entries before it has them walked.
        let frame = Hpa::new(self.low.take()?);
        if frame.as_u64() >> 32 == 0 {
            return Some(frame);
        }
        self.low.free(frame.page());
        None
    }

    fn give_low_frame(&mut self, frame: Hpa) {
        self.low.free(frame.page());
    }
}

impl TableMemory for ShadowMachine {
    #[inline]
    fn read_entry(&self, at: Hpa) -> u64 {
        entry(at).load(Ordering::Relaxed)
    }

    #[inline]
    fn write_entry(&mut self, at: Hpa, value: u64) {
        entry(at).store(value, Ordering::Release);
    }

    #[inline]
    fn ticks(&self) -> u64 {
        crate::clock::now()
    }
}

/// The table entry at `at`, which the hardware may read at any time.
#[inline]
fn entry(at: Hpa) -> &'static AtomicU64 {
    let pointer =
        core::ptr::with_exposed_provenance_mut((super::DIRECT_MAP + at.as_u64()) as usize);
    // SAFETY: the engine names only frames that it was handed out, which lie in RAM
    // that is mapped for as long as the machine runs; entries are 8-byte aligned and
    // accessed only through this function and by the hardware, both atomically.
    unsafe { AtomicU64::from_ptr(pointer) }
}

/// Slots lie in guest RAM, so that no access of the engine is refused.
impl GuestMemory for ShadowMachine {
    #[inline]
    fn read_u32(&self, at: Hpa) -> u32 {
        self.guest.load_u32(at).unwrap_or(0)
    }

    #[inline]
    fn read_u64(&self, at: Hpa) -> u64 {
        self.guest.load_u64(at).unwrap_or(0)
    }

    #[inline]
    fn each_of_eight_u32(&self, at: Hpa, look: impl FnMut(u64, u32)) {
        self.guest.each_of_eight_u32(at, look);
    }

    #[inline]
    fn each_of_eight_u64(&self, at: Hpa, look: impl FnMut(u64, u64)) {
        self.guest.each_of_eight_u64(at, look);
    }

    #[inline]
    fn compare_exchange_u32(&mut self, at: Hpa, old: u32, new: u32) -> bool {
        self.guest.compare_exchange_u32(at, old, new).unwrap_or(false)
    }

    #[inline]
    fn compare_exchange_u64(&mut self, at: Hpa, old: u64, new: u64) -> bool {
        self.guest.compare_exchange_u64(at, old, new).unwrap_or(false)
    }
}
