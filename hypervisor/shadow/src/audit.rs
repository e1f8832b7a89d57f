//! The invariant checker: an independent reading of the structures, by number.

use alloc::vec;
use alloc::vec::Vec;

use anchorite_addr::Hpa;

use crate::heads::Heads;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::page::{Meta, Node, PageNo, State};
use crate::paging::entry::{
    ACCESSED, DIRTY, FRAME, INDIRECT, LARGE, NX, PRESENT, TABLE_FLAGS, USER_BIT, WRITABLE, is_leaf,
    rights,
};
use crate::policy::ZapPolicy;
use crate::pool::{FIRST_PAGE, List};
use crate::role::{EXEC, Rights, USER, WRITE};
use crate::slot::Slot;

/// A broken invariant, as `audit` found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the crate's docs: 3 is I3.
    pub invariant: u8,
    /// What is wrong.
    pub what: &'static str,
    /// The shadow page concerned, by number; 0 where none is.
    pub page: u32,
    /// The entry concerned, or another number that helps.
    pub detail: u64,
}

type Audit = Result<(), Violation>;

#[inline]
fn check(holds: bool, invariant: u8, what: &'static str, page: PageNo, detail: u64) -> Audit {
    if holds {
        return Ok(());
    }
    Err(Violation { invariant, what, page: page.0, detail })
}

