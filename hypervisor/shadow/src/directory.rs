//! Which shadow pages shadow a gfn.
//!
//! The table holds page numbers and hashes by gfn alone, so that all pages of a gfn lie on
//! one probe sequence. It is reserved for twice as many pages as can exist: at that load
//! `hashbrown` never grows it, and almost never leaves a tombstone.

use hashbrown::HashTable;

use crate::page::{Meta, PageNo};
use crate::role::Role;

#[derive(Debug)]
pub(crate) struct Directory {
    table: HashTable<PageNo>,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A page of this generation.
    Current(PageNo),
    /// A page of an older one that no vCPU can still use.
    Stale(PageNo),
    /// None but pages of older generations that may not be used yet.
    Twin,
    /// Neither.
    None,
}

/// Fibonacci hashing, folded: `hashbrown` takes the bucket from the low bits and the
/// control byte from the top seven.
#[inline]
fn hash(gfn: u64) -> u64 {
    let product = gfn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

impl Directory {
    /// A directory for at most `pages` pages, or `None` where the heap has no room.
    pub(crate) fn new(pages: usize) -> Option<Self> {
        let mut table = HashTable::new();
        table.try_reserve(pages * 2, |_| 0).ok()?;
        Some(Self { table })
    }

    /// The current page for `(gfn, role)`: never a stale one (I5).
    #[inline]
    pub(crate) fn find(
        &self,
        metas: &[Meta],
        gfn: u64,
        role: Role,
        generation: u64,
    ) -> Option<PageNo> {
        self.table
            .find(hash(gfn), |page| {
                let meta = &metas[page.index()];
                meta.gfn == gfn && meta.role == role && meta.generation == generation
            })
            .copied()
    }

    /// The current page for `(gfn, role)`, or else a stale one of a generation below `safe`:
    /// one probe for both.
    #[inline]
    pub(crate) fn look_up(
        &self,
        metas: &[Meta],
        gfn: u64,
        role: Role,
        generation: u64,
        safe: u64,
    ) -> Found {
        let mut stale = Found::None;
        let current = self.table.find(hash(gfn), |page| {
            let meta = &metas[page.index()];
            let same = meta.gfn == gfn && meta.role == role;
            if same && meta.generation != generation && !matches!(stale, Found::Stale(_)) {
                let usable = meta.generation < safe;
                stale = if usable { Found::Stale(*page) } else { Found::Twin };
            }
            same && meta.generation == generation
        });
        current.map_or(stale, |page| Found::Current(*page))
    }

    /// Up to `found.len()` pages of `gfn` that satisfy `wanted`; returns how many.
    pub(crate) fn pages_of(
        &self,
        metas: &[Meta],
        gfn: u64,
        wanted: impl Fn(&Meta) -> bool,
        found: &mut [PageNo],
    ) -> usize {
        let candidates = self.table.iter_hash(hash(gfn)).copied().filter(|page| {
            let meta = &metas[page.index()];
            meta.gfn == gfn && wanted(meta)
        });
        let mut count = 0;
        for (place, page) in found.iter_mut().zip(candidates) {
            *place = page;
            count += 1;
        }
        count
    }

    /// Enters a page that is not in the directory.
    #[inline]
    pub(crate) fn insert(&mut self, metas: &[Meta], page: PageNo) {
        self.table.insert_unique(hash(metas[page.index()].gfn), page, |other| {
            hash(metas[other.index()].gfn)
        });
    }

    /// As [`Self::insert`], in the place of a page with the same key, which goes further back:
    /// a lookup of the current page then never passes the stale ones (H11).
    #[cold]
    pub(crate) fn insert_before(&mut self, metas: &[Meta], page: PageNo) {
        let Meta { gfn, role, .. } = metas[page.index()];
        let same = |other: &PageNo| {
            let meta = &metas[other.index()];
            meta.gfn == gfn && meta.role == role
        };
        let place = self.table.find_mut(hash(gfn), same);
        let last = place.map_or(page, |place| core::mem::replace(place, page));
        self.insert(metas, last);
    }

    /// Removes a page, if it is there.
    #[inline]
    pub(crate) fn remove(&mut self, gfn: u64, page: PageNo) {
        if let Ok(entry) = self.table.find_entry(hash(gfn), |other| *other == page) {
            entry.remove();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::ALL_RIGHTS;
    use std::vec::Vec;

    fn meta(gfn: u64, level: u8, generation: u64) -> Meta {
        let role = Role::default().at(level, ALL_RIGHTS);
        Meta { gfn, generation, role, ..Meta::default() }
    }

    fn directory(metas: &[Meta]) -> Directory {
        let mut directory = Directory::new(metas.len()).expect("room");
        for number in 0..metas.len() as u32 {
            directory.insert(metas, PageNo(number));
        }
        directory
    }

    #[test]
    fn a_current_page_is_found_beside_stale_ones_of_the_same_key() {
        let metas = [meta(5, 1, 1), meta(5, 1, 3), meta(5, 1, 2), meta(5, 2, 3)];
        let directory = directory(&metas);
        let role = metas[0].role;
        assert_eq!(directory.look_up(&metas, 5, role, 3, 3), Found::Current(PageNo(1)));
        assert_eq!(directory.find(&metas, 5, role, 3), Some(PageNo(1)));
        assert_eq!(directory.find(&metas, 5, role, 4), None);
    }

    #[test]
    fn a_stale_page_is_offered_only_below_the_safe_generation() {
        let metas = [meta(5, 1, 2)];
        let directory = directory(&metas);
        assert_eq!(directory.look_up(&metas, 5, metas[0].role, 4, 3), Found::Stale(PageNo(0)));
        assert_eq!(directory.look_up(&metas, 5, metas[0].role, 4, 2), Found::Twin);
        assert_eq!(directory.look_up(&metas, 6, metas[0].role, 4, 3), Found::None);
        assert_eq!(directory.look_up(&metas, 5, meta(5, 2, 2).role, 4, 3), Found::None);
    }

    #[test]
    fn a_stale_page_is_offered_whichever_twin_comes_first() {
        for (generations, usable) in [([2, 3], 0), ([3, 2], 1)] {
            let metas = generations.map(|generation| meta(5, 1, generation));
            let found = directory(&metas).look_up(&metas, 5, metas[0].role, 4, 3);
            assert_eq!(found, Found::Stale(PageNo(usable)));
        }
    }

    /// Seen to fail when a page is inserted behind its twins.
    #[test]
    fn h11_a_page_takes_the_place_of_its_twin_so_that_it_is_found_first() {
        let metas: Vec<Meta> = (1..20).map(|generation| meta(5, 1, generation)).collect();
        let mut directory = Directory::new(metas.len()).expect("room");
        for number in 0..metas.len() {
            directory.insert_before(&metas, PageNo(number as u32));
            let first = directory.table.iter_hash(hash(5)).next();
            assert_eq!(first, Some(&PageNo(number as u32)));
        }
        assert_eq!(directory.len(), metas.len());
    }

    /// What a lookup compares are the entries of its probe sequence whose seven hash bits agree.
    /// Seen to fail when all gfns have one hash.
    #[test]
    fn h11_stale_pages_of_other_keys_do_not_lengthen_a_lookup() {
        let (pages, current) = (4000, 400);
        let generation = |page| if page % (pages / current) == 0 { 2 } else { 1 };
        let metas: Vec<Meta> =
            (0..pages).map(|page| meta(0x100 + page, 1, generation(page))).collect();
        let directory = directory(&metas);
        let compared = |meta: &Meta| directory.table.iter_hash(hash(meta.gfn)).count();
        let live = metas.iter().filter(|meta| meta.generation == 2);
        let total: usize = live.map(compared).sum();
        assert!(total <= current as usize * 11 / 10, "{total} compared in {current} lookups");
    }

    #[test]
    fn gfns_that_differ_only_in_their_highest_bits_are_different_keys() {
        let metas: Vec<Meta> = (0..40).map(|bit| meta(1 << bit, 1, 1)).collect();
        let mut directory = directory(&metas);
        for (number, meta) in metas.iter().enumerate() {
            let page = PageNo(number as u32);
            assert_eq!(directory.find(&metas, meta.gfn, meta.role, 1), Some(page));
            directory.remove(meta.gfn, page);
            assert_eq!(directory.find(&metas, meta.gfn, meta.role, 1), None);
        }
        assert_eq!(directory.len(), 0);
    }

    #[test]
    fn pages_of_a_gfn_are_collected_up_to_the_room_there_is() {
        let metas = [meta(9, 1, 1), meta(9, 2, 1), meta(8, 1, 1), meta(9, 3, 2)];
        let directory = directory(&metas);
        let mut found = [PageNo::NONE; 4];
        assert_eq!(directory.pages_of(&metas, 9, |meta| meta.generation == 1, &mut found), 2);
        assert_eq!(directory.pages_of(&metas, 9, |_| true, &mut found[..1]), 1);
    }
}
