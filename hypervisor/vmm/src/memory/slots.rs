//! Memory slots: which guest frames exist, and what backs them.

use alloc::vec::Vec;
use anchorite_addr::{Gfn, Gpa, Hfn, Hpa};
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

/// At most this many slots exist at a time.
pub const MAX_SLOTS: usize = 256;

/// Guest frames end here: four levels of nested tables translate 48 bits.
const END_OF_GUEST_FRAMES: u64 = 1 << 36;

/// A slot's name, chosen by whoever adds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u16);

/// A run of guest frames backed by a run of host frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memslot {
    /// Its name.
    pub id: SlotId,
    /// The first guest frame.
    pub first: Gfn,
    /// How many 4 KiB frames; not 0.
    pub frames: u64,
    /// The host frame behind `first`; the others follow it.
    pub host: Hfn,
    /// Guest writes do not reach memory (a ROM).
    pub read_only: bool,
}

impl Memslot {
    /// The frame after the last one. Both numbers stay below 2^36 once a slot was accepted.
    pub const fn end(&self) -> u64 {
        self.first.number() + self.frames
    }

    /// Whether `gfn` lies in the slot.
    #[inline]
    pub const fn contains(&self, gfn: Gfn) -> bool {
        gfn.number().wrapping_sub(self.first.number()) < self.frames
    }

    /// The host frame behind `gfn`, which lies in the slot.
    #[inline]
    pub const fn host_frame(&self, gfn: Gfn) -> Hfn {
        Hfn::new(self.host.number().wrapping_add(gfn.number().wrapping_sub(self.first.number())))
    }

    const fn overlaps(&self, other: &Self) -> bool {
        self.first.number() < other.end() && other.first.number() < self.end()
    }
}

/// What happened to a slot: the translation drops what it knew of the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotChange {
    /// It is new. Nothing can have been mapped there.
    Added(Memslot),
    /// It is gone.
    Deleted(Memslot),
    /// It lies elsewhere in guest-physical memory now; its host frames are the same.
    Moved {
        /// As it was.
        from: Memslot,
        /// As it is.
        to: Memslot,
    },
    /// Guest writes are permitted no longer, or again.
    RightsChanged(Memslot),
}

/// Why a slot was not added, moved or deleted. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// A slot needs at least one frame.
    Empty(SlotId),
    /// Guest frames beyond the 48 bits that nested tables translate.
    BeyondGuestSpace(Memslot),
    /// Host frames beyond 2^52 bytes, or memory that is not set aside for guests.
    BeyondHostMemory(Memslot),
    /// Another slot holds some of the frames.
    Overlap {
        /// The slot asked for.
        wanted: Memslot,
        /// The slot in its way.
        present: Memslot,
    },
    /// A slot of this name exists.
    Exists(SlotId),
    /// No slot of this name exists.
    Unknown(SlotId),
    /// [`MAX_SLOTS`] exist.
    TooMany,
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(id) => write!(f, "slot {}: 0 frames; a slot needs at least one", id.0),
            Self::BeyondGuestSpace(slot) => {
                write!(f, "slot {}: {:#x} frames from {:?} ", slot.id.0, slot.frames, slot.first)?;
                f.write_str("pass the end of guest-physical memory at 2^48")
            }
            Self::BeyondHostMemory(slot) => {
                write!(f, "slot {}: {:#x} frames from {:?} ", slot.id.0, slot.frames, slot.host)?;
                f.write_str("are not all host memory set aside for guests")
            }
            Self::Overlap { wanted, present } => {
                write!(f, "slot {}: {:#x} frames ", wanted.id.0, wanted.frames)?;
                write!(f, "from {:?} overlap slot {} ", wanted.first, present.id.0)?;
                write!(f, "({:#x} from {:?})", present.frames, present.first)
            }
            Self::Exists(id) => write!(f, "slot {} exists; delete it first", id.0),
            Self::Unknown(id) => write!(f, "there is no slot {}", id.0),
            Self::TooMany => write!(f, "there are {MAX_SLOTS} slots already; delete one first"),
        }
    }
}

/// All slots, sorted by guest frame, none overlapping.
#[derive(Debug, Default)]
pub struct Memslots {
    slots: Vec<Memslot>,
    /// Position of the slot found last. Only a hint: any value is right.
    last_hit: AtomicUsize,
    /// Moves with every change, so that whatever was derived from slots can be
    /// recognized as old.
    generation: u64,
}

