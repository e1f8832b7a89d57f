//! Segments in the layout of the VMCB.
//!
//! Source: APM vol. 2, 15.5.1 "Basic Operation", "Segment State in the VMCB".

use crate::fields::VmcbSegment;
use anchorite_vcpu::{DescriptorTable, Segment, SegmentAttributes};

/// Attribute bits 0–7: type, S, DPL, P, in the same places on both sides.
const LOW: u32 = 0xff;
/// The bits AVL, L, D, G: 12–15 in the contract, 8–11 in the VMCB.
const HIGH: u32 = 0xf000;
const HIGH_SHIFT: u32 = 4;
/// The bit L in the VMCB.
pub(crate) const LONG: u16 = 1 << 9;
/// The present bit in both layouts.
const PRESENT: u16 = 1 << 7;

/// The VMCB's form. An unusable segment is one that is not present.
pub(crate) fn to_vmcb(segment: &Segment) -> VmcbSegment {
    let attributes = if segment.attributes.contains(SegmentAttributes::UNUSABLE) {
        0
    } else {
        let bits = segment.attributes.bits();
        (bits & LOW | (bits & HIGH) >> HIGH_SHIFT) as u16
    };
    let Segment { selector, base, limit, .. } = *segment;
    VmcbSegment { selector, attributes, limit, base }
}

/// The contract's form. A segment that is not present is unusable.
pub(crate) fn from_vmcb(segment: VmcbSegment) -> Segment {
    let bits = u32::from(segment.attributes);
    let mut attributes =
        SegmentAttributes::from_bits_retain(bits & LOW | (bits << HIGH_SHIFT) & HIGH);
    if segment.attributes & PRESENT == 0 {
        attributes |= SegmentAttributes::UNUSABLE;
    }
    let VmcbSegment { selector, limit, base, .. } = segment;
    Segment { selector, base, limit, attributes }
}

/// GDTR or IDTR in the VMCB's form: only base and 16 bits of limit count.
pub(crate) fn table_to_vmcb(table: DescriptorTable) -> VmcbSegment {
    VmcbSegment { base: table.base, limit: u32::from(table.limit), ..VmcbSegment::default() }
}

/// GDTR or IDTR in the contract's form.
pub(crate) fn table_from_vmcb(table: VmcbSegment) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit as u16 }
}

/// `attributes` with the privilege level `cpl`.
///
/// SVM keeps the CPL in a field of its own and need not mirror it in SS.DPL (after
/// SYSRET it does not); VMX and the contract read it from there.
pub(crate) fn with_dpl(attributes: SegmentAttributes, cpl: u8) -> SegmentAttributes {
    let dpl = SegmentAttributes::from_bits_retain(u32::from(cpl & 3) << 5);
    attributes.difference(SegmentAttributes::DPL).union(dpl)
}

#[cfg(test)]
mod tests;
