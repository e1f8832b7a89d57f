//! The pool: frames by number, their states, and the lists they are on.
//!
//! A frame is in exactly one state (I8). It becomes free in exactly one function,
//! [`Pool::release`], and only after its flush epoch was acknowledged (I9): callers reach
//! it through [`Pool::drain_limbo`] and the recycling of stale pages, which both ask the
//! flush clock.

use alloc::vec::Vec;

use anchorite_addr::Hpa;
use bitvec::array::BitArray;
use bitvec::order::Lsb0;

use crate::config::{ConfigError, MAX_PAGES};
use crate::memory::{Arena, FrameSource, PAGE_BYTES, SLAB_PAGES, Slab, TableMemory};
use crate::page::{LINKS, Meta, Node, PageNo, State};

/// Circular doubly linked lists through [`Meta::prev`] and [`Meta::next`]; the list's
/// number is its sentinel's page number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// Current pages, oldest first.
    Active = 1,
    /// Pages of older generations, oldest first.
    Stale = 2,
    /// Pages retired one by one, in order of their epochs.
    Limbo = 3,
}

impl List {
    #[inline]
    pub(crate) fn sentinel(self) -> PageNo {
        PageNo(self as u32)
    }
}

/// Numbers below this are sentinels.
pub(crate) const FIRST_PAGE: u32 = 4;
/// Frames a fault may need at most: four tables below a five-level root, one split more.
pub(crate) const RESERVE: usize = 5;

/// A slab taken from the source: its first page and which of its frames are free.
#[derive(Debug)]
struct SlabState {
    slab: Option<Slab>,
    first: PageNo,
    free: BitArray<[u64; 1], Lsb0>,
}

/// The frames.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Address that page number 0 would have.
    origin: u64,
    /// Most metadata there can be, sentinels included; as much is reserved.
    pages: usize,
    pub(crate) metas: Vec<Meta>,
    slabs: Vec<SlabState>,
    /// The slabs with a free frame. The last gives frames until it has none.
    open: Vec<u16>,
    reserve: [PageNo; RESERVE],
    reserved: usize,
    pub(crate) taken: u32,
    pub(crate) free: u32,
    pub(crate) active: u32,
    pub(crate) stale: u32,
    pub(crate) limbo: u32,
    pub(crate) quota: u32,
    /// Most frames in use at once so far.
    pub(crate) peak: u32,
}

impl Pool {
    pub(crate) fn new(arena: Arena, quota: u32) -> Result<Self, ConfigError> {
        let Arena { base, pages } = arena;
        let bytes = u64::from(pages) * PAGE_BYTES;
        let fits = base.as_u64().checked_add(bytes).is_some_and(|end| end <= 1 << 52);
        if pages == 0 || pages > MAX_PAGES || base.page_offset() != 0 || !fits {
            return Err(ConfigError::Arena { base, pages });
        }
        let count = (pages + FIRST_PAGE) as usize;
        let slab_count = pages.div_ceil(SLAB_PAGES) as usize;
        let mut metas = Vec::new();
        let (mut slabs, mut open) = (Vec::new(), Vec::new());
        metas.try_reserve_exact(count).map_err(|_| ConfigError::OutOfMemory)?;
        slabs.try_reserve_exact(slab_count).map_err(|_| ConfigError::OutOfMemory)?;
        open.try_reserve_exact(slab_count).map_err(|_| ConfigError::OutOfMemory)?;
        // The rest is made as slabs are taken: a large arena costs nothing until it is used.
        metas.resize(FIRST_PAGE as usize, Meta::default());
        let mut pool = Self {
            pages: count,
            origin: base.as_u64().wrapping_sub(u64::from(FIRST_PAGE) * PAGE_BYTES),
            metas,
            slabs,
            open,
            reserve: [PageNo::NONE; RESERVE],
            reserved: 0,
            taken: 0,
            free: 0,
            active: 0,
            stale: 0,
            limbo: 0,
            quota: quota.min(pages),
            peak: 0,
        };
        for list in [List::Active, List::Stale, List::Limbo] {
            pool.empty_list(list);
        }
        Ok(pool)
    }

