//! Which accesses lie in a range of memory: arithmetic alone.

use core::ops::Range;

/// Bytes of a line, the most that is checked as one.
const LINE_BYTES: u64 = 64;
/// Bytes of a word, what most accesses ask for.
const WORD_BYTES: u64 = 8;

/// A physical range that consists of lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    start: u64,
    words: u64,
}

impl Lines {
    /// The lines of `range`.
    ///
    /// # Panics
    /// Where it does not consist of lines: no access asks again.
    pub(super) const fn new(range: Range<u64>) -> Self {
        assert!(range.start <= range.end, "guest RAM ends before it starts");
        assert!((range.start | range.end) % LINE_BYTES == 0, "guest RAM is not lines");
        Self { start: range.start, words: (range.end - range.start) / WORD_BYTES }
    }

    /// The first byte.
    pub(super) const fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes there are.
    #[inline]
    pub(super) const fn bytes(&self) -> u64 {
        self.words * WORD_BYTES
    }

    /// Whether the `bytes` bytes from `first` on lie inside.
    #[inline]
    pub(super) const fn contain(&self, first: u64, bytes: u64) -> bool {
        let (offset, size) = (first.wrapping_sub(self.start), self.bytes());
        offset <= size && bytes <= size - offset
    }

    /// Whether `at` is that of a whole unit of `BYTES` bytes, aligned to its size: a line, or a
    /// half, quarter and so on of one. Such a unit lies inside if its first byte does.
    ///
    /// The offset is counted in units, with what is left over in the highest bits, where it
    /// exceeds every count: one comparison asks both.
    #[inline]
    pub(super) const fn contain_unit<const BYTES: u64>(&self, at: u64) -> bool {
        const { assert!(BYTES.is_power_of_two() && BYTES <= LINE_BYTES) };
        let offset = at.wrapping_sub(self.start);
        let units = if BYTES > WORD_BYTES {
            self.words / (BYTES / WORD_BYTES)
        } else {
            self.words * (WORD_BYTES / BYTES)
        };
        offset.rotate_right(BYTES.trailing_zeros()) < units
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_one_that_is_aligned_and_inside() {
        let lines = Lines::new(0x10_0000..0x10_0080);
        assert_eq!((lines.start(), lines.bytes()), (0x10_0000, 0x80));
        let far = [0, 0x10_0000 | 1 << 40, 0x10_0000 | 1 << 63, u64::MAX - 7, u64::MAX];
        for at in (0xf_ff80..0x10_0100).chain(far) {
            let is_unit = |bytes| lines.contain(at, bytes) && at % bytes == 0;
            assert_eq!(lines.contain_unit::<64>(at), is_unit(64), "{at:#x}");
            assert_eq!(lines.contain_unit::<32>(at), is_unit(32), "{at:#x}");
            assert_eq!(lines.contain_unit::<8>(at), is_unit(8), "{at:#x}");
            assert_eq!(lines.contain_unit::<4>(at), is_unit(4), "{at:#x}");
            assert_eq!(lines.contain_unit::<1>(at), is_unit(1), "{at:#x}");
        }
    }

    #[test]
    fn bytes_lie_inside_from_the_first_to_the_last() {
        let lines = Lines::new(0x1000..0x1040);
        for (first, bytes, inside) in [
            (0x1000, 0x40, true),
            (0x1000, 0x41, false),
            (0xfff, 1, false),
            (0x103f, 1, true),
            (0x1040, 0, true),
            (0x1040, 1, false),
            (0x1008, u64::MAX, false),
            (u64::MAX, 2, false),
        ] {
            assert_eq!(lines.contain(first, bytes), inside, "{first:#x}, {bytes:#x}");
        }
        assert!(!Lines::new(64..64).contain_unit::<8>(64), "there is no line");
    }
}