impl Memslots {
    /// The slot that holds `gfn`.
    #[inline]
    pub fn find(&self, gfn: Gfn) -> Option<&Memslot> {
        match self.slots.get(self.last_hit.load(Ordering::Relaxed)) {
            Some(slot) if slot.contains(gfn) => Some(slot),
            _ => self.search(gfn),
        }
    }

    /// The slot named `id`.
    pub fn get(&self, id: SlotId) -> Option<&Memslot> {
        self.position(id).ok().map(|position| &self.slots[position])
    }

    /// All slots in the order of their guest frames.
    pub fn iter(&self) -> impl Iterator<Item = &Memslot> {
        self.slots.iter()
    }

    /// The host address behind `gpa`.
    #[inline]
    pub fn host_address(&self, gpa: Gpa) -> Option<Hpa> {
        let host = self.find(gpa.frame())?.host_frame(gpa.frame());
        Some(host.addr().wrapping_add(gpa.page_offset()))
    }

    /// Moves with every change of any slot.
    #[inline]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds `slot`. Whether its host frames may be used is for the caller to check.
    pub fn add(&mut self, slot: Memslot) -> Result<SlotChange, SlotError> {
        if self.position(slot.id).is_ok() {
            return Err(SlotError::Exists(slot.id));
        }
        if self.slots.len() == MAX_SLOTS {
            return Err(SlotError::TooMany);
        }
        self.check_place(&slot)?;

        self.insert(slot);
        Ok(SlotChange::Added(slot))
    }

    /// Deletes the slot named `id`.
    pub fn delete(&mut self, id: SlotId) -> Result<SlotChange, SlotError> {
        let position = self.position(id)?;
        Ok(SlotChange::Deleted(self.remove(position)))
    }

    /// Moves the slot named `id` so that it starts at `first`; it may overlap the
    /// place it leaves.
    pub fn move_to(&mut self, id: SlotId, first: Gfn) -> Result<SlotChange, SlotError> {
        let position = self.position(id)?;
        let from = self.slots[position];
        let to = Memslot { first, ..from };
        self.check_place(&to)?;

        self.remove(position);
        self.insert(to);
        Ok(SlotChange::Moved { from, to })
    }

    /// Forbids guest writes to the slot named `id`, or permits them.
    pub fn set_read_only(&mut self, id: SlotId, read_only: bool) -> Result<SlotChange, SlotError> {
        let position = self.position(id)?;
        self.generation += 1;
        let slot = &mut self.slots[position];
        slot.read_only = read_only;
        Ok(SlotChange::RightsChanged(*slot))
    }

    #[cold]
    fn search(&self, gfn: Gfn) -> Option<&Memslot> {
        let after = self.slots.partition_point(|slot| slot.first <= gfn);
        let position = after.checked_sub(1)?;
        let slot = self.slots.get(position).filter(|slot| slot.contains(gfn))?;
        self.last_hit.store(position, Ordering::Relaxed);
        Some(slot)
    }

    fn position(&self, id: SlotId) -> Result<usize, SlotError> {
        self.slots.iter().position(|slot| slot.id == id).ok_or(SlotError::Unknown(id))
    }

    fn check_place(&self, slot: &Memslot) -> Result<(), SlotError> {
        if slot.frames == 0 {
            return Err(SlotError::Empty(slot.id));
        }
        let last = slot.frames - 1;
        match slot.first.checked_add(last) {
            Some(last) if last.number() < END_OF_GUEST_FRAMES => {}
            _ => return Err(SlotError::BeyondGuestSpace(*slot)),
        }
        match slot.host.checked_add(last) {
            Some(last) if last.number() < 1 << 40 => {}
            _ => return Err(SlotError::BeyondHostMemory(*slot)),
        }

        let other = self.slots.iter().find(|other| other.id != slot.id && other.overlaps(slot));
        other.map_or(Ok(()), |present| Err(SlotError::Overlap { wanted: *slot, present: *present }))
    }

    fn insert(&mut self, slot: Memslot) {
        let position = self.slots.partition_point(|other| other.first < slot.first);
        self.slots.insert(position, slot);
        self.generation += 1;
    }

    fn remove(&mut self, position: usize) -> Memslot {
        self.generation += 1;
        self.slots.remove(position)
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
