extern crate std;

use super::*;
use anchorite_vcpu::GuestMsr;
use policy::ConstantWrite;
use std::collections::HashSet;

#[test]
fn the_table_is_sorted_without_overlap_so_that_a_search_finds_all_of_it() {
    for pair in TABLE.windows(2) {
        assert!(pair[0].last < pair[1].first, "{} and {}", pair[0].name, pair[1].name);
    }
    for rule in TABLE {
        assert!(rule.first <= rule.last, "{}", rule.name);
        for index in rule.first..=rule.last {
            assert_eq!(Msrs::rule(index).map(|found| found.name), Some(rule.name));
        }
    }
    for index in [2, 0x11, 0x178, 0x17b, 0x210, 0x25a, 0x7ff, 0x900, 0xc000_0104, !0] {
        assert!(Msrs::rule(index).is_none(), "{index:#x}");
    }
}

#[test]
fn every_register_of_the_backend_stands_in_the_table_once() {
    let registers = TABLE.iter().filter_map(|rule| match rule.behaviour {
        Behaviour::Vcpu { msr, .. } => Some(msr),
        _ => None,
    });
    let distinct: HashSet<GuestMsr> = registers.clone().collect();
    assert_eq!(registers.count(), 13);
    assert_eq!(distinct.len(), 13);
}

#[test]
fn initial_values_are_ones_that_the_guest_could_write_itself() {
    for rule in TABLE {
        if let Behaviour::Stored { initial, valid } = rule.behaviour {
            assert!(valid.accepts(initial, 48), "{}", rule.name);
        }
    }
}

#[test]
fn values_are_accepted_as_the_manual_defines_the_registers() {
    let cases: [(Valid, &[u64], &[u64]); 7] = [
        (Valid::Any, &[0, !0], &[]),
        (
            Valid::Canonical,
            &[0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, !0],
            &[0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63],
        ),
        (Valid::Low(3), &[0, 3], &[4, 1 << 63]),
        (
            Valid::MemoryTypes,
            &[0x0007_0406_0007_0406, 0x0507_0406_0107_0406],
            &[2, 3, 8, 0x0200_0000_0000_0000],
        ),
        (Valid::RangeTypes, &[0, 0x0606_0606_0606_0606, 0x0001_0405_0600_0000], &[7, 2 << 56]),
        (Valid::RangeBase, &[0x8000_0006, 0], &[2, 0x100, 7]),
        (Valid::RangeMask, &[0x0f_ffff_f800, 0], &[1, 0x400]),
    ];
    for (valid, good, bad) in cases {
        assert!(good.iter().all(|value| valid.accepts(*value, 48)), "{valid:?}");
        assert!(!bad.iter().any(|value| valid.accepts(*value, 48)), "{valid:?}");
    }
    assert!(Valid::RangeDefault.accepts(0xc06, 48) && !Valid::RangeDefault.accepts(0x1006, 48));
}

#[test]
fn only_what_the_hardware_checks_itself_is_opened() {
    let open: HashSet<u32> =
        TABLE.iter().filter(|rule| Msrs::passes(rule)).map(|rule| rule.first).collect();
    let expected = [0x174, 0x175, 0x176]
        .into_iter()
        .chain(0xc000_0081..=0xc000_0084)
        .chain(0xc000_0100..=0xc000_0102);
    assert_eq!(open, expected.collect());
}

#[test]
fn virtualization_is_off_and_locked_whatever_the_vendor() {
    let constant = |index| Msrs::rule(index).unwrap().behaviour;
    let refused = |value| Behaviour::Constant { value, write: ConstantWrite::Refused };
    assert_eq!(constant(0x3a), refused(1));
    assert_eq!(constant(0xc001_0114), refused(0x18));
}

#[test]
fn a_guest_that_tries_all_msrs_fills_the_counts_and_no_more() {
    let mut msrs = Msrs::default();
    for index in 0..1_000 {
        msrs.count_unknown(index, index % 2 == 0);
    }
    msrs.count_unknown(0, true);
    assert_eq!(msrs.unknown().len(), TRACKED_MSRS);
    assert_eq!(msrs.unknown()[0], MsrCount { index: 0, reads: 0, writes: 2 });
    assert_eq!(msrs.others, 1_000 - TRACKED_MSRS as u64);
}

#[test]
fn a_stored_value_reads_back_and_others_keep_theirs() {
    let mut msrs = Msrs::default();
    assert_eq!(msrs.load(0x2ff, 0x806), 0x806);
    msrs.store(0x2ff, 0xc00);
    assert_eq!((msrs.load(0x2ff, 0x806), msrs.load(0x250, 6)), (0xc00, 6));
}

#[test]
fn with_five_level_paging_canonical_addresses_have_57_bits() {
    let accepts = |value, bits| Valid::Canonical.accepts(value, bits);
    for value in [0x8000_0000_0000, 0x00ff_ffff_ffff_ffff, 0xff00_0000_0000_0000] {
        assert!(accepts(value, 57) && !accepts(value, 48), "{value:#x}");
    }
    for value in [1 << 56, 0xfeff_ffff_ffff_ffff, 1 << 63] {
        assert!(!accepts(value, 57) && !accepts(value, 48), "{value:#x}");
    }
}
