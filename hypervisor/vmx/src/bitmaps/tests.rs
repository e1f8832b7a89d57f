use super::*;

#[test]
fn a_port_has_one_bit_in_bitmap_a_or_b() {
    let mut bitmaps = [0_u8; PORT_BYTES];
    intercept_port(&mut bitmaps, 0x3f8, true);
    intercept_port(&mut bitmaps, 0x8001, true);
    assert_eq!(bitmaps[0x7f], 1);
    assert_eq!(bitmaps[0x1000], 2, "ports from 0x8000 on are in the second page");
    intercept_port(&mut bitmaps, 0x3f8, false);
    assert_eq!(bitmaps.iter().filter(|byte| **byte != 0).count(), 1);
}

#[test]
fn the_last_port_is_the_last_bit() {
    let mut bitmaps = [0_u8; PORT_BYTES];
    intercept_port(&mut bitmaps, 0xffff, true);
    assert_eq!(bitmaps[PORT_BYTES - 1], 0x80);
}

#[test]
fn an_msr_has_four_quarters() {
    let mut bitmap = [0_u8; 4096];
    intercept_msr(&mut bitmap, 0x174, true, false);
    assert_eq!(bitmap[0x2e], 0x10, "reads of low MSRs");
    intercept_msr(&mut bitmap, 0x174, false, true);
    assert_eq!((bitmap[0x2e], bitmap[0x800 + 0x2e]), (0, 0x10), "writes of low MSRs");
    intercept_msr(&mut bitmap, 0xc000_0102, true, true);
    assert_eq!((bitmap[0x420], bitmap[0xc20]), (4, 4), "high MSRs");
}

#[test]
fn an_msr_outside_the_ranges_changes_nothing() {
    let mut bitmap = [0xff_u8; 4096];
    for index in [0x2000, 0xbfff_ffff, 0xc000_2000, 0xffff_ffff] {
        intercept_msr(&mut bitmap, index, false, false);
    }
    assert!(bitmap.iter().all(|byte| *byte == 0xff));
}

#[test]
fn the_last_msr_of_each_range_has_a_bit() {
    let mut bitmap = [0xff_u8; 4096];
    intercept_msr(&mut bitmap, 0x1fff, false, false);
    intercept_msr(&mut bitmap, 0xc000_1fff, false, false);
    for last in [0x3ff, 0x7ff, 0xbff, 0xfff] {
        assert_eq!(bitmap[last], 0x7f);
    }
}
