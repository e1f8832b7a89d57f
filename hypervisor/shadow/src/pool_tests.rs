//! Tests of the pool against a source that counts.

use super::*;
use std::vec::Vec;

struct Source {
    slabs: Vec<Slab>,
    lines: usize,
}

const BASE: u64 = 0x40_0000;

impl Source {
    fn new(slabs: u64) -> Self {
        let slab = |n| Slab::new(Hpa::new(BASE + n * crate::memory::SLAB_BYTES));
        Self { slabs: (0..slabs).map(slab).collect(), lines: 0 }
    }
}

impl TableMemory for Source {
    fn read_entry(&self, _at: Hpa) -> u64 {
        0
    }

    fn write_entry(&mut self, _at: Hpa, _value: u64) {}

    fn clear_lines(&mut self, _table: Hpa, lines: u64) {
        self.lines += lines.count_ones() as usize;
    }
}

impl FrameSource for Source {
    fn arena(&self) -> Arena {
        Arena { base: Hpa::new(BASE), pages: 128 }
    }

    fn take_slab(&mut self) -> Option<Slab> {
        self.slabs.pop()
    }

    fn give_slab(&mut self, slab: Slab) {
        self.slabs.push(slab);
    }

    fn take_low_frame(&mut self) -> Option<Hpa> {
        None
    }

    fn give_low_frame(&mut self, _frame: Hpa) {}
}

fn pool(source: &Source, quota: u32) -> Pool {
    Pool::new(source.arena(), quota).expect("a valid arena")
}

#[test]
fn a_page_and_its_address_name_each_other() {
    let source = Source::new(0);
    let pool = pool(&source, 128);
    let first = PageNo(FIRST_PAGE);
    assert_eq!(pool.table(first), Hpa::new(BASE));
    assert_eq!(pool.link(Node::new(first, 511)).as_u64(), BASE + 8184);
    assert_eq!(pool.page_at(pool.table(PageNo(99)).as_u64()), PageNo(99));
}

#[test]
fn a_fresh_frame_is_cleared_when_it_is_taken_and_a_used_one_only_where_it_was_set() {
    let mut source = Source::new(1);
    let mut pool = pool(&source, 128);
    assert!(pool.grow(&mut source));
    assert_eq!(source.lines, 0);
    let page = pool.take_free(&mut source).expect("64 are free");
    assert_eq!(source.lines, 64);
    pool.meta_mut(page).lines = 0b101;
    pool.clear(&mut source, page);
    assert_eq!(source.lines, 66);
}

#[test]
fn the_quota_bounds_what_is_in_use_not_what_was_taken() {
    let mut source = Source::new(1);
    let mut pool = pool(&source, 3);
    assert!(pool.grow(&mut source));
    for _ in 0..3 {
        let page = pool.take_free(&mut source).expect("within the quota");
        pool.push_back(List::Active, page);
        pool.active += 1;
    }
    assert_eq!(pool.take_free(&mut source), None);
    pool.splice_active_to_stale();
    assert_eq!((pool.active, pool.stale), (0, 3));
    assert_eq!(pool.take_free(&mut source), None, "stale pages count");
}

#[test]
fn the_reserve_counts_as_free_and_as_in_use_until_it_is_given_up() {
    let mut source = Source::new(1);
    let mut pool = pool(&source, 128);
    assert!(pool.grow(&mut source));
    for held in 1..=3 {
        let page = pool.take_free(&mut source).expect("free frames");
        pool.keep_ready(page);
        assert_eq!((pool.free, pool.in_use(), pool.peak), (64, held, held));
    }
    let maps: Vec<_> = pool.slab_maps().collect();
    assert_eq!(maps, [(PageNo(FIRST_PAGE), u64::MAX << 3)], "the first three are not free");
    pool.drop_reserve();
    assert_eq!((pool.reserved(), pool.free, pool.in_use(), pool.peak), (&[][..], 64, 0, 3));
    pool.shrink(&mut source);
    assert_eq!((source.slabs.len(), pool.free, pool.slab_maps().count()), (1, 0, 0));
}

