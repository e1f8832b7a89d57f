//! Reverse maps and parent lists: who maps a frame, who points at a table.
//!
//! Both are doubly linked lists through the link frames. The first node of a list names
//! its head in `prev`, so that an entry can be unlinked knowing nothing but itself: no
//! copy of the guest's translation is kept beside the table.

use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::page::{Link, Node, PageNo, line_of};
use crate::paging::entry::{DIRTY, PRESENT, WRITABLE, is_leaf};
use crate::policy::ZapPolicy;

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    #[inline]
    pub(crate) fn spte(&self, node: Node) -> u64 {
        self.machine.read_entry(self.pool.entry(node.page(), node.entry()))
    }

    #[inline]
    pub(crate) fn set_spte(&mut self, node: Node, spte: u64) {
        let at = self.pool.entry(node.page(), node.entry());
        self.machine.write_entry(at, spte);
    }

    #[inline]
    pub(crate) fn link(&self, node: Node) -> Link {
        Link::unpack(self.machine.read_entry(self.pool.link(node.page(), node.entry())))
    }

    #[inline]
    fn set_link(&mut self, node: Node, link: Link) {
        let at = self.pool.link(node.page(), node.entry());
        self.machine.write_entry(at, link.pack());
    }

    /// Puts `node` first in the rmap of the range of size `level` around `gfn`.
    #[inline]
    pub(crate) fn rmap_add(&mut self, gfn: u64, level: u8, node: Node) {
        let tag = self.generation.tag();
        let Some(slot) = self.slots.at_mut(gfn) else {
            return;
        };
        let index = slot.head_index(gfn, level);
        let reference = slot.reference(index);
        let Some(heads) = slot.heads.get_mut(index) else {
            return;
        };
        let next = Node(heads.rmap.get(tag));
        heads.rmap.set(tag, node.0);
        self.put_first(node, reference, next);
    }

    /// Puts `node` first in the list of entries that point at `child`.
    #[inline]
    pub(crate) fn parent_add(&mut self, child: PageNo, node: Node) {
        let meta = self.pool.meta_mut(child);
        let next = Node(meta.parents);
        meta.parents = node.0;
        self.put_first(node, child.0, next);
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "once or twice in every fault")]
    pub(crate) fn put_first(&mut self, node: Node, reference: u32, next: Node) {
        self.set_link(node, Link::first(reference, next));
        if !next.is_none() {
            let mut link = self.link(next);
            link.prev = node.0;
            self.set_link(next, link);
        }
        let meta = self.pool.meta_mut(node.page());
        meta.lines |= line_of(node.entry());
        meta.writes = 0;
    }

    /// Takes the leaf entry `node` out of its rmap.
    #[inline]
    fn rmap_remove(&mut self, node: Node) {
        let link = self.link(node);
        if let Some(reference) = link.head() {
            let tag = self.generation.tag();
            if let Some(heads) = self.slots.head_mut(reference) {
                heads.rmap.set(tag, link.next.0);
            }
        }
        self.bridge(link);
    }

    /// Takes the table entry `node` out of its child's parent list.
    #[inline]
    fn parent_remove(&mut self, node: Node) {
        let link = self.link(node);
        if let Some(child) = link.head() {
            self.pool.meta_mut(PageNo(child)).parents = link.next.0;
        }
        self.bridge(link);
    }

    /// Connects the neighbours of a node that leaves.
    #[inline]
    fn bridge(&mut self, gone: Link) {
        if gone.head().is_none() {
            let before = Node(gone.prev);
            let mut link = self.link(before);
            link.next = gone.next;
            self.set_link(before, link);
        }
        if !gone.next.is_none() {
            let mut link = self.link(gone.next);
            link.prev = gone.prev;
            self.set_link(gone.next, link);
        }
    }

    /// Empties one entry of a shadow table, whatever it holds, and unlinks it.
    #[inline]
    pub(crate) fn drop_entry(&mut self, node: Node) {
        let spte = self.spte(node);
        if spte == 0 {
            return;
        }
        self.set_spte(node, 0);
        if spte & PRESENT == 0 {
            return;
        }
        self.tlb_dirty = true;
        if is_leaf(spte, self.pool.meta(node.page()).role.level()) {
            self.rmap_remove(node);
        } else {
            self.parent_remove(node);
        }
    }

    /// Empties every entry of `page`, one by one.
    pub(crate) fn drop_entries(&mut self, page: PageNo) {
        let mut lines = self.pool.meta(page).lines;
        while lines != 0 {
            let first = lines.trailing_zeros() as usize * 8;
            for entry in first..first + 8 {
                self.drop_entry(Node::new(page, entry));
            }
            lines &= lines - 1;
        }
        self.pool.meta_mut(page).lines = 0;
    }

    /// Empties every entry that points at `page`.
    pub(crate) fn drop_parents(&mut self, page: PageNo) {
        loop {
            let node = Node(self.pool.meta(page).parents);
            if node.is_none() {
                return;
            }
            self.drop_entry(node);
        }
    }

    /// The first sptes of the rmap of the range of size `level` around `gfn`.
    #[inline]
    pub(crate) fn rmap_first(&self, gfn: u64, level: u8) -> Node {
        let Some(slot) = self.slots.at(gfn) else {
            return Node(0);
        };
        let index = slot.head_index(gfn, level);
        let heads = slot.heads.get(index);
        Node(heads.rmap.get(self.generation.tag()))
    }

    /// Takes the right to write from every 4 KiB entry that maps `gfn`. Returns whether
    /// one had it.
    pub(crate) fn write_protect(&mut self, gfn: u64) -> bool {
        let mut changed = false;
        let mut node = self.rmap_first(gfn, 1);
        while !node.is_none() {
            let spte = self.spte(node);
            if spte & WRITABLE != 0 {
                self.set_spte(node, spte & !(WRITABLE | DIRTY));
                changed = true;
            }
            node = self.link(node).next;
        }
        self.tlb_dirty |= changed;
        changed
    }

    /// Empties every entry that maps the range of size `level` around `gfn` at that size.
    /// Returns whether there was one.
    pub(crate) fn drop_mappings(&mut self, gfn: u64, level: u8) -> bool {
        let mut changed = false;
        loop {
            let node = self.rmap_first(gfn, level);
            if node.is_none() {
                return changed;
            }
            self.drop_entry(node);
            changed = true;
        }
    }
}
