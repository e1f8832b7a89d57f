//! Zapping: one page, a slot, or everything.
//!
//! Zapping everything moves the generation and splices one list onto another: no loop
//! over pages, none over memory. Under the default policy that is all, because every
//! head that could lead to a stale page reads as empty from then on. The policies of 2013
//! have heads without tags, and take stale pages apart entry by entry sooner or later.

use crate::flush::{FlushPromise, VcpuId};
use crate::generation::NO_GENERATION;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::page::{Node, PageNo};
use crate::policy::{Sweep, ZapPolicy};
use crate::pool::List;
use crate::profile::{Lap, Step};
use crate::slots::{SlotError, SlotId, begins_range};

/// Dead slots whose heads are kept for stale pages; beyond it the pages go first.
const MOST_DEAD_SLOTS: usize = 8;

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    // ---- one page ------------------------------------------------------------

    /// Takes a current page out of service.
    pub(crate) fn zap_page(&mut self, page: PageNo) {
        self.retire_page(page);
        self.stats.mmu_shadow_zapped += 1;
    }

    /// Takes a stale page apart, entry by entry, as the policies of 2013 do. It counts as
    /// zapped already.
    pub(crate) fn dismantle(&mut self, page: PageNo) {
        self.retire_page(page);
        self.stats.mmu_recycled += 1;
    }

    /// Unlinks a page and frees its frame, once no vCPU in the guest can still use it.
    fn retire_page(&mut self, page: PageNo) {
        let stale = !self.is_current(page);
        let mut lap = Lap::start(&self.machine);
        let epoch = self.withdraw(page, &mut lap);
        if self.clock.acknowledged(epoch) {
            // Nobody is in the guest: no need to wait.
            self.pool.release(page);
        } else {
            self.pool.retire(page, epoch);
        }
        lap.end(&self.machine, Step::Lists);
        if stale {
            lap.add_to(&mut self.stats.recycles);
        }
    }

    /// Unlinks a page, which no lookup finds again. vCPUs that have it as a root load another
    /// before they enter. Returns the epoch after which no vCPU can still use it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "once a page where all are taken apart")]
    pub(crate) fn withdraw(&mut self, page: PageNo, lap: &mut Lap) -> u64 {
        if self.pool.meta(page).pins > 0 {
            self.unload_root(page);
        }
        self.pool.unlist(page);
        if self.is_current(page) {
            self.pool.active -= 1;
        } else {
            self.pool.stale -= 1;
        }
        lap.end(&self.machine, Step::Lists);
        self.unlink(page);
        lap.end(&self.machine, Step::Unlinking);
        self.directory.remove(self.pool.meta(page).gfn, page);
        lap.end(&self.machine, Step::Directory);
        // No lookup finds the page again (I5).
        self.pool.meta_mut(page).generation = NO_GENERATION;
        self.tlb_dirty = true;
        self.open_epoch()
    }

    /// Removes every trace of `page` from rmaps, parents, children and counts.
    pub(crate) fn unlink(&mut self, page: PageNo) {
        self.drop_parents(page);
        self.drop_entries(page);
        self.forget_unsync(page);
        if !self.pool.meta(page).role.is_direct() {
            self.unaccount(page);
        }
    }

    // ---- everything ----------------------------------------------------------

    /// Makes every page stale. A second call that finds none is covered by the first
    /// (H17).
    #[inline]
    pub(crate) fn zap_everything(&mut self) -> FlushPromise {
        if self.pool.active == 0 {
            return self.promise();
        }
        // Every right is taken away, so that this is what a removal waits for, too.
        let epoch = self.clock.open();
        self.tlb_dirty = false;
        self.removal_epoch = epoch;
        self.zap_epoch = epoch;
        self.generation.bump(epoch, Self::TAG_MASK);
        if P::TAGGED && self.generation.tag() == 0 {
            self.rebase();
        }
        self.unload_all();
        self.stats.mmu_shadow_zapped += u64::from(self.pool.active);
        self.pool.splice_active_to_stale();
        self.unsync.clear();
        self.mmio_cached = false;
        self.untracked = false;
        self.entry_sizes = 0;
        if self.policy.kind().sweep() == Sweep::Whole {
            self.sweep(u32::MAX);
        }
        FlushPromise { epoch }
    }

    /// Not every vCPU has acknowledged `promise`: kicks those that have not.
    #[cold]
    pub(crate) fn wait_for(
        &mut self,
        promise: FlushPromise,
        kick: impl FnMut(VcpuId),
    ) -> Result<(), FlushPromise> {
        self.stats.remote_tlb_flush += 1;
        self.clock.lagging(promise.epoch).for_each(kick);
        Err(promise)
    }

    /// Empties every head before tags come round again, once in `2^TAG_BITS` zaps (H8).
    #[cold]
    fn rebase(&mut self) {
        self.stats.mmu_rebased += self.slots.rebase();
    }

    /// Takes up to `pages` stale pages apart. Returns how many.
    pub(crate) fn sweep(&mut self, pages: u32) -> u32 {
        let mut swept = 0;
        while swept < pages {
            let Some(page) = self.pool.front(List::Stale) else {
                break;
            };
            if P::TAGGED {
                if self.recycle_to_free().is_none() {
                    break;
                }
            } else {
                self.dismantle(page);
            }
            swept += 1;
        }
        swept
    }

    /// Frees the oldest stale page, if it may be reused.
    fn recycle_to_free(&mut self) -> Option<()> {
        let page = self.recycle()?;
        self.pool.release(page);
        Some(())
    }

    // ---- slots ---------------------------------------------------------------

    /// Removes what maps a slot's memory or shadows tables in it, and nothing else.
    pub(crate) fn zap_range_of(&mut self, id: SlotId) -> Result<FlushPromise, SlotError> {
        let slot = self.slots.get(id)?;
        let (base, pages) = (slot.base, slot.pages);
        for gfn in base..base + pages {
            if begins_range(base, gfn, 2) {
                self.drop_mappings(gfn, 2);
            }
            if begins_range(base, gfn, 3) {
                self.drop_mappings(gfn, 3);
            }
            self.drop_mappings(gfn, 1);
        }
        self.zap_tables_between(base, base + pages);
        Ok(self.promise())
    }

    /// Whether tables inside the range of size `level` around `gfn` are shadowed.
    fn has_tables(&self, gfn: u64, level: u8) -> bool {
        let Some(slot) = self.slots.at(gfn) else {
            return false;
        };
        slot.heads_of(gfn, level).count.get(self.generation.tag()) > 0
    }

    /// Zaps the shadows of tables from `base` to `end`, in one slot; looks only into
    /// 2 MiB ranges that hold any.
    fn zap_tables_between(&mut self, base: u64, end: u64) {
        let mut first = base;
        while first < end {
            let next = end.min((first | 0x1ff) + 1);
            if self.has_tables(first, 2) {
                (first..next).for_each(|gfn| self.zap_tables_in(gfn));
            }
            first = next;
        }
    }

    /// Removes a slot. Under the default policy its heads go at once; under the others
    /// they stay until no stale page hangs on them (H15).
    pub(crate) fn drop_slot(&mut self, id: SlotId) -> Result<FlushPromise, SlotError> {
        self.slots.get(id)?;
        let promise = self.zap_everything();
        if self.policy.kind().sweep() == Sweep::Batches {
            self.sweep(u32::MAX);
        }
        self.retire_heads(id);
        self.bump_mmio_generation();
        Ok(promise.and(self.promise()))
    }

    /// Takes a slot's heads out of service after a zap-all.
    pub(crate) fn retire_heads(&mut self, id: SlotId) {
        if P::TAGGED || self.pool.front(List::Stale).is_none() {
            self.slots.remove(id);
            return;
        }
        self.slots.bury(id, self.generation.now());
        if self.forget_dead_slots() > MOST_DEAD_SLOTS {
            self.sweep(u32::MAX);
            self.forget_dead_slots();
        }
    }

    /// Frees the heads of dead slots that no stale page hangs on. Returns how many stay.
    pub(crate) fn forget_dead_slots(&mut self) -> usize {
        let oldest = self.pool.front(List::Stale);
        let oldest = oldest.map_or(u64::MAX, |page| self.pool.meta(page).generation);
        self.slots.forget_dead(oldest)
    }

    /// Moves a slot: its memory stays, everything that named it goes.
    pub(crate) fn relocate_slot(
        &mut self,
        id: SlotId,
        base: anchorite_addr::Gfn,
    ) -> Result<FlushPromise, SlotError> {
        let mut spec = self.slots.get(id)?.spec();
        spec.base = base;
        self.slots.check(&spec, self.config.physical_bits, Some(id))?;
        let promise = self.zap_everything();
        if !P::TAGGED {
            // The heads are about to be renumbered under the stale pages' links.
            self.sweep(u32::MAX);
        }
        self.slots.relocate(id, &spec, self.generation.now())?;
        self.bump_mmio_generation();
        Ok(promise.and(self.promise()))
    }

    /// Changes whether a slot may be written.
    pub(crate) fn protect_slot(
        &mut self,
        id: SlotId,
        read_only: bool,
    ) -> Result<FlushPromise, SlotError> {
        let slot = self.slots.get_mut(id)?;
        let (base, pages) = (slot.base, slot.pages);
        let lost = read_only && !slot.read_only;
        slot.read_only = read_only;
        self.slots.note_change();
        if lost {
            self.write_protect_range(base, pages);
        } else {
            // Tables in a ROM keep their A and D bits clear, and are shadowed all the same.
            self.zap_tables_between(base, base + pages);
        }
        Ok(self.promise())
    }

    // ---- giving back ---------------------------------------------------------

    /// Frees `pages` pages: stale, then the oldest that can be evicted.
    pub(crate) fn give_up(&mut self, pages: u32) -> u32 {
        self.pool.drop_reserve();
        let mut freed = self.sweep(pages);
        while freed < pages {
            let Some(victim) = self.victim() else {
                break;
            };
            self.zap_page(victim);
            self.stats.mmu_evicted += 1;
            freed += 1;
        }
        self.drain_limbo();
        self.pool.shrink(&mut self.machine);
        if !P::TAGGED {
            self.forget_dead_slots();
        }
        freed
    }

    /// Whether the entry `node` belongs to a page of this generation; for the audit.
    pub(crate) fn is_current_node(&self, node: Node) -> bool {
        self.is_current(node.page())
    }
}
