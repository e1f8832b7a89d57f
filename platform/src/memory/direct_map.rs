//! Physical memory by address.

use super::{DIRECT_MAP, DIRECT_MAP_BYTES};
use core::ptr::NonNull;

/// Where the physical address `physical` is mapped.
///
/// # Panics
/// Where it lies beyond the direct map; callers keep to regions that
/// [`usable`] has let through.
pub(crate) fn pointer(physical: u64) -> NonNull<u8> {
    assert!(physical < DIRECT_MAP_BYTES, "physical address {physical:#x} beyond the direct map");
    let address = (DIRECT_MAP + physical) as usize;
    let pointer = core::ptr::with_exposed_provenance_mut(address);
    NonNull::new(pointer).expect("the direct map is not at address 0")
}

/// Where the byte at `physical` is mapped; nothing there where it lies beyond the direct map.
#[inline]
pub(super) fn address(physical: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut((DIRECT_MAP + physical) as usize)
}

/// The physical address of a byte in the direct map.
pub(crate) fn physical(pointer: *const u8) -> u64 {
    (pointer.expose_provenance() as u64) - DIRECT_MAP
}

/// The part of `region` within reach.
pub(crate) fn usable(region: core::ops::Range<u64>) -> core::ops::Range<u64> {
    region.start.min(DIRECT_MAP_BYTES)..region.end.min(DIRECT_MAP_BYTES)
}
