extern crate std;
use super::*;
use std::collections::BTreeMap;

/// Bochs 2.7, `corei7_icelake_u`, as read from its MSRs.
pub(crate) const ICELAKE: RawCapabilities = RawCapabilities {
    cpuid_1_ecx: 0x77fa_f3bf,
    feature_control: 0x5,
    basic: 0x00d8_1000_0000_0004,
    misc: 0x6004_01e0,
    pin: 0x7f_0000_0016,
    primary: 0xfff9_fffe_0400_6172,
    secondary: 0x0297_7fff_0000_0000,
    exit: 0x7f_ffff_0003_6dfb,
    entry: 0xffff_0000_11fb,
    ept_vpid: EptVpid::from_bits_retain(0x0000_0f01_0633_4141),
    cr0_fixed0: 0x8000_0021,
    cr0_fixed1: 0xffff_ffff,
    cr4_fixed0: 0x2000,
    cr4_fixed1: 0x77_2fff,
};

#[test]
fn a_captured_icelake_offers_what_guests_need() {
    let capabilities = probe(&ICELAKE).expect("usable");
    assert_eq!(capabilities.extension, "VMX");
    assert_eq!(capabilities.revision, 4);
    assert_eq!(capabilities.address_space_ids, 65536);
    assert!(capabilities.unrestricted_guest && capabilities.preemption_timer);
    assert!(capabilities.tagged_flush && capabilities.nested_paging);
}

#[test]
fn vmx_locked_off_by_firmware_is_refused_with_the_value() {
    let raw = RawCapabilities { feature_control: FEATURE_CONTROL_LOCK, ..ICELAKE };
    let refusal = probe(&raw).expect_err("locked");
    assert_eq!(
        std::format!("{refusal}"),
        "VMX is locked off by firmware: IA32_FEATURE_CONTROL = 0x1; enable it in the firmware's set-up"
    );
}

#[test]
fn vmx_left_open_by_firmware_is_accepted() {
    let raw = RawCapabilities { feature_control: 0, ..ICELAKE };
    assert!(raw.feature_control_open());
    assert!(probe(&raw).is_ok());
}

#[test]
fn a_cpu_without_vmx_is_asked_for_no_msr() {
    let raw = RawCapabilities::collect(0, |msr| panic!("read of MSR {msr:#x}"));
    let refusal = Unavailable::NotInCpuid { extension: "VMX", leaf: 1 };
    assert_eq!(probe(&raw), Err(refusal));
}

#[test]
fn missing_unrestricted_guest_is_named() {
    let without = ICELAKE.secondary & !(1 << (32 + 7));
    let raw = RawCapabilities { secondary: without, ..ICELAKE };
    let refusal = Unavailable::Missing {
        feature: "unrestricted guest",
        register: "IA32_VMX_PROCBASED_CTLS2",
        value: without,
    };
    assert_eq!(probe(&raw), Err(refusal));
}

#[test]
fn missing_invept_is_named() {
    let raw = RawCapabilities { ept_vpid: ICELAKE.ept_vpid - EptVpid::INVEPT, ..ICELAKE };
    assert!(matches!(probe(&raw), Err(Unavailable::Missing { feature: "INVEPT", .. })));
}

#[test]
fn vpids_without_a_way_to_flush_them_are_not_used() {
    let flushes = EptVpid::INVVPID_SINGLE | EptVpid::INVVPID_ALL;
    let raw = RawCapabilities { ept_vpid: ICELAKE.ept_vpid - flushes, ..ICELAKE };
    let capabilities = probe(&raw).expect("usable without");
    assert_eq!(capabilities.address_space_ids, 0);
    assert!(!ControlSet::nested(&raw).expect("controls").has_vpid());
}

/// The MSRs of a CPU, none other: reading one that is missing is a #GP.
fn reader(present: &[(u32, u64)]) -> impl FnMut(u32) -> u64 + use<> {
    let present: BTreeMap<u32, u64> = present.iter().copied().collect();
    move |msr| *present.get(&msr).unwrap_or_else(|| panic!("#GP: no MSR {msr:#x}"))
}

/// What every CPU with VMX has.
const ALWAYS: [(u32, u64); 7] = [
    (0x3a, 5),
    (0x480, 0x00d8_1000_0000_0004),
    (0x485, 0x6004_01e0),
    (0x486, 0x8000_0021),
    (0x487, 0xffff_ffff),
    (0x488, 0x2000),
    (0x489, 0x77_2fff),
];

#[test]
fn true_controls_are_read_where_the_basic_msr_shows_them() {
    let mut msrs = ALWAYS.to_vec();
    msrs.extend([
        (0x48d, ICELAKE.pin),
        (0x48e, ICELAKE.primary),
        (0x48f, ICELAKE.exit),
        (0x490, ICELAKE.entry),
        (0x48b, ICELAKE.secondary),
        (0x48c, ICELAKE.ept_vpid.bits()),
    ]);
    assert_eq!(RawCapabilities::collect(ICELAKE.cpuid_1_ecx, reader(&msrs)), ICELAKE);
}

#[test]
fn a_cpu_without_true_or_secondary_controls_is_not_asked_for_them() {
    let mut msrs = ALWAYS.to_vec();
    msrs[1].1 = 0x0058_1000_0000_0004;
    msrs.extend([(0x481, 0x16), (0x482, 0x7fff_fffe_0401_e172), (0x483, 0), (0x484, 0)]);
    let raw = RawCapabilities::collect(CPUID_VMX, reader(&msrs));
    assert_eq!((raw.secondary, raw.ept_vpid), (0, EptVpid::empty()));
    assert!(matches!(probe(&raw), Err(Unavailable::Missing { feature: "EPT", .. })));
}
