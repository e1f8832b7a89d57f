use super::{MSR_PAGES, PORT_PAGES, intercept_all, intercept_msr, intercept_port};

/// APM vol. 2, 15.10.1: the last port's access of four bytes looks at three bits more; 15.11:
/// the MSR map's last 2 KiB are reserved.
#[test]
fn whatever_the_maps_hold_every_port_and_msr_exits_after_all_are_intercepted() {
    for before in [0, 0x5a] {
        let (mut ports, mut msrs) = ([before; PORT_PAGES * 4096], [before; MSR_PAGES * 4096]);
        intercept_all(&mut ports, &mut msrs);
        assert!(ports[..=0x2000].iter().all(|&byte| byte == 0xff));
        assert!(msrs[..0x1800].iter().all(|&byte| byte == 0xff));
    }
}

#[test]
fn a_port_has_the_bit_of_its_number() {
    let mut map = [0xff; PORT_PAGES * 4096];
    intercept_port(&mut map, 0x3f9, false);
    assert_eq!(map[0x7f], 0b1111_1101);
    intercept_port(&mut map, 0xffff, false);
    assert_eq!(map[0x1fff], 0b0111_1111);
    assert_eq!(map[0x2000], 0xff, "the bits beyond port 0xffff stay");
    intercept_port(&mut map, 0x3f9, true);
    assert_eq!(map[0x7f], 0xff);
}

#[test]
fn an_msr_has_two_bits_in_the_part_of_its_range() {
    // APM vol. 2, table 15-8: byte offsets 0x000, 0x800, 0x1000.
    for (index, byte, read, write) in [
        (0x0000_0010, 0x004, 0b01, 0b10),
        (0x0000_1fff, 0x7ff, 0b0100_0000, 0b1000_0000),
        (0xc000_0080, 0x820, 0b01, 0b10),
        (0xc000_0101, 0x840, 0b0100, 0b1000),
        (0xc001_0117, 0x1045, 0b0100_0000, 0b1000_0000),
        (0xc001_1fff, 0x17ff, 0b0100_0000, 0b1000_0000),
    ] {
        let mut map = [0; MSR_PAGES * 4096];
        intercept_msr(&mut map, index, true, false);
        assert_eq!(map[byte], read, "{index:#x}");
        intercept_msr(&mut map, index, false, true);
        assert_eq!(map[byte], write, "{index:#x}");
        intercept_msr(&mut map, index, false, false);
        assert!(map.iter().all(|&byte| byte == 0), "{index:#x} touches only its own bits");
    }
}

#[test]
fn an_msr_outside_the_ranges_changes_nothing() {
    for index in [0x2000, 0x4000_0000, 0xbfff_ffff, 0xc000_2000, 0xc001_2000, u32::MAX] {
        let mut map = [0xff; MSR_PAGES * 4096];
        intercept_msr(&mut map, index, false, false);
        assert!(map.iter().all(|&byte| byte == 0xff), "{index:#x}");
    }
}
