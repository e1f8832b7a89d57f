//! A set of interrupt vectors, whose highest member is found at once.

use anchorite_vcpu::Vector;

/// A bit for each of 256 vectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VectorSet {
    /// Bit v % 64 of word v / 64: vector v.
    words: [u64; 4],
    /// Bit w: word w is not zero.
    summary: u8,
}

impl VectorSet {
    pub(super) fn insert(&mut self, vector: Vector) {
        let (word, bit) = position(vector);
        self.words[word] |= bit;
        self.summary |= 1 << word;
    }

    pub(super) fn remove(&mut self, vector: Vector) {
        let (word, bit) = position(vector);
        self.words[word] &= !bit;
        if self.words[word] == 0 {
            self.summary &= !(1 << word);
        }
    }

    pub(super) fn contains(&self, vector: Vector) -> bool {
        let (word, bit) = position(vector);
        self.words[word] & bit != 0
    }

    /// The highest vector, which has the highest priority.
    #[inline]
    pub(super) fn highest(&self) -> Option<Vector> {
        let word = self.summary.checked_ilog2()?;
        let bit = self.words[word as usize].checked_ilog2()?;
        Some(Vector((word * 64 + bit) as u8))
    }

    pub(super) fn take_highest(&mut self) -> Option<Vector> {
        let vector = self.highest()?;
        self.remove(vector);
        Some(vector)
    }

    pub(super) fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.summary == 0
    }

    /// Vectors 32 × `number` and up as an APIC's register shows them.
    pub(super) const fn register(&self, number: u8) -> u32 {
        (self.words[number as usize / 2 & 3] >> (32 * (number as u32 & 1))) as u32
    }
}

const fn position(vector: Vector) -> (usize, u64) {
    ((vector.0 >> 6) as usize, 1 << (vector.0 & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_comes_first_and_each_once() {
        let mut set = VectorSet::default();
        for vector in [0x20, 0xff, 0x80, 0x80, 0] {
            set.insert(Vector(vector));
        }
        assert_eq!((set.len(), set.register(4), set.contains(Vector(0x80))), (4, 1, true));
        let order = [0xff, 0x80, 0x20, 0].map(|vector| Some(Vector(vector)));
        assert_eq!(order, [(); 4].map(|()| set.take_highest()));
        assert!(set.is_empty() && set.take_highest().is_none());
    }

    #[test]
    fn every_vector_can_be_put_in_and_taken_out() {
        for vector in (0..=u8::MAX).map(Vector) {
            let mut set = VectorSet::default();
            set.insert(vector);
            assert_eq!(set.highest(), Some(vector));
            assert_eq!(set.register(vector.0 / 32), 1 << (vector.0 % 32));
            set.remove(vector);
            assert_eq!(set, VectorSet::default());
        }
    }
}