    /// The address of a page's table.
    #[inline]
    pub(crate) fn table(&self, page: PageNo) -> Hpa {
        Hpa::new(self.origin.wrapping_add(u64::from(page.0) * PAGE_BYTES))
    }

    /// The address of an entry.
    #[inline]
    pub(crate) fn entry(&self, node: Node) -> Hpa {
        self.table(node.page()).wrapping_add(node.entry() as u64 * 8)
    }

    /// The address of an entry's link.
    #[inline]
    pub(crate) fn link(&self, node: Node) -> Hpa {
        self.entry(node).wrapping_add(LINKS)
    }

    /// The page whose table is at `address`, which a shadow entry holds.
    #[inline]
    pub(crate) fn page_at(&self, address: u64) -> PageNo {
        PageNo((address.wrapping_sub(self.origin) / PAGE_BYTES) as u32)
    }

    #[inline]
    pub(crate) fn meta(&self, page: PageNo) -> &Meta {
        &self.metas[page.index()]
    }

    #[inline]
    pub(crate) fn meta_mut(&mut self, page: PageNo) -> &mut Meta {
        &mut self.metas[page.index()]
    }

    // ---- lists ---------------------------------------------------------------

    /// The oldest page on `list`.
    #[inline]
    pub(crate) fn front(&self, list: List) -> Option<PageNo> {
        let first = self.meta(list.sentinel()).next;
        (first != list.sentinel()).then_some(first)
    }

