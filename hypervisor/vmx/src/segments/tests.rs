use super::*;

fn with(rights: u32, limit: u32) -> Segment {
    Segment { selector: 8, base: 0, limit, attributes: SegmentAttributes::from_bits_retain(rights) }
}

#[test]
fn each_register_has_its_own_fields() {
    let cs = fields(SegmentRegister::Cs);
    assert_eq!((cs.selector, cs.base, cs.limit, cs.rights), (0x802, 0x6808, 0x4802, 0x4816));
    let tr = fields(SegmentRegister::Tr);
    assert_eq!((tr.selector, tr.base, tr.limit, tr.rights), (0x80e, 0x6814, 0x480e, 0x4822));
}

#[test]
fn segments_that_entry_accepts_pass_unchanged() {
    for register in [SegmentRegister::Cs, SegmentRegister::Ss, SegmentRegister::Gs] {
        let is_code = register == SegmentRegister::Cs;
        for segment in [
            Segment::real_mode(0x1234, is_code),
            Segment::flat(8, is_code, false),
            Segment::flat(8, is_code, true),
            Segment::unusable(),
        ] {
            assert_eq!(accepted(register, segment), segment);
        }
    }
}

#[test]
fn a_task_register_is_always_usable_and_busy() {
    let unusable = accepted(SegmentRegister::Tr, Segment::unusable());
    assert_eq!(unusable.attributes.bits(), 0x8b);
    assert_eq!(unusable.limit, 0x67);
    let available = accepted(SegmentRegister::Tr, with(0x89, 0x67));
    assert_eq!(available.attributes.bits(), 0x8b);
    let small = accepted(SegmentRegister::Tr, with(0x81, 0x2b));
    assert_eq!(small.attributes.bits(), 0x83);
}

#[test]
fn a_descriptor_becomes_accessed_when_it_is_loaded() {
    let segment = accepted(SegmentRegister::Ds, with(0xc092, u32::MAX));
    assert_eq!(segment.attributes.bits(), 0xc093);
}

#[test]
fn granularity_follows_the_limit() {
    let bytes = accepted(SegmentRegister::Ds, with(0x8093, 0x1233));
    assert_eq!((bytes.attributes.bits(), bytes.limit), (0x93, 0x1233));
    let pages = accepted(SegmentRegister::Ds, with(0x93, 0x1f_ffff));
    assert_eq!((pages.attributes.bits(), pages.limit), (0x8093, 0x1f_ffff));
    let neither = accepted(SegmentRegister::Ds, with(0x93, 0x1f_0000));
    assert_eq!((neither.attributes.bits(), neither.limit), (0x8093, 0x1f_0fff));
    let either = accepted(SegmentRegister::Ds, with(0x8093, 0xf_ffff));
    assert_eq!((either.attributes.bits(), either.limit), (0x8093, 0xf_ffff));
}

#[test]
fn reserved_rights_are_cleared() {
    let segment = accepted(SegmentRegister::Ds, with(0xfffe_0f93, 0xffff));
    assert_eq!(segment.attributes.bits(), 0x93);
}

#[test]
fn reset_puts_the_first_instruction_below_4_gib() {
    let cs = after_reset(SegmentRegister::Cs);
    assert_eq!((cs.selector, cs.base + 0xfff0), (0xf000, 0xffff_fff0));
    for register in SegmentRegister::ALL {
        let segment = after_reset(register);
        assert_eq!(accepted(register, segment), segment, "{register:?}");
    }
}

#[test]
fn a_tss_descriptors_base_is_put_together_from_four_parts() {
    assert_eq!(system_base([0x1200_8934_5678_0067, 0xffff_8000]), 0xffff_8000_1234_5678);
}
