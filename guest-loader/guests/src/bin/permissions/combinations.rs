//! Which control bits and which kinds of access are combined.

use anchorite_guests::control::Features;
use anchorite_guests::oracle::Controls;
use anchorite_guests::probe::{Access, Kind};

/// Sets of control bits: all four of WP and NXE, and each of SMEP, SMAP and PKRU's rights
/// with both set; with `full` all products.
pub(crate) fn all_controls(features: Features, full: bool) -> impl Iterator<Item = Controls> {
    let pkrus = [None, Some(0b0000), Some(0b0100), Some(0b1000), Some(0b1100)];
    (0..16u32 * 5).filter_map(move |number| {
        let bit = |position: u32| number >> position & 1 == 1;
        let pkru = pkrus[number as usize / 16];
        let controls =
            Controls { wp: !bit(0), nxe: !bit(1), smep: bit(2), smap: bit(3), pse: false, pkru };
        let possible = (features.smep || !controls.smep)
            && (features.smap || !controls.smap)
            && (features.no_execute || !controls.nxe)
            && (features.pku || pkru.is_none());
        let more = controls.smep || controls.smap || pkru.is_some();
        let both = (controls.wp || pkru == Some(0b1000)) && controls.nxe;
        (possible && (full || !more || both)).then_some(controls)
    })
}

/// The kinds of access that these control bits tell apart.
pub(crate) fn accesses(controls: Controls) -> impl Iterator<Item = Access> {
    let smap = controls.smap;
    let kinds = [Kind::Read, Kind::Write, Kind::Fetch, Kind::Update];
    let plain = kinds.into_iter().flat_map(|kind| [Access::kernel(kind, 0), Access::user(kind, 0)]);
    let with_ac = [Kind::Read, Kind::Write, Kind::Fetch]
        .into_iter()
        .map(|kind| Access { ac: true, ..Access::kernel(kind, 0) })
        .filter(move |_| smap);
    // At privilege level 3, RFLAGS.AC also checks alignment; the target is aligned.
    let implicit = [false, true]
        .into_iter()
        .map(|ac| Access { ac, ..Access::user(Kind::Descriptor, 0) })
        .filter(move |access| smap || !access.ac);
    plain.chain(with_ac).chain(implicit)
}
