//! Memory slots: which guest frames exist, and where they lie in the host.

use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;

use anchorite_addr::{Gfn, Hfn};

use crate::heads::{HeadTable, Heads, PART};
use crate::slot::Slot;

/// A slot of one engine; made by `add_slot`. Numbers of deleted slots are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub(crate) u16);

/// Guest memory that is contiguous on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSpec {
    /// First guest frame.
    pub base: Gfn,
    /// Size in 4 KiB frames.
    pub pages: u64,
    /// First host frame. Large shadow entries need the same alignment on both sides.
    pub host: Hfn,
    /// Whether guest writes are refused (`FaultOutcome::ReadOnly`).
    pub read_only: bool,
}

/// Why a slot operation was refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// No slot has this number.
    Unknown(SlotId),
    /// A slot without pages.
    Empty,
    /// Guest or host range passes the physical address width.
    OutOfRange {
        /// The slot asked for.
        spec: SlotSpec,
    },
    /// The range is taken.
    Overlap {
        /// By this slot.
        with: SlotId,
    },
    /// More slots, or more pages in all slots together, than the engine can number.
    TooMany,
    /// The heap has no room for the slot's heads.
    OutOfMemory,
    /// The slot's dirty log is not running.
    NotLogging(SlotId),
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(id) => write!(f, "there is no slot {}", id.0),
            Self::Empty => write!(f, "a slot needs at least one page"),
            Self::OutOfRange { spec } => write!(
                f,
                "slot of {} pages at {:?} (host {:?}) passes the physical address width",
                spec.pages, spec.base, spec.host
            ),
            Self::Overlap { with } => write!(f, "the range overlaps slot {}", with.0),
            Self::TooMany => write!(f, "too many slots or pages; delete a slot first"),
            Self::OutOfMemory => write!(f, "the heap has no room for the slot's heads"),
            Self::NotLogging(id) => {
                write!(f, "slot {} is not logged; start its dirty log first", id.0)
            }
        }
    }
}

impl core::error::Error for SlotError {}

/// Whether `gfn` is the first frame, in a slot that begins at `base`, of a range of size
/// `level`.
#[inline]
pub(crate) fn begins_range(base: u64, gfn: u64, level: u8) -> bool {
    let mask = (1u64 << (9 * u32::from(level - 1))) - 1;
    gfn == base || gfn & mask == 0
}

/// All slots.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    by_number: Vec<Option<Slot>>,
    /// Live slots by base.
    order: Vec<u16>,
    /// Whether no slot is read-only or logged.
    plain: bool,
    /// Whether all slots are equally far from their host memory.
    same_distance: bool,
    /// The slot found last: most lookups hit it again.
    hot: Cell<Hot>,
}

/// A slot's memory in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// Where it begins for the guest.
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    /// From a guest-physical address to the host-physical one, modulo 2^64.
    pub(crate) distance: u64,
    /// Whether all slots lie at this distance: then what is this far from host memory of any
    /// slot is guest memory, and need not be compared with the range.
    pub(crate) is_sole: bool,
}

/// What a lookup needs of the slot found last.
#[derive(Clone, Copy, Debug, Default)]
struct Hot {
    base: u64,
    /// 0 where no slot is remembered.
    pages: u64,
    host: u64,
    number: usize,
}

impl Slots {
    /// The number of the live slot that holds `gfn`.
    #[inline]
    pub(crate) fn find(&self, gfn: u64) -> Option<usize> {
        let hot = self.hot.get();
        if gfn.wrapping_sub(hot.base) < hot.pages {
            return Some(hot.number);
        }
        self.find_slowly(gfn)
    }

    /// The host frame of a guest frame.
    #[inline]
    pub(crate) fn host_frame(&self, gfn: u64) -> Option<u64> {
        let hot = self.hot.get();
        let offset = gfn.wrapping_sub(hot.base);
        if offset < hot.pages {
            return Some(hot.host.wrapping_add(offset));
        }
        self.find_slowly(gfn)?;
        Some(self.at(gfn)?.host_of(gfn))
    }

    /// The memory of the slot found last.
    pub(crate) fn hot_range(&self) -> Range {
        let hot = self.hot.get();
        let distance = hot.host.wrapping_sub(hot.base) << 12;
        let is_sole = self.same_distance;
        Range { base: hot.base << 12, bytes: hot.pages << 12, distance, is_sole }
    }

