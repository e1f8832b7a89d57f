//! The host that the benchmarks run on: plain memory, so that next to nothing of what is
//! counted is the simulation's.

use anchorite_addr::Hpa;
use anchorite_shadow::memory::{PAGE_BYTES, SLAB_BYTES, SLAB_PAGES};
use anchorite_shadow::{Arena, FrameSource, GuestMemory, Slab, TableMemory};

use crate::store::Store;

/// Shadow tables and guest memory, each beginning at address 0 of a space of its own.
pub(crate) struct Host<S> {
    tables: S,
    pub(crate) guest: S,
    pages: u32,
    /// Pages of slabs never handed out yet begin here.
    fresh: u32,
    returned: Vec<Slab>,
    low_frames: u64,
}

impl<S: Store> Host<S> {
    /// Room for `pages` shadow pages and `frames` frames of guest memory.
    pub(crate) fn new(pages: u32, frames: u64) -> Self {
        let pages = pages.next_multiple_of(SLAB_PAGES);
        let low = 16 * 4096;
        Self {
            tables: S::new(u64::from(pages) * PAGE_BYTES + low),
            guest: S::new(frames << 12),
            pages,
            fresh: 0,
            returned: Vec::new(),
            low_frames: 0,
        }
    }
}

/// Clears lines of a shadow table. Every policy pays it, so that it is counted apart, by this
/// function's name.
#[inline(never)]
fn clear_shadow_lines<S: Store>(tables: &mut S, table: u64, mut lines: u64) {
    while lines != 0 {
        tables.clear_line(table + u64::from(lines.trailing_zeros()) * 64);
        lines &= lines - 1;
    }
}

impl<S: Store> TableMemory for Host<S> {
    #[inline]
    fn read_entry(&self, at: Hpa) -> u64 {
        self.tables.get(at.as_u64())
    }

    #[inline]
    fn read_eight_entries(&self, at: Hpa) -> [u64; 8] {
        self.tables.get_eight(at.as_u64())
    }

    #[inline]
    fn write_entry(&mut self, at: Hpa, value: u64) {
        self.tables.set(at.as_u64(), value);
    }

    #[inline]
    fn clear_lines(&mut self, table: Hpa, lines: u64) {
        clear_shadow_lines(&mut self.tables, table.as_u64(), lines);
    }
}

impl<S: Store> GuestMemory for Host<S> {
    #[inline]
    fn read_u32(&self, at: Hpa) -> u32 {
        (self.guest.get(at.as_u64() & !7) >> (at.as_u64() % 8 * 8)) as u32
    }

    #[inline]
    fn read_u64(&self, at: Hpa) -> u64 {
        self.guest.get(at.as_u64())
    }

    fn compare_exchange_u32(&mut self, at: Hpa, old: u32, new: u32) -> bool {
        let (word, shift) = (at.as_u64() & !7, at.as_u64() % 8 * 8);
        let held = self.guest.get(word);
        let same = (held >> shift) as u32 == old;
        if same {
            self.guest.set(word, held & !(0xffff_ffff << shift) | u64::from(new) << shift);
        }
        same
    }

    #[inline]
    fn compare_exchange_u64(&mut self, at: Hpa, old: u64, new: u64) -> bool {
        let same = self.guest.get(at.as_u64()) == old;
        if same {
            self.guest.set(at.as_u64(), new);
        }
        same
    }
}

impl<S: Store> FrameSource for Host<S> {
    fn arena(&self) -> Arena {
        Arena { base: Hpa::new(0), pages: self.pages }
    }

    fn take_slab(&mut self) -> Option<Slab> {
        if let Some(slab) = self.returned.pop() {
            return Some(slab);
        }
        let first = self.fresh;
        self.fresh = first.checked_add(SLAB_PAGES).filter(|end| *end <= self.pages)?;
        Some(Slab::new(Hpa::new(u64::from(first / SLAB_PAGES) * SLAB_BYTES)))
    }

    fn give_slab(&mut self, slab: Slab) {
        self.returned.push(slab);
    }

    fn take_low_frame(&mut self) -> Option<Hpa> {
        let at = u64::from(self.pages) * PAGE_BYTES + self.low_frames * 4096;
        self.low_frames += 1;
        (self.low_frames <= 16).then_some(Hpa::new(at))
    }

    fn give_low_frame(&mut self, _frame: Hpa) {}
}
