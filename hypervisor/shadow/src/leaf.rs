//! The short way through a fault: the leaf table is shadowed, one entry is missing.
//!
//! By far the most frequent fault. It does what `fault.rs` does, with everything unusual
//! left out: at the first sign of it the short way gives up before it has changed anything
//! that matters, and the long way decides. So nothing is decided here that could differ.

use anchorite_addr::{Gpa, Gva, Hpa};

use crate::access::{Access, PageFault};
use crate::flush::VcpuId;
use crate::install::leaf;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::outcome::FaultOutcome;
use crate::page::{ENTRIES, LINKS, Link, Node, PageNo, State, line_of};
use crate::paging::GuestFormat;
use crate::paging::entry::{
    ACCESSED, DIRTY, FRAME, KEY, PRESENT, WRITABLE, both_grant, leaf_flags, rights,
};
use crate::policy::ZapPolicy;
use crate::role::{Rights, WRITE};
use crate::walk::{absent, forbidden};

/// A guest's leaf entry that permits an access.
#[derive(Clone, Copy)]
struct GuestLeaf {
    place: Hpa,
    gpte: u64,
    /// The frame it maps, the rights that are left, and the protection key.
    gfn: u64,
    granted: Rights,
    key: u64,
}

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    /// Resolves a fault below leaf table `page`; `None` where the long way must.
    #[inline]
    pub(crate) fn fault_at_leaf<F: GuestFormat>(
        &mut self,
        id: VcpuId,
        page: PageNo,
        gva: Gva,
        access: Access,
    ) -> Option<FaultOutcome> {
        let control = &self.vcpus[id.index()].control;
        let meta = self.pool.meta(page);
        let write = access.is_write();
        let host = self.slots.host_frame(meta.gfn)?;
        let place = Hpa::new(host << 12 | F::index(gva, 1) << F::ENTRY_SHIFT);
        let gpte = F::read(&self.machine, place);
        if gpte & PRESENT == 0 {
            return Some(FaultOutcome::Guest(absent(control, gva, access)));
        }
        if gpte & control.reserved[1][0] != 0 {
            return None;
        }
        let mut granted = rights(gpte) & meta.role.access();
        if !control.allows(access, granted) {
            if let Some(code) = forbidden(control, access, granted, gpte & KEY) {
                return Some(FaultOutcome::Guest(PageFault { code, cr2: gva }));
            }
        }
        // What CR0.WP = 0 permits beyond the rights, or in spite of a key.
        let lenient = write && !control.wp && (granted & WRITE == 0 || control.pke);
        if !self.slots.is_plain() || lenient || self.mixes_entry_sizes::<F>() {
            return None;
        }

        let key = if control.pke { gpte & KEY } else { 0 };
        let gfn = (gpte & F::ADDRESS) >> 12;
        let tag = self.generation.tag();
        let slot = self.slots.at_mut(gfn)?;
        let frame = slot.host_of(gfn);
        let (reference, heads) = slot.frame_mut(gfn)?;
        let tracked = heads.count.get(tag) > 0;
        if write && tracked {
            let leaf = GuestLeaf { place, gpte, gfn, granted, key };
            return self.write_to_table::<F>(id, page, gva, leaf);
        }
        let bits = if write { ACCESSED | DIRTY } else { ACCESSED };
        let marked = gpte | bits;
        if marked != gpte && !F::compare_exchange(&mut self.machine, place, gpte, marked) {
            return None;
        }
        if tracked || marked & DIRTY == 0 {
            granted &= !WRITE;
        }

        let spte = leaf(frame, 1, granted, key);
        let node = Node::new(page, gva.table_index(1));
        let at = self.pool.entry(node);
        let old = self.machine.read_entry(at);
        if old != 0 {
            return self.exchange_leaf(node, old, spte);
        }
        let next = Node(heads.rmap.get(tag));
        heads.rmap.set(tag, node.0);
        self.put_first(node, reference, next);
        self.machine.write_entry(at, spte);
        self.prefetch::<F>(node, place);
        Some(FaultOutcome::Fixed)
    }

    /// Resolves a permitted write to a frame in which tables are shadowed.
    #[inline(never)]
    fn write_to_table<F: GuestFormat>(
        &mut self,
        id: VcpuId,
        page: PageNo,
        gva: Gva,
        leaf: GuestLeaf,
    ) -> Option<FaultOutcome> {
        let GuestLeaf { place, gpte, gfn, granted, key } = leaf;
        let marked = gpte | ACCESSED | DIRTY;
        if marked != gpte && !F::compare_exchange(&mut self.machine, place, gpte, marked) {
            return None;
        }
        if !self.allow_write(id, gfn) {
            let gpa = Gpa::new(gfn << 12 | gva.page_offset());
            return Some(FaultOutcome::EmulateWrite { gpa });
        }
        if self.pool.meta(page).state != State::Shadow {
            // Making the frame writable cost this very table its place among the unsync.
            return Some(FaultOutcome::Spurious);
        }
        let node = Node::new(page, gva.table_index(1));
        let changed = self.map_frame(node, 1, gfn, granted, key);
        self.prefetch::<F>(node, place);
        Some(if changed { FaultOutcome::Fixed } else { FaultOutcome::Spurious })
    }

    /// Replaces an entry that maps the same frame with other rights; `None` for any other.
    #[inline]
    fn exchange_leaf(&mut self, node: Node, old: u64, spte: u64) -> Option<FaultOutcome> {
        if old == spte {
            return Some(FaultOutcome::Spurious);
        }
        if old & PRESENT == 0 || (old ^ spte) & FRAME != 0 {
            return None;
        }
        self.tlb_dirty |= old & WRITABLE & !spte != 0;
        self.set_spte(node, spte);
        Some(FaultOutcome::Fixed)
    }

    /// Installs the entries after `node`, whose guest entry is at `place`, that have their A
    /// bit set already, up to the first that does not qualify. The architecture lets a
    /// processor cache them.
    #[inline]
    pub(crate) fn prefetch<F: GuestFormat>(&mut self, node: Node, place: Hpa) {
        let last = node.entry() as u32 == ENTRIES - 1;
        let next = place.wrapping_add(1 << F::ENTRY_SHIFT);
        if !last && is_cachable(F::read(&self.machine, next)) {
            self.prefetch_run::<F>(node, place);
        }
    }

    /// All of frames in the slot found last whose heads are made. Of the page itself is told
    /// once, at the end.
    #[inline(never)]
    fn prefetch_run<F: GuestFormat>(&mut self, node: Node, place: Hpa) {
        let most = u32::from(self.config.prefetch).min(ENTRIES - 1 - node.entry() as u32);
        let role = self.pool.meta(node.page()).role;
        let reserved = self.leaf_reserved(role);
        let allowed = leaf_flags(role.access());
        let key = if role.pke() { KEY } else { 0 };
        let tag = self.generation.tag();
        let Some(slot) = self.slots.last().filter(|slot| slot.died.is_none()) else { return };
        let guarded = slot.read_only || slot.log.is_some();
        let (mut last, mut at, mut place) = (node, self.pool.entry(node), place);
        for _ in 0..most {
            let next = Node(last.0 + 1);
            at = at.wrapping_add(8);
            place = place.wrapping_add(1 << F::ENTRY_SHIFT);
            let gpte = F::read(&self.machine, place);
            if !is_cachable(gpte) || gpte & reserved != 0 || self.machine.read_entry(at) != 0 {
                break;
            }
            let gfn = (gpte & F::ADDRESS) >> 12;
            if !slot.contains(gfn) {
                break;
            }
            let frame = slot.host_of(gfn);
            let Some((reference, heads)) = slot.made_frame_mut(gfn) else { break };
            let read_only = guarded || gpte & DIRTY == 0 || heads.count.get(tag) > 0;
            let flags = both_grant(gpte, if read_only { allowed & !WRITABLE } else { allowed });
            let second = Node(heads.rmap.get(tag));
            heads.rmap.set(tag, next.0);
            let link = Link::first(reference, second);
            self.machine.write_entry(at.wrapping_add(LINKS), link.pack());
            if !second.is_none() {
                let at = self.pool.link(second);
                let link = Link { prev: next.0, ..Link::unpack(self.machine.read_entry(at)) };
                self.machine.write_entry(at, link.pack());
            }
            let spte = frame << 12 | flags | gpte & key;
            self.machine.write_entry(at, spte);
            last = next;
        }
        self.stats.mmu_prefetched += u64::from(last.0 - node.0);
        let meta = self.pool.meta_mut(node.page());
        // Beginning with the line of `node`, whose entry was installed before.
        meta.lines |= (line_of(last.entry()) << 1).wrapping_sub(line_of(node.entry()));
        if last != node {
            meta.writes = 0;
        }
    }
}

/// Whether a processor may hold a translation by this guest entry already.
#[inline]
pub(crate) fn is_cachable(gpte: u64) -> bool {
    gpte & (PRESENT | ACCESSED) == PRESENT | ACCESSED
}
