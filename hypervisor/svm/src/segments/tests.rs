use super::{from_vmcb, table_from_vmcb, table_to_vmcb, to_vmcb, with_dpl};
use crate::fields::VmcbSegment;
use anchorite_vcpu::{DescriptorTable, Segment, SegmentAttributes};

#[test]
fn long_mode_code_packs_its_attributes() {
    let packed = to_vmcb(&Segment::flat(8, true, true));
    assert_eq!(packed, VmcbSegment { selector: 8, attributes: 0xa9b, limit: u32::MAX, base: 0 });
}

#[test]
fn a_real_mode_segment_keeps_base_and_limit() {
    let packed = to_vmcb(&Segment::real_mode(0xf000, true));
    assert_eq!(
        packed,
        VmcbSegment { selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: 0xf0000 }
    );
}

#[test]
fn what_was_packed_is_unpacked() {
    for segment in [
        Segment::real_mode(0x1234, false),
        Segment::flat(16, false, true),
        Segment::flat(8, true, false),
        Segment {
            attributes: SegmentAttributes::from_bits_retain(0x1_f0ff & 0xf0ff),
            ..Segment::flat(0x2b, false, false)
        },
    ] {
        assert_eq!(from_vmcb(to_vmcb(&segment)), segment);
    }
}

#[test]
fn unusable_means_not_present_both_ways() {
    assert_eq!(to_vmcb(&Segment::unusable()).attributes, 0);
    let null = from_vmcb(VmcbSegment { selector: 0, attributes: 0x13, limit: 0, base: 0 });
    assert!(null.attributes.contains(SegmentAttributes::UNUSABLE));
}

#[test]
fn a_descriptor_table_has_a_limit_of_16_bits() {
    let table = DescriptorTable { base: 0xffff_8000_0000_1000, limit: 0x7f };
    assert_eq!(table_from_vmcb(table_to_vmcb(table)), table);
    let dirty = VmcbSegment { limit: 0xabcd_ffff, ..VmcbSegment::default() };
    assert_eq!(table_from_vmcb(dirty).limit, 0xffff);
}

#[test]
fn the_privilege_level_replaces_the_dpl() {
    let kernel = Segment::flat(16, false, false).attributes;
    assert_eq!(with_dpl(kernel, 3).dpl(), 3);
    assert_eq!(with_dpl(with_dpl(kernel, 3), 0), kernel);
}