/// Entries counted on the tables' side, to be met again from the heads' side.
#[derive(Default)]
struct Census {
    leaves: u64,
    children: u64,
}

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    pub(crate) fn check_invariants(&self) -> Audit {
        self.check_states()?;
        self.check_order()?;
        self.check_directory()?;
        self.check_roots()?;
        let mut census = Census::default();
        for page in self.pool.iter(List::Active) {
            self.check_table(page, &mut census)?;
        }
        self.check_parents(&census)?;
        self.check_heads(&census)?;
        self.check_unsync()
    }

    // ---- I8, I9 --------------------------------------------------------------

    fn check_states(&self) -> Audit {
        let mut count = [0; 5];
        for meta in &self.pool.metas[FIRST_PAGE as usize..] {
            count[meta.state as usize] += 1;
        }
        let count = |state: State| count[state as usize];
        let listed = |list: List| self.pool.iter(list).count();
        let pool = &self.pool;
        let none = PageNo::NONE;
        let (shadow, limbo) = (count(State::Shadow), count(State::Limbo));
        let (free, held) = (count(State::Free), count(State::Reserved));
        check(shadow == pool.active + pool.stale, 8, "shadow pages", none, 0)?;
        check(limbo == pool.limbo, 8, "pages in limbo", none, 0)?;
        check(free + held == pool.free, 8, "free frames", none, 0)?;
        check(held as usize == pool.reserved().len(), 8, "reserved frames", none, 0)?;
        let total = shadow + limbo + free + held;
        check(total == pool.taken, 8, "frames taken", none, u64::from(total))?;
        check(listed(List::Active) == pool.active as usize, 8, "active list", none, 0)?;
        check(listed(List::Stale) == pool.stale as usize, 8, "stale list", none, 0)?;
        check(listed(List::Limbo) == limbo as usize, 8, "limbo list", none, 0)?;
        self.check_listed_states()?;
        self.check_slabs()
    }

    fn check_listed_states(&self) -> Audit {
        let states = [
            (List::Active, State::Shadow),
            (List::Stale, State::Shadow),
            (List::Limbo, State::Limbo),
        ];
        for (list, state) in states {
            for page in self.pool.iter(list) {
                check(self.pool.meta(page).state == state, 8, "listed state", page, 0)?;
            }
        }
        for page in self.pool.reserved() {
            let used = self.machine.used_lines(self.pool.table(*page));
            check(used == 0, 9, "a frame held ready is not clean", *page, used)?;
        }
        let mut epoch = 0;
        for page in self.pool.iter(List::Limbo) {
            let retired = self.pool.meta(page).epoch;
            check(retired >= epoch, 9, "limbo out of order", page, retired)?;
            check(retired <= self.clock.now(), 9, "retired in the future", page, retired)?;
            epoch = retired;
        }
        Ok(())
    }

    fn check_slabs(&self) -> Audit {
        check(self.pool.is_open_right(), 8, "slabs with free frames", PageNo::NONE, 0)?;
        for (first, free) in self.pool.slab_maps() {
            for bit in 0..64 {
                let page = PageNo(first.0 + bit);
                let is_free = self.pool.meta(page).state == State::Free;
                check(is_free == (free >> bit & 1 != 0), 8, "slab map", page, free)?;
            }
        }
        Ok(())
    }

    // ---- I5, I7 --------------------------------------------------------------

    fn check_order(&self) -> Audit {
        let now = self.generation.now();
        for page in self.pool.iter(List::Active) {
            check(self.is_current(page), 7, "a stale page is active", page, 0)?;
        }
        let mut oldest = 0;
        for page in self.pool.iter(List::Stale) {
            let generation = self.pool.meta(page).generation;
            check(generation < now, 7, "a current page is stale", page, generation)?;
            check(generation >= oldest, 7, "stale list out of order", page, generation)?;
            check(self.pool.meta(page).pins == 0, 7, "a stale page is pinned", page, 0)?;
            oldest = generation;
        }
        let safe = self.generation.known_safe();
        check(safe <= now, 9, "safe generation in the future", PageNo::NONE, safe)
    }

    fn check_directory(&self) -> Audit {
        let now = self.generation.now();
        let listed = (self.pool.active + self.pool.stale) as usize;
        let none = PageNo::NONE;
        check(self.directory.len() == listed, 5, "directory size", none, listed as u64)?;
        for page in self.pool.iter(List::Active) {
            let Meta { gfn, role, .. } = *self.pool.meta(page);
            let found = self.directory.find(&self.pool.metas, gfn, role, now);
            check(found == Some(page), 5, "a current page is not found", page, gfn)?;
        }
        Ok(())
    }

    // ---- I4, I10 -------------------------------------------------------------

    fn check_roots(&self) -> Audit {
        let mut pins = vec![0u16; self.pool.metas.len()];
        for vcpu in &self.vcpus {
            for page in vcpu.roots.into_iter().filter(|page| !page.is_none()) {
                let meta = self.pool.meta(page);
                check(vcpu.loaded, 4, "a root that is not loaded", page, 0)?;
                check(meta.state == State::Shadow, 4, "a root was recycled", page, 0)?;
                check(self.is_current(page), 10, "a stale root", page, meta.generation)?;
                pins[page.index()] += 1;
            }
        }
        for (index, meta) in self.pool.metas.iter().enumerate() {
            let page = PageNo(index as u32);
            check(pins[index] == meta.pins, 4, "pins", page, u64::from(meta.pins))?;
        }
        Ok(())
    }

    // ---- I1, I6 --------------------------------------------------------------

    fn check_table(&self, page: PageNo, census: &mut Census) -> Audit {
        let meta = *self.pool.meta(page);
        let used = self.machine.used_lines(self.pool.table(page));
        let stray = used & !meta.lines;
        check(stray == 0, 8, "an entry outside the line map", page, stray)?;
        for entry in entries_of(used) {
            let spte = self.spte(Node::new(page, entry));
            if spte & PRESENT == 0 {
                continue;
            }
            if is_leaf(spte, meta.role.level()) {
                census.leaves += 1;
                self.check_leaf(page, entry, spte)?;
            } else {
                census.children += 1;
                self.check_child(page, entry, spte)?;
            }
        }
        Ok(())
    }

    /// The guest entry behind a shadow entry of an indirect page.
    fn guest_entry(&self, meta: &Meta, entry: usize) -> Option<u64> {
        let host = self.slots.at(meta.gfn)?.host_of(meta.gfn) << 12;
        let (entry, quadrant) = (entry as u64, u64::from(meta.role.quadrant_of()));
        if !meta.role.has_four_byte_entries() {
            return Some(self.machine.read_u64(Hpa::new(host + entry * 8)));
        }
        let index = match meta.role.level() {
            1 => quadrant * 512 + entry,
            _ => quadrant * 256 + entry / 2,
        };
        Some(u64::from(self.machine.read_u32(Hpa::new(host + index * 4))))
    }

    fn check_leaf(&self, page: PageNo, entry: usize, spte: u64) -> Audit {
        let meta = *self.pool.meta(page);
        let at = entry as u64;
        let level = meta.role.level();
        let hardware = spte & ACCESSED != 0 && (spte & WRITABLE == 0 || spte & DIRTY != 0);
        check(hardware, 1, "hardware would set A or D", page, at)?;
        if meta.unsync {
            return Ok(());
        }
        let (gfn, granted, dirty) = if meta.role.is_direct() {
            let cover = 9 * u32::from(level - 1);
            (meta.gfn + (at << cover), meta.role.access(), true)
        } else {
            let Some(gpte) = self.guest_entry(&meta, entry) else {
                return check(false, 1, "no guest table", page, at);
            };
            let set = gpte & (PRESENT | ACCESSED) == PRESENT | ACCESSED;
            let rom = self.slots.at(meta.gfn).is_some_and(|slot| slot.read_only);
            check(
                set || rom && gpte & PRESENT != 0,
                1,
                "guest entry not present or A clear",
                page,
                at,
            )?;
            let gfn = guest_frame(&meta, entry, gpte);
            let dirty = gpte & DIRTY != 0 || rom;
            (gfn, rights(gpte) & meta.role.access(), dirty)
        };
        let host = self.slots.at(gfn).map(|slot| slot.host_of(gfn));
        check(host == Some((spte & FRAME) >> 12), 1, "maps the wrong frame", page, at)?;
        let fits = permits(&meta, granted, dirty, spte);
        check(fits, 1, "grants what the guest does not", page, at)
    }

    fn check_child(&self, page: PageNo, entry: usize, spte: u64) -> Audit {
        let meta = *self.pool.meta(page);
        let at = entry as u64;
        let child = self.pool.page_at(spte & FRAME);
        check(self.pool.table(child).as_u64() == spte & FRAME, 6, "not a table", page, at)?;
        check(spte & !FRAME & !INDIRECT == TABLE_FLAGS, 1, "flags of a table entry", page, at)?;
        let below = *self.pool.meta(child);
        check(below.state == State::Shadow, 6, "child is no shadow page", page, at)?;
        check(self.is_current(child), 6, "child is stale", page, at)?;
        let indirect = spte & INDIRECT != 0;
        check(indirect != below.role.is_direct(), 6, "kind of child", page, at)?;
        let level = below.role.level();
        check(level + 1 == meta.role.level(), 6, "child's level", page, at)?;
        if meta.role.is_direct() {
            let gfn = meta.gfn + (at << (9 * u32::from(level)));
            let same = below.role.is_direct() && below.gfn == gfn;
            return check(same, 1, "child of a direct page", page, at);
        }
        let Some(gpte) = self.guest_entry(&meta, entry) else {
            return check(false, 1, "no guest table above", page, at);
        };
        let rom = self.slots.at(meta.gfn).is_some_and(|slot| slot.read_only);
        let set = gpte & PRESENT != 0 && (gpte & ACCESSED != 0 || rom);
        check(set, 1, "guest table entry not present or A clear", page, at)?;
        let granted = rights(gpte) & meta.role.access();
        if below.role.is_direct() {
            let gfn = guest_frame(&meta, entry, gpte);
            let large = gpte & LARGE != 0 && below.gfn == gfn;
            check(large, 1, "direct child of a small entry", page, at)?;
            let access = below.role.access();
            let extra = access & !granted;
            let converted = !meta.role.wp() && access & USER == 0;
            return check(extra == 0 || extra == WRITE && converted, 1, "direct rights", page, at);
        }
        let same = below.gfn == (gpte & FRAME) >> 12 && below.role.access() == granted;
        check(same, 1, "child shadows another table", page, at)
    }

    // ---- I3 ------------------------------------------------------------------

    fn check_parents(&self, census: &Census) -> Audit {
        let mut found = 0;
        for page in self.pool.iter(List::Active) {
            let table = self.pool.table(page).as_u64();
            let mut before = None;
            let mut node = Node(self.pool.meta(page).parents);
            while !node.is_none() {
                let at = node.entry() as u64;
                let spte = self.spte(node);
                check(spte & FRAME == table, 3, "parent points elsewhere", node.page(), at)?;
                self.check_back_link(node, before, page.0)?;
                found += u64::from(self.is_current_node(node));
                before = Some(node);
                node = self.link(node).next;
            }
        }
        check(found == census.children, 3, "parent nodes", PageNo::NONE, found)
    }

    fn check_back_link(&self, node: Node, before: Option<Node>, reference: u32) -> Audit {
        let link = self.link(node);
        let right = match before {
            None => link.head() == Some(reference),
            Some(before) => link.head().is_none() && link.prev == before.0,
        };
        check(right, 3, "back link", node.page(), node.entry() as u64)
    }

    /// Every head of this generation that holds anything, against the tables. Nothing is
    /// looked for where no head is: a list or a count that is missing shows in the sums.
    fn check_heads(&self, census: &Census) -> Audit {
        let tag = self.generation.tag();
        let tables = self.count_tables();
        let (mut found, mut counted) = (0, [0; 3]);
        for (_, slot) in self.slots.iter().filter(|(_, slot)| slot.died.is_none()) {
            for (position, heads) in slot.heads.used(tag) {
                let (level, first) = slot.range_at(position);
                found += self.check_rmap(slot, position, heads)?;
                let count = heads.count.get(tag);
                check_count(slot, first, level, count, &tables)?;
                counted[usize::from(level - 1)] += count as usize;
            }
        }
        let none = PageNo::NONE;
        check(found == census.leaves, 3, "rmap nodes", none, found)?;
        let [tracked, all] = tables.map(|list| list.len());
        check(counted[0] == tracked, 2, "tracked frames", none, tracked as u64)?;
        let ranges = counted[1] == all && counted[2] == all;
        check(ranges, 2, "tables in large ranges", none, all as u64)
    }

    /// Checks the rmap of the range whose heads are at `position`, and what its entries may not
    /// be (I2). Returns its current nodes.
    fn check_rmap(&self, slot: &Slot, position: usize, heads: Heads) -> Result<u64, Violation> {
        let tag = self.generation.tag();
        let (level, first) = slot.range_at(position);
        let reference = slot.reference(position);
        let guarded = heads.count.get(tag) > 0;
        let is_logged = |gfn: u64| {
            let at = gfn.wrapping_sub(slot.base) as usize;
            slot.log.as_ref().is_none_or(|log| log.get(at).is_some_and(|bit| *bit))
        };
        let mut found = 0;
        let mut before = None;
        let mut node = Node(heads.rmap.get(tag));
        while !node.is_none() {
            let (page, at) = (node.page(), node.entry() as u64);
            let spte = self.spte(node);
            let current = self.is_current(page);
            let maps = spte & PRESENT != 0 && (spte & FRAME) >> 12 == slot.host_of(first);
            check(maps, 3, "rmap node maps another frame", page, at)?;
            let sized = self.pool.meta(page).role.level() == level;
            check(sized, 3, "rmap node of another size", page, at)?;
            self.check_back_link(node, before, reference)?;
            let writable = spte & WRITABLE != 0;
            check(
                !(writable && guarded && current),
                2,
                "a tracked frame is writable",
                page,
                first,
            )?;
            check(!guarded || level == 1 || !current, 2, "tables mapped large", page, first)?;
            check(!(writable && slot.read_only && current), 2, "read-only slot", page, first)?;
            let logged = !writable || !current || is_logged(first);
            check(logged, 2, "writable but not logged", page, first)?;
            found += u64::from(current);
            before = Some(node);
            node = self.link(node).next;
        }
        Ok(found)
    }

    /// The gfns of tracked pages, and of all indirect pages, that count in heads.
    fn count_tables(&self) -> [Vec<u64>; 2] {
        let lists: &[List] = if P::TAGGED { &[List::Active] } else { &[List::Active, List::Stale] };
        let (mut tracked, mut all) = (Vec::new(), Vec::new());
        for page in lists.iter().flat_map(|list| self.pool.iter(*list)) {
            let meta = self.pool.meta(page);
            let slot = self.slots.at(meta.gfn);
            if meta.role.is_direct() || slot.is_none_or(|slot| slot.born > meta.generation) {
                continue;
            }
            all.push(meta.gfn);
            if meta.tracked {
                tracked.push(meta.gfn);
            }
        }
        tracked.sort_unstable();
        all.sort_unstable();
        [tracked, all]
    }

    fn check_unsync(&self) -> Audit {
        for page in self.unsync.pages() {
            let meta = self.pool.meta(*page);
            let right = meta.unsync && meta.role.level() == 1 && !meta.tracked;
            check(right && self.is_current(*page), 5, "unsync list", *page, meta.gfn)?;
        }
        let listed = self.unsync.pages().len();
        let marked = self.pool.iter(List::Active);
        let marked = marked.filter(|page| self.pool.meta(*page).unsync).count();
        check(listed == marked, 5, "unsync pages", PageNo::NONE, marked as u64)
    }
}

