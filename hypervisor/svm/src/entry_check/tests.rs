extern crate std;

use super::{Checked, explain};
use crate::capabilities::{RawCapabilities, SvmFeatures};
use anchorite_vcpu::{Event, Vector};
use std::vec::Vec;

const CPU: RawCapabilities = RawCapabilities {
    cpuid_1_ecx: 0,
    cpuid_7_ebx: 0,
    cpuid_7_ecx: 0,
    extended_ecx: 1 << 2,
    extended_edx: 1 << 20 | 1 << 29,
    address_sizes: 40,
    svm_eax: 1,
    asids: 16,
    features: SvmFeatures::NESTED_PAGING,
    vm_cr: 0,
    emulated_by_qemu: false,
};

/// A long-mode guest that VMRUN accepts.
const GOOD: Checked = Checked {
    cr0: 0x8000_0011,
    cr3: 0x1000,
    cr4: 0x20,
    dr6: 0xffff_0ff0,
    dr7: 0x400,
    efer: 0x1d01,
    cs_attributes: 0xa9b,
    misc_2: 1,
    iopm_base: 0x10_0000,
    msrpm_base: 0x10_3000,
    asid: 1,
    event_injection: 0,
    nested_control: 1,
    nested_cr3: 0x20_0000,
    g_pat: 0x0007_0406_0007_0406,
};

fn violations(fields: &Checked) -> Vec<(&'static str, u64)> {
    let report = explain(u64::MAX, fields, &CPU);
    assert_eq!(report.code, u64::MAX);
    report.fields.iter().flatten().map(|found| (found.field, found.value)).collect()
}

#[test]
fn a_good_state_shows_no_violation() {
    assert_eq!(violations(&GOOD), []);
    assert!(explain(u64::MAX, &GOOD, &CPU).reason.contains("no check"));
}

#[test]
fn each_broken_field_is_named_with_its_value() {
    let broken: &[(&str, u64, Checked)] = &[
        ("EFER", 0xd01, Checked { efer: 0xd01, ..GOOD }),
        ("EFER", 0x1_0000_1d01, Checked { efer: 0x1_0000_1d01, ..GOOD }),
        ("CR4", 0, Checked { cr4: 0, ..GOOD }),
        ("CR0", 0x8000_0010, Checked { cr0: 0x8000_0010, ..GOOD }),
        ("CS.attributes", 0xe9b, Checked { cs_attributes: 0xe9b, ..GOOD }),
        ("CR0", 0xa000_0011, Checked { cr0: 0xa000_0011, ..GOOD }),
        ("CR0", 0x1_8000_0011, Checked { cr0: 0x1_8000_0011, ..GOOD }),
        ("CR3", 1 << 40, Checked { cr3: 1 << 40, ..GOOD }),
        ("CR4", 0x2020, Checked { cr4: 0x2020, ..GOOD }),
        ("DR6", 1 << 32, Checked { dr6: 1 << 32, ..GOOD }),
        ("DR7", 1 << 63, Checked { dr7: 1 << 63, ..GOOD }),
        ("intercepts at 0x010", 2, Checked { misc_2: 2, ..GOOD }),
        ("ASID", 0, Checked { asid: 0, ..GOOD }),
        ("IOPM_BASE_PA", 0xff_ffff_e000, Checked { iopm_base: 0xff_ffff_e000, ..GOOD }),
        ("MSRPM_BASE_PA", u64::MAX, Checked { msrpm_base: u64::MAX, ..GOOD }),
        ("nCR3", 1 << 41, Checked { nested_cr3: 1 << 41, ..GOOD }),
        ("G_PAT", 2, Checked { g_pat: 2, ..GOOD }),
    ];
    for (field, value, state) in broken {
        assert_eq!(violations(state), [(*field, *value)]);
    }
}

#[test]
fn the_last_place_for_a_map_is_accepted() {
    assert_eq!(violations(&Checked { iopm_base: 0xff_ffff_d000, ..GOOD }), []);
}

#[test]
fn events_that_cannot_be_are_named() {
    for bad in [0x8000_0120, 0x8000_0302, 0x8000_0320, 0x8000_0700] {
        let state = Checked { event_injection: bad, ..GOOD };
        assert_eq!(violations(&state), [("EVENTINJ", bad)]);
    }
    let page_fault = crate::event::injection(Event::fault(Vector::PAGE_FAULT, 2));
    for good in [0x0000_0700, 0x8000_0020, 0x8000_0202, 0x8000_0480, page_fault] {
        assert_eq!(violations(&Checked { event_injection: good, ..GOOD }), []);
    }
}

#[test]
fn nested_fields_do_not_count_without_nested_paging() {
    let state = Checked { nested_control: 0, nested_cr3: u64::MAX, g_pat: 2, ..GOOD };
    assert_eq!(violations(&state), []);
}

#[test]
fn nested_paging_needs_a_cpu_that_has_it() {
    let cpu = RawCapabilities { features: SvmFeatures::empty(), ..CPU };
    let report = explain(u64::MAX, &GOOD, &cpu);
    assert_eq!(report.fields[0].map(|found| found.field), Some("NP_ENABLE"));
}

#[test]
fn a_report_holds_at_most_its_number_of_violations() {
    let hopeless = Checked {
        cr0: 0x1_a000_0000,
        cr4: !0x20,
        efer: !0x1000,
        dr6: u64::MAX,
        dr7: u64::MAX,
        iopm_base: u64::MAX,
        msrpm_base: u64::MAX,
        event_injection: 0x8000_0700,
        ..Checked::default()
    };
    assert_eq!(violations(&hopeless).len(), 8);
}
