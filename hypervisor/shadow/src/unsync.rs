//! Leaf tables the guest may write without our knowing, and bringing them in step again.
//!
//! A present shadow entry of an unsync table is what a TLB entry is: it may outlive the
//! guest's change until the guest flushes. So CR3 loads and flushes sync whole tables,
//! INVLPG one entry.
//!
//! A table that is brought in step may stay unsync, to be compared again at the next flush, or
//! be tracked again, at the price of a fault at the guest's next write. Tracking is sound only
//! if nobody writes between the last flush and our reading: with another vCPU in the guest a
//! table always stays unsync.

use anchorite_addr::{Gva, Hpa};

use crate::flush::VcpuId;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::page::{Node, PageNo};
use crate::paging::entry::{FRAME, LARGE, PRESENT};
use crate::policy::ZapPolicy;
use crate::registers::PagingMode;

/// Most tables that are unsync at once.
pub(crate) const MOST_UNSYNC: usize = 64;
/// Lines of a table whose comparison costs as much as the exit and the fault by which the guest
/// gets the right to write the table back.
const LINES_IN_VAIN: u8 = 24;

/// The unsync tables of the current generation, oldest first.
#[derive(Debug)]
pub(crate) struct UnsyncList {
    pages: [PageNo; MOST_UNSYNC],
    len: usize,
}

impl Default for UnsyncList {
    fn default() -> Self {
        Self { pages: [PageNo::NONE; MOST_UNSYNC], len: 0 }
    }
}

impl UnsyncList {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tables, oldest first.
    pub(crate) fn pages(&self) -> &[PageNo] {
        &self.pages[..self.len]
    }

    /// Forgets all: a zap-all made them stale (H14).
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    fn oldest_if_full(&self) -> Option<PageNo> {
        (self.len == MOST_UNSYNC).then(|| self.pages[0])
    }

    fn push(&mut self, page: PageNo) {
        if let Some(place) = self.pages.get_mut(self.len) {
            *place = page;
            self.len += 1;
        }
    }

