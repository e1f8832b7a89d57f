//! Where the guest's RAM and other large pieces lie.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// The largest page that the guest's RAM can be mapped with.
const ALIGNMENT: u64 = 2 << 20;

/// No free region is large enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// Bytes wanted in one piece.
    pub wanted: u64,
    /// Bytes of the largest free piece, whole 2 MiB.
    pub largest: u64,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no room for {} MiB in one piece, the largest free piece has {} MiB; give the \
             machine more RAM, the guest less (mem=) or fewer shadow pages (shadow_pages=)",
            self.wanted >> 20,
            self.largest >> 20
        )
    }
}

/// Takes `bytes` out of `free`, on a 2 MiB boundary.
pub fn take(free: &mut Vec<Range<u64>>, bytes: u64) -> Result<Range<u64>, NoRoom> {
    let taken = best_range(free.iter().cloned(), bytes)?;
    if let Some(index) = free.iter().position(|region| region.contains(&taken.start)) {
        let region = free.swap_remove(index);
        let parts = [region.start..taken.start, taken.end..region.end];
        free.extend(parts.into_iter().filter(|part| !part.is_empty()));
    }
    Ok(taken)
}

/// As [`take`], but below 4 GiB, where CR3 reaches outside long mode.
pub fn take_low(free: &mut Vec<Range<u64>>, bytes: u64) -> Result<Range<u64>, NoRoom> {
    const REACH: u64 = 1 << 32;
    let mut low: Vec<_> =
        free.iter().map(|region| region.start.min(REACH)..region.end.min(REACH)).collect();
    let mut rest: Vec<_> =
        free.iter().map(|region| region.start.max(REACH)..region.end.max(REACH)).collect();
    let taken = take(&mut low, bytes)?;
    low.append(&mut rest);
    low.retain(|region| !region.is_empty());
    *free = low;
    Ok(taken)
}

/// The topmost stretch of `bytes`, on a 2 MiB boundary, of the smallest region of
/// `free` that holds it: the hypervisor's tables stay below 4 GiB if they can.
fn best_range(free: impl Iterator<Item = Range<u64>>, bytes: u64) -> Result<Range<u64>, NoRoom> {
    let mut largest = 0;
    let mut best: Option<(u64, Range<u64>)> = None;
    for region in free {
        let start = region.start.next_multiple_of(ALIGNMENT);
        let room = region.end.saturating_sub(start) & !(ALIGNMENT - 1);
        largest = largest.max(room);
        let better = best.as_ref().is_none_or(|(size, _)| room < *size);
        if bytes > 0 && room >= bytes && better {
            let first = (region.end - bytes) & !(ALIGNMENT - 1);
            best = Some((room, first..first + bytes));
        }
    }
    best.map(|(_, range)| range).ok_or(NoRoom { wanted: bytes, largest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_guest_gets_the_top_of_the_smallest_region_that_holds_it() {
        let free = [MIB..2 * MIB, 20 * MIB..128 * MIB - 4096, 4096 * MIB..8192 * MIB];
        let range = best_range(free.into_iter(), 64 * MIB).expect("fits");
        assert_eq!(range, 62 * MIB..126 * MIB);
    }

    #[test]
    fn what_was_taken_is_free_no_more() {
        let mut free = vec![MIB..2 * MIB, 20 * MIB..128 * MIB];
        let guest = take(&mut free, 64 * MIB).expect("fits");
        let shadow = take(&mut free, 3 * MIB).expect("fits");
        assert!(guest.end <= shadow.start || shadow.end <= guest.start);
        for region in &free {
            for taken in [&guest, &shadow] {
                assert!(region.end <= taken.start || region.start >= taken.end);
            }
        }
        let left: u64 = free.iter().map(|region| region.end - region.start).sum();
        assert_eq!(left, (1 + 108 - 64 - 3) * MIB);
    }

    #[test]
    fn what_must_lie_low_is_not_taken_from_above_4_gib() {
        const GIB: u64 = 1 << 30;
        let whole = [MIB..2 * MIB, 20 * MIB..24 * MIB, 3 * GIB..6 * GIB];
        let mut free = whole.to_vec();
        let low = take_low(&mut free, 3 * MIB).expect("fits");
        assert_eq!(low, 20 * MIB..23 * MIB);
        let low = take_low(&mut free, GIB).expect("fits");
        assert_eq!(low, 3 * GIB..4 * GIB);
        assert!(take_low(&mut free, GIB).is_err());
        let left: u64 = free.iter().map(|region| region.end - region.start).sum();
        let all: u64 = whole.iter().map(|region| region.end - region.start).sum();
        assert_eq!(left, all - GIB - 3 * MIB);
    }

    #[test]
    fn a_guest_that_is_too_large_is_told_what_is_there() {
        let free = [MIB..2 * MIB, 20 * MIB..52 * MIB];
        assert_eq!(
            best_range(free.into_iter(), 64 * MIB),
            Err(NoRoom { wanted: 64 * MIB, largest: 32 * MIB })
        );
        assert!(best_range(core::iter::once(0..64 * MIB), 0).is_err());
    }
}
