//! A memory slot: where it lies on both sides, its heads, and its dirty log.

use anchorite_addr::{Gfn, Hfn};
use bitvec::order::Lsb0;
use bitvec::vec::BitVec;

use crate::heads::{HeadTable, Heads};
use crate::slots::SlotSpec;

/// A slot, its heads, and its dirty log.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) base: u64,
    pub(crate) pages: u64,
    pub(crate) host: u64,
    pub(crate) read_only: bool,
    /// Pages of older generations have no part in this slot's heads.
    pub(crate) born: u64,
    /// The slot is gone; its heads stay until no stale page hangs on them.
    pub(crate) died: Option<u64>,
    /// Frames written since the last harvest, where logging is on.
    pub(crate) log: Option<BitVec<u64, Lsb0>>,
    /// Reference of `heads[0]` in links.
    pub(crate) first_head: u32,
    /// The beginning of the first 2 MiB range, from which the heads count frames.
    pub(crate) first_frame: u64,
    /// Where the heads of 1 GiB ranges begin; those of 2 MiB ranges begin at 0.
    pub(crate) big: u32,
    pub(crate) heads: HeadTable,
}

impl Slot {
    #[inline]
    pub(crate) fn contains(&self, gfn: u64) -> bool {
        gfn.wrapping_sub(self.base) < self.pages
    }

    /// The host frame of a guest frame inside.
    #[inline]
    pub(crate) fn host_of(&self, gfn: u64) -> u64 {
        gfn.wrapping_sub(self.base).wrapping_add(self.host)
    }

    /// The heads of the range of size `level` around `gfn`; empty ones where none were made.
    #[inline]
    pub(crate) fn heads_of(&self, gfn: u64, level: u8) -> Heads {
        self.heads.get(self.position_of(gfn, level)).copied().unwrap_or_default()
    }

    /// The position of those heads; one beyond all where none were made.
    #[inline]
    fn position_of(&self, gfn: u64, level: u8) -> usize {
        match level {
            1 => self.heads.of_frame((gfn - self.first_frame) as usize),
            2 => ((gfn >> 9) - (self.base >> 9)) as usize,
            _ => self.big as usize + ((gfn >> 18) - (self.base >> 18)) as usize,
        }
    }

    /// The heads of frame `gfn`, made now if need be, and the reference to them in links.
    #[inline]
    pub(crate) fn frame_mut(&mut self, gfn: u64) -> Option<(u32, &mut Heads)> {
        let position = self.heads.made_for_frame((gfn - self.first_frame) as usize)?;
        let reference = self.reference(position);
        Some((reference, self.heads.get_mut(position)?))
    }

    /// As [`Self::frame_mut`], where they were made before.
    #[inline]
    pub(crate) fn made_frame_mut(&mut self, gfn: u64) -> Option<(u32, &mut Heads)> {
        let position = self.heads.of_frame((gfn - self.first_frame) as usize);
        let reference = self.reference(position);
        Some((reference, self.heads.get_mut(position)?))
    }

    /// As [`Self::frame_mut`], of the range of size `level` around `gfn`.
    #[inline]
    pub(crate) fn range_mut(&mut self, gfn: u64, level: u8) -> Option<(u32, &mut Heads)> {
        if level == 1 {
            return self.frame_mut(gfn);
        }
        let position = self.position_of(gfn, level);
        let reference = self.reference(position);
        Some((reference, self.heads.get_mut(position)?))
    }

    /// The range whose heads are at `position`: its level, and its first frame, which may lie
    /// before the slot's. The inverse of [`Self::position_of`].
    pub(crate) fn range_at(&self, position: usize) -> (u8, u64) {
        if let Some(frame) = self.heads.frame_at(position) {
            return (1, self.first_frame + frame as u64);
        }
        let (position, big) = (position as u64, u64::from(self.big));
        if position < big {
            (2, ((self.base >> 9) + position) << 9)
        } else {
            (3, ((self.base >> 18) + position - big) << 18)
        }
    }

    /// The heads that a link's `reference` means, if they are this slot's.
    #[inline]
    pub(crate) fn head_mut(&mut self, reference: u32) -> Option<&mut Heads> {
        self.heads.get_mut(reference.wrapping_sub(self.first_head) as usize)
    }

    /// Whether those are this slot's.
    #[inline]
    pub(crate) fn owns(&self, reference: u32) -> bool {
        self.heads.contains(reference.wrapping_sub(self.first_head) as usize)
    }

    /// The reference of a position.
    #[inline]
    pub(crate) fn reference(&self, position: usize) -> u32 {
        self.first_head + position as u32
    }

    /// Whether a page of `level` around `gfn` lies inside with equal alignment.
    #[inline]
    pub(crate) fn fits_large(&self, gfn: u64, level: u8) -> bool {
        let mask = (1u64 << (9 * u32::from(level - 1))) - 1;
        let first = gfn & !mask;
        first >= self.base
            && first + mask < self.base + self.pages
            && (self.base ^ self.host) & mask == 0
    }

