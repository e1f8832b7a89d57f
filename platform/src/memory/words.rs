//! Which accesses lie in a range of memory: arithmetic alone.

use core::ops::Range;

/// Bytes of a word, the widest access that is checked as one.
pub(super) const WORD_BYTES: u64 = 8;

/// A physical range that consists of words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    start: u64,
    count: u64,
}

impl Words {
    /// The words of `range`.
    ///
    /// # Panics
    /// Where it does not consist of words: no access asks again.
    pub(super) const fn new(range: Range<u64>) -> Self {
        assert!(range.start <= range.end, "guest RAM ends before it starts");
        assert!((range.start | range.end) % WORD_BYTES == 0, "guest RAM is not words");
        Self { start: range.start, count: (range.end - range.start) / WORD_BYTES }
    }

    /// The first byte.
    pub(super) const fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes there are.
    #[inline]
    pub(super) const fn bytes(&self) -> u64 {
        self.count * WORD_BYTES
    }

    /// Whether the `bytes` bytes from `first` on lie inside.
    #[inline]
    pub(super) const fn contain(&self, first: u64, bytes: u64) -> bool {
        let (offset, size) = (first.wrapping_sub(self.start), self.bytes());
        offset <= size && bytes <= size - offset
    }

    /// Whether `at` is that of a whole unit of `BYTES` bytes, aligned to its size: a word, or a
    /// half, quarter or eighth of one. Such a unit lies inside if its first byte does.
    ///
    /// The offset is counted in units, with what is left over in the highest bits, where it
    /// exceeds every count: one comparison asks both.
    #[inline]
    pub(super) const fn contain_unit<const BYTES: u64>(&self, at: u64) -> bool {
        const { assert!(BYTES.is_power_of_two() && BYTES <= WORD_BYTES) };
        let offset = at.wrapping_sub(self.start);
        offset.rotate_right(BYTES.trailing_zeros()) < self.count * (WORD_BYTES / BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_one_that_is_aligned_and_inside() {
        let words = Words::new(0x10_0000..0x10_0040);
        assert_eq!((words.start(), words.bytes()), (0x10_0000, 0x40));
        let far = [0, 0x10_0000 | 1 << 40, 0x10_0000 | 1 << 63, u64::MAX - 7, u64::MAX];
        for at in (0xf_ffe0..0x10_0060).chain(far) {
            let is_unit = |bytes| words.contain(at, bytes) && at % bytes == 0;
            assert_eq!(words.contain_unit::<8>(at), is_unit(8), "{at:#x}");
            assert_eq!(words.contain_unit::<4>(at), is_unit(4), "{at:#x}");
            assert_eq!(words.contain_unit::<1>(at), is_unit(1), "{at:#x}");
        }
    }

    #[test]
    fn bytes_lie_inside_from_the_first_to_the_last() {
        let words = Words::new(0x1000..0x1010);
        for (first, bytes, inside) in [
            (0x1000, 0x10, true),
            (0x1000, 0x11, false),
            (0xfff, 1, false),
            (0x100f, 1, true),
            (0x1010, 0, true),
            (0x1010, 1, false),
            (0x1008, u64::MAX, false),
            (u64::MAX, 2, false),
        ] {
            assert_eq!(words.contain(first, bytes), inside, "{first:#x}, {bytes:#x}");
        }
        assert!(!Words::new(8..8).contain_unit::<8>(8), "there is no word");
    }
}