    #[cold]
    fn find_slowly(&self, gfn: u64) -> Option<usize> {
        let after = self
            .order
            .partition_point(|number| self.base_of(*number).is_some_and(|base| base <= gfn));
        let number = *self.order.get(after.checked_sub(1)?)?;
        let slot = self.by_number.get(usize::from(number))?.as_ref()?;
        if !slot.contains(gfn) {
            return None;
        }
        self.hot.set(Hot {
            base: slot.base,
            pages: slot.pages,
            host: slot.host,
            number: usize::from(number),
        });
        Some(usize::from(number))
    }

    fn base_of(&self, number: u16) -> Option<u64> {
        Some(self.by_number.get(usize::from(number))?.as_ref()?.base)
    }

    /// The live slot that holds `gfn`.
    #[inline]
    pub(crate) fn at(&self, gfn: u64) -> Option<&Slot> {
        self.by_number.get(self.find(gfn)?)?.as_ref()
    }

    /// The live slot that holds `gfn`.
    #[inline]
    pub(crate) fn at_mut(&mut self, gfn: u64) -> Option<&mut Slot> {
        let number = self.find(gfn)?;
        self.by_number.get_mut(number)?.as_mut()
    }

    /// The live slot with this number.
    pub(crate) fn get(&self, id: SlotId) -> Result<&Slot, SlotError> {
        match self.by_number.get(usize::from(id.0)) {
            Some(Some(slot)) if slot.died.is_none() => Ok(slot),
            _ => Err(SlotError::Unknown(id)),
        }
    }

    /// The live slot with this number.
    pub(crate) fn get_mut(&mut self, id: SlotId) -> Result<&mut Slot, SlotError> {
        match self.by_number.get_mut(usize::from(id.0)) {
            Some(Some(slot)) if slot.died.is_none() => Ok(slot),
            _ => Err(SlotError::Unknown(id)),
        }
    }

