extern crate std;
use super::*;
use crate::capabilities::tests::ICELAKE;
use anchorite_addr::Hpa;
use std::vec::Vec;

const NESTED: Root = Root::Nested { table: Hpa::new(0x1000).page() };
const IMPOSED: Imposed = Imposed {
    cr0_fixed0: 0x8000_0021,
    cr4_fixed0: 0x2000,
    machine_check: false,
    paging_exits: false,
};

fn shadow(format: ShadowFormat) -> Root {
    Root::Shadow { cr3: Hpa::new(0x1000), format }
}

fn long_mode() -> GuestControl {
    GuestControl {
        cr0: Cr0::PE | Cr0::PG | Cr0::ET,
        cr4: Cr4::PAE | Cr4::PGE,
        efer: Efer::LME | Efer::SCE,
    }
}

#[test]
fn captured_capabilities_give_the_expected_words() {
    let nested = ControlSet::nested(&ICELAKE).expect("allowed");
    assert_eq!(nested.pin, 0x16 | 1 << 0 | 1 << 3 | 1 << 5 | 1 << 6);
    assert_eq!(nested.primary, 0x0400_6172 | 0xb298_0c88);
    assert_eq!(nested.secondary, 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 12);
    assert_eq!(nested.exit, 0x3_6dfb | 1 << 2 | 1 << 9 | 0xf << 18);
    assert_eq!(nested.entry, 0x11fb | 1 << 2 | 3 << 14);
}

#[test]
fn a_shadow_root_adds_cr3_and_invlpg_exits_and_drops_ept() {
    let nested = ControlSet::nested(&ICELAKE).expect("allowed");
    let shadow = ControlSet::shadow(&ICELAKE).expect("allowed");
    assert_eq!(shadow.primary ^ nested.primary, 1 << 15 | 1 << 16 | 1 << 9);
    assert_eq!(shadow.secondary ^ nested.secondary, 1 << 1 | 1 << 7);
}

#[test]
fn a_refused_required_bit_is_reported_with_its_field() {
    let raw = RawCapabilities { primary: ICELAKE.primary & !(1 << (32 + 28)), ..ICELAKE };
    let refusal = Unavailable::Controls {
        field: "primary processor-based VM-execution controls",
        refused: 1 << 28,
    };
    assert_eq!(ControlSet::nested(&raw), Err(refusal));
}

#[test]
fn a_refused_optional_bit_stays_clear() {
    let raw = RawCapabilities { pin: ICELAKE.pin & !(1 << (32 + 6)), ..ICELAKE };
    let set = ControlSet::nested(&raw).expect("the timer is optional");
    assert!(!set.has_preemption_timer());
}

#[test]
fn refused_names_forbidden_and_forced_bits() {
    let allowed = Allowed(0x0f_0000_0003);
    assert_eq!(allowed.refused(0x13), 0x10);
    assert_eq!(allowed.refused(0x01), 0x02);
    assert_eq!(allowed.refused(0x07), 0);
}

#[test]
fn no_bit_stands_in_two_rows_of_one_field() {
    let fields: [&[&[Control]]; 5] =
        [&[PIN], &[PRIMARY, PRIMARY_SHADOW], &[SECONDARY, SECONDARY_NESTED], &[EXIT], &[ENTRY]];
    for tables in fields {
        let bits: Vec<u32> = tables.iter().copied().flatten().map(|row| row.bit).collect();
        let union = bits.iter().fold(0, |all, bit| all | bit);
        assert_eq!(union.count_ones() as usize, bits.len());
        assert!(tables.iter().copied().flatten().all(|row| !row.reason.is_empty()));
    }
}

#[test]
fn real_mode_runs_as_it_is_under_a_nested_root() {
    let view = GuestControl { cr0: Cr0::ET | Cr0::CD | Cr0::NW, ..GuestControl::default() };
    let hardware = HardwareControl::new(view, NESTED, IMPOSED);
    assert_eq!(hardware.cr0, 0x30);
    assert_eq!(hardware.cr4, 0x2000);
    assert_eq!((hardware.efer, hardware.long_mode), (0, false));
}

