//! Where the guest's RAM lies.

use core::fmt;
use core::ops::Range;

/// The largest page that the guest's RAM can be mapped with.
const ALIGNMENT: u64 = 2 << 20;

/// No free region is large enough for the guest.
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
            "no room for {} MiB of guest RAM, the largest free piece has {} MiB; \
             give the machine more RAM or the guest less (mem=)",
            self.wanted >> 20,
            self.largest >> 20
        )
    }
}

/// The topmost stretch of `bytes`, on a 2 MiB boundary, of the smallest region of
/// `free` that holds it: the hypervisor's tables stay below 4 GiB if they can.
pub fn guest_range(
    free: impl Iterator<Item = Range<u64>>,
    bytes: u64,
) -> Result<Range<u64>, NoRoom> {
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

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_guest_gets_the_top_of_the_smallest_region_that_holds_it() {
        let free = [MIB..2 * MIB, 20 * MIB..128 * MIB - 4096, 4096 * MIB..8192 * MIB];
        let range = guest_range(free.into_iter(), 64 * MIB).expect("fits");
        assert_eq!(range, 62 * MIB..126 * MIB);
    }

    #[test]
    fn a_guest_that_is_too_large_is_told_what_is_there() {
        let free = [MIB..2 * MIB, 20 * MIB..52 * MIB];
        assert_eq!(
            guest_range(free.into_iter(), 64 * MIB),
            Err(NoRoom { wanted: 64 * MIB, largest: 32 * MIB })
        );
        assert!(guest_range(core::iter::once(0..64 * MIB), 0).is_err());
    }
}
