//! A page fault, from the exit to the entry that cures it.
//!
//! Reserve, walk, set A and D, descend, install: the first can fail without a trace, the
//! rest needs no memory.

use anchorite_addr::{Gva, Hpa};

use crate::access::{Access, PageFault, Translation};
use crate::flush::{FlushPromise, VcpuId};
use crate::install::{Shortage, leaf, writes};
use crate::memory::Machine;
use crate::mmio;
use crate::mmu::Mmu;
use crate::outcome::FaultOutcome;
use crate::page::{Node, PageNo, State};
use crate::paging::entry::{FRAME, INDIRECT, LARGE, PRESENT};
use crate::paging::{Control, FiveLevel, FourLevel, GuestFormat, Pae, TwoLevel};
use crate::policy::ZapPolicy;
use crate::registers::PagingMode;
use crate::role::{EXEC, Rights, USER, WRITE};
use crate::slot::Slot;
use crate::walk::{Start, Walk, go, set_accessed_dirty, walk};

/// Walks tried while another vCPU keeps changing the entries (H9).
const WALKS: u32 = 4;

impl From<Shortage> for FaultOutcome {
    fn from(shortage: Shortage) -> Self {
        match shortage {
            Shortage::Wait(epoch) => Self::Retry(FlushPromise { epoch }),
            Shortage::OutOfMemory => Self::OutOfMemory,
        }
    }
}

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    #[inline]
    pub(crate) fn fault(&mut self, id: VcpuId, gva: Gva, access: Access) -> FaultOutcome {
        let outcome = self.resolve(id, gva, access);
        let stats = &mut self.stats;
        stats.pf_taken += 1;
        match &outcome {
            FaultOutcome::Fixed => stats.pf_fixed += 1,
            FaultOutcome::Spurious => stats.pf_spurious += 1,
            FaultOutcome::Guest(_) => stats.pf_guest += 1,
            FaultOutcome::EmulateWrite { .. } | FaultOutcome::Emulate { .. } => {
                stats.pf_emulate += 1;
            }
            FaultOutcome::Mmio { .. } | FaultOutcome::ReadOnly { .. } => stats.pf_mmio += 1,
            FaultOutcome::Retry(_) | FaultOutcome::OutOfMemory => {}
        }
        outcome
    }

    #[inline]
    fn resolve(&mut self, id: VcpuId, gva: Gva, access: Access) -> FaultOutcome {
        if !self.vcpu(id).loaded {
            if let Err(shortage) = self.load_root(id) {
                return shortage.into();
            }
        }
        if let Err(shortage) = self.reserve() {
            return shortage.into();
        }
        if self.mmio_cached {
            if let Some(gpa) = self.cached_mmio(id, gva, access) {
                self.stats.pf_mmio_fast += 1;
                return FaultOutcome::Mmio { gpa };
            }
        }
        match self.vcpu(id).control.mode {
            PagingMode::FourLevel => self.fault_paged::<FourLevel>(id, gva, access),
            PagingMode::FiveLevel => self.fault_paged::<FiveLevel>(id, gva, access),
            PagingMode::Pae => self.fault_paged::<Pae>(id, gva, access),
            PagingMode::TwoLevel => self.fault_paged::<TwoLevel>(id, gva, access),
            PagingMode::None => self.fault_unpaged(id, gva, access),
        }
    }

    #[inline]
    fn fault_paged<F: GuestFormat>(
        &mut self,
        id: VcpuId,
        gva: Gva,
        access: Access,
    ) -> FaultOutcome {
        let Some(from) = self.deepest::<F>(id, gva) else {
            return self.fault_without_root::<F>(id, gva, access);
        };
        let page = if self.pool.meta(from).role.level() == 1 {
            from
        } else {
            match self.build_path::<F>(id, from, gva, access) {
                Ok(page) => page,
                Err(outcome) => return self.forgetting(id, gva, outcome),
            }
        };
        self.fault_below::<F>(id, page, gva, access)
    }

    /// A fault of an access that leaf table `page` leads to.
    #[inline]
    fn fault_below<F: GuestFormat>(
        &mut self,
        id: VcpuId,
        page: PageNo,
        gva: Gva,
        access: Access,
    ) -> FaultOutcome {
        match self.fault_at_leaf::<F>(id, page, gva, access) {
            Some(FaultOutcome::Guest(fault)) => {
                if self.pool.meta(page).unsync {
                    self.sync_one(Node::new(page, gva.table_index(1)));
                }
                FaultOutcome::Guest(fault)
            }
            // As the next arm, but the most frequent needs no copy of the others' parts.
            Some(FaultOutcome::Fixed) => FaultOutcome::Fixed,
            Some(outcome) => outcome,
            None => {
                let outcome = self.fault_at_length::<F>(id, page, gva, access);
                self.forgetting(id, gva, outcome)
            }
        }
    }

    /// A #PF forgets cached translations of its address, and what an unsync table still grants
    /// counts as cached. Intel SDM vol. 3, 4.10.4.1 "Operations that Invalidate TLBs and
    /// Paging-Structure Caches".
    #[inline(never)]
    fn forgetting(&mut self, id: VcpuId, gva: Gva, outcome: FaultOutcome) -> FaultOutcome {
        if matches!(outcome, FaultOutcome::Guest(_)) {
            self.sync_address(id, gva);
        }
        outcome
    }

    /// The long way: every decision, in order.
    #[inline(never)]
    pub(crate) fn fault_at_length<F: GuestFormat>(
        &mut self,
        id: VcpuId,
        from: PageNo,
        gva: Gva,
        access: Access,
    ) -> FaultOutcome {
        let mut walk = self.begin_walk(from);
        match self.walk_from::<F>(&mut walk, id, gva, access) {
            Ok(()) => self.map::<F>(id, from, &walk, gva, access),
            Err(outcome) => outcome,
        }
    }

    /// A walk about to go on from the table that `from` shadows.
    #[inline]
    fn begin_walk(&self, from: PageNo) -> Walk {
        let meta = self.pool.meta(from);
        Walk::new(Start { level: meta.role.level(), table: meta.gfn, rights: meta.role.access() })
    }

    /// Goes on with a walk. Sets A in the entries walked, and D in the last for a write.
    #[inline]
    fn walk_from<F: GuestFormat>(
        &mut self,
        walk: &mut Walk,
        id: VcpuId,
        gva: Gva,
        access: Access,
    ) -> Result<(), FaultOutcome> {
        for _ in 0..WALKS {
            let control = &self.vcpus[id.index()].control;
            let (slots, memory) = (&self.slots, &self.machine);
            go::<F, M>(walk, control, slots, memory, gva, access).map_err(FaultOutcome::Guest)?;
            if self.mark_walk::<F>(walk, access.is_write()) {
                return Ok(());
            }
            walk.restart();
        }
        // The entries keep changing: the guest tries again, others get their turn.
        Err(FaultOutcome::Spurious)
    }

    /// Sets A in every entry of a permitted walk, and D in the last for a write. Returns
    /// `false` where an entry changed since it was read.
    #[inline]
    fn mark_walk<F: GuestFormat>(&mut self, walk: &mut Walk, write: bool) -> bool {
        let (slots, memory) = (&mut self.slots, &mut self.machine);
        let held_still = set_accessed_dirty::<F, M>(walk, slots, memory, write);
        if self.mixes_entry_sizes::<F>() {
            for (table, offset) in walk.marks(write) {
                self.note_mark(table, offset);
            }
        }
        held_still
    }

    /// A PDPTE register is not present: the walk ends there.
    #[cold]
    fn fault_without_root<F: GuestFormat>(
        &mut self,
        id: VcpuId,
        gva: Gva,
        access: Access,
    ) -> FaultOutcome {
        let control = &self.vcpus[id.index()].control;
        match walk::<F, M>(control, &self.slots, &self.machine, gva, access) {
            Ok(_) => FaultOutcome::Spurious,
            // Without a root nothing is cached that it would have to forget.
            Err(fault) => FaultOutcome::Guest(fault),
        }
    }

    fn fault_unpaged(&mut self, id: VcpuId, gva: Gva, access: Access) -> FaultOutcome {
        match self.vcpu(id).root_for(gva) {
            Some(root) => self.map::<Pae>(id, root, &Walk::direct(gva), gva, access),
            None => FaultOutcome::Spurious,
        }
    }

    /// The shadow of the deepest guest table that `gva` leads to by entries in place.
    ///
    /// The guest's walk goes on from there. Such an entry is what a paging-structure cache
    /// holds, and stricter: it was made from a walk with A set, and it is dropped as soon
    /// as the guest's entry changes. What the page shadows and with which rights, the page
    /// itself says, not the way here (I1, I6).
    #[inline]
    fn deepest<F: GuestFormat>(&self, id: VcpuId, gva: Gva) -> Option<PageNo> {
        let root = self.vcpu(id).root_for(gva)?;
        let mut table = self.pool.table(root);
        // The root's level is the format's: with a constant bound the loop is unrolled.
        for level in (2..=F::LEVELS).rev() {
            let spte = self.machine.read_entry(table.wrapping_add(gva.table_offset(level)));
            if spte & (PRESENT | LARGE | INDIRECT) != PRESENT | INDIRECT {
                break;
            }
            table = Hpa::new(spte & FRAME);
        }
        let page = self.pool.page_at(table.as_u64());
        if !self.is_current(page) {
            return Some(root);
        }
        Some(page)
    }

    /// Installs what a permitted walk found.
    #[inline]
    fn map<F: GuestFormat>(
        &mut self,
        id: VcpuId,
        from: PageNo,
        walk: &Walk,
        gva: Gva,
        access: Access,
    ) -> FaultOutcome {
        let gpa = walk.gpa(gva);
        let control = &self.vcpus[id.index()].control;
        let key = if control.pke { walk.key } else { 0 };
        let Some(granted) = grant(control, walk, access) else {
            return FaultOutcome::Emulate { gpa };
        };
        let Some(slot) = self.slots.at(walk.gfn) else {
            self.cache_mmio::<F>(from, walk, gva, granted);
            return FaultOutcome::Mmio { gpa };
        };
        if slot.read_only && access.is_write() {
            return FaultOutcome::ReadOnly { gpa };
        }
        let (page, level) = match self.table_for::<F>(from, walk, gva) {
            Ok(found) => found,
            Err(shortage) => return shortage.into(),
        };
        let Some(usable) = self.usable(id, walk.gfn, level, granted, access.is_write()) else {
            return FaultOutcome::EmulateWrite { gpa };
        };
        if self.pool.meta(page).state != State::Shadow {
            // Making the frame writable cost this very table its place among the unsync.
            return FaultOutcome::Spurious;
        }
        let node = Node::new(page, gva.table_index(level));
        let changed = self.map_frame(node, level, walk.gfn, usable, key);
        if level == 1 && walk.level == 1 {
            self.prefetch::<F>(node, walk.leaf_place());
        }
        if changed { FaultOutcome::Fixed } else { FaultOutcome::Spurious }
    }

    /// The table in which the mapping belongs, and its level: as large as allowed, which
    /// may shrink while the path to it is made.
    #[inline]
    fn table_for<F: GuestFormat>(
        &mut self,
        from: PageNo,
        walk: &Walk,
        gva: Gva,
    ) -> Result<(PageNo, u8), Shortage> {
        let mut level = self.mapping_level(walk);
        loop {
            let page = self.descend::<F>(from, walk, gva, level)?;
            let still = if level == 1 { 1 } else { self.mapping_level(walk) };
            if still == level {
                return Ok((page, level));
            }
            level = still;
        }
    }

    /// The largest page that may map the walk's frame.
    #[inline]
    fn mapping_level(&self, walk: &Walk) -> u8 {
        if walk.level == 1 {
            return 1;
        }
        let host_limit = if self.config.host_gigabyte_pages { 3 } else { 2 };
        let mut level = walk.level.min(host_limit);
        if let Some(slot) = self.slots.at(walk.gfn) {
            while level > 1 && !self.may_be_large(slot, walk.gfn, level) {
                level -= 1;
            }
        }
        level
    }

    fn may_be_large(&self, slot: &Slot, gfn: u64, level: u8) -> bool {
        let tables = slot.heads_of(gfn, level).count.get(self.generation.tag());
        tables == 0 && slot.log.is_none() && slot.fits_large(gfn, level)
    }

    /// What of `granted` the frame itself permits now. `None`: a write, but the frame
    /// holds tables that must not change unseen.
    #[inline]
    fn usable(
        &mut self,
        id: VcpuId,
        gfn: u64,
        level: u8,
        granted: Rights,
        write: bool,
    ) -> Option<Rights> {
        if !writes(granted) {
            return Some(granted);
        }
        let tracked = level == 1 && self.tracked(gfn) > 0;
        if tracked && write && !self.allow_write(id, gfn) {
            return None;
        }
        let slot = self.slots.at_mut(gfn)?;
        let logged = slot.log.is_some();
        if write {
            slot.mark_dirty(gfn);
        } else if slot.read_only || tracked || logged {
            return Some(granted & !WRITE);
        }
        Some(granted)
    }

    /// Enters the frame of size `level` around `gfn` in `node`.
    #[inline]
    pub(crate) fn map_frame(
        &mut self,
        node: Node,
        level: u8,
        gfn: u64,
        rights: Rights,
        key: u64,
    ) -> bool {
        let first = gfn & !((1u64 << (9 * u32::from(level - 1))) - 1);
        let Some(slot) = self.slots.at(gfn) else {
            return false;
        };
        let spte = leaf(slot.host_of(first), level, rights, key);
        self.set_leaf(node, level, gfn, spte)
    }

    /// Remembers that `walk` leads nowhere. Failing to costs only the next walk.
    #[cold]
    fn cache_mmio<F: GuestFormat>(&mut self, from: PageNo, walk: &Walk, gva: Gva, granted: Rights) {
        if let Ok(page) = self.descend::<F>(from, walk, gva, 1) {
            let spte = mmio::entry(walk.gfn, granted, self.mmio_generation);
            self.set_marker(Node::new(page, gva.table_index(1)), spte);
            self.mmio_cached = true;
        }
    }

    // ---- for the emulator ----------------------------------------------------

    /// A walk that changes nothing.
    pub(crate) fn look_up(
        &self,
        id: VcpuId,
        gva: Gva,
        access: Access,
    ) -> Result<Translation, PageFault> {
        let control = &self.vcpu(id).control;
        let (slots, machine) = (&self.slots, &self.machine);
        let walk = match control.mode {
            PagingMode::FourLevel => walk::<FourLevel, M>(control, slots, machine, gva, access)?,
            PagingMode::FiveLevel => walk::<FiveLevel, M>(control, slots, machine, gva, access)?,
            PagingMode::Pae => walk::<Pae, M>(control, slots, machine, gva, access)?,
            PagingMode::TwoLevel => walk::<TwoLevel, M>(control, slots, machine, gva, access)?,
            PagingMode::None => return Ok(unpaged(gva)),
        };
        Ok(walk.translation(gva, control.mode == PagingMode::TwoLevel))
    }

    /// Walks from the top and sets A and D; `None` where the entries would not hold still.
    fn walk_and_mark<F: GuestFormat>(
        &mut self,
        id: VcpuId,
        gva: Gva,
        access: Access,
    ) -> Result<Option<Walk>, PageFault> {
        for _ in 0..WALKS {
            let control = &self.vcpus[id.index()].control;
            let mut walk = walk::<F, M>(control, &self.slots, &self.machine, gva, access)?;
            if self.mark_walk::<F>(&mut walk, access.is_write()) {
                return Ok(Some(walk));
            }
        }
        Ok(None)
    }

    /// A walk for an access that the emulator carries out.
    pub(crate) fn look_up_and_mark(
        &mut self,
        id: VcpuId,
        gva: Gva,
        access: Access,
    ) -> Result<Translation, PageFault> {
        let mode = self.vcpu(id).control.mode;
        let walk = match mode {
            PagingMode::FourLevel => self.walk_and_mark::<FourLevel>(id, gva, access)?,
            PagingMode::FiveLevel => self.walk_and_mark::<FiveLevel>(id, gva, access)?,
            PagingMode::Pae => self.walk_and_mark::<Pae>(id, gva, access)?,
            PagingMode::TwoLevel => self.walk_and_mark::<TwoLevel>(id, gva, access)?,
            PagingMode::None => return Ok(unpaged(gva)),
        };
        match walk {
            Some(walk) => Ok(walk.translation(gva, mode == PagingMode::TwoLevel)),
            // Another vCPU wins every race for the A bit: then it is set, so look again.
            None => self.look_up(id, gva, access),
        }
    }
}

