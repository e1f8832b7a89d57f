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
        self.count.increment(tag) == 0 && self.rmap.get(tag) != 0
    }
}

/// The heads of a slot: of its 4 KiB frames, and of the 2 MiB and 1 GiB ranges it touches.
///
/// Those of frames are made by the 2 MiB range when the first is needed, in memory that was
/// reserved with the slot: the heads of memory that is never mapped cost nothing.
///
/// A position, by which links refer to heads, is a place in one array: whoever unlinks a node
/// looks nothing up. Large ranges come first, then the frames in the order in which their
/// ranges were made. Nothing made is ever moved.
#[derive(Debug)]
pub(crate) struct HeadTable {
    /// By 2 MiB range: the position of its first frame, or [`NOT_MADE`].
    parts: Vec<u32>,
    heads: Vec<Heads>,
    /// The 2 MiB ranges whose frames have heads, in the order of these.
    made: Vec<u32>,
    /// Large ranges.
    large: usize,
}

/// Frames of a 2 MiB range.
pub(crate) const PART: usize = 512;
/// Beyond all heads there can be.
const NOT_MADE: u32 = 1 << 31;

impl HeadTable {
    /// No heads of frames yet, for `parts` ranges of 2 MiB, and those of `large` ranges in all.
    pub(crate) fn new(parts: usize, large: usize) -> Result<Self, SlotError> {
        let mut table = Self { parts: Vec::new(), heads: Vec::new(), made: Vec::new(), large };
        let room = table
            .parts
            .try_reserve_exact(parts)
            .and_then(|()| table.heads.try_reserve_exact(large + parts * PART))
            .and_then(|()| table.made.try_reserve_exact(parts));
        room.map_err(|_| SlotError::OutOfMemory)?;
        table.parts.resize(parts, NOT_MADE);
        table.heads.resize(large, Heads::default());
        Ok(table)
    }

    /// Positions there can be.
    pub(crate) fn len(&self) -> usize {
        self.large + self.parts.len() * PART
    }

    /// Whether `position` is that of heads that were made.
    #[inline]
    pub(crate) fn contains(&self, position: usize) -> bool {
        position < self.heads.len()
    }

    /// The heads at `position`, where some were made.
    #[inline]
    pub(crate) fn get(&self, position: usize) -> Option<&Heads> {
        self.heads.get(position)
    }

    /// The heads at `position`, where some were made.
    #[inline]
    pub(crate) fn get_mut(&mut self, position: usize) -> Option<&mut Heads> {
        self.heads.get_mut(position)
    }

    /// The position of frame `frame`, counted from the beginning of the first range; one beyond
    /// all heads where none were made.
    #[inline]
    pub(crate) fn of_frame(&self, frame: usize) -> usize {
        let start = self.parts.get(frame / PART).copied().unwrap_or(NOT_MADE);
        start as usize + frame % PART
    }

    /// The position of frame `frame`, whose heads are made now if need be.
    #[inline]
    pub(crate) fn made_for_frame(&mut self, frame: usize) -> Option<usize> {
        let position = self.of_frame(frame);
        if self.contains(position) { Some(position) } else { self.make(frame) }
    }

    /// Makes the heads of the 2 MiB range around frame `frame`.
    #[cold]
    fn make(&mut self, frame: usize) -> Option<usize> {
        let start = self.heads.len();
        if start + PART > self.heads.capacity() {
            return None;
        }
        let part = frame / PART;
        *self.parts.get_mut(part)? = start as u32;
        self.heads.resize(start + PART, Heads::default());
        self.made.push(part as u32);
        Some(start + frame % PART)
    }

    /// The frame at `position`, the inverse of [`Self::of_frame`]; `None` for a large range.
    pub(crate) fn frame_at(&self, position: usize) -> Option<usize> {
        let offset = position.checked_sub(self.large)?;
        let part = *self.made.get(offset / PART)?;
        Some(part as usize * PART + offset % PART)
    }

    /// The positions that hold anything under `tag`, with their heads; for the audit.
    pub(crate) fn used(&self, tag: u32) -> impl Iterator<Item = (usize, Heads)> + '_ {
        let all = self.heads.iter().copied().enumerate();
        all.filter(move |(_, heads)| (heads.rmap.get(tag) | heads.count.get(tag)) != 0)
    }

    /// Empties all. Returns how many there were.
    pub(crate) fn clear(&mut self) -> usize {
        self.heads.fill(Heads::default());
        self.heads.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_count_of_a_mapped_range_says_so() {
        let mut heads = Heads::default();
        assert!(!heads.begin_count(1), "nothing maps it");
        heads.rmap.set(2, 9);
        assert!(heads.begin_count(2), "the count of another tag is none");
        assert!(!heads.begin_count(2), "the second");
        assert_eq!((heads.count.get(2), heads.rmap.get(2)), (2, 9));
        assert!(!heads.begin_count(3), "the mapping is of another tag");
    }

    #[test]
    fn heads_are_made_by_the_range_and_keep_their_positions() {
        let mut table = HeadTable::new(3, 4).expect("room");
        assert_eq!(table.len(), 3 * PART + 4);
        let frames = [2 * PART + 7, 5, 2 * PART + 8];
        for frame in frames {
            let position = table.of_frame(frame);
            let known = table.contains(position);
            assert_eq!(table.made_for_frame(frame).filter(|_| known), known.then_some(position));
            let position = table.of_frame(frame);
            table.get_mut(position).expect("made").rmap.set(0, frame as u32);
        }
        for (frame, position) in frames.into_iter().zip([4 + 7, 4 + PART + 5, 4 + 8]) {
            assert_eq!((table.of_frame(frame), table.frame_at(position)), (position, Some(frame)));
            assert_eq!(table.get(position).map(|heads| heads.rmap.get(0)), Some(frame as u32));
        }
        assert!(!table.contains(table.of_frame(PART)), "the range in the middle was not made");
        assert!(
            !table.contains(table.of_frame(3 * PART)) && table.made_for_frame(3 * PART).is_none()
        );
        assert_eq!(table.frame_at(3), None);
        table.get_mut(3).expect("a large range").count.set(0, 1);
        // Both heads of one frame hold the same.
        table.get_mut(4 + 8).expect("made").count.set(0, frames[2] as u32);
        let used: Vec<usize> = table.used(0).map(|(position, _)| position).collect();
        assert_eq!(used, [3, 4 + 7, 4 + 8, 4 + PART + 5]);
        assert_eq!(table.used(1).count(), 0);
        assert_eq!(table.clear(), 2 * PART + 4);
        assert_eq!(table.used(0).count(), 0);
    }
}
