//! What was written to guest memory from outside, for those who must know.

use anchorite_addr::Gpa;

/// Bytes of guest memory that were written from outside the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestWrite {
    /// These bytes.
    Range {
        /// The first.
        first: Gpa,
        /// How many; not 0.
        bytes: u64,
    },
    /// More ranges than the log holds: any byte may have changed.
    Everything,
}

const ENTRIES: usize = 8;

/// The writes since they were last taken. Bounded, and exact until it is full.
#[derive(Debug, Default)]
pub struct WriteLog {
    /// First byte and number of bytes.
    ranges: [(u64, u64); ENTRIES],
    /// How many of them there are; one more than have room after an overflow.
    used: usize,
}

impl WriteLog {
    /// Whether nothing was written.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Takes out one entry.
    pub fn take(&mut self) -> Option<GuestWrite> {
        let last = self.used.checked_sub(1)?;
        let Some(&(first, bytes)) = self.ranges.get(last) else {
            self.used = 0;
            return Some(GuestWrite::Everything);
        };
        self.used = last;
        Some(GuestWrite::Range { first: Gpa::new(first), bytes })
    }

    /// Forgets all, for one whom none of it concerns.
    pub const fn clear(&mut self) {
        self.used = 0;
    }

    /// Notes a write. One that continues the previous one, as the steps of a string
    /// instruction do, needs no entry of its own.
    pub(super) fn note(&mut self, first: Gpa, bytes: u64) {
        let first = first.as_u64();
        let last = self.used.checked_sub(1).and_then(|last| self.ranges.get_mut(last));
        if let Some((start, length)) = last {
            if start.wrapping_add(*length) == first {
                *length = length.saturating_add(bytes);
                return;
            }
        }
        if let Some(entry) = self.ranges.get_mut(self.used) {
            *entry = (first, bytes);
        }
        self.used = (self.used + 1).min(ENTRIES + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_that_follow_each_other_are_one_range() {
        let mut log = WriteLog::default();
        assert!(log.is_empty() && log.take().is_none());
        for step in 0..1_000 {
            log.note(Gpa::new(0x1000 + step * 4), 4);
        }
        let all = GuestWrite::Range { first: Gpa::new(0x1000), bytes: 4_000 };
        assert_eq!(log.take(), Some(all));
        assert!(log.is_empty() && log.take().is_none());
    }

    #[test]
    fn a_log_that_overflows_says_that_everything_changed_and_is_empty_then() {
        let mut log = WriteLog::default();
        for page in 0..ENTRIES as u64 {
            log.note(Gpa::new(page * 0x2000), 8);
        }
        assert!(matches!(log.take(), Some(GuestWrite::Range { .. })));
        log.note(Gpa::new(0x10_0000), 8);
        log.note(Gpa::new(0x20_0000), 8);
        assert_eq!(log.take(), Some(GuestWrite::Everything));
        assert!(log.is_empty() && log.take().is_none());
    }

    #[test]
    fn a_log_that_is_cleared_is_empty_whatever_it_held() {
        let mut log = WriteLog::default();
        for page in 0..=ENTRIES as u64 {
            log.note(Gpa::new(page * 0x2000), 8);
            log.clear();
            assert!(log.is_empty() && log.take().is_none());
        }
        (0..=ENTRIES as u64).for_each(|page| log.note(Gpa::new(page * 0x2000), 8));
        log.clear();
        assert!(log.is_empty() && log.take().is_none());
    }
}