fn unpaged(gva: Gva) -> Translation {
    let walk = Walk::direct(gva);
    Translation { gpa: walk.gpa(gva), size: anchorite_addr::PageSize::Size4K }
}

/// Whether the page's key denies writes. The guest's CR0.WP = 0 lets the supervisor write
/// all the same, hardware's WP = 1 does not.
fn key_denies_writes(control: &Control, walk: &Walk, access: Access) -> bool {
    let denied = access.pkru >> (2 * (walk.key >> 59)) & 2 != 0;
    control.pke && walk.rights & USER != 0 && denied
}

/// The rights a shadow entry may carry for this access; `None` where none expresses it.
///
/// A leaf whose D bit is clear is not writable, so that the first write faults and sets
/// it. With CR0.WP = 0 the supervisor writes read-only pages: hardware always runs with
/// WP = 1, so the entry becomes writable but no longer a user's (and not executable where
/// SMEP would have forbidden that). Hiding U also hides the page from SMAP and from
/// protection keys; where those are on, the write is emulated.
#[inline]
fn grant(control: &Control, walk: &Walk, access: Access) -> Option<Rights> {
    let rights = walk.rights;
    if access.is_write() && !control.wp && key_denies_writes(control, walk, access) {
        return None;
    }
    if access.is_write() && rights & WRITE == 0 {
        if rights & USER == 0 {
            return Some(rights | WRITE);
        }
        if control.smap || control.pke {
            return None;
        }
        let hidden = if control.smep { USER | EXEC } else { USER };
        return Some(rights & !hidden | WRITE);
    }
    let clean = if walk.dirty { 0 } else { WRITE };
    Some(rights & !clean)
}
