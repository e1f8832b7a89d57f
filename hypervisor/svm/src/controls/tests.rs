use super::{ControlSet, GuestControl, HardwareControl, IRET, VIRTUAL_INTERRUPT};
use crate::capabilities::RawCapabilities;
use anchorite_addr::{Hpa, HpaPage};
use anchorite_vcpu::root::ShadowFormat;
use anchorite_vcpu::{Cr0, Cr4, Efer, Instructions, Root};

const TABLE: HpaPage = Hpa::new(0x1000).page();
const NESTED: Root = Root::Nested { table: TABLE };

fn shadow(format: ShadowFormat) -> Root {
    Root::Shadow { cr3: TABLE.addr(), format }
}

fn nested() -> ControlSet {
    ControlSet::nested(&RawCapabilities::default(), Instructions::all(), false)
}

#[test]
fn nested_vectors_have_the_bits_of_the_manual() {
    let set = nested();
    // INTR NMI INIT | RDPMC CPUID INVD HLT INVLPGA IOIO MSR task FERR SHUTDOWN
    assert_eq!(set.misc_1, 0xfd44_800b);
    // VMRUN … SKINIT | WBINVD MONITOR MWAIT XSETBV
    assert_eq!(set.misc_2, 0x0000_2e7f);
    assert_eq!((set.cr_reads, set.cr_writes, set.exceptions, set.misc_3), (0, 0x10, 0, 0));
    let following = ControlSet::nested(&RawCapabilities::default(), Instructions::all(), true);
    assert_eq!(following, ControlSet { cr_writes: 0x11, ..set });
}

#[test]
fn time_stamps_pauses_and_windows_do_not_exit() {
    let misc_1 = nested().misc_1;
    assert_eq!(misc_1 & (1 << 14 | 1 << 23 | VIRTUAL_INTERRUPT | IRET), 0);
}

#[test]
fn a_shadow_root_intercepts_translation_too() {
    let set = ControlSet::shadow(&RawCapabilities::default(), Instructions::all());
    assert_eq!((set.cr_reads, set.cr_writes), (0b1_1001, 0b1_1001));
    assert_eq!(set.exceptions, 1 << 14);
    assert_eq!(set.misc_1, nested().misc_1 | 1 << 25);
    assert_eq!(set.misc_3, 0);
    let with_invpcid = RawCapabilities { cpuid_7_ebx: 1 << 10, ..RawCapabilities::default() };
    assert_eq!(ControlSet::shadow(&with_invpcid, Instructions::all()).misc_3, 1 << 2);
}

#[test]
fn a_nested_root_leaves_the_guest_its_own_registers() {
    let view = GuestControl {
        cr0: Cr0::PE | Cr0::PG | Cr0::CD,
        cr4: Cr4::PAE | Cr4::PGE,
        efer: Efer::LME | Efer::SCE,
    };
    let hardware = HardwareControl::new(view, NESTED);
    assert_eq!(hardware, HardwareControl { cr0: 0x8000_0011, cr4: 0xa0, efer: 0x1501 });
}

#[test]
fn lma_is_derived_and_svme_is_hidden() {
    let mut view = GuestControl { efer: Efer::all(), ..GuestControl::default() };
    assert_eq!(view.visible_efer(), Efer::SCE | Efer::LME | Efer::NXE);
    view.cr0 = Cr0::PE | Cr0::PG;
    assert_eq!(view.visible_efer(), Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE);
}

#[test]
fn real_mode_over_shadow_tables_is_paged_real_mode() {
    let view = GuestControl { cr0: Cr0::ET, cr4: Cr4::SMEP | Cr4::PSE, efer: Efer::LME };
    let hardware = HardwareControl::new(view, shadow(ShadowFormat::Pae));
    assert_eq!(hardware.cr0, (Cr0::ET | Cr0::PG | Cr0::WP).bits());
    assert_eq!(hardware.cr4, Cr4::PAE.bits());
    assert_eq!(hardware.efer, (Efer::NXE | Efer::SVME).bits(), "LME would turn long mode on");
}

#[test]
fn long_mode_over_shadow_tables_keeps_its_mode() {
    let view = GuestControl {
        cr0: Cr0::PE | Cr0::PG | Cr0::NE,
        cr4: Cr4::PAE | Cr4::PGE | Cr4::SMEP | Cr4::LA57,
        efer: Efer::LME | Efer::SCE,
    };
    let four = HardwareControl::new(view, shadow(ShadowFormat::FourLevel));
    assert_eq!(four.cr4, (Cr4::PAE | Cr4::SMEP).bits());
    let efer = Efer::LME | Efer::LMA | Efer::SCE | Efer::NXE | Efer::SVME;
    assert_eq!(four.efer, efer.bits());
    let five = HardwareControl::new(view, shadow(ShadowFormat::FiveLevel));
    assert_eq!(five.cr4, (Cr4::PAE | Cr4::SMEP | Cr4::LA57).bits());
}

#[test]
fn instructions_that_are_not_permitted_exit_where_the_cpu_has_them() {
    let raw = RawCapabilities { cpuid_7_ebx: 1 << 10, ..RawCapabilities::default() };
    let all = ControlSet::nested(&raw, Instructions::all(), false);
    let none = ControlSet::nested(&raw, Instructions::empty(), false);
    assert_eq!(none.misc_2 ^ all.misc_2, 1 << 7, "RDTSCP");
    assert_eq!((all.misc_3, none.misc_3), (0, 1 << 2), "INVPCID");
    let without = ControlSet::nested(&RawCapabilities::default(), Instructions::empty(), false);
    assert_eq!(without.misc_3, 0, "the intercept goes with the instruction");
}
