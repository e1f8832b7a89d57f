//! Finding and making shadow pages, and putting entries into them.

use anchorite_addr::Gva;

use crate::directory::Found;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::page::{Meta, Node, PageNo, State, line_of};
use crate::paging::GuestFormat;
use crate::paging::entry::{
    FRAME, INDIRECT, LARGE, PRESENT, TABLE_FLAGS, WRITABLE, is_leaf, leaf_flags,
};
use crate::policy::{Supply, ZapPolicy};
use crate::pool::List;
use crate::profile::{Lap, Step};
use crate::role::{Rights, Role, WRITE};
use crate::walk::Walk;

/// Why a page cannot be had now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// Once every vCPU has acknowledged this epoch it can.
    Wait(u64),
    /// There is none, not even by eviction.
    OutOfMemory,
}

/// Upper-level pages passed over by one eviction before one is taken after all.
const SECOND_CHANCES: u32 = 16;

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    // ---- frames --------------------------------------------------------------

    /// Fills the reserve: the worst case of a fault, before it begins (H6).
    #[inline]
    pub(crate) fn reserve(&mut self) -> Result<(), Shortage> {
        while !self.pool.is_reserved() {
            let page = self.supply()?;
            self.pool.keep_ready(page);
        }
        Ok(())
    }

    /// A clean frame, on no list.
    #[inline]
    fn supply(&mut self) -> Result<PageNo, Shortage> {
        let found = match self.policy.kind().supply() {
            Supply::StaleFirst => self.recycle().or_else(|| self.fresh()),
            Supply::FreeFirst => self.fresh().or_else(|| self.recycle()),
        };
        match found {
            Some(page) => Ok(page),
            None => self.evict(),
        }
    }

    /// A free frame within the quota.
    #[inline(never)]
    fn fresh(&mut self) -> Option<PageNo> {
        if self.pool.limbo > 0 {
            self.drain_limbo();
        }
        if self.pool.free as usize == self.pool.reserved().len()
            && self.pool.in_use() < self.pool.quota
        {
            self.pool.grow(&mut self.machine);
        }
        self.pool.take_free(&mut self.machine)
    }

    /// Frees the pages that waited for a flush which has come to pass.
    #[inline(never)]
    pub(crate) fn drain_limbo(&mut self) {
        let clock = &self.clock;
        self.pool.drain_limbo(|epoch| clock.acknowledged(epoch));
    }

    /// The oldest stale page, if no vCPU can still use it (I9). Under the default policy
    /// it leaves the directory and its set lines are cleared; nothing is unlinked, for
    /// nothing of this generation refers to it.
    #[inline]
    pub(crate) fn recycle(&mut self) -> Option<PageNo> {
        let page = self.pool.front(List::Stale)?;
        let clock = &self.clock;
        let safe = self.generation.safe(|epoch| clock.acknowledged(epoch));
        let Meta { gfn, generation, .. } = *self.pool.meta(page);
        if generation >= safe {
            return None;
        }
        let mut lap = Lap::start(&self.machine);
        self.pool.unlist(page);
        self.pool.stale -= 1;
        lap.end(&self.machine, Step::Lists);
        if P::TAGGED {
            self.pool.clear(&mut self.machine, page);
            lap.end(&self.machine, Step::Clearing);
        } else {
            self.unlink(page);
            lap.end(&self.machine, Step::Unlinking);
        }
        self.directory.remove(gfn, page);
        lap.end(&self.machine, Step::Directory);
        lap.add_to(&mut self.stats.recycles);
        self.stats.mmu_recycled += 1;
        Some(page)
    }

    /// Evicts the oldest current page that is no root in use. Pages that hold up a tree
    /// get a second chance, a bounded number of times. Where a lowered quota found only stale
    /// pages that it had to leave, and they are in service again, it goes on down to the quota.
    #[cold]
    fn evict(&mut self) -> Result<PageNo, Shortage> {
        if let Some(epoch) = self.waiting_epoch() {
            return Err(Shortage::Wait(epoch));
        }
        loop {
            let victim = self.victim().ok_or(Shortage::OutOfMemory)?;
            let epoch = self.withdraw(victim, &mut Lap::start(&self.machine));
            self.stats.mmu_shadow_zapped += 1;
            self.stats.mmu_evicted += 1;
            if !self.clock.acknowledged(epoch) {
                self.pool.retire(victim, epoch);
                return self.fresh().ok_or(Shortage::Wait(epoch));
            }
            if self.pool.in_use() < self.pool.quota {
                // Its table is empty: it was unlinked entry by entry.
                return Ok(victim);
            }
            self.pool.release(victim);
        }
    }

    /// The epoch to wait for, where frames would be had but for a flush.
    fn waiting_epoch(&self) -> Option<u64> {
        if let Some(page) = self.pool.front(List::Limbo) {
            return Some(self.pool.meta(page).epoch);
        }
        self.pool.front(List::Stale)?;
        Some(self.clock.now())
    }

    /// The page to evict next.
    pub(crate) fn victim(&mut self) -> Option<PageNo> {
        let mut chances = SECOND_CHANCES;
        let mut fallback = None;
        for _ in 0..self.pool.active {
            let page = self.pool.front(List::Active)?;
            let meta = self.pool.meta(page);
            if meta.pins == 0 {
                if meta.role.level() == 1 || meta.lines == 0 || chances == 0 {
                    return Some(page);
                }
                chances -= 1;
                fallback = fallback.or(Some(page));
            }
            self.pool.unlist(page);
            self.pool.push_back(List::Active, page);
        }
        fallback
    }

    // ---- pages ---------------------------------------------------------------

    /// The current page for `(gfn, role)`: found, revived or made. A frame must be in the
    /// reserve.
    pub(crate) fn page_for(&mut self, gfn: u64, role: Role) -> Result<PageNo, Shortage> {
        let now = self.generation.now();
        let safe = self.revivable();
        let page = match self.directory.look_up(&self.pool.metas, gfn, role, now, safe) {
            Found::Current(page) => {
                self.await_epoch(page)?;
                self.sync_below(page, role.level());
                return Ok(page);
            }
            Found::Stale(page) => self.revive(page, gfn, role),
            Found::None => {
                let page = self.make(gfn, role)?;
                self.directory.insert(&self.pool.metas, page);
                page
            }
            Found::Twin => {
                let page = self.make(gfn, role)?;
                self.directory.insert_before(&self.pool.metas, page);
                page
            }
        };
        self.pool.push_back(List::Active, page);
        self.pool.active += 1;
        if !role.is_direct() {
            let epoch = self.account(page);
            if epoch != 0 {
                self.pool.meta_mut(page).epoch = epoch;
                self.await_epoch(page)?;
            }
        }
        Ok(page)
    }

    /// Refuses to use a page while a vCPU in the guest may still write the guest's table
    /// through a translation that was taken away. Nothing hangs on the page yet: the
    /// fault walks again later.
    #[inline]
    fn await_epoch(&mut self, page: PageNo) -> Result<(), Shortage> {
        let epoch = self.pool.meta(page).epoch;
        if epoch == 0 {
            return Ok(());
        }
        if !self.clock.acknowledged(epoch) {
            return Err(Shortage::Wait(epoch));
        }
        self.pool.meta_mut(page).epoch = 0;
        Ok(())
    }

    /// The generation below which stale pages may be revived; 0 where none may.
    #[inline]
    fn revivable(&mut self) -> u64 {
        if !P::TAGGED || self.pool.stale == 0 {
            return 0;
        }
        let clock = &self.clock;
        self.generation.safe(|epoch| clock.acknowledged(epoch))
    }

    /// Puts a stale page of the same key back in service: it keeps its directory entry.
    #[inline]
    fn revive(&mut self, page: PageNo, gfn: u64, role: Role) -> PageNo {
        let mut lap = Lap::start(&self.machine);
        self.pool.unlist(page);
        self.pool.stale -= 1;
        lap.end(&self.machine, Step::Lists);
        self.pool.clear(&mut self.machine, page);
        lap.end(&self.machine, Step::Clearing);
        lap.add_to(&mut self.stats.recycles);
        self.set_identity(page, gfn, role);
        self.stats.mmu_revived += 1;
        page
    }

    #[inline]
    fn make(&mut self, gfn: u64, role: Role) -> Result<PageNo, Shortage> {
        let page = self.pool.take_ready().ok_or(Shortage::OutOfMemory)?;
        self.set_identity(page, gfn, role);
        Ok(page)
    }

    #[inline]
    fn set_identity(&mut self, page: PageNo, gfn: u64, role: Role) {
        let generation = self.generation.now();
        let meta = self.pool.meta_mut(page);
        *meta = Meta {
            gfn,
            role,
            generation,
            slab: meta.slab,
            state: State::Shadow,
            ..Meta::default()
        };
    }

    // ---- descent -------------------------------------------------------------

    /// Follows or builds the path from `from`, where the walk began, to the table at
    /// `target` that it describes, and returns that table.
    #[inline]
    pub(crate) fn descend<F: GuestFormat>(
        &mut self,
        from: PageNo,
        walk: &Walk,
        gva: Gva,
        target: u8,
    ) -> Result<PageNo, Shortage> {
        let base = self.pool.meta(from).role.to_base();
        let key = if base.pke() { walk.key } else { 0 };
        let mut page = from;
        let mut level = self.pool.meta(from).role.level();
        while level > target {
            let below = level - 1;
            let (gfn, role) = if below >= walk.level {
                let rights = walk.above[below as usize];
                (walk.tables[below as usize], table_role::<F>(base, below, rights, gva))
            } else {
                let cover = (1u64 << (9 * u32::from(below))) - 1;
                (walk.gfn & !cover, base.at(below, walk.offered()).direct().keyed(key))
            };
            let node = Node::new(page, gva.table_index(level));
            page = self.child(node, gfn, role)?;
            level = below;
        }
        Ok(page)
    }

    /// The child that entry `node` must point at. An existing child is followed only if
    /// its gfn, its full role and its generation are what the walk wants (H7).
    #[inline]
    pub(crate) fn child(&mut self, node: Node, gfn: u64, role: Role) -> Result<PageNo, Shortage> {
        self.pool.meta_mut(node.page()).writes = 0;
        let spte = self.spte(node);
        if spte & (PRESENT | LARGE) == PRESENT {
            let child = self.pool.page_at(spte & FRAME);
            let meta = self.pool.meta(child);
            if meta.gfn == gfn && meta.role == role && meta.generation == self.generation.now() {
                return Ok(child);
            }
        }
        self.link_child(node, spte, gfn, role)
    }

    /// Puts another child in the place of `spte`.
    fn link_child(
        &mut self,
        node: Node,
        spte: u64,
        gfn: u64,
        role: Role,
    ) -> Result<PageNo, Shortage> {
        if spte != 0 {
            // What hung below may live on in TLBs far beyond this one address.
            self.drop_entry(node);
            self.open_epoch();
        }
        let child = self.page_for(gfn, role)?;
        self.parent_add(child, node);
        let table = self.pool.table(child).as_u64();
        let kind = if role.is_direct() { 0 } else { INDIRECT };
        self.set_spte(node, table | TABLE_FLAGS | kind);
        Ok(child)
    }

    // ---- leaves --------------------------------------------------------------

    /// Puts a leaf entry into `node` of a table at `level` that maps `gfn` to host frame
    /// `host` (both the first of the range) with `flags`. Returns whether anything changed.
    #[inline]
    pub(crate) fn set_leaf(&mut self, node: Node, level: u8, gfn: u64, spte: u64) -> bool {
        let old = self.spte(node);
        if old == spte {
            return false;
        }
        let same_frame = old & PRESENT != 0 && is_leaf(old, level) && (old ^ spte) & FRAME == 0;
        if same_frame {
            // A right lost, or a page turned from user to supervisor.
            self.tlb_dirty |= old & WRITABLE & !spte != 0;
            self.set_spte(node, spte);
            return true;
        }
        if old != 0 {
            self.drop_entry(node);
            if level > 1 {
                self.open_epoch();
            }
        }
        self.rmap_add(gfn, level, node);
        self.set_spte(node, spte);
        true
    }

    /// Puts an entry that is not present and not linked into `node`.
    pub(crate) fn set_marker(&mut self, node: Node, spte: u64) {
        self.drop_entry(node);
        self.pool.meta_mut(node.page()).lines |= line_of(node.entry());
        self.set_spte(node, spte);
    }
}

/// The role of the shadow of a guest table at `level` on the way to `gva`.
#[inline]
pub(crate) fn table_role<F: GuestFormat>(base: Role, level: u8, rights: Rights, gva: Gva) -> Role {
    let role = base.at(level, rights);
    if F::ENTRY_SHIFT == 2 { role.quadrant((gva.as_u64() >> 21) as u8 & 1) } else { role }
}

/// A leaf entry of `level` for host frame `host`.
#[inline]
pub(crate) fn leaf(host: u64, level: u8, rights: Rights, key: u64) -> u64 {
    let large = if level > 1 { LARGE } else { 0 };
    host << 12 | leaf_flags(rights) | large | key
}

/// Whether `rights` include writing.
#[inline]
pub(crate) fn writes(rights: Rights) -> bool {
    rights & WRITE != 0
}