/// The entries in `lines` of a table.
fn entries_of(mut lines: u64) -> impl Iterator<Item = usize> {
    let next = move || {
        let line = (lines != 0).then_some(lines.trailing_zeros() as usize)?;
        lines &= lines - 1;
        Some(line * 8..line * 8 + 8)
    };
    core::iter::from_fn(next).flatten()
}

/// Checks the count of the range of size `level` from frame `first` on against the lists of
/// [`Mmu::count_tables`].
fn check_count(
    slot: &Slot,
    first: u64,
    level: u8,
    count: u32,
    [tracked, all]: &[Vec<u64>; 2],
) -> Audit {
    let last = first + (1 << (9 * u32::from(level - 1))) - 1;
    let (first, last) = (first.max(slot.base), last.min(slot.base + slot.pages - 1));
    let list = if level == 1 { tracked } else { all };
    let expected = list.partition_point(|g| *g <= last) - list.partition_point(|g| *g < first);
    let what = if level == 1 { "tracked count" } else { "tables in a large range" };
    check(count as usize == expected, 2, what, PageNo::NONE, first)
}

/// The first frame that shadow entry `entry` stands for, by the guest entry behind it.
fn guest_frame(meta: &Meta, entry: usize, gpte: u64) -> u64 {
    let level = meta.role.level();
    if level == 1 {
        return (gpte & FRAME) >> 12;
    }
    if meta.role.has_four_byte_entries() {
        let high = (gpte & 0x001f_e000) << 19;
        let half = (entry as u64 & 1) << 9;
        return (gpte & 0xffc0_0000 | high) >> 12 | half;
    }
    let cover = (1u64 << (9 * u32::from(level - 1))) - 1;
    (gpte & FRAME) >> 12 & !cover
}

/// Whether `spte` stays within `granted`. With WP = 0 a read-only page may be writable
/// for the supervisor alone.
fn permits(meta: &Meta, granted: Rights, dirty: bool, spte: u64) -> bool {
    let user = spte & USER_BIT != 0;
    let writable = spte & WRITABLE != 0;
    let exec_ok = spte & NX != 0 || granted & EXEC != 0;
    let converted = !meta.role.wp() && !user;
    let write_ok = !writable || dirty && (granted & WRITE != 0 || converted);
    let user_ok = user == (granted & USER != 0) || converted;
    exec_ok && write_ok && user_ok
}
