//! The guest's page walk, as the manuals describe it: our only source of #PF codes.
//!
//! Intel SDM vol. 3, 4.6 "Access Rights" and 4.7 "Page-Fault Exceptions" (revision 083).

use anchorite_addr::{Gpa, Gva, Hpa, PageSize};

use crate::access::{Access, ErrorCode, PageFault, Translation};
use crate::memory::GuestMemory;
use crate::paging::entry::{ACCESSED, DIRTY, KEY, LARGE, PRESENT, rights};
use crate::paging::{Control, GuestFormat};
use crate::role::{ALL_RIGHTS, EXEC, Rights, USER, WRITE};
use crate::slots::Slots;

/// Levels of tables there are, and one more: level 0 is none. A power of two, so that an
/// index below it needs no check.
const LEVELS: usize = 8;

/// Where a walk begins: at the top, or where the shadow leads already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) level: u8,
    /// The frame of the guest's table at that level.
    pub(crate) table: u64,
    /// The rights that the entries above leave.
    pub(crate) rights: Rights,
}

/// A walk: what was read on the way, and for a permitted one where it led.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// The frame of the table at each level.
    pub(crate) tables: [u64; LEVELS],
    /// The rights that the entries above the table at each level leave.
    pub(crate) above: [Rights; LEVELS],
    /// The entries read, by level, and where.
    entries: [u64; LEVELS],
    places: [u64; LEVELS],
    /// Level of the entry that maps the page.
    pub(crate) level: u8,
    top: u8,
    /// What all entries together grant.
    pub(crate) rights: Rights,
    /// The frame accessed.
    pub(crate) gfn: u64,
    /// Whether the mapping entry's D bit is set.
    pub(crate) dirty: bool,
    /// The protection key, in its place in an entry.
    pub(crate) key: u64,
}

impl Walk {
    /// The walk of a guest whose paging is off.
    pub(crate) fn direct(gva: Gva) -> Self {
        let start = Start { level: 2, table: 0, rights: ALL_RIGHTS };
        Self { gfn: (gva.as_u64() & 0xffff_ffff) >> 12, dirty: true, level: 2, ..Self::new(start) }
    }

    /// A walk about to begin.
    #[inline]
    pub(crate) fn new(start: Start) -> Self {
        let mut walk = Self {
            tables: [0; LEVELS],
            above: [ALL_RIGHTS; LEVELS],
            entries: [0; LEVELS],
            places: [0; LEVELS],
            level: 0,
            top: start.level,
            rights: start.rights,
            gfn: 0,
            dirty: false,
            key: 0,
        };
        walk.tables[start.level as usize % LEVELS] = start.table;
        walk.above[start.level as usize % LEVELS] = start.rights;
        walk
    }

    /// Goes back to where the walk began.
    pub(crate) fn restart(&mut self) {
        self.rights = self.above[self.top as usize % LEVELS];
    }

    /// The entry read at `level` with the bits that a permitted access sets.
    #[inline]
    fn marked(&self, level: u8, write: bool) -> u64 {
        let dirty = if write && level == self.level { DIRTY } else { 0 };
        self.entries[level as usize % LEVELS] | ACCESSED | dirty
    }

    /// The entries in which a permitted access sets bits: the table's frame, and the offset in
    /// it.
    pub(crate) fn marks(&self, write: bool) -> impl Iterator<Item = (u64, u32)> + '_ {
        (self.level..=self.top).filter_map(move |level| {
            let at = level as usize % LEVELS;
            let changes = self.marked(level, write) != self.entries[at];
            changes.then_some((self.tables[at], (self.places[at] & 0xfff) as u32))
        })
    }

    /// Where the 4 KiB entry was read.
    #[inline]
    pub(crate) fn leaf_place(&self) -> Hpa {
        Hpa::new(self.places[1])
    }

    /// The rights of a direct page below the large entry that the walk ended at.
    ///
    /// They are the entry's own, whatever the access was: CR0.WP = 0 lets a supervisor write
    /// what others may read only, and were that another page, an instruction that needs both
    /// kinds of access would make each replace the other without end.
    #[inline]
    pub(crate) const fn offered(&self) -> Rights {
        if self.dirty { self.rights } else { self.rights & !WRITE }
    }

    /// Where `gva` lands.
    pub(crate) fn translation(&self, gva: Gva, four_byte: bool) -> Translation {
        let size = match (self.level, four_byte) {
            (1, _) => PageSize::Size4K,
            (2, true) => PageSize::Size4M,
            (2, false) => PageSize::Size2M,
            _ => PageSize::Size1G,
        };
        Translation { gpa: self.gpa(gva), size }
    }

    /// The byte accessed.
    #[inline]
    pub(crate) fn gpa(&self, gva: Gva) -> Gpa {
        Gpa::new(self.gfn << 12 | gva.page_offset())
    }
}

/// Where a walk from the top begins; `None` where a PDPTE register is not present.
#[inline]
pub(crate) fn top<F: GuestFormat>(control: &Control, gva: Gva) -> Option<Start> {
    let mut table = control.root;
    if F::PDPTES {
        let pdpte = control.pdptes[gva.as_u64() as usize >> 30 & 3];
        if pdpte & PRESENT == 0 {
            return None;
        }
        table = (pdpte & F::ADDRESS) >> 12;
    }
    Some(Start { level: F::LEVELS, table, rights: ALL_RIGHTS })
}

