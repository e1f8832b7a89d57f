//! Generations, and the heads that carry them.
//!
//! Every head that hangs off guest memory is one 64-bit word: a tag in the high half, a
//! value in the low half. A head whose tag is not the current generation's low bits reads
//! as empty, so that moving the generation empties every head at once. Under policies
//! that unlink, the tag is constant and heads never empty by themselves.

/// A rmap head, a tracked count or a large-page disallow count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head(u64);

impl Head {
    /// The value, 0 where the tag is another generation's.
    #[inline]
    pub(crate) fn get(self, tag: u32) -> u32 {
        if (self.0 >> 32) as u32 == tag { self.0 as u32 } else { 0 }
    }

    /// The value under the previous generation's tag, where this one has not touched the
    /// head yet.
    #[inline]
    pub(crate) fn before(self, tag: u32, mask: u64) -> u32 {
        self.get(tag.wrapping_sub(1) & mask as u32)
    }

    /// Adds one to a count, which is at most the number of shadow pages. Returns what it was.
    #[inline]
    pub(crate) fn increment(&mut self, tag: u32) -> u32 {
        let empty = u64::from(tag) << 32;
        let held = if (self.0 ^ empty) >> 32 == 0 { self.0 } else { empty };
        self.0 = held.wrapping_add(1);
        held as u32
    }

    /// Takes one off a count, if there is any.
    #[inline]
    pub(crate) fn decrement(&mut self, tag: u32) {
        if self.get(tag) > 0 {
            self.0 -= 1;
        }
    }

    /// Stores a value under `tag`.
    #[inline]
    pub(crate) fn set(&mut self, tag: u32, value: u32) {
        self.0 = u64::from(tag) << 32 | u64::from(value);
    }
}

/// The generation of pages that belong to none.
pub(crate) const NO_GENERATION: u64 = u64::MAX;

/// The current generation, its tag, and up to where flushes have been acknowledged.
#[derive(Debug)]
pub(crate) struct Generation {
    now: u64,
    tag: u32,
    /// Pages of generations below this one may be reused (I9).
    safe: u64,
    /// The oldest zap not yet acknowledged by all, and the newest: (generation begun,
    /// epoch opened). Whatever lies between is covered by the newest.
    oldest: Option<(u64, u64)>,
    newest: Option<(u64, u64)>,
}

impl Generation {
    pub(crate) fn new(start: u64) -> Self {
        Self { now: start, tag: 0, safe: start, oldest: None, newest: None }
    }

    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// What the heads of this generation are tagged with.
    #[inline]
    pub(crate) fn tag(&self) -> u32 {
        self.tag
    }

    /// Takes the tag from the low bits under `mask` (0: heads are not tagged).
    pub(crate) fn retag(&mut self, mask: u64) {
        self.tag = (self.now & mask) as u32;
    }

    /// Begins the next generation. Pages of the old one wait for `epoch`.
    #[inline]
    pub(crate) fn bump(&mut self, epoch: u64, mask: u64) {
        // Starts at most at 2^62 and moves by one: cannot overflow in a machine's life.
        self.now = self.now.wrapping_add(1);
        self.retag(mask);
        let zap = (self.now, epoch);
        let place = if self.oldest.is_none() { &mut self.oldest } else { &mut self.newest };
        *place = Some(zap);
    }

    /// Pages of generations below the result may be reused; asks `acknowledged` about
    /// the epochs still open.
    #[inline]
    pub(crate) fn safe(&mut self, acknowledged: impl Fn(u64) -> bool) -> u64 {
        while let Some((generation, epoch)) = self.oldest {
            if !acknowledged(epoch) {
                break;
            }
            self.safe = generation;
            self.oldest = self.newest.take();
        }
        self.safe
    }

    /// As last computed by [`Self::safe`].
    pub(crate) fn known_safe(&self) -> u64 {
        self.safe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_of_another_generation_reads_as_empty() {
        let mut head = Head::default();
        head.set(7, 42);
        assert_eq!(head.get(7), 42);
        assert_eq!(head.get(8), 0);
        assert_eq!(head.before(8, 0xff), 42);
        assert_eq!(head.before(9, 0xff), 0);
    }

    #[test]
    fn a_count_begins_anew_under_another_tag() {
        let mut head = Head::default();
        head.decrement(7);
        assert_eq!((head.increment(7), head.increment(7), head.get(7)), (0, 1, 2));
        head.decrement(8);
        assert_eq!((head.get(7), head.get(8)), (2, 0));
        head.decrement(7);
        assert_eq!(head.get(7), 1);
        assert_eq!((head.increment(8), head.get(7), head.get(8)), (0, 0, 1));
    }

    #[test]
    fn the_previous_tag_of_the_first_is_the_last() {
        let mut head = Head::default();
        head.set(3, 1);
        assert_eq!(head.before(0, 3), 1);
    }

    #[test]
    fn pages_become_safe_when_the_zap_that_ended_them_is_acknowledged() {
        let mut generation = Generation::new(1);
        generation.bump(10, 0xff);
        generation.bump(20, 0xff);
        generation.bump(30, 0xff);
        assert_eq!(generation.now(), 4);
        assert_eq!(generation.safe(|epoch| epoch < 10), 1);
        assert_eq!(generation.safe(|epoch| epoch <= 10), 2, "what the first zap ended");
        assert_eq!(generation.safe(|epoch| epoch <= 20), 2, "the second is merged into the third");
        assert_eq!(generation.safe(|epoch| epoch <= 30), 4);
    }
}