    fn remove(&mut self, page: PageNo) {
        let Some(at) = self.pages().iter().position(|other| *other == page) else {
            return;
        };
        self.pages.copy_within(at + 1..self.len, at);
        self.len -= 1;
    }
}

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    /// Lets the guest write the table that `page`, a leaf table's shadow, is in step with.
    pub(crate) fn let_go(&mut self, vcpu: VcpuId, page: PageNo) {
        if self.is_unreachable(page) {
            self.zap_page(page);
            return;
        }
        if let Some(oldest) = self.unsync.oldest_if_full() {
            if self.is_alone(vcpu) {
                self.sync_fully(oldest);
            } else {
                self.zap_page(oldest);
            }
        }
        self.untrack(page);
        let meta = self.pool.meta_mut(page);
        (meta.unsync, meta.writes) = (true, 0);
        self.unsync.push(page);
        self.stats.mmu_unsync += 1;
    }

    /// Takes `page` off the list, if it is on it.
    #[inline]
    pub(crate) fn forget_unsync(&mut self, page: PageNo) {
        if self.pool.meta(page).unsync {
            self.pool.meta_mut(page).unsync = false;
            self.unsync.remove(page);
        }
    }

    /// Brings every unsync table in step: `vcpu` flushes.
    #[inline]
    pub(crate) fn sync_all(&mut self, vcpu: VcpuId) {
        if !self.unsync.is_empty() {
            self.sync_each(vcpu);
        }
    }

    #[inline(never)]
    fn sync_each(&mut self, vcpu: VcpuId) {
        if !self.is_alone(vcpu) {
            self.sync_in_place();
            return;
        }
        for at in (0..self.unsync.len).rev() {
            self.sync_adaptively(self.unsync.pages[at]);
        }
        self.synced = true;
    }

    /// New addresses are about to lead to `page`, for which nothing stale may be seen:
    /// neither in this table nor in those below it.
    #[inline]
    pub(crate) fn sync_below(&mut self, page: PageNo, level: u8) {
        if level > 1 && !self.unsync.is_empty() {
            self.sync_in_place();
        } else if self.pool.meta(page).unsync {
            self.sync_entries(page);
        }
    }

    /// Brings every unsync table in step as it is now, and leaves it unsync.
    #[cold]
    pub(crate) fn sync_in_place(&mut self) {
        if self.synced {
            return;
        }
        for at in 0..self.unsync.len {
            self.sync_entries(self.unsync.pages[at]);
        }
    }

    /// Brings one table in step and tracks it again. Only while no other vCPU is in the
    /// guest.
    fn sync_fully(&mut self, page: PageNo) {
        if self.is_unreachable(page) {
            self.zap_page(page);
            return;
        }
        self.sync_entries(page);
        self.retrack(page);
    }

    /// Brings one table in step, and tracks it again once comparing it in vain has cost as
    /// much as the fault that lets it go again: so never more than twice the least possible
    /// is paid (a ski to rent or to buy). Only while no other vCPU is in the guest.
    fn sync_adaptively(&mut self, page: PageNo) {
        if self.is_unreachable(page) {
            self.zap_page(page);
            return;
        }
        let lines = self.pool.meta(page).lines.count_ones() as u8;
        let changed = self.sync_entries(page);
        let meta = self.pool.meta_mut(page);
        meta.writes = if changed { 0 } else { meta.writes.saturating_add(1 + lines) };
        if meta.writes > LINES_IN_VAIN {
            self.retrack(page);
        }
    }

    /// Tracks an unsync table that is in step.
    fn retrack(&mut self, page: PageNo) {
        self.forget_unsync(page);
        if self.track(page) {
            self.open_epoch();
        }
        self.stats.mmu_synced += 1;
    }

    /// Whether nothing leads to the page any more: it was a page table once.
    fn is_unreachable(&self, page: PageNo) -> bool {
        let meta = self.pool.meta(page);
        meta.parents == 0 && meta.pins == 0
    }

    /// INVLPG: brings the one entry that translates `gva` under `vcpu`'s root in step.
    #[inline]
    pub(crate) fn sync_address(&mut self, vcpu: VcpuId, gva: Gva) {
        if self.unsync.is_empty() {
            return;
        }
        let Some(node) = self.leaf_node(vcpu, gva) else {
            return;
        };
        if !self.pool.meta(node.page()).unsync {
            return;
        }
        self.sync_one(node);
    }

    /// The entry of a level-1 table that `gva` leads to under `vcpu`'s root.
    #[inline]
    pub(crate) fn leaf_node(&self, vcpu: VcpuId, gva: Gva) -> Option<Node> {
        let vcpu = self.vcpu(vcpu);
        let root = self.pool.table(vcpu.root_for(gva)?);
        // The root's level is the mode's: with a constant bound the loop is unrolled.
        match vcpu.control.mode {
            PagingMode::FiveLevel => self.leaf_below::<5>(root, gva),
            PagingMode::FourLevel => self.leaf_below::<4>(root, gva),
            PagingMode::Pae | PagingMode::TwoLevel | PagingMode::None => {
                self.leaf_below::<2>(root, gva)
            }
        }
    }

    /// The same below `table` of level `TOP`.
    #[inline]
    fn leaf_below<const TOP: u8>(&self, mut table: Hpa, gva: Gva) -> Option<Node> {
        for level in (2..=TOP).rev() {
            let spte = self.machine.read_entry(table.wrapping_add(gva.table_offset(level)));
            if spte & (PRESENT | LARGE) != PRESENT {
                return None;
            }
            table = Hpa::new(spte & FRAME);
        }
        Some(Node::new(self.pool.page_at(table.as_u64()), gva.table_index(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_keeps_its_order_and_knows_its_bound() {
        let mut list = UnsyncList::default();
        for number in 1..=MOST_UNSYNC as u32 {
            assert_eq!(list.oldest_if_full(), None);
            list.push(PageNo(number));
        }
        assert_eq!(list.oldest_if_full(), Some(PageNo(1)));
        list.remove(PageNo(1));
        list.remove(PageNo(3));
        list.remove(PageNo(3));
        assert_eq!(list.pages()[..2], [PageNo(2), PageNo(4)]);
        assert_eq!(list.pages().len(), MOST_UNSYNC - 2);
        list.clear();
        assert!(list.is_empty());
    }
}
