//! Leaf tables the guest may write without our knowing, and bringing them in step again.
//!
//! A present shadow entry of an unsync table is what a TLB entry is: it may outlive the
//! guest's change until the guest flushes. So CR3 loads and flushes sync whole tables,
//! INVLPG one entry.
//!
//! Syncing takes the guest's right to write the table away again, which is sound only if
//! nobody writes between the last flush and our reading. With another vCPU in the guest
//! a table is therefore brought in step as it is now, and stays unsync.

use anchorite_addr::{Gva, Hpa};

use crate::flush::VcpuId;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::page::{Node, PageNo};
use crate::paging::entry::{
    ACCESSED, DIRTY, FRAME, KEY, LARGE, NX, PRESENT, USER_BIT, WRITABLE, rights,
};
use crate::paging::{FourLevel, GuestFormat, TwoLevel};
use crate::policy::ZapPolicy;
use crate::role::{EXEC, Role, USER, WRITE};

/// Most tables that are unsync at once.
pub(crate) const MOST_UNSYNC: usize = 64;

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
        let meta = self.pool.meta(page);
        if meta.parents == 0 && meta.pins == 0 {
            // Nothing leads there any more: it was a page table once.
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
        self.pool.meta_mut(page).unsync = true;
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
        if self.unsync.is_empty() {
            return;
        }
        if !self.is_alone(vcpu) {
            self.sync_in_place();
            return;
        }
        while let Some(page) = self.unsync.pages().last().copied() {
            self.sync_fully(page);
        }
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
        for at in 0..self.unsync.len {
            self.sync_entries(self.unsync.pages[at]);
        }
    }

    /// Brings one table in step and tracks it again. Only while no other vCPU is in the
    /// guest.
    fn sync_fully(&mut self, page: PageNo) {
        let meta = *self.pool.meta(page);
        if meta.parents == 0 && meta.pins == 0 {
            self.zap_page(page);
            return;
        }
        self.forget_unsync(page);
        if self.track(page) {
            self.open_epoch();
        }
        self.sync_entries(page);
        self.stats.mmu_synced += 1;
    }

    /// Brings the entries of one table in step as they are now.
    pub(crate) fn sync_entries(&mut self, page: PageNo) {
        let Some(source) = self.source(page) else {
            self.drop_entries(page);
            return;
        };
        let mut lines = self.pool.meta(page).lines;
        while lines != 0 {
            let first = lines.trailing_zeros() as usize * 8;
            for entry in first..first + 8 {
                self.sync_entry(&source, Node::new(page, entry));
            }
            lines &= lines - 1;
        }
    }

    /// Where the guest entries that `page` shadows lie.
    fn source(&self, page: PageNo) -> Option<Source> {
        let meta = self.pool.meta(page);
        let host = self.slots.at(meta.gfn)?.host_of(meta.gfn) << 12;
        let skipped = u64::from(meta.role.quadrant_of()) * 512 * 4;
        Some(Source {
            role: meta.role,
            base: if meta.role.has_four_byte_entries() { host + skipped } else { host },
            reserved: self.leaf_reserved(meta.role),
        })
    }

    /// Bits reserved in 4 KiB entries at this role.
    pub(crate) fn leaf_reserved(&self, role: Role) -> u64 {
        if role.has_four_byte_entries() {
            return 0;
        }
        let mut reserved = FRAME & !((1 << self.config.physical_bits) - 1);
        if !role.mode().is_long() {
            reserved |= 0x7ff << 52;
        }
        if role.nx() { reserved } else { reserved | NX }
    }

    /// Brings one entry in step: keeps it, takes rights away, or empties it.
    #[inline]
    fn sync_entry(&mut self, source: &Source, node: Node) {
        let spte = self.spte(node);
        if spte == 0 {
            return;
        }
        let gpte = source.read(&self.machine, node.entry());
        match self.in_step(source, gpte, spte) {
            Some(same) if same == spte => {}
            Some(fewer) => {
                self.set_spte(node, fewer);
                self.tlb_dirty = true;
            }
            None => self.drop_entry(node),
        }
    }

    /// What of `spte` the guest entry still grants; `None` where nothing is.
    #[inline]
    fn in_step(&self, source: &Source, gpte: u64, spte: u64) -> Option<u64> {
        if spte & PRESENT == 0 || gpte & PRESENT == 0 || gpte & ACCESSED == 0 {
            return None;
        }
        if gpte & source.reserved != 0 {
            return None;
        }
        let gfn = (gpte & FRAME) >> 12;
        if self.slots.at(gfn)?.host_of(gfn) << 12 != spte & FRAME {
            return None;
        }
        let granted = rights(gpte) & source.role.access();
        let user = spte & USER_BIT != 0;
        let key_differs = source.role.pke() && (gpte ^ spte) & KEY != 0;
        // U in either direction changes what SMEP and SMAP see.
        if user != (granted & USER != 0) || key_differs {
            return None;
        }
        let mut kept = spte;
        if spte & WRITABLE != 0 && (granted & WRITE == 0 || gpte & DIRTY == 0) {
            kept &= !(WRITABLE | DIRTY);
        }
        if granted & EXEC == 0 {
            kept |= NX;
        }
        Some(kept)
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
        match self.source(node.page()) {
            Some(source) => self.sync_entry(&source, node),
            None => self.drop_entry(node),
        }
    }

    /// The entry of a level-1 table that `gva` leads to under `vcpu`'s root.
    #[inline]
    pub(crate) fn leaf_node(&self, vcpu: VcpuId, gva: Gva) -> Option<Node> {
        let mut page = self.vcpu(vcpu).root_for(gva)?;
        let mut level = self.pool.meta(page).role.level();
        while level > 1 {
            let spte = self.spte(Node::new(page, gva.table_index(level)));
            if spte & PRESENT == 0 || spte & LARGE != 0 {
                return None;
            }
            page = self.pool.page_at(spte & FRAME);
            level -= 1;
        }
        Some(Node::new(page, gva.table_index(1)))
    }
}

/// A guest leaf table, as its shadow sees it.
struct Source {
    role: Role,
    base: u64,
    reserved: u64,
}

impl Source {
    /// The guest entry that shadow entry `entry` shadows.
    #[inline]
    fn read<M: Machine>(&self, memory: &M, entry: usize) -> u64 {
        if self.role.has_four_byte_entries() {
            TwoLevel::read(memory, Hpa::new(self.base + entry as u64 * 4))
        } else {
            FourLevel::read(memory, Hpa::new(self.base + entry as u64 * 8))
        }
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
