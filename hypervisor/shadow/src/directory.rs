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
            if same && meta.generation < safe {
                stale = Found::Stale(*page);
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
