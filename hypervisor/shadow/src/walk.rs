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

/// Deepest level of tables there is.
const LEVELS: usize = 6;

/// A completed, permitted walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// The frame of the table at each level.
    pub(crate) tables: [u64; LEVELS],
    /// The rights that the entries above the table at each level leave.
    pub(crate) above: [Rights; LEVELS],
    /// The entries read, by level, and where.
    entries: [u64; LEVELS],
    places: [Option<Hpa>; LEVELS],
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
        Self { gfn: (gva.as_u64() & 0xffff_ffff) >> 12, dirty: true, level: 2, ..Self::start(2) }
    }

    #[inline]
    fn start(top: u8) -> Self {
        Self {
            tables: [0; LEVELS],
            above: [ALL_RIGHTS; LEVELS],
            entries: [0; LEVELS],
            places: [None; LEVELS],
            level: 0,
            top,
            rights: ALL_RIGHTS,
            gfn: 0,
            dirty: false,
            key: 0,
        }
    }

    /// Where the 4 KiB entry was read.
    #[inline]
    pub(crate) fn leaf_place(&self) -> Option<Hpa> {
        self.places[1]
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

/// Walks the guest's tables for `access`. Reads guest memory, changes nothing.
///
/// A table outside every slot reads as zero, that is, as not present.
#[inline]
pub(crate) fn walk<F: GuestFormat, M: GuestMemory>(
    control: &Control,
    slots: &Slots,
    memory: &M,
    gva: Gva,
    access: Access,
) -> Result<Walk, PageFault> {
    let mut walk = Walk::start(F::LEVELS);
    let mut table = top_table::<F>(control, gva).ok_or_else(|| absent(control, gva, access))?;
    let mut level = F::LEVELS;
    loop {
        let slot = level as usize;
        let place = place_of::<F>(slots, table, gva, level);
        let entry = place.map_or(0, |place| F::read(memory, place));
        walk.tables[slot] = table;
        walk.above[slot] = walk.rights;
        walk.places[slot] = place;
        walk.entries[slot] = entry;
        if entry & PRESENT == 0 {
            return Err(absent(control, gva, access));
        }
        let large = entry & LARGE != 0 && control.large[slot];
        if entry & control.reserved[slot][usize::from(large)] != 0 {
            return Err(reserved(control, gva, access));
        }
        walk.rights &= rights(entry);
        table = (entry & F::ADDRESS) >> 12;
        if level == 1 || large {
            finish::<F>(&mut walk, level, gva);
            break;
        }
        level -= 1;
    }
    match forbidden(control, access, walk.rights, walk.key) {
        None => Ok(walk),
        Some(code) => Err(PageFault { code, cr2: gva }),
    }
}

/// The topmost table in memory, `None` where a PDPTE register is not present.
#[inline]
fn top_table<F: GuestFormat>(control: &Control, gva: Gva) -> Option<u64> {
    if !F::PDPTES {
        return Some(control.root);
    }
    let pdpte = control.pdptes[gva.as_u64() as usize >> 30 & 3];
    (pdpte & PRESENT != 0).then_some((pdpte & F::ADDRESS) >> 12)
}

#[inline]
fn place_of<F: GuestFormat>(slots: &Slots, table: u64, gva: Gva, level: u8) -> Option<Hpa> {
    let host = slots.at(table)?.host_of(table);
    let offset = F::index(gva, level) << F::ENTRY_SHIFT;
    Some(Hpa::new(host << 12 | offset))
}

#[inline]
fn finish<F: GuestFormat>(walk: &mut Walk, level: u8, gva: Gva) {
    let entry = walk.entries[level as usize];
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

#[cold]
fn absent(control: &Control, gva: Gva, access: Access) -> PageFault {
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
        let slot = level as usize;
        let entry = walk.entries[slot];
        let dirty = if write && level == walk.level { DIRTY } else { 0 };
        let wanted = entry | ACCESSED | dirty;
        if wanted != entry && !update::<F, M>(walk, slots, memory, level, wanted) {
            return false;
        }
    }
    walk.dirty |= write;
    true
}

fn update<F: GuestFormat, M: GuestMemory>(
    walk: &Walk,
    slots: &mut Slots,
    memory: &mut M,
    level: u8,
    wanted: u64,
) -> bool {
    let index = level as usize;
    let table = walk.tables[index];
    let (Some(place), Some(slot)) = (walk.places[index], slots.at_mut(table)) else {
        return true;
    };
    if slot.read_only {
        return true;
    }
    slot.mark_dirty(table);
    F::compare_exchange(memory, place, walk.entries[index], wanted)
}