#[test]
fn limbo_frees_in_order_and_stops_at_the_first_epoch_not_acknowledged() {
    let mut source = Source::new(1);
    let mut pool = pool(&source, 128);
    assert!(pool.grow(&mut source));
    for epoch in [4, 4, 7, 9] {
        let page = pool.take_free(&mut source).expect("free frames");
        pool.retire(page, epoch);
    }
    assert_eq!(pool.drain_limbo(|epoch| epoch <= 4), 2);
    assert_eq!(pool.drain_limbo(|epoch| epoch == 9), 0, "7 comes first");
    assert_eq!(pool.drain_limbo(|_| true), 2);
    assert_eq!((pool.limbo, pool.free), (0, 64));
}

#[test]
fn only_a_slab_without_a_frame_in_use_goes_back() {
    let mut source = Source::new(2);
    let mut pool = pool(&source, 128);
    assert!(pool.grow(&mut source) && pool.grow(&mut source));
    assert!(!pool.grow(&mut source), "the source is empty");
    let page = pool.take_free(&mut source).expect("free frames");
    pool.shrink(&mut source);
    assert_eq!((source.slabs.len(), pool.taken), (1, 64));
    pool.release(page);
    pool.shrink(&mut source);
    assert_eq!((source.slabs.len(), pool.taken, pool.free), (2, 0, 0));
    assert!(pool.grow(&mut source), "and can be had again");
}

#[test]
fn a_frame_returns_to_the_slab_that_it_came_from() {
    let mut source = Source::new(2);
    let mut pool = pool(&source, 128);
    let room = pool.metas.capacity();
    assert!(pool.grow(&mut source) && pool.grow(&mut source));
    assert_eq!(pool.metas.len(), FIRST_PAGE as usize + 128);
    assert_eq!(pool.metas.capacity(), room, "the arena's metadata was reserved");
    let pages: Vec<PageNo> = (0..128).filter_map(|_| pool.take_free(&mut source)).collect();
    assert!(pool.slab_maps().all(|(_, free)| free == 0));
    for (released, page) in pages.into_iter().enumerate() {
        pool.release(page);
        let free: u32 = pool.slab_maps().map(|(_, free)| free.count_ones()).sum();
        assert_eq!(free as usize, released + 1);
    }
    // Each still knows its slab.
    let again: Vec<PageNo> = (0..128).filter_map(|_| pool.take_free(&mut source)).collect();
    assert_eq!(again.len(), 128);
    for page in again {
        pool.release(page);
    }
    assert!(pool.slab_maps().all(|(_, free)| free == u64::MAX) && pool.is_open_right());
}

#[test]
fn a_frame_that_was_released_with_entries_is_cleared_when_it_is_taken() {
    let mut source = Source::new(1);
    let mut pool = pool(&source, 128);
    assert!(pool.grow(&mut source));
    let page = pool.take_free(&mut source).expect("64 are free");
    pool.meta_mut(page).lines = 0b110;
    pool.release(page);
    let lines = source.lines;
    assert_eq!(pool.take_free(&mut source), Some(page));
    assert_eq!(source.lines, lines + 2);
}

#[test]
fn the_audit_knows_which_slabs_have_a_free_frame() {
    let mut source = Source::new(2);
    let mut pool = pool(&source, 128);
    assert!(pool.grow(&mut source) && pool.grow(&mut source));
    assert!(pool.is_open_right());
    for wrong in [&[][..], &[0], &[0, 0], &[0, 1, 1]] {
        pool.open.clear();
        pool.open.extend_from_slice(wrong);
        assert!(!pool.is_open_right(), "{wrong:?}");
    }
    pool.open.clear();
    pool.open.extend([1, 0]);
    while pool.open.len() == 2 {
        pool.take_free(&mut source).expect("128 are free");
    }
    assert!(pool.is_open_right());
    pool.open[0] = 0;
    assert!(!pool.is_open_right(), "the slab that has none");
}

#[test]
fn a_slab_outside_the_arena_or_taken_twice_is_given_back() {
    let mut source = Source::new(0);
    let mut pool = pool(&source, 128);
    for base in [0, BASE + 4096, BASE + 127 * 8192] {
        source.slabs.push(Slab::new(Hpa::new(base)));
        assert!(!pool.grow(&mut source), "{base:#x}");
        assert_eq!(source.slabs.pop(), Some(Slab::new(Hpa::new(base))));
    }
    source.slabs.extend([Slab::new(Hpa::new(BASE)), Slab::new(Hpa::new(BASE))]);
    assert!(pool.grow(&mut source));
    assert!(!pool.grow(&mut source), "overlaps");
}
