use super::*;

/// An environment in which only segments matter.
struct Segments([Segment; 8]);

impl Environment for Segments {
    fn segment(&self, register: SegmentRegister) -> Segment {
        self.0[register as usize]
    }

    fn load(&mut self, _: Gva, _: u8, _: Access) -> Result<u64, crate::emulate::Fault> {
        Err(crate::emulate::Fault::Unsupported)
    }

    fn store(&mut self, _: Gva, _: u8, _: u64) -> Result<(), crate::emulate::Fault> {
        Err(crate::emulate::Fault::Unsupported)
    }

    fn store_if_unchanged(
        &mut self,
        _: Gva,
        _: u8,
        _: u64,
        _: u64,
    ) -> Result<bool, crate::emulate::Fault> {
        Err(crate::emulate::Fault::Unsupported)
    }

    fn check_store(&mut self, _: Gva, _: u8) -> Result<(), crate::emulate::Fault> {
        Err(crate::emulate::Fault::Unsupported)
    }
}

fn data(base: u64, limit: u32, attributes: u32) -> Segments {
    let attributes = SegmentAttributes::from_bits_retain(attributes);
    Segments([Segment { selector: 0x10, base, limit, attributes }; 8])
}

fn fault(vector: Vector) -> Result<Gva, Exception> {
    Err(Exception { vector, error_code: Some(0), cr2: None })
}

const DS: SegmentRegister = SegmentRegister::Ds;
const SS: SegmentRegister = SegmentRegister::Ss;
const FS: SegmentRegister = SegmentRegister::Fs;

#[test]
fn the_last_byte_must_lie_within_the_limit() {
    let segments = data(0x1000, 0xfff, 0x4093);
    let at = |offset, size| linearize(&segments, Mode::PROTECTED, DS, offset, size, Access::Write);
    assert_eq!(at(0xffc, 4), Ok(Gva::new(0x1ffc)));
    assert_eq!(at(0xffd, 4), fault(Vector::GENERAL_PROTECTION));
    let stack = linearize(&segments, Mode::PROTECTED, SS, 0x1000, 1, Access::Read);
    assert_eq!(stack, fault(Vector::STACK_FAULT));
}

#[test]
fn an_expand_down_segment_ends_at_its_limit_from_above() {
    for (attributes, top) in [(0x4097, 0xffff_ffff_u64), (0x0097, 0xffff)] {
        let segments = data(0, 0xfff, attributes);
        let at = |offset| linearize(&segments, Mode::PROTECTED, DS, offset, 2, Access::Write);
        assert_eq!(at(0xfff), fault(Vector::GENERAL_PROTECTION));
        assert_eq!(at(0x1000), Ok(Gva::new(0x1000)));
        assert_eq!(at(top - 1), Ok(Gva::new(top - 1)));
        assert_eq!(at(top), fault(Vector::GENERAL_PROTECTION));
    }
}

#[test]
fn segment_types_forbid_stores_to_code_and_loads_from_what_only_executes() {
    let kinds =
        [(0x91, true, false), (0x93, true, true), (0x99, false, false), (0x9b, true, false)];
    for (attributes, readable, writable) in kinds {
        let segments = data(0, u32::MAX, attributes | 0x4000);
        let can = |access| linearize(&segments, Mode::PROTECTED, DS, 0, 1, access).is_ok();
        assert_eq!((can(Access::Read), can(Access::Write)), (readable, writable));
        assert_eq!(can(Access::ReadForWrite), writable);
    }
}

#[test]
fn a_null_segment_faults_outside_64_bit_mode() {
    let segments = Segments([Segment::unusable(); 8]);
    let at = |mode| linearize(&segments, mode, DS, 0, 1, Access::Read);
    assert_eq!(at(Mode::PROTECTED), fault(Vector::GENERAL_PROTECTION));
    assert_eq!(at(Mode::LONG), Ok(Gva::new(0)));
}

#[test]
fn real_mode_faults_push_no_error_code() {
    let segments = Segments([Segment::real_mode(0x1000, false); 8]);
    let at = |offset, size| linearize(&segments, Mode::REAL, DS, offset, size, Access::Write);
    assert_eq!(at(0xfffe, 2), Ok(Gva::new(0x1_fffe)));
    assert_eq!(at(0xffff, 2), Err(Exception::plain(Vector::GENERAL_PROTECTION)));
}

#[test]
fn long_mode_knows_the_bases_of_fs_and_gs_only() {
    let segments = data(0x1000, 0, 0);
    let at = |register| linearize(&segments, Mode::LONG, register, 0x20, 8, Access::Write);
    assert_eq!(at(DS), Ok(Gva::new(0x20)));
    assert_eq!(at(FS), Ok(Gva::new(0x1020)));
}

#[test]
fn an_access_that_reaches_into_the_canonical_hole_faults() {
    let segments = data(0, 0, 0);
    let at = |register, offset| linearize(&segments, Mode::LONG, register, offset, 8, Access::Read);
    assert!(at(DS, 0x7fff_ffff_fff8).is_ok());
    assert_eq!(at(DS, 0x7fff_ffff_fff9), fault(Vector::GENERAL_PROTECTION));
    assert_eq!(at(SS, 0x8000_0000_0000), fault(Vector::STACK_FAULT));
    assert!(at(DS, 0xffff_8000_0000_0000).is_ok());
}

#[test]
fn legacy_linear_addresses_wrap_at_four_gigabytes() {
    let segments = data(0xffff_f000, u32::MAX, 0x4093);
    let wrapped = linearize(&segments, Mode::PROTECTED, DS, 0x2000, 4, Access::Read);
    assert_eq!(wrapped, Ok(Gva::new(0x1000)));
}