    pub(crate) fn spec(&self) -> SlotSpec {
        SlotSpec {
            base: Gfn::new(self.base),
            pages: self.pages,
            host: Hfn::new(self.host),
            read_only: self.read_only,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::slots::{SlotId, Slots};

    /// It begins five frames before a range of 1 GiB, and ends five frames into another.
    const SPEC: SlotSpec = SlotSpec {
        base: Gfn::new((1 << 18) - 5),
        pages: (2 << 18) + 10,
        host: Hfn::new((7 << 18) - 5),
        read_only: false,
    };

    /// Slots of which the second is `spec`: so references and positions differ.
    fn added(spec: SlotSpec) -> (Slots, SlotId) {
        let mut slots = Slots::default();
        let first = SlotSpec { base: Gfn::new(0), pages: 1, ..spec };
        slots.insert(&first, 1).expect("room");
        let id = slots.insert(&spec, 1).expect("room");
        (slots, id)
    }

    #[test]
    fn every_range_has_heads_of_its_own_which_name_it() {
        let (mut slots, id) = added(SPEC);
        let slot = slots.get_mut(id).expect("it was added");
        let (base, last) = (slot.base, slot.base + slot.pages - 1);
        let big = (base >> 18..=last >> 18).map(|range| (3, range << 18));
        let large = (base >> 9..=last >> 9).map(|range| (2, range << 9));
        let frames = [base, base + 4, base + 5, 2 << 18, last].map(|frame| (1, frame));
        let ranges: Vec<(u8, u64)> = big.chain(large).chain(frames).collect();
        assert_eq!(ranges.len(), 4 + 1026 + 5);
        for (mark, &(level, first)) in (1..).zip(&ranges) {
            let gfn = first.max(base);
            assert_eq!(slot.heads_of(gfn, level).count.get(1), 0, "{level} {first:#x} is taken");
            let (reference, heads) = slot.range_mut(gfn, level).expect("inside");
            heads.count.set(1, mark);
            assert!(slot.owns(reference));
            assert_eq!(slot.head_mut(reference).map(|heads| heads.count.get(1)), Some(mark));
            let position = (reference - slot.first_head) as usize;
            assert_eq!(slot.range_at(position), (level, first));
            assert_eq!(slot.reference(position), reference);
        }
        for (mark, &(level, first)) in (1..).zip(&ranges) {
            let end = (first + (1 << (9 * u32::from(level - 1))) - 1).min(last);
            for gfn in [first.max(base), end] {
                assert_eq!(slot.heads_of(gfn, level).count.get(1), mark, "{level} {gfn:#x}");
            }
        }
        assert!(!slot.owns(slot.first_head - 1) && slot.head_mut(slot.first_head - 1).is_none());
    }

    #[test]
    fn a_page_is_large_only_inside_the_slot_and_where_both_sides_are_aligned() {
        let fits = |spec: SlotSpec, gfn: u64, level: u8| {
            let (slots, id) = added(spec);
            slots.get(id).expect("it was added").fits_large(gfn, level)
        };
        assert!(!fits(SPEC, (1 << 18) - 1, 2) && !fits(SPEC, 3 << 18, 2), "it ends before");
        assert!(!fits(SPEC, (1 << 18) - 1, 3) && !fits(SPEC, 3 << 18, 3), "it ends before");
        for gfn in [1 << 18, (1 << 18) + 511, (3 << 18) - 1] {
            assert!(fits(SPEC, gfn, 2) && fits(SPEC, gfn, 3), "{gfn:#x}");
        }
        let whole = SlotSpec { base: Gfn::new(512), pages: 512, host: Hfn::new(5 << 9), ..SPEC };
        assert!(fits(whole, 512, 2) && fits(whole, 1023, 2), "the page is the slot");
        assert!(!fits(SlotSpec { pages: 511, ..whole }, 512, 2));
        for skew in [1, 256] {
            let skewed = SlotSpec { host: Hfn::new((5 << 9) + skew), ..whole };
            assert!(!fits(skewed, 512, 2) && fits(skewed, 512, 1), "{skew}");
        }
    }

    #[test]
    fn a_slot_knows_its_frames_on_both_sides() {
        let (slots, id) = added(SPEC);
        let slot = slots.get(id).expect("it was added");
        let (base, host) = (SPEC.base.number(), SPEC.host.number());
        assert!(slot.contains(base) && slot.contains(base + SPEC.pages - 1));
        assert!(!slot.contains(base - 1) && !slot.contains(base + SPEC.pages) && !slot.contains(0));
        assert_eq!((slot.host_of(base), slot.host_of(base + 77)), (host, host + 77));
        assert_eq!(slot.spec(), SPEC);
    }
}