    /// The heads that a link refers to, dead slots' included.
    #[inline]
    pub(crate) fn head_mut(&mut self, reference: u32) -> Option<&mut Heads> {
        let is_in = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.owns(reference));
        let mut number = self.hot.get().number;
        if !self.by_number.get(number).is_some_and(is_in) {
            number = self.by_number.iter().position(is_in)?;
        }
        self.by_number.get_mut(number)?.as_mut()?.head_mut(reference)
    }

    /// The same where they are those of the slot found last.
    #[inline]
    pub(crate) fn last_head_mut(&mut self, reference: u32) -> Option<&mut Heads> {
        self.last()?.head_mut(reference)
    }

    /// The slot found last, dead or alive.
    #[inline]
    pub(crate) fn last(&mut self) -> Option<&mut Slot> {
        self.by_number.get_mut(self.hot.get().number)?.as_mut()
    }

    /// Whether every slot may be written, and no write needs logging.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// To be called after a slot's `read_only` or `log` changed.
    pub(crate) fn note_change(&mut self) {
        let special = |(_, slot): (SlotId, &Slot)| slot.read_only || slot.log.is_some();
        let any = self.iter().any(special);
        self.plain = !any;
    }

    /// All slots that have heads.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotId, &Slot)> + '_ {
        let numbered = self.by_number.iter().enumerate();
        numbered.filter_map(|(number, slot)| Some((SlotId(number as u16), slot.as_ref()?)))
    }

    // ---- changes -------------------------------------------------------------

    /// Refuses a slot that passes `physical_bits` or meets another one than `except`.
    pub(crate) fn check(
        &self,
        spec: &SlotSpec,
        physical_bits: u8,
        except: Option<SlotId>,
    ) -> Result<(), SlotError> {
        if spec.pages == 0 {
            return Err(SlotError::Empty);
        }
        let ends_within = |start: u64, bits: u8| {
            let end = start.checked_add(spec.pages);
            end.is_some_and(|end| end <= 1 << (bits - 12))
        };
        if !ends_within(spec.base.number(), physical_bits) || !ends_within(spec.host.number(), 52) {
            return Err(SlotError::OutOfRange { spec: *spec });
        }
        let base = spec.base.number();
        let meets = |slot: &Slot| base < slot.base + slot.pages && slot.base < base + spec.pages;
        let mut live = self.iter().filter(|(_, slot)| slot.died.is_none());
        match live.find(|(id, slot)| Some(*id) != except && meets(slot)) {
            Some((with, _)) => Err(SlotError::Overlap { with }),
            None => Ok(()),
        }
    }

    /// Adds a checked slot.
    pub(crate) fn insert(&mut self, spec: &SlotSpec, born: u64) -> Result<SlotId, SlotError> {
        let slot = self.make(spec, born)?;
        let vacant = self.by_number.iter().position(Option::is_none);
        let number = vacant.unwrap_or(self.by_number.len());
        let id = SlotId(u16::try_from(number).map_err(|_| SlotError::TooMany)?);
        self.order.try_reserve(1).map_err(|_| SlotError::OutOfMemory)?;
        if vacant.is_none() {
            self.by_number.try_reserve(1).map_err(|_| SlotError::OutOfMemory)?;
            self.by_number.push(None);
        }
        self.by_number[number] = Some(slot);
        self.reorder();
        Ok(id)
    }

    /// A slot with fresh heads, numbered in the first gap that is large enough.
    fn make(&self, spec: &SlotSpec, born: u64) -> Result<Slot, SlotError> {
        let base = spec.base.number();
        let last = base + spec.pages - 1;
        let ranges = |shift: u32| (last >> shift) - (base >> shift) + 1;
        let (mid, big) = (ranges(9), ranges(18));
        let frames = mid * PART as u64;
        let total = u32::try_from(frames + mid + big).map_err(|_| SlotError::TooMany)?;
        let first_head = self.head_gap(total).ok_or(SlotError::TooMany)?;
        let heads = HeadTable::new(mid as usize, (mid + big) as usize)?;
        Ok(Slot {
            base,
            pages: spec.pages,
            host: spec.host.number(),
            read_only: spec.read_only,
            born,
            died: None,
            log: None,
            first_head,
            first_frame: base & !(PART as u64 - 1),
            big: mid as u32,
            heads,
        })
    }

    /// The lowest reference from which `count` are unused.
    fn head_gap(&self, count: u32) -> Option<u32> {
        let mut start = 0u32;
        loop {
            let end = start.checked_add(count).filter(|end| *end < 1 << 31)?;
            let clash = self.iter().find(|(_, slot)| {
                start < slot.first_head + slot.heads.len() as u32 && slot.first_head < end
            });
            match clash {
                Some((_, slot)) => start = slot.first_head + slot.heads.len() as u32,
                None => return Some(start),
            }
        }
    }

    /// Works out the order again; its capacity is there. Slots are few, and change seldom.
    fn reorder(&mut self) {
        self.order.clear();
        for number in 0..self.by_number.len() as u16 {
            let live = self.by_number[usize::from(number)].as_ref().filter(|s| s.died.is_none());
            let Some(base) = live.map(|slot| slot.base) else { continue };
            let before = |other: &u16| self.base_of(*other).is_some_and(|other| other < base);
            self.order.insert(self.order.partition_point(before), number);
        }
        let distance = |number: &u16| {
            let slot = self.by_number[usize::from(*number)].as_ref();
            slot.map(|slot| slot.host.wrapping_sub(slot.base))
        };
        self.same_distance = self.order.iter().all(|other| {
            let first = self.order.first().and_then(distance);
            distance(other) == first
        });
        self.hot.set(Hot::default());
        self.note_change();
    }

    /// Removes a slot at once, heads and all: nothing refers to them any more.
    pub(crate) fn remove(&mut self, id: SlotId) {
        self.by_number[usize::from(id.0)] = None;
        self.reorder();
    }

    /// Removes a slot whose heads are still linked to pages of generations before `now`.
    pub(crate) fn bury(&mut self, id: SlotId, now: u64) {
        if let Some(slot) = self.by_number[usize::from(id.0)].as_mut() {
            slot.died = Some(now);
            slot.log = None;
        }
        self.reorder();
    }

    /// Forgets dead slots on whose heads no page can hang: the oldest page left is of
    /// generation `oldest`. Returns how many dead slots remain.
    pub(crate) fn forget_dead(&mut self, oldest: u64) -> usize {
        for slot in &mut self.by_number {
            let died = slot.as_ref().and_then(|slot| slot.died);
            if died.is_some_and(|died| oldest >= died) {
                *slot = None;
            }
        }
        self.iter().filter(|(_, slot)| slot.died.is_some()).count()
    }

    /// Empties every head: the tag is about to wrap. Returns how many heads.
    pub(crate) fn rebase(&mut self) -> u64 {
        let mut count = 0;
        for slot in self.by_number.iter_mut().flatten() {
            count += slot.heads.clear() as u64;
        }
        count
    }
}

impl Slots {
    /// Gives a slot another base, with fresh heads. Nothing refers to the old ones.
    pub(crate) fn relocate(
        &mut self,
        id: SlotId,
        spec: &SlotSpec,
        born: u64,
    ) -> Result<(), SlotError> {
        let mut fresh = self.make(spec, born)?;
        let slot = self.get_mut(id)?;
        fresh.log = slot.log.take();
        *slot = fresh;
        self.reorder();
        Ok(())
    }
}