    /// The pages on `list`, oldest first.
    pub(crate) fn iter(&self, list: List) -> impl Iterator<Item = PageNo> + '_ {
        let mut at = list.sentinel();
        core::iter::from_fn(move || {
            at = self.meta(at).next;
            (at != list.sentinel()).then_some(at)
        })
    }

    #[inline]
    pub(crate) fn push_back(&mut self, list: List, page: PageNo) {
        let sentinel = list.sentinel();
        let tail = self.meta(sentinel).prev;
        let meta = self.meta_mut(page);
        meta.prev = tail;
        meta.next = sentinel;
        self.meta_mut(tail).next = page;
        self.meta_mut(sentinel).prev = page;
    }

    #[inline]
    pub(crate) fn unlist(&mut self, page: PageNo) {
        let Meta { prev, next, .. } = *self.meta(page);
        self.meta_mut(prev).next = next;
        self.meta_mut(next).prev = prev;
    }

    fn empty_list(&mut self, list: List) {
        let sentinel = list.sentinel();
        let meta = self.meta_mut(sentinel);
        meta.prev = sentinel;
        meta.next = sentinel;
    }

    /// Appends the whole active list to the stale list, in a constant number of steps.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "most of a zap-all, which calls it once")]
    pub(crate) fn splice_active_to_stale(&mut self) {
        let Meta { next: first, prev: last, .. } = *self.meta(List::Active.sentinel());
        if first == List::Active.sentinel() {
            return;
        }
        self.empty_list(List::Active);
        let stale = List::Stale.sentinel();
        let tail = core::mem::replace(&mut self.meta_mut(stale).prev, last);
        self.meta_mut(last).next = stale;
        self.meta_mut(first).prev = tail;
        self.meta_mut(tail).next = first;
        self.stale += self.active;
        self.active = 0;
    }

    // ---- states --------------------------------------------------------------

    /// Frames that count against the quota.
    pub(crate) fn in_use(&self) -> u32 {
        self.active + self.stale + self.limbo + self.reserved as u32
    }

    /// Whether the reserve is full.
    #[inline]
    pub(crate) fn is_reserved(&self) -> bool {
        self.reserved == RESERVE
    }

    pub(crate) fn reserved(&self) -> &[PageNo] {
        &self.reserve[..self.reserved]
    }

    /// Puts a clean frame, on no list, into the reserve.
    pub(crate) fn keep_ready(&mut self, page: PageNo) {
        self.meta_mut(page).state = State::Reserved;
        self.reserve[self.reserved] = page;
        self.reserved += 1;
        self.free += 1;
    }

    /// Takes a clean frame out of the reserve; a fault reserved it before it began.
    #[inline]
    pub(crate) fn take_ready(&mut self) -> Option<PageNo> {
        let left = self.reserved.checked_sub(1)?;
        self.reserved = left;
        self.free -= 1;
        Some(self.reserve[left])
    }

    /// Gives the reserve up.
    pub(crate) fn drop_reserve(&mut self) {
        while let Some(page) = self.take_ready() {
            self.release(page);
        }
    }

    /// Makes a frame free: the only function that does. It is on no list, and every vCPU
    /// has acknowledged an epoch after its retirement.
    #[inline]
    pub(crate) fn release(&mut self, page: PageNo) {
        let meta = self.meta_mut(page);
        let Meta { slab, lines, .. } = *meta;
        *meta = Meta { state: State::Free, slab, lines, ..Meta::default() };
        self.free += 1;
        let state = &mut self.slabs[usize::from(slab)];
        // A slab has 64 pages: as many as the word has bits.
        let [word] = &mut state.free.data;
        if *word == 0 {
            self.open.push(slab);
        }
        *word |= 1 << ((page.0 - state.first.0) % u64::BITS);
    }

    /// Takes a free frame, clean, if the quota permits one more in use.
    #[inline]
    pub(crate) fn take_free<M: TableMemory>(&mut self, memory: &mut M) -> Option<PageNo> {
        let in_use = self.in_use();
        if in_use >= self.quota {
            return None;
        }
        let slab = *self.open.last()?;
        let state = &mut self.slabs[usize::from(slab)];
        let [word] = &mut state.free.data;
        let page = PageNo(state.first.0 + word.trailing_zeros());
        *word &= word.wrapping_sub(1);
        if *word == 0 {
            self.open.pop();
        }
        // Nowhere else does their number grow.
        self.peak = self.peak.max(in_use + 1);
        self.free -= 1;
        self.clear(memory, page);
        Some(page)
    }

    /// Frees the pages in limbo whose epoch is acknowledged. Returns how many.
    pub(crate) fn drain_limbo(&mut self, acknowledged: impl Fn(u64) -> bool) -> u32 {
        let mut freed = 0;
        while let Some(page) = self.front(List::Limbo) {
            if !acknowledged(self.meta(page).epoch) {
                break;
            }
            self.unlist(page);
            self.limbo -= 1;
            self.release(page);
            freed += 1;
        }
        freed
    }

    /// Sends a page, off every list and its table zero, to wait for `epoch`.
    pub(crate) fn retire(&mut self, page: PageNo, epoch: u64) {
        let meta = self.meta_mut(page);
        meta.state = State::Limbo;
        meta.epoch = epoch;
        self.push_back(List::Limbo, page);
        self.limbo += 1;
    }

    /// Zeroes those lines of a page's table that may hold entries.
    #[inline]
    pub(crate) fn clear<M: TableMemory>(&mut self, memory: &mut M, page: PageNo) {
        let table = self.table(page);
        let lines = core::mem::take(&mut self.meta_mut(page).lines);
        memory.clear_lines(table, lines);
    }

    // ---- slabs ---------------------------------------------------------------

    /// Takes a slab from the source. Its frames become free; each is zeroed when it is
    /// taken, not all 64 in the fault that happens to need one.
    #[cold]
    pub(crate) fn grow<M: FrameSource + TableMemory>(&mut self, memory: &mut M) -> bool {
        let Some(slab) = memory.take_slab() else {
            return false;
        };
        let (Some(first), Some(number)) = (self.first_of(&slab), self.free_slab_number()) else {
            memory.give_slab(slab);
            return false;
        };
        let end = (first.0 + SLAB_PAGES) as usize;
        if self.metas.len() < end {
            self.metas.resize(end, Meta::default());
        }
        self.slabs[usize::from(number)] =
            SlabState { slab: Some(slab), first, free: BitArray::new([u64::MAX]) };
        self.taken += SLAB_PAGES;
        self.free += SLAB_PAGES;
        for page in (first.0..first.0 + SLAB_PAGES).map(PageNo) {
            let (state, lines) = (State::Free, u64::MAX);
            *self.meta_mut(page) = Meta { state, slab: number, lines, ..Meta::default() };
        }
        self.open.push(number);
        true
    }

    /// The number of a slab's first page, if the slab lies where it may.
    fn first_of(&self, slab: &Slab) -> Option<PageNo> {
        let offset = slab.base().as_u64().wrapping_sub(self.origin);
        let first = offset / PAGE_BYTES;
        let inside = first >= u64::from(FIRST_PAGE)
            && first + u64::from(SLAB_PAGES) <= self.pages as u64
            && offset % PAGE_BYTES == 0;
        let fresh = |first: usize| {
            let pages = self.metas.iter().skip(first).take(SLAB_PAGES as usize);
            pages.into_iter().all(|meta| meta.state == State::Absent)
        };
        (inside && fresh(first as usize)).then_some(PageNo(first as u32))
    }

    /// A place in the slab table; its capacity was reserved for the whole arena.
    fn free_slab_number(&mut self) -> Option<u16> {
        let number = self.slabs.iter().position(|state| state.slab.is_none());
        let number = number.unwrap_or_else(|| {
            if self.slabs.len() < self.slabs.capacity() {
                self.slabs.push(SlabState {
                    slab: None,
                    first: PageNo::NONE,
                    free: BitArray::ZERO,
                });
            }
            self.slabs.len() - 1
        });
        let vacant = self.slabs.get(number)?.slab.is_none();
        vacant.then(|| u16::try_from(number).ok()).flatten()
    }

    /// Gives slabs without a frame in use back to the source.
    pub(crate) fn shrink<M: FrameSource>(&mut self, memory: &mut M) {
        for number in 0..self.slabs.len() {
            if self.slabs[number].free.count_ones() != SLAB_PAGES as usize {
                continue;
            }
            let state = &mut self.slabs[number];
            let (Some(slab), first) = (state.slab.take(), state.first) else {
                continue;
            };
            state.free = BitArray::ZERO;
            for page in (first.0..first.0 + SLAB_PAGES).map(PageNo) {
                *self.meta_mut(page) = Meta::default();
            }
            self.free -= SLAB_PAGES;
            self.taken -= SLAB_PAGES;
            memory.give_slab(slab);
        }
        let slabs = &self.slabs;
        self.open.retain(|number| slabs[usize::from(*number)].slab.is_some());
    }

    /// Takes every slab back, whatever its frames hold: the engine is going away.
    pub(crate) fn dissolve<M: FrameSource>(&mut self, memory: &mut M) {
        for state in &mut self.slabs {
            if let Some(slab) = state.slab.take() {
                memory.give_slab(slab);
            }
        }
    }

    /// For the audit: whether the slabs with a free frame are those that are told to have one,
    /// each once.
    pub(crate) fn is_open_right(&self) -> bool {
        let has_free = |number: &u16| self.slabs[usize::from(*number)].free.any();
        let all = self.slabs.iter().filter(|state| state.free.any()).count();
        let mut open = self.open.clone();
        open.sort_unstable();
        open.dedup();
        open.len() == all && self.open.len() == all && open.iter().all(has_free)
    }

    /// For the audit: (first page, bit n says frame n is free) of each slab taken.
    pub(crate) fn slab_maps(&self) -> impl Iterator<Item = (PageNo, u64)> + '_ {
        let taken = self.slabs.iter().filter(|state| state.slab.is_some());
        taken.map(|state| (state.first, state.free.data[0]))
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
