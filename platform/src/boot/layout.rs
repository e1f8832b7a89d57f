//! Who owns which RAM: the image, Hermit, and everything else, which is ours.

use super::information::BootInformation;
use core::fmt;
use core::ops::Range;

/// The granule of the split: Hermit maps its heap with 2 MiB pages.
pub const GRANULE: u64 = 2 << 20;
/// Most free regions kept.
pub const MAX_REGIONS: usize = 32;

/// Who owns which RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Hermit's window, whole granules.
    pub hermit: Range<u64>,
    /// First address above all RAM.
    pub top: u64,
    /// Free regions of whole 4 KiB pages above 1 MiB, ascending.
    pub free: [Range<u64>; MAX_REGIONS],
}

/// Why the RAM cannot be split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The loader reported no RAM at all.
    NoMemoryMap,
    /// No RAM range has a free stretch for Hermit.
    TooSmall {
        /// Bytes wanted in one piece below 4 GiB, 2 MiB aligned.
        wanted: u64,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemoryMap => write!(f, "the boot loader gave no memory map"),
            Self::TooSmall { wanted } => write!(
                f,
                "no free {} MiB of RAM in one piece below 4 GiB for the library OS; give the \
                 machine more RAM, the guest less (mem=) or fewer shadow pages (shadow_pages=)",
                wanted >> 20
            ),
        }
    }
}

impl Layout {
    /// Nothing divided yet; all zero.
    pub const EMPTY: Self = Self { hermit: 0..0, top: 0, free: [const { 0..0 }; MAX_REGIONS] };

    /// Splits the RAM that `information` lists around the `image` and the modules.
    /// Hermit gets `hermit_bytes`, whole granules, for its heap, stacks and tables.
    pub fn split(
        information: &BootInformation,
        image: Range<u64>,
        hermit_bytes: u64,
    ) -> Result<Self, LayoutError> {
        let top = information.ram.iter().map(|range| range.end).max();
        let top = top.ok_or(LayoutError::NoMemoryMap)?;
        let mut free = FreeRegions::from_ram(information);
        free.remove(align_down(image.start, GRANULE)..align_up(image.end, GRANULE));
        for module in information.modules.iter() {
            free.remove(align_down(module.range.start, 4096)..align_up(module.range.end, 4096));
        }
        let hermit = free
            .first_fit(hermit_bytes, 1 << 32)
            .ok_or(LayoutError::TooSmall { wanted: hermit_bytes })?;
        free.remove(hermit.clone());
        Ok(Self { hermit, top, free: free.regions })
    }

    /// The free regions that are not empty.
    pub fn free(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.free.iter().filter(|range| !range.is_empty()).cloned()
    }
}

/// Disjoint regions; the empty ones are spare places.
struct FreeRegions {
    regions: [Range<u64>; MAX_REGIONS],
}

impl FreeRegions {
    /// Whole pages of RAM above 1 MiB: below lie firmware tables and Hermit's SMP start page.
    fn from_ram(information: &BootInformation) -> Self {
        let mut free = Self { regions: [const { 0..0 }; MAX_REGIONS] };
        for range in information.ram.iter() {
            free.insert(align_up(range.start.max(1 << 20), 4096)..align_down(range.end, 4096));
        }
        free.regions.sort_unstable_by_key(|range| range.start);
        free
    }

    /// Adds a region; where there is no place for it, it is left unused.
    fn insert(&mut self, region: Range<u64>) {
        if region.is_empty() {
            return;
        }
        if let Some(spare) = self.regions.iter_mut().find(|spare| spare.is_empty()) {
            *spare = region;
        }
    }

    /// Takes `taken` out of every region, which may split one in two.
    fn remove(&mut self, taken: Range<u64>) {
        for index in 0..MAX_REGIONS {
            let region = self.regions[index].clone();
            if region.is_empty() || taken.end <= region.start || taken.start >= region.end {
                continue;
            }
            self.regions[index] = region.start..taken.start.max(region.start);
            self.insert(taken.end.min(region.end)..region.end);
        }
        self.regions.sort_unstable_by_key(|range| range.start);
    }

    /// The lowest granule-aligned stretch of `bytes` that ends at or below `limit`.
    fn first_fit(&self, bytes: u64, limit: u64) -> Option<Range<u64>> {
        self.regions.iter().filter(|region| !region.is_empty()).find_map(|region| {
            let start = align_up(region.start, GRANULE);
            let end = start.checked_add(bytes)?;
            (end <= region.end && end <= limit).then_some(start..end)
        })
    }
}

const fn align_down(value: u64, granule: u64) -> u64 {
    value & !(granule - 1)
}

const fn align_up(value: u64, granule: u64) -> u64 {
    align_down(value.saturating_add(granule - 1), granule)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    const MIB: u64 = 1 << 20;

    fn qemu(mib: u64) -> BootInformation {
        let mut information = BootInformation::EMPTY;
        information.add_ram(0..0x9fc00);
        information.add_ram(MIB..mib * MIB - 0x20000);
        information
    }

    fn image() -> Range<u64> {
        2 * MIB..2 * MIB + 0x9_8000
    }

    #[test]
    fn hermit_sits_right_above_the_image_and_the_rest_is_free() {
        let layout = Layout::split(&qemu(128), image(), 16 * MIB).expect("fits");
        assert_eq!(layout.hermit, 4 * MIB..20 * MIB);
        let free: Vec<_> = layout.free().collect();
        assert_eq!(free, [MIB..2 * MIB, 20 * MIB..128 * MIB - 0x20000]);
        assert_eq!(layout.top, 128 * MIB - 0x20000);
    }

    #[test]
    fn modules_are_nobody_elses() {
        let mut information = qemu(128);
        information.add_module(0x29_8000..0x30_0123, b"guest");
        information.add_module(6 * MIB..7 * MIB, b"initrd");
        let layout = Layout::split(&information, image(), 16 * MIB).expect("fits");
        assert_eq!(layout.hermit, 8 * MIB..24 * MIB);
        for free in layout.free().chain([layout.hermit.clone()]) {
            for module in information.modules.iter() {
                let apart = free.end <= module.range.start || free.start >= module.range.end;
                assert!(apart, "{free:x?} overlaps {:x?}", module.range);
            }
        }
    }

    #[test]
    fn too_little_ram_is_an_error_that_says_how_much_is_wanted() {
        assert_eq!(
            Layout::split(&qemu(12), image(), 16 * MIB),
            Err(LayoutError::TooSmall { wanted: 16 * MIB })
        );
        assert_eq!(
            Layout::split(&BootInformation::EMPTY, image(), 16 * MIB),
            Err(LayoutError::NoMemoryMap)
        );
    }

    #[test]
    fn memory_above_4_gib_is_free_but_never_hermits() {
        let mut information = BootInformation::EMPTY;
        information.add_ram(4096 * MIB..8192 * MIB);
        assert!(Layout::split(&information, image(), 16 * MIB).is_err());
        information.add_ram(MIB..64 * MIB);
        let layout = Layout::split(&information, image(), 16 * MIB).expect("fits");
        assert!(layout.hermit.end <= 64 * MIB);
        assert!(layout.free().any(|range| range == (4096 * MIB..8192 * MIB)));
    }
}