#[test]
fn the_guest_reads_its_own_view_through_mask_and_shadow() {
    let views = [
        GuestControl { cr0: Cr0::ET | Cr0::CD, ..GuestControl::default() },
        GuestControl { cr0: Cr0::PE | Cr0::ET, cr4: Cr4::PSE, efer: Efer::empty() },
        long_mode(),
    ];
    let roots = [NESTED, shadow(ShadowFormat::Pae), shadow(ShadowFormat::FourLevel)];
    for (view, root) in views.into_iter().flat_map(|view| roots.map(|root| (view, root))) {
        let hardware = HardwareControl::new(view, root, IMPOSED);
        assert_eq!(visible(hardware.cr0, hardware.cr0_mask, view.cr0.bits()), view.cr0.bits());
        assert_eq!(visible(hardware.cr4, hardware.cr4_mask, view.cr4.bits()), view.cr4.bits());
    }
}

#[test]
fn long_mode_follows_lme_and_paging_in_either_order() {
    let mut view = GuestControl { efer: Efer::LME, cr0: Cr0::PE, cr4: Cr4::PAE };
    assert_eq!(view.visible_efer(), Efer::LME);
    view.cr0 |= Cr0::PG;
    assert_eq!(view.visible_efer(), Efer::LME | Efer::LMA);
    let hardware = HardwareControl::new(view, NESTED, IMPOSED);
    assert!(hardware.long_mode);
    assert_eq!(hardware.efer, 0x500);
}

#[test]
fn a_shadow_root_forces_paging_write_protection_and_nx() {
    let view = GuestControl { cr0: Cr0::PE, cr4: Cr4::PSE | Cr4::SMEP, efer: Efer::LME };
    let hardware = HardwareControl::new(view, shadow(ShadowFormat::Pae), IMPOSED);
    assert_eq!(hardware.cr0, 0x8001_0031);
    assert_eq!(hardware.cr4, 0x2020, "PAE and VMXE; no PSE, and no SMEP while paging is off");
    assert_eq!(hardware.efer, 0x800, "LME must equal LMA while the hardware pages");
    assert!(!hardware.long_mode);
}

#[test]
fn a_shadow_root_takes_its_levels_from_the_format() {
    let four = HardwareControl::new(long_mode(), shadow(ShadowFormat::FourLevel), IMPOSED);
    let five = HardwareControl::new(long_mode(), shadow(ShadowFormat::FiveLevel), IMPOSED);
    assert_eq!(four.cr4 ^ five.cr4, Cr4::LA57.bits());
    assert_eq!(four.efer, 0xd01);
    assert!(four.long_mode);
}

#[test]
fn a_shadow_root_has_no_real_mode() {
    let view = GuestControl { cr0: Cr0::ET, ..GuestControl::default() };
    let hardware = HardwareControl::new(view, shadow(ShadowFormat::Pae), IMPOSED);
    assert_eq!(hardware.cr0 & Cr0::PE.bits(), 0, "entry refuses it and the check says why");
}

#[test]
fn unsupported_cr4_bits_always_exit() {
    for root in [NESTED, shadow(ShadowFormat::FourLevel)] {
        let mask = HardwareControl::new(long_mode(), root, IMPOSED).cr4_mask;
        let hidden = Cr4::PGE | Cr4::PCIDE | Cr4::LA57 | Cr4::SMAP | Cr4::OSXSAVE | Cr4::VMXE;
        assert_eq!(mask & hidden.bits(), hidden.bits());
        assert_eq!(mask >> 23, u64::MAX >> 23);
    }
}

#[test]
fn paging_changes_exit_under_a_shadow_root_only() {
    let paging = (Cr0::PE | Cr0::PG).bits();
    let mask = |root| HardwareControl::new(long_mode(), root, IMPOSED).cr0_mask;
    assert_eq!(mask(NESTED) & paging, 0);
    assert_eq!(mask(shadow(ShadowFormat::FourLevel)) & paging, paging);
}

#[test]
fn the_hosts_machine_check_enable_stays() {
    let imposed = Imposed { machine_check: true, ..IMPOSED };
    let hardware = HardwareControl::new(long_mode(), NESTED, imposed);
    assert_ne!(hardware.cr4 & Cr4::MCE.bits(), 0);
    assert_eq!(visible(hardware.cr4, hardware.cr4_mask, 0) & Cr4::MCE.bits(), 0);
}

#[test]
fn a_machine_that_follows_paging_sees_it_change_under_a_nested_root() {
    let plain = HardwareControl::new(long_mode(), NESTED, IMPOSED);
    let imposed = Imposed { paging_exits: true, ..IMPOSED };
    let following = HardwareControl::new(long_mode(), NESTED, imposed);
    assert_eq!(following.cr0_mask ^ plain.cr0_mask, Cr0::PG.bits());
    assert_eq!(HardwareControl { cr0_mask: plain.cr0_mask, ..following }, plain);
}
