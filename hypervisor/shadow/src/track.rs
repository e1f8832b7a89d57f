//! Write tracking: what may not be mapped writable, or large, and why.

use crate::flush::VcpuId;
use crate::heads::Heads;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::page::{Meta, Node, PageNo};
use crate::paging::GuestFormat;
use crate::paging::entry::PRESENT;
use crate::policy::ZapPolicy;
use anchorite_addr::Gpa;

/// Pages of one gfn handled in one round.
const ROUND: usize = 16;
/// Writes without a fault in between after which a table is unshadowed.
const FLOOD: u8 = 3;

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    /// The heads of frame `gfn`, if it lies in a slot that `generation` has a part in.
    #[inline]
    fn frame_heads(&mut self, gfn: u64, generation: u64) -> Option<&mut Heads> {
        let slot = self.slots.at_mut(gfn).filter(|slot| slot.born <= generation)?;
        slot.frame_mut(gfn).map(|(_, heads)| heads)
    }

    /// How many shadow pages keep `gfn` from being writable.
    #[inline]
    pub(crate) fn tracked(&self, gfn: u64) -> u32 {
        let Some(slot) = self.slots.at(gfn) else {
            return 0;
        };
        slot.heads_of(gfn, 1).count.get(self.generation.tag())
    }

    /// A new page shadows the table in `gfn`: nobody may map the frame large any more, or
    /// writable. Returns the epoch after which no TLB holds what is now forbidden, 0 where
    /// none does already.
    #[inline]
    pub(crate) fn account(&mut self, page: PageNo) -> u64 {
        let Meta { gfn, role, .. } = *self.pool.meta(page);
        self.entry_sizes |= 1 << u8::from(role.has_four_byte_entries());
        let tag = self.generation.tag();
        let Some(slot) = self.slots.at_mut(gfn) else {
            self.untracked = true;
            return 0;
        };
        let mut frame = slot.frame_mut(gfn).map(|(_, heads)| heads);
        // Tracked when the last zap-all began, and nothing lost the right to write since:
        // then no TLB has a writable translation, whoever has not flushed for the zap. So
        // vCPUs rebuild what they had without waiting for each other.
        let was_tracked = P::TAGGED
            && self.removal_epoch == self.zap_epoch
            && frame.as_ref().is_some_and(|heads| heads.count.before(tag, Self::TAG_MASK) > 0);
        let mut mapped = [frame.as_mut().is_some_and(|heads| heads.begin_count(tag)), false, false];
        for level in [2, 3] {
            if let Some((_, heads)) = slot.range_mut(gfn, level) {
                mapped[usize::from(level) - 1] = heads.begin_count(tag);
            }
        }
        self.pool.meta_mut(page).tracked = true;
        if mapped == [false; 3] && !self.tlb_dirty {
            return if was_tracked { 0 } else { self.removal_epoch };
        }
        self.forbid_writes(gfn, mapped)
    }

    /// Takes away what maps `gfn` writable or large, at the levels where something is
    /// `mapped`, and opens the epoch after which no TLB holds it.
    #[cold]
    fn forbid_writes(&mut self, gfn: u64, mapped: [bool; 3]) -> u64 {
        if mapped[0] {
            self.write_protect(gfn);
        }
        for level in [2, 3] {
            if mapped[usize::from(level) - 1] {
                self.drop_mappings(gfn, level);
            }
        }
        if self.tlb_dirty {
            return self.open_epoch();
        }
        self.removal_epoch
    }

    /// The inverse of [`Self::account`].
    #[inline]
    pub(crate) fn unaccount(&mut self, page: PageNo) {
        let tag = self.generation.tag();
        let meta = self.pool.meta_mut(page);
        let (gfn, generation) = (meta.gfn, meta.generation);
        let tracked = core::mem::take(&mut meta.tracked);
        let Some(slot) = self.slots.at_mut(gfn).filter(|slot| slot.born <= generation) else {
            return;
        };
        if tracked {
            if let Some((_, heads)) = slot.frame_mut(gfn) {
                heads.count.decrement(tag);
            }
        }
        for level in [2, 3] {
            if let Some((_, heads)) = slot.range_mut(gfn, level) {
                heads.count.decrement(tag);
            }
        }
    }

    /// Counts `page` among those that keep its gfn from being writable, and takes the
    /// right to write away. Returns whether a TLB may still hold it (I2).
    pub(crate) fn track(&mut self, page: PageNo) -> bool {
        let tag = self.generation.tag();
        let meta = self.pool.meta_mut(page);
        meta.tracked = true;
        let (gfn, generation) = (meta.gfn, meta.generation);
        let Some(heads) = self.frame_heads(gfn, generation) else {
            return false;
        };
        let first = heads.count.increment(tag) == 0;
        let changed = first && self.write_protect(gfn);
        changed || first && self.tlb_dirty
    }

    /// Stops counting `page`.
    pub(crate) fn untrack(&mut self, page: PageNo) {
        let tag = self.generation.tag();
        let meta = self.pool.meta_mut(page);
        let (gfn, generation) = (meta.gfn, meta.generation);
        if core::mem::take(&mut meta.tracked) {
            if let Some(heads) = self.frame_heads(gfn, generation) {
                heads.count.decrement(tag);
            }
        }
    }

    /// A guest write to a frame in which tables are shadowed: lets all of them go unsync
    /// if they are leaf tables. Returns whether the frame may be writable now.
    pub(crate) fn allow_write(&mut self, vcpu: VcpuId, gfn: u64) -> bool {
        if !P::TAGGED {
            self.dismantle_stale_of(gfn);
        }
        let now = self.generation.now();
        let mut found = [PageNo::NONE; ROUND];
        let counted = |meta: &Meta| meta.tracked && meta.generation == now;
        loop {
            let count = self.directory.pages_of(&self.pool.metas, gfn, counted, &mut found);
            let pages = &found[..count.min(ROUND)];
            if pages.iter().any(|page| self.pool.meta(*page).role.level() > 1) {
                return false;
            }
            for page in pages {
                self.let_go(vcpu, *page);
            }
            if count < ROUND {
                return self.tracked(gfn) == 0;
            }
        }
    }

    /// Untagged policies: stale pages count until they are taken apart (H13), so those
    /// that stand in the way of a write are taken apart now.
    fn dismantle_stale_of(&mut self, gfn: u64) {
        let now = self.generation.now();
        let mut found = [PageNo::NONE; 1];
        let stale = |meta: &Meta| meta.generation != now;
        while self.directory.pages_of(&self.pool.metas, gfn, stale, &mut found) > 0 {
            self.dismantle(found[0]);
        }
    }

    /// The door: `bytes` bytes at `gpa` have changed.
    pub(crate) fn note_write(&mut self, gpa: Gpa, bytes: u64) {
        self.synced = false;
        let mut at = gpa.as_u64();
        let end = at.saturating_add(bytes);
        while at < end {
            let stop = end.min((at | 0xfff).saturating_add(1));
            self.note_write_in_frame(at >> 12, (at & 0xfff) as u32, (stop - at) as u32);
            at = stop;
            if stop == u64::MAX {
                return;
            }
        }
    }

    fn note_write_in_frame(&mut self, gfn: u64, offset: u32, bytes: u32) {
        let Some(slot) = self.slots.at_mut(gfn) else {
            return;
        };
        slot.mark_dirty(gfn);
        if self.tracked(gfn) == 0 {
            return;
        }
        self.stats.mmu_pte_write += 1;
        let now = self.generation.now();
        let mut found = [PageNo::NONE; ROUND];
        let counted = |meta: &Meta| meta.tracked && meta.generation == now;
        loop {
            let count = self.directory.pages_of(&self.pool.metas, gfn, counted, &mut found);
            // A frame with more shadows than one round holds is unshadowed altogether.
            let crowded = count == ROUND;
            for page in &found[..count] {
                if crowded || self.is_flooded(*page) {
                    self.zap_page(*page);
                } else {
                    self.drop_written(*page, offset, bytes);
                }
            }
            if !crowded {
                return;
            }
        }
    }

    fn is_flooded(&mut self, page: PageNo) -> bool {
        let meta = self.pool.meta_mut(page);
        if meta.role.level() == 1 {
            return false;
        }
        meta.writes = meta.writes.saturating_add(1);
        let flooded = meta.writes >= FLOOD;
        self.stats.mmu_flooded += u64::from(flooded);
        flooded
    }

    /// A or D was set in the 4-byte entry at `offset` of the table in `gfn`. For whoever reads
    /// the same table as entries of 8 bytes that is a change, if the entry is the upper half of
    /// one: A and D are address bits 37 and 38 there.
    #[cold]
    pub(crate) fn note_mark(&mut self, gfn: u64, offset: u32) {
        if offset & 4 == 0 {
            return;
        }
        let now = self.generation.now();
        let mut found = [PageNo::NONE; ROUND];
        let wide = |meta: &Meta| {
            meta.tracked && meta.generation == now && !meta.role.has_four_byte_entries()
        };
        loop {
            let count = self.directory.pages_of(&self.pool.metas, gfn, wide, &mut found);
            let crowded = count == ROUND;
            for page in &found[..count] {
                if crowded {
                    self.zap_page(*page);
                } else {
                    self.drop_written(*page, offset, 4);
                }
            }
            if !crowded {
                return;
            }
        }
    }

    /// Whether the tables of 4-byte entries that are marked may be shadowed as tables of 8-byte
    /// entries too.
    #[inline]
    pub(crate) fn mixes_entry_sizes<F: GuestFormat>(&self) -> bool {
        F::ENTRY_SHIFT == 2 && self.entry_sizes & 1 != 0
    }

    /// Empties the entries of `page` that shadow `bytes` bytes at `offset` of its table.
    fn drop_written(&mut self, page: PageNo, offset: u32, bytes: u32) {
        let role = self.pool.meta(page).role;
        let last = offset + bytes - 1;
        let (first, end) = if role.has_four_byte_entries() {
            // Half a guest table at level 1, a quarter (each entry twice) at level 2.
            let per_entry = u32::from(role.level());
            let entries = 512 / per_entry;
            let skipped = u32::from(role.quadrant_of()) * entries;
            let from = (offset >> 2).max(skipped);
            let to = (last >> 2).saturating_add(1).min(skipped + entries);
            if from >= to {
                return;
            }
            ((from - skipped) * per_entry, (to - skipped) * per_entry)
        } else {
            (offset >> 3, (last >> 3) + 1)
        };
        let upper = role.level() > 1;
        for entry in first..end {
            self.drop_one_written(Node::new(page, entry as usize), upper);
        }
    }

    fn drop_one_written(&mut self, node: Node, upper: bool) {
        let spte = self.spte(node);
        if spte == 0 {
            return;
        }
        self.drop_entry(node);
        self.stats.mmu_pte_updated += 1;
        if upper && spte & PRESENT != 0 {
            // The guest flushes such a change with one INVLPG; what hangs below may span
            // many translations, so every vCPU's next flush must be a whole one.
            self.open_epoch();
        }
    }

    /// Zaps every shadow of tables in `gfn`.
    pub(crate) fn zap_tables_in(&mut self, gfn: u64) {
        let now = self.generation.now();
        let mut found = [PageNo::NONE; 1];
        let current = |meta: &Meta| !meta.role.is_direct() && meta.generation == now;
        while self.directory.pages_of(&self.pool.metas, gfn, current, &mut found) > 0 {
            self.zap_page(found[0]);
        }
    }
}
