//! POST codes (port 0x80) with the time of each.

use alloc::vec::Vec;

/// How many of the latest codes are kept.
pub const KEPT: usize = 64;

/// A code that the guest wrote, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PostCode {
    /// The byte.
    pub code: u8,
    /// The host's TSC at the time.
    pub tsc: u64,
}

/// The latest [`KEPT`] codes, and how many there have been.
#[derive(Clone, Debug, Default)]
pub struct PostCodes {
    /// A ring once it has [`KEPT`].
    ring: Vec<PostCode>,
    written: u64,
}

impl PostCodes {
    /// Records a code.
    pub fn record(&mut self, code: u8, tsc: u64) {
        let post = PostCode { code, tsc };
        match self.ring.get_mut(self.written as usize % KEPT) {
            Some(oldest) => *oldest = post,
            None => self.ring.push(post),
        }
        self.written = self.written.wrapping_add(1);
    }

    /// How many codes have been written.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The code written last, which the port also reads as; 0 before the first.
    pub fn latest(&self) -> u8 {
        let last = self.written.wrapping_sub(1) as usize % KEPT;
        self.ring.get(last).map_or(0, |post| post.code)
    }

    /// The codes kept, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = PostCode> + '_ {
        let first = self.written.saturating_sub(KEPT as u64);
        (first..self.written).map(|index| self.ring[index as usize % KEPT])
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn codes_come_back_oldest_first_with_their_times() {
        let mut codes = PostCodes::default();
        assert_eq!(codes.latest(), 0);
        codes.record(0x11, 100);
        codes.record(0x22, 200);
        let kept: Vec<_> = codes.iter().map(|post| (post.code, post.tsc)).collect();
        assert_eq!(kept, [(0x11, 100), (0x22, 200)]);
        assert_eq!(codes.latest(), 0x22);
    }

    #[test]
    fn only_the_latest_are_kept_of_very_many() {
        let mut codes = PostCodes::default();
        for tsc in 0..1_000 {
            codes.record(tsc as u8, tsc);
        }
        assert_eq!(codes.written(), 1_000);
        let kept: Vec<_> = codes.iter().map(|post| post.tsc).collect();
        assert_eq!(kept, (1_000 - KEPT as u64..1_000).collect::<Vec<_>>());
    }
}
