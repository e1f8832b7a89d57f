//! Reverse maps and parent lists: who maps a frame, who points at a table.
//!
//! Both are doubly linked lists through the link frames. The first node of a list names
//! its head in `prev`, so that an entry can be unlinked knowing nothing but itself: no
//! copy of the guest's translation is kept beside the table.

use anchorite_addr::Hpa;

use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::page::{LINKS, Link, Node, PageNo, line_of};
use crate::paging::entry::{DIRTY, PRESENT, WRITABLE, is_leaf};
use crate::policy::ZapPolicy;

/// All eight entries of a line.
const ALL: u32 = 0xff;

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    #[inline]
    pub(crate) fn spte(&self, node: Node) -> u64 {
        self.machine.read_entry(self.pool.entry(node))
    }

    #[inline]
    pub(crate) fn set_spte(&mut self, node: Node, spte: u64) {
        let at = self.pool.entry(node);
        self.machine.write_entry(at, spte);
    }

    #[inline]
    pub(crate) fn link(&self, node: Node) -> Link {
        Link::unpack(self.machine.read_entry(self.pool.link(node)))
    }

    #[inline]
    fn set_link(&mut self, node: Node, link: Link) {
        let at = self.pool.link(node);
        self.machine.write_entry(at, link.pack());
    }

    /// Puts `node` first in the rmap of the range of size `level` around `gfn`.
    #[inline]
    pub(crate) fn rmap_add(&mut self, gfn: u64, level: u8, node: Node) {
        let tag = self.generation.tag();
        let Some(slot) = self.slots.at_mut(gfn) else {
            return;
        };
        let Some((reference, heads)) = slot.range_mut(gfn, level) else {
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

    /// Takes a leaf entry with links `gone` out of its rmap.
    #[inline]
    fn rmap_remove(&mut self, gone: Link) {
        match gone.head() {
            Some(reference) => {
                let tag = self.generation.tag();
                if let Some(heads) = self.slots.last_head_mut(reference) {
                    heads.rmap.set(tag, gone.next.0);
                } else if let Some(heads) = self.slots.head_mut(reference) {
                    heads.rmap.set(tag, gone.next.0);
                }
            }
            None => self.set_next(Node(gone.prev), gone.next),
        }
        self.set_prev(gone);
    }

    /// Takes a table entry with links `gone` out of its child's parent list.
    #[inline]
    fn parent_remove(&mut self, gone: Link) {
        match gone.head() {
            Some(child) => self.pool.meta_mut(PageNo(child)).parents = gone.next.0,
            None => self.set_next(Node(gone.prev), gone.next),
        }
        self.set_prev(gone);
    }

    #[inline]
    fn set_next(&mut self, node: Node, next: Node) {
        let mut link = self.link(node);
        link.next = next;
        self.set_link(node, link);
    }

    /// Tells who follows a node that leaves who precedes now.
    #[inline]
    fn set_prev(&mut self, gone: Link) {
        if !gone.next.is_none() {
            let mut link = self.link(gone.next);
            link.prev = gone.prev;
            self.set_link(gone.next, link);
        }
    }

    /// Empties one entry of a shadow table, whatever it holds, and unlinks it.
    #[inline]
    pub(crate) fn drop_entry(&mut self, node: Node) {
        let level = self.pool.meta(node.page()).role.level();
        let at = self.pool.entry(node);
        let spte = self.machine.read_entry(at);
        if spte != 0 {
            self.drop_spte(at, spte, level);
        }
    }

    /// Empties the entry at `at` of a table at `level`, which holds `spte`, and unlinks it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "once an entry where a table is taken apart")]
    pub(crate) fn drop_spte(&mut self, at: Hpa, spte: u64, level: u8) {
        self.machine.write_entry(at, 0);
        if spte & PRESENT == 0 {
            return;
        }
        self.tlb_dirty = true;
        let gone = Link::unpack(self.machine.read_entry(at.wrapping_add(LINKS)));
        if is_leaf(spte, level) {
            self.rmap_remove(gone);
        } else {
            self.parent_remove(gone);
        }
    }

    /// Empties every entry of `page`, one by one.
    pub(crate) fn drop_entries(&mut self, page: PageNo) {
        let table = self.pool.table(page);
        let meta = self.pool.meta_mut(page);
        let level = meta.role.level();
        let mut lines = core::mem::take(&mut meta.lines);
        while lines != 0 {
            let line = table.wrapping_add(u64::from(lines.trailing_zeros()) * 64);
            lines &= lines - 1;
            let left = if level == 1 { self.drop_leaves(line) } else { ALL };
            if left != 0 {
                self.drop_some(line, left, level);
            }
        }
    }

    /// Empties the entries `wanted` (bit n for entry n) of the eight from `line` on.
    #[inline(never)]
    fn drop_some(&mut self, line: Hpa, mut wanted: u32, level: u8) {
        while wanted != 0 {
            let at = line.wrapping_add(u64::from(wanted.trailing_zeros()) * 8);
            wanted &= wanted - 1;
            let spte = self.machine.read_entry(at);
            if spte != 0 {
                self.drop_spte(at, spte, level);
            }
        }
    }

    /// Empties the eight 4 KiB entries from `line` on, but for those that are no mappings, or the
    /// first of an rmap whose head is not in the slot found last: that slot is looked up once.
    /// Returns which entries are left: bit n for entry n.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "most of what taking a table apart costs")]
    fn drop_leaves(&mut self, line: Hpa) -> u32 {
        let tag = self.generation.tag();
        let (machine, pool) = (&mut self.machine, &self.pool);
        let Some(slot) = self.slots.last() else {
            return ALL;
        };
        let (mut used, mut left) = (machine.used_entries(line), 0);
        while used != 0 {
            let entry = used.trailing_zeros();
            used &= used - 1;
            let at = line.wrapping_add(u64::from(entry) * 8);
            let is_present = machine.read_entry(at) & PRESENT != 0;
            let gone = Link::unpack(machine.read_entry(at.wrapping_add(LINKS)));
            let head = gone.head().map(|reference| slot.head_mut(reference));
            if !is_present || matches!(head, Some(None)) {
                left |= 1 << entry;
                continue;
            }
            machine.write_entry(at, 0);
            self.tlb_dirty = true;
            if let Some(Some(heads)) = head {
                heads.rmap.set(tag, gone.next.0);
            } else {
                let before = pool.link(Node(gone.prev));
                let link = Link::unpack(machine.read_entry(before));
                machine.write_entry(before, Link { next: gone.next, ..link }.pack());
            }
            if !gone.next.is_none() {
                let after = pool.link(gone.next);
                let link = Link::unpack(machine.read_entry(after));
                machine.write_entry(after, Link { prev: gone.prev, ..link }.pack());
            }
        }
        left
    }

    /// Empties every entry that points at `page`. The whole list goes, so nobody's neighbours
    /// need to be told.
    #[inline]
    pub(crate) fn drop_parents(&mut self, page: PageNo) {
        let parents = core::mem::take(&mut self.pool.meta_mut(page).parents);
        self.empty_all(Node(parents));
    }

    /// Empties the entry `first` and all that follow it in its list, whose head is empty already.
    #[inline]
    fn empty_all(&mut self, first: Node) {
        let mut node = first;
        while !node.is_none() {
            let at = self.pool.entry(node);
            self.machine.write_entry(at, 0);
            self.tlb_dirty = true;
            node = Link::unpack(self.machine.read_entry(at.wrapping_add(LINKS))).next;
        }
    }

    /// The first sptes of the rmap of the range of size `level` around `gfn`.
    #[inline]
    pub(crate) fn rmap_first(&self, gfn: u64, level: u8) -> Node {
        let Some(slot) = self.slots.at(gfn) else {
            return Node(0);
        };
        Node(slot.heads_of(gfn, level).rmap.get(self.generation.tag()))
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
        let first = self.rmap_first(gfn, level);
        if first.is_none() {
            return false;
        }
        let tag = self.generation.tag();
        if let Some((_, heads)) = self.slots.at_mut(gfn).and_then(|slot| slot.range_mut(gfn, level))
        {
            heads.rmap.set(tag, 0);
        }
        self.empty_all(first);
        true
    }
}
