//! The heads of a slot's frames and large ranges, made as they are needed.

use alloc::vec::Vec;

use crate::generation::Head;
use crate::slots::SlotError;

/// The heads of a guest frame, or of a large range.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heads {
    /// First node of the list of sptes that map this range at this size.
    pub(crate) rmap: Head,
    /// 4 KiB: shadow pages in step with the table in this frame, which therefore must not
    /// be writable. Larger: shadow pages of tables inside the range, which therefore must
    /// not be mapped large.
    pub(crate) count: Head,
}

impl Heads {
    /// Counts one more. Returns whether it is the first, and something maps the range.
    #[inline]
    pub(crate) fn begin_count(&mut self, tag: u32) -> bool {
        let count = self.count.get(tag);
        self.count.set(tag, count.saturating_add(1));
        count == 0 && self.rmap.get(tag) != 0
    }
}

/// The heads of a slot: of its 4 KiB frames, and of the 2 MiB and 1 GiB ranges it touches.
///
/// Those of frames are made by the 2 MiB range when the first is needed, in memory that was
/// reserved with the slot: the heads of memory that is never mapped cost nothing.
///
/// Positions, by which links refer to heads, do not depend on what was made: first the frames,
/// from the beginning of the first range on, then the 2 MiB ranges, then those of 1 GiB.
#[derive(Debug)]
pub(crate) struct HeadTable {
    /// By 2 MiB range: where in `small` its heads begin, or [`NOT_MADE`].
    parts: Vec<u32>,
    small: Vec<Heads>,
    large: Vec<Heads>,
}

/// Frames of a 2 MiB range.
pub(crate) const PART: usize = 512;
/// Beyond all heads there can be.
const NOT_MADE: u32 = 1 << 31;

impl HeadTable {
    /// No heads yet for `parts` ranges of 2 MiB, and for `large` ranges in all.
    pub(crate) fn new(parts: usize, large: usize) -> Result<Self, SlotError> {
        let mut heads = Self { parts: Vec::new(), small: Vec::new(), large: Vec::new() };
        let room = heads
            .parts
            .try_reserve_exact(parts)
            .and_then(|()| heads.small.try_reserve_exact(parts * PART))
            .and_then(|()| heads.large.try_reserve_exact(large));
        room.map_err(|_| SlotError::OutOfMemory)?;
        heads.parts.resize(parts, NOT_MADE);
        heads.large.resize(large, Heads::default());
        Ok(heads)
    }

    /// Positions there are.
    pub(crate) fn len(&self) -> usize {
        self.frames() + self.large.len()
    }

    /// Positions of frames.
    #[inline]
    fn frames(&self) -> usize {
        self.parts.len() * PART
    }

    /// The heads at `position`; empty ones where none were made.
    #[inline]
    pub(crate) fn get(&self, position: usize) -> Heads {
        let heads = match self.parts.get(position / PART) {
            Some(start) => self.small.get(*start as usize + position % PART),
            None => self.large.get(position - self.frames()),
        };
        heads.copied().unwrap_or_default()
    }

    /// The positions that hold anything under `tag`, with their heads; for the audit.
    pub(crate) fn used(&self, tag: u32) -> impl Iterator<Item = (usize, Heads)> + '_ {
        let made = self.parts.iter().enumerate().filter(|(_, start)| **start != NOT_MADE);
        let small = made.flat_map(|(part, start)| {
            let heads = self.small.iter().skip(*start as usize).take(PART);
            heads.enumerate().map(move |(at, heads)| (part * PART + at, *heads))
        });
        let frames = self.frames();
        let large = self.large.iter().enumerate().map(move |(at, heads)| (frames + at, *heads));
        let is_used = move |heads: &Heads| (heads.rmap.get(tag) | heads.count.get(tag)) != 0;
        small.chain(large).filter(move |(_, heads)| is_used(heads))
    }

    /// The heads at `position`, which are made now if need be.
    #[inline]
    pub(crate) fn get_mut(&mut self, position: usize) -> Option<&mut Heads> {
        if position >= self.frames() {
            return self.range_mut(position);
        }
        self.frame_mut(position)
    }

    /// The heads of the frame at `position`, which are made now if need be.
    #[inline]
    pub(crate) fn frame_mut(&mut self, position: usize) -> Option<&mut Heads> {
        let at = self.frame_position(position)?;
        self.small.get_mut(at)
    }

    /// The heads of the large range at `position`.
    #[inline]
    pub(crate) fn range_mut(&mut self, position: usize) -> Option<&mut Heads> {
        let frames = self.frames();
        self.large.get_mut(position.wrapping_sub(frames))
    }

    /// Where in `small` the heads of the frame at `position` are.
    #[inline]
    fn frame_position(&mut self, position: usize) -> Option<usize> {
        let at = *self.parts.get(position / PART)? as usize + position % PART;
        if at < self.small.len() { Some(at) } else { self.make(position) }
    }

    /// Makes the heads of the 2 MiB range around the frame at `position`.
    #[cold]
    fn make(&mut self, position: usize) -> Option<usize> {
        let start = self.small.len();
        if start + PART > self.small.capacity() {
            return None;
        }
        self.small.resize(start + PART, Heads::default());
        *self.parts.get_mut(position / PART)? = start as u32;
        Some(start + position % PART)
    }

    /// Empties all. Returns how many there were.
    pub(crate) fn clear(&mut self) -> usize {
        self.small.fill(Heads::default());
        self.large.fill(Heads::default());
        self.small.len() + self.large.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_made_by_the_range_and_keep_their_positions() {
        let mut table = HeadTable::new(3, 4).expect("room");
        assert_eq!(table.len(), 3 * PART + 4);
        for position in [2 * PART + 7, 5, 3 * PART, 3 * PART + 3] {
            assert_eq!(table.get(position).rmap.get(0), 0);
            table.get_mut(position).expect("inside").rmap.set(0, position as u32);
        }
        for position in [2 * PART + 7, 5, 3 * PART, 3 * PART + 3] {
            assert_eq!(table.get(position).rmap.get(0), position as u32);
        }
        assert_eq!(table.small.len(), 2 * PART, "the range in the middle was not made");
        assert!(table.get_mut(3 * PART + 4).is_none());
        let used: Vec<usize> = table.used(0).map(|(position, _)| position).collect();
        assert_eq!(used, [5, 2 * PART + 7, 3 * PART, 3 * PART + 3]);
        assert_eq!(table.used(1).count(), 0);
        assert_eq!(table.clear(), 2 * PART + 4);
        assert_eq!(table.get(5).rmap.get(0), 0);
    }
}
