//! Which control bits and which kinds of access are combined.

use anchorite_guests::control::Features;
use anchorite_guests::format::Format;
use anchorite_guests::oracle::Controls;
use anchorite_guests::probe::{Access, Kind};

/// PKRU's rights to the key of the entries under test; [`None`] is CR4.PKE = 0.
const PKRUS: [Option<u32>; 5] = [None, Some(0b0000), Some(0b0100), Some(0b1000), Some(0b1100)];
/// In 32-bit modes there are no keys: what PKRU denies to key 0 must not matter.
const PKRUS32: [Option<u32>; 2] = [None, Some(0b0011)];

/// Sets of control bits: all of WP, NXE and (of two levels) PSE, and each of SMEP, SMAP and
/// PKRU's rights with the first two set; with `full` all products.
pub(crate) fn all_controls(
    features: Features,
    format: Format,
    full: bool,
) -> impl Iterator<Item = Controls> {
    let pkrus: &[_] = if format.is_long() { &PKRUS } else { &PKRUS32 };
    let has_pse = format == Format::TwoLevel;
    (0..32 * pkrus.len()).filter_map(move |number| {
        let bit = |position: u32| number >> position & 1 == 1;
        let pkru = pkrus[number / 32];
        let controls = Controls {
            wp: !bit(0),
            nxe: !bit(1),
            smep: bit(2),
            smap: bit(3),
            pse: has_pse && !bit(4),
            pkru,
        };
        let possible = (features.smep || !controls.smep)
            && (features.smap || !controls.smap)
            && (features.no_execute || !controls.nxe)
            && (features.pku || pkru.is_none())
            && (has_pse || !bit(4));
        let more = controls.smep || controls.smap || pkru.is_some();
        // Keys are beside the point of SMEP and SMAP: both are on or off.
        let both = (controls.wp || pkru == Some(0b1000))
            && controls.nxe
            && (pkru.is_none() || controls.smep == controls.smap);
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
