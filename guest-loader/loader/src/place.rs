//! Who lies where: fixed blocks first, then the movable ones in the room that is left.

use alloc::string::String;
use alloc::vec::Vec;

use anchorite_addr::{Gpa, PAGE_BYTES};

use crate::ram::{GuestRam, MemoryRange, RangeKind};
use crate::{Placement, Problem};

/// Movable blocks start here at the lowest: below lie the real-mode interrupt table,
/// the BIOS data area, the usual boot sector and the usual trampolines of guests.
pub(crate) const LOWEST: u64 = 0x1_0000;
/// The end of the addresses that 32 bits can hold.
pub(crate) const FOUR_GIB: u64 = 1 << 32;
/// Movable blocks end here, so that the first address behind one fits into 32 bits too.
pub(crate) const NAMEABLE: u64 = FOUR_GIB - PAGE_BYTES;
/// Conventional memory ends here at the latest: 640 KiB less the extended BIOS data area.
pub(crate) const CONVENTIONAL_END: u64 = 0x9_fc00;

/// A movable block's wishes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Power of two that its address is a multiple of.
    pub(crate) align: u64,
    /// Its address is at least this, where that leaves any room.
    pub(crate) from: u64,
    /// Its last byte lies below this.
    pub(crate) limit: u64,
}

impl Room {
    /// For small structures: anywhere below 4 GiB, 16-byte aligned, low if possible.
    pub(crate) const STRUCTURE: Self = Self { align: 16, from: LOWEST, limit: NAMEABLE };
    /// For whole pages below 4 GiB.
    pub(crate) const PAGES: Self = Self { align: PAGE_BYTES, ..Self::STRUCTURE };
    /// For modules: page-aligned, above the first MiB if possible.
    pub(crate) const MODULE: Self = Self { from: 1 << 20, ..Self::PAGES };
}

/// Guest memory with a record of what lies in it.
pub(crate) struct Placer<'a, R> {
    ram: &'a mut R,
    /// In order of address.
    placements: Vec<Placement>,
}

impl<'a, R: GuestRam> Placer<'a, R> {
    pub(crate) fn new(ram: &'a mut R) -> Self {
        Self { ram, placements: Vec::new() }
    }

    /// What was placed, in order of address.
    pub(crate) fn finish(self) -> Vec<Placement> {
        self.placements
    }

    /// The guest's memory map.
    pub(crate) fn memory_map(&self) -> &[MemoryRange] {
        self.ram.memory_map()
    }

    /// Claims `bytes` bytes at `start` for `what`, without writing them.
    pub(crate) fn claim(
        &mut self,
        what: impl Into<String>,
        start: u64,
        bytes: u64,
    ) -> Result<(), Problem> {
        let what = what.into();
        if !self.is_ram(start, bytes) {
            return Err(Problem::OutsideRam { what, start, bytes });
        }
        if let Some(other) = self.conflict(start, bytes) {
            let other = other.what.clone();
            return Err(Problem::Overlap { what, start, bytes, other });
        }
        self.insert(what, start, bytes);
        Ok(())
    }

    /// Finds room for `bytes` bytes and claims it: the lowest place at or above
    /// `room.from`, or else the lowest of all.
    pub(crate) fn reserve(
        &mut self,
        what: impl Into<String>,
        bytes: u64,
        room: Room,
    ) -> Result<u64, Problem> {
        let what = what.into();
        let found = self.find(bytes, room).or_else(|| {
            let anywhere = Room { from: LOWEST.min(room.from), ..room };
            self.find(bytes, anywhere)
        });
        match found {
            Some(start) => {
                self.insert(what, start, bytes);
                Ok(start)
            }
            None => Err(Problem::NoRoom { what, bytes, limit: room.limit }),
        }
    }

    /// Claims room for `contents`, stores it there and gives its address.
    pub(crate) fn store(
        &mut self,
        what: impl Into<String>,
        contents: &[u8],
        room: Room,
    ) -> Result<u64, Problem> {
        let start = self.reserve(what, contents.len() as u64, room)?;
        self.write(start, contents)?;
        Ok(start)
    }

    /// Stores a text with a zero byte behind it and gives its address.
    pub(crate) fn store_text(&mut self, what: &'static str, text: &str) -> Result<u64, Problem> {
        if let Some(offset) = text.bytes().position(|byte| byte == 0) {
            return Err(Problem::TextWithZero { what, offset: offset as u64 });
        }
        let mut bytes = Vec::from(text);
        bytes.push(0);
        self.store(what, &bytes, Room::STRUCTURE)
    }

    /// Writes to a place that is already claimed.
    pub(crate) fn write(&mut self, start: u64, contents: &[u8]) -> Result<(), Problem> {
        Ok(self.ram.write(Gpa::new(start), contents)?)
    }

    /// Zeroes a place that is already claimed.
    pub(crate) fn zero(&mut self, start: u64, bytes: u64) -> Result<(), Problem> {
        Ok(self.ram.zero(Gpa::new(start), bytes)?)
    }

    /// Whether `bytes` bytes at `start` are RAM, possibly over several ranges that touch.
    fn is_ram(&self, start: u64, bytes: u64) -> bool {
        let Some(end) = start.checked_add(bytes) else { return false };
        let mut covered = start;
        for (low, high) in self.ram_ranges() {
            if low <= covered && covered < high {
                covered = high;
            }
        }
        covered >= end
    }

    /// The block that `bytes` bytes at `start` would run into.
    fn conflict(&self, start: u64, bytes: u64) -> Option<&Placement> {
        self.placements.iter().find(|other| {
            let low = other.start.as_u64();
            low < start.saturating_add(bytes) && start < low.saturating_add(other.bytes)
        })
    }

    fn find(&self, bytes: u64, room: Room) -> Option<u64> {
        self.ram_ranges().find_map(|(low, high)| {
            let end = high.min(room.limit);
            self.find_between(low.max(room.from), end, bytes, room.align)
        })
    }

    /// The lowest free place in one range of RAM: each step passes one block, so there
    /// are at most as many steps as blocks.
    fn find_between(&self, low: u64, high: u64, bytes: u64, align: u64) -> Option<u64> {
        let mut start = low.checked_next_multiple_of(align)?;
        while start.checked_add(bytes)? <= high {
            match self.conflict(start, bytes) {
                None => return Some(start),
                Some(other) => {
                    let behind = other.start.as_u64().checked_add(other.bytes)?;
                    start = behind.checked_next_multiple_of(align)?;
                }
            }
        }
        None
    }

    /// First byte and first byte behind it of each range of RAM.
    fn ram_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let ranges = self.ram.memory_map().iter().filter(|range| range.kind == RangeKind::Ram);
        ranges.map(|range| {
            let start = range.start.as_u64();
            (start, start.saturating_add(range.bytes))
        })
    }

    fn insert(&mut self, what: String, start: u64, bytes: u64) {
        let index = self.placements.partition_point(|other| other.start.as_u64() < start);
        self.placements.insert(index, Placement { what, start: Gpa::new(start), bytes });
    }
}
