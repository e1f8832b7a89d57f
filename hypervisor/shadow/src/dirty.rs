//! Dirty logging: which frames of a slot were written.
//!
//! While a slot is logged, an entry is writable only if its frame is in the log. Nothing
//! is ever read from hardware's D bits, so a stale entry can be dropped unread (H12).

use anchorite_addr::Gfn;
use bitvec::order::Lsb0;
use bitvec::vec::BitVec;

use crate::flush::FlushPromise;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::policy::ZapPolicy;
use crate::slot::Slot;
use crate::slots::{SlotError, SlotId, begins_range};

impl Slot {
    /// Enters `gfn`, which lies inside, in the log.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, gfn: u64) {
        let at = (gfn - self.base) as usize;
        if let Some(log) = self.log.as_mut() {
            if let Some(mut bit) = log.get_mut(at) {
                *bit = true;
            }
        }
    }
}

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    pub(crate) fn log_start(&mut self, id: SlotId) -> Result<FlushPromise, SlotError> {
        let slot = self.slots.get_mut(id)?;
        let (base, pages) = (slot.base, slot.pages);
        if slot.log.is_none() {
            slot.log = Some(empty_log(pages)?);
            self.slots.note_change();
            self.write_protect_range(base, pages);
        }
        Ok(self.promise())
    }

    /// Takes the right to write from all entries that map the range; large ones go.
    pub(crate) fn write_protect_range(&mut self, base: u64, pages: u64) {
        for gfn in base..base + pages {
            if begins_range(base, gfn, 2) {
                self.drop_mappings(gfn, 2);
            }
            if begins_range(base, gfn, 3) {
                self.drop_mappings(gfn, 3);
            }
            self.write_protect(gfn);
        }
    }

    pub(crate) fn log_harvest(
        &mut self,
        id: SlotId,
        mut dirty: impl FnMut(Gfn),
    ) -> Result<FlushPromise, SlotError> {
        let slot = self.slots.get_mut(id)?;
        let base = slot.base;
        let mut log = slot.log.take().ok_or(SlotError::NotLogging(id))?;
        for at in log.iter_ones() {
            let gfn = base + at as u64;
            self.write_protect(gfn);
            dirty(Gfn::new(gfn));
        }
        log.fill(false);
        self.slots.get_mut(id)?.log = Some(log);
        Ok(self.promise())
    }

    pub(crate) fn log_clear(
        &mut self,
        id: SlotId,
        first: Gfn,
        pages: u64,
    ) -> Result<FlushPromise, SlotError> {
        let slot = self.slots.get_mut(id)?;
        let base = slot.base;
        let from = first.number().max(base);
        let to = first.number().saturating_add(pages).min(base + slot.pages);
        let log = slot.log.as_mut().ok_or(SlotError::NotLogging(id))?;
        if from < to {
            log[(from - base) as usize..(to - base) as usize].fill(false);
            for gfn in from..to {
                self.write_protect(gfn);
            }
        }
        Ok(self.promise())
    }

    /// A promise that covers everything changed so far.
    pub(crate) fn promise(&mut self) -> FlushPromise {
        FlushPromise { epoch: self.open_epoch() }
    }
}

fn empty_log(pages: u64) -> Result<BitVec<u64, Lsb0>, SlotError> {
    let mut words = alloc::vec::Vec::new();
    let count = pages.div_ceil(64) as usize;
    words.try_reserve_exact(count).map_err(|_| SlotError::OutOfMemory)?;
    words.resize(count, 0u64);
    BitVec::try_from_vec(words).map_err(|_| SlotError::TooMany)
}