/// Continues `walk` through the guest's tables for `access`. Reads guest memory, changes
/// none.
///
/// A table outside every slot reads as zero, that is, as not present.
#[inline]
pub(crate) fn go<F: GuestFormat, M: GuestMemory>(
    walk: &mut Walk,
    control: &Control,
    slots: &Slots,
    memory: &M,
    gva: Gva,
    access: Access,
) -> Result<(), PageFault> {
    let mut level = walk.top as usize % LEVELS;
    let mut table = walk.tables[level];
    loop {
        let Some(host) = slots.host_frame(table) else {
            return Err(absent(control, gva, access));
        };
        let place = host << 12 | F::index(gva, level as u8) << F::ENTRY_SHIFT;
        let entry = F::read(memory, Hpa::new(place));
        walk.tables[level] = table;
        walk.above[level] = walk.rights;
        walk.places[level] = place;
        walk.entries[level] = entry;
        if entry & PRESENT == 0 {
            return Err(absent(control, gva, access));
        }
        let large = entry & LARGE != 0 && control.large[level];
        if entry & control.reserved[level][usize::from(large)] != 0 {
            return Err(reserved(control, gva, access));
        }
        walk.rights &= rights(entry);
        if level <= 1 || large {
            finish::<F>(walk, level as u8, gva);
            break;
        }
        table = (entry & F::ADDRESS) >> 12;
        level -= 1;
    }
    match forbidden(control, access, walk.rights, walk.key) {
        None => Ok(()),
        Some(code) => Err(PageFault { code, cr2: gva }),
    }
}

/// A whole walk from the top.
pub(crate) fn walk<F: GuestFormat, M: GuestMemory>(
    control: &Control,
    slots: &Slots,
    memory: &M,
    gva: Gva,
    access: Access,
) -> Result<Walk, PageFault> {
    let start = top::<F>(control, gva).ok_or_else(|| absent(control, gva, access))?;
    let mut walk = Walk::new(start);
    go::<F, M>(&mut walk, control, slots, memory, gva, access)?;
    Ok(walk)
}

#[inline]
fn finish<F: GuestFormat>(walk: &mut Walk, level: u8, gva: Gva) {
    let entry = walk.entries[level as usize % LEVELS];
    walk.level = level;
    walk.dirty = entry & DIRTY != 0;
    walk.key = entry & KEY;
    walk.gfn = if level == 1 {
        (entry & F::ADDRESS) >> 12
    } else {
        let offset = gva.as_u64() >> 12 & ((1 << F::cover(level)) - 1);
        F::large_frame(entry, level) | offset
    };
}

/// The error code that forbids `access` to a page with `rights`, if one does.
#[inline]
pub(crate) fn forbidden(
    control: &Control,
    access: Access,
    rights: Rights,
    key: u64,
) -> Option<ErrorCode> {
    let user_page = rights & USER != 0;
    let key_fault = control.pke && user_page && key_forbids(control, access, key);
    let denied = if access.user && !user_page {
        true
    } else if access.is_fetch() {
        rights & EXEC == 0 || (!access.user && user_page && control.smep)
    } else {
        let shielded = !access.user && user_page && control.smap;
        let write = access.is_write() && rights & WRITE == 0 && (access.user || control.wp);
        write || shielded && (access.implicit || !access.ac)
    };
    if !denied && !key_fault {
        return None;
    }
    let mut code = base_code(control, access) | ErrorCode::PRESENT;
    code.set(ErrorCode::KEY, key_fault);
    Some(code)
}

/// Intel SDM vol. 3, 4.6.2 "Protection Keys".
fn key_forbids(control: &Control, access: Access, key: u64) -> bool {
    if access.is_fetch() {
        return false;
    }
    let bits = access.pkru >> (2 * (key >> 59)) & 3;
    let access_disabled = bits & 1 != 0;
    let write_disabled = bits & 2 != 0;
    access_disabled || write_disabled && access.is_write() && (access.user || control.wp)
}

#[inline]
fn base_code(control: &Control, access: Access) -> ErrorCode {
    let mut code = ErrorCode::empty();
    code.set(ErrorCode::WRITE, access.is_write());
    code.set(ErrorCode::USER, access.user);
    let fetch = access.is_fetch() && control.reports_fetch;
    code.set(ErrorCode::FETCH, fetch);
    code
}

/// What a missing entry, or a missing table, answers to `access`.
pub(crate) fn absent(control: &Control, gva: Gva, access: Access) -> PageFault {
    PageFault { code: base_code(control, access), cr2: gva }
}

#[cold]
fn reserved(control: &Control, gva: Gva, access: Access) -> PageFault {
    let flags = ErrorCode::PRESENT | ErrorCode::RESERVED;
    PageFault { code: base_code(control, access) | flags, cr2: gva }
}

/// Sets A in every entry of a permitted walk, and D in the last for a write. Returns
/// `false` where an entry changed since it was read: walk again.
///
/// A table in a read-only slot keeps its bits, as a ROM does. The writes are logged:
/// they dirty the tables' frames.
#[inline]
pub(crate) fn set_accessed_dirty<F: GuestFormat, M: GuestMemory>(
    walk: &mut Walk,
    slots: &mut Slots,
    memory: &mut M,
    write: bool,
) -> bool {
    for level in (walk.level..=walk.top).rev() {
        let entry = walk.entries[level as usize % LEVELS];
        let wanted = walk.marked(level, write);
        if wanted != entry && !update::<F, M>(walk, slots, memory, level, wanted) {
            return false;
        }
    }
    walk.dirty |= write;
    true
}

#[inline]
fn update<F: GuestFormat, M: GuestMemory>(
    walk: &Walk,
    slots: &mut Slots,
    memory: &mut M,
    level: u8,
    wanted: u64,
) -> bool {
    let index = level as usize % LEVELS;
    let table = walk.tables[index];
    let Some(slot) = slots.at_mut(table) else {
        return true;
    };
    if slot.read_only {
        return true;
    }
    slot.mark_dirty(table);
    F::compare_exchange(memory, Hpa::new(walk.places[index]), walk.entries[index], wanted)
}
