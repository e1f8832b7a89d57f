extern crate std;
use super::*;
use crate::capabilities::tests::ICELAKE;
use crate::controls::{ControlSet, GuestControl, HardwareControl, IA32E_MODE_GUEST, Imposed};
use crate::fields::{self, HostState, Resources};
use crate::segments;
use crate::testing::Fields;
use anchorite_addr::Hpa;
use anchorite_vcpu::root::ShadowFormat;
use anchorite_vcpu::{Cr0, Cr4, Efer, Root, Segment, SegmentRegister};
use std::format;
use std::string::String;
use std::vec::Vec;
use x86::vmx::vmcs::{control, guest, host};

const INVALID_STATE: u64 = 0x8000_0021;
const NESTED: Root = Root::Nested { table: Hpa::new(0x5000).page() };

/// A VMCS as the backend fills it for `view` under `root`, flat segments.
fn vmcs(view: GuestControl, root: Root) -> Fields {
    let set = match root {
        Root::Nested { .. } => ControlSet::nested(&ICELAKE),
        Root::Shadow { .. } => ControlSet::shadow(&ICELAKE),
    };
    let set = set.expect("allowed");
    let imposed = Imposed {
        cr0_fixed0: ICELAKE.cr0_fixed0,
        cr4_fixed0: ICELAKE.cr4_fixed0,
        ..Imposed::default()
    };
    let hardware = HardwareControl::new(view, root, imposed);
    let resources = Resources { vpid: 1, ..Resources::default() };
    let entry = set.entry | if hardware.long_mode { IA32E_MODE_GUEST } else { 0 };
    let mut fields = Fields::default()
        .with(&fields::execution(&resources))
        .with(&fields::control_words(&set))
        .with(&fields::GUEST_RESET)
        .with(&[
            (control::VPID, 1),
            (control::EPTP_FULL, 0x501e),
            (control::VMENTRY_CONTROLS, entry.into()),
            (guest::CR0, hardware.cr0),
            (guest::CR4, hardware.cr4),
            (guest::IA32_EFER_FULL, hardware.efer),
        ]);
    for register in SegmentRegister::ALL {
        let code = register == SegmentRegister::Cs;
        let segment = match register {
            SegmentRegister::Ldtr | SegmentRegister::Tr => Segment::unusable(),
            _ if view.cr0.contains(Cr0::PE) => Segment::flat(8, code, hardware.long_mode),
            _ => Segment::real_mode(0x100, code),
        };
        fields = with_segment(fields, register, segment);
    }
    fields
}

fn with_segment(fields: Fields, register: SegmentRegister, segment: Segment) -> Fields {
    raw_segment(fields, register, segments::accepted(register, segment))
}

fn raw_segment(fields: Fields, register: SegmentRegister, segment: Segment) -> Fields {
    let place = segments::fields(register);
    fields.with(&[
        (place.selector, segment.selector.into()),
        (place.base, segment.base),
        (place.limit, segment.limit.into()),
        (place.rights, segment.attributes.bits().into()),
    ])
}

fn real() -> GuestControl {
    GuestControl { cr0: Cr0::ET, ..GuestControl::default() }
}

fn protected() -> GuestControl {
    GuestControl { cr0: Cr0::ET | Cr0::PE, ..GuestControl::default() }
}

fn long() -> GuestControl {
    GuestControl { cr0: Cr0::PE | Cr0::PG | Cr0::ET, cr4: Cr4::PAE, efer: Efer::LME }
}

/// The names of the fields found wrong.
fn wrong(code: u64, fields: &Fields) -> Vec<&'static str> {
    let failure = explain(code, fields, &ICELAKE);
    failure.fields.iter().flatten().map(|violation| violation.field).collect()
}

#[test]
fn the_states_that_guests_start_in_pass_every_check() {
    let shadow = |format| Root::Shadow { cr3: Hpa::new(0x6000), format };
    let starts = [
        (real(), NESTED),
        (protected(), NESTED),
        (long(), NESTED),
        (protected(), shadow(ShadowFormat::Pae)),
        (long(), shadow(ShadowFormat::FourLevel)),
    ];
    for (view, root) in starts {
        let fields = vmcs(view, root);
        assert_eq!(wrong(INVALID_STATE, &fields), [""; 0], "{view:?} {root:?}");
        assert_eq!(wrong(7, &fields), [""; 0], "{view:?} {root:?}");
    }
}

#[test]
fn the_state_after_reset_passes_every_check() {
    let mut fields = vmcs(real(), NESTED);
    for register in SegmentRegister::ALL {
        fields = with_segment(fields, register, segments::after_reset(register));
    }
    assert_eq!(wrong(INVALID_STATE, &fields), [""; 0]);
}

#[test]
fn each_broken_guest_field_is_named() {
    let broken = [
        (guest::CR3, 1 << 60, "guest CR3"),
        (guest::CR4, 0x2020 | 1 << 30, "guest CR4"),
        (guest::IA32_EFER_FULL, 0x1500, "guest IA32_EFER"),
        (guest::IA32_PAT_FULL, 2, "guest IA32_PAT"),
        (guest::IA32_DEBUGCTL_FULL, 1 << 2, "guest IA32_DEBUGCTL"),
        (guest::DR7, 1 << 32, "guest DR7"),
        (guest::IA32_SYSENTER_EIP, 1 << 50, "guest IA32_SYSENTER_EIP"),
        (guest::RIP, 1 << 50, "guest RIP"),
        (guest::RFLAGS, 0, "guest RFLAGS"),
        (guest::RFLAGS, 2 | 1 << 17, "guest RFLAGS"),
        (guest::GDTR_BASE, 1 << 50, "guest GDTR base"),
        (guest::IDTR_LIMIT, 0x10000, "guest IDTR limit"),
        (guest::ACTIVITY_STATE, 4, "guest activity state"),
        (guest::INTERRUPTIBILITY_STATE, 1, "guest interruptibility state"),
        (guest::PENDING_DBG_EXCEPTIONS, 1 << 5, "guest pending debug exceptions"),
        (guest::LINK_PTR_FULL, 0, "VMCS link pointer"),
        (guest::CS_ACCESS_RIGHTS, 0xe09b, "guest CS access rights"),
        (guest::SS_ACCESS_RIGHTS, 0xc09b, "guest SS access rights"),
        (guest::DS_ACCESS_RIGHTS, 0xc092, "guest DS access rights"),
        (guest::ES_LIMIT, 0xffff_0000, "guest ES limit"),
        (guest::FS_BASE, 1 << 50, "guest FS base"),
        (guest::TR_ACCESS_RIGHTS, 0x89, "guest TR access rights"),
        (guest::TR_ACCESS_RIGHTS, 0x83, "guest TR access rights"),
        (guest::LDTR_ACCESS_RIGHTS, 0x83, "guest LDTR access rights"),
    ];
    for (field, value, name) in broken {
        let found = wrong(INVALID_STATE, &vmcs(long(), NESTED).with(&[(field, value)]));
        assert!(found.contains(&name), "{name} = {value:#x}: found {found:?}");
    }
}

#[test]
fn virtual_8086_mode_demands_its_own_segments() {
    let fields = vmcs(protected(), NESTED).with(&[(guest::RFLAGS, 2 | 1 << 17)]);
    let found = wrong(INVALID_STATE, &fields);
    assert!(found.contains(&"guest ES access rights") && found.contains(&"guest CS base"));
}

#[test]
fn an_unusable_code_segment_is_found() {
    let fields = raw_segment(vmcs(real(), NESTED), SegmentRegister::Cs, Segment::unusable());
    assert!(wrong(INVALID_STATE, &fields).contains(&"guest CS access rights"));
}

#[test]
fn real_mode_under_a_shadow_root_is_explained() {
    let root = Root::Shadow { cr3: Hpa::new(0x6000), format: ShadowFormat::Pae };
    let failure = explain(INVALID_STATE, &vmcs(real(), root), &ICELAKE);
    let first = failure.fields[0].expect("a violation");
    assert_eq!(first.field, "guest CR0");
    assert!(first.rule.contains("unrestricted guest"));
}

#[test]
fn an_interrupt_needs_the_flag_and_no_shadow() {
    let injected = [(control::VMENTRY_INTERRUPTION_INFO_FIELD, 0x8000_0030)];
    let fields = vmcs(long(), NESTED).with(&injected);
    assert_eq!(wrong(INVALID_STATE, &fields), ["guest RFLAGS"]);
    let blocked = fields.with(&[(guest::RFLAGS, 0x202), (guest::INTERRUPTIBILITY_STATE, 2)]);
    assert_eq!(wrong(INVALID_STATE, &blocked), ["guest interruptibility state"]);
}

#[test]
fn single_steps_must_be_noted_while_interrupts_are_blocked() {
    let stepping = [(guest::RFLAGS, 0x302), (guest::INTERRUPTIBILITY_STATE, 1)];
    let fields = vmcs(long(), NESTED).with(&stepping);
    assert_eq!(wrong(INVALID_STATE, &fields), ["guest pending debug exceptions"]);
    let noted = fields.with(&[(guest::PENDING_DBG_EXCEPTIONS, 1 << 14)]);
    assert_eq!(wrong(INVALID_STATE, &noted), [""; 0]);
}

#[test]
fn pdptes_are_checked_under_pae_only() {
    let broken = [(guest::PDPTE2_FULL, 0x1003 | 1 << 7)];
    let pae = GuestControl { efer: Efer::empty(), ..long() };
    assert_eq!(wrong(INVALID_STATE, &vmcs(pae, NESTED).with(&broken)), ["guest PDPTE2"]);
    assert_eq!(wrong(INVALID_STATE, &vmcs(long(), NESTED).with(&broken)), [""; 0]);
}

#[test]
fn each_broken_control_is_named() {
    let event = control::VMENTRY_INTERRUPTION_INFO_FIELD;
    let broken = [
        (control::PINBASED_EXEC_CONTROLS, 0, "pin-based VM-execution controls"),
        (control::VMEXIT_CONTROLS, 0, "VM-exit controls"),
        (control::EPTP_FULL, 0, "EPT pointer"),
        (control::VPID, 0, "VPID"),
        (control::MSR_BITMAPS_ADDR_FULL, 8, "MSR bitmap"),
        (event, 0x8000_0303 | 1 << 11, "VM-entry interruption information"),
        (event, 0x8000_0203, "VM-entry interruption information"),
    ];
    for (field, value, name) in broken {
        let found = wrong(7, &vmcs(long(), NESTED).with(&[(field, value)]));
        assert_eq!(found, [name], "{name} = {value:#x}");
    }
}

#[test]
fn a_software_event_of_length_0_is_wrong_where_the_cpu_says_so() {
    let event = [(control::VMENTRY_INTERRUPTION_INFO_FIELD, 0x8000_0480)];
    let fields = vmcs(long(), NESTED).with(&event);
    assert_eq!(wrong(7, &fields), [""; 0], "the captured CPU allows it");
    let strict = RawCapabilities { misc: ICELAKE.misc & !(1 << 30), ..ICELAKE };
    let found = explain(7, &fields, &strict).fields[0].expect("a violation");
    assert_eq!(found.field, "VM-entry instruction length");
}

fn host_fields() -> Fields {
    let state = HostState {
        cr0: 0x8001_0033,
        cr3: 0x1000,
        cr4: 0x2620,
        selectors: [0x10, 8, 0x10, 0x10, 0, 0, 0x18],
        gdtr_base: 0xffff_8000_0000_0000,
        pat: 0x0007_0406_0007_0406,
        efer: 0xd00,
        ..HostState::default()
    };
    Fields::default().with(&fields::host_state(&state, 0x20_0000))
}

#[test]
fn each_broken_host_field_is_named() {
    assert_eq!(wrong(8, &host_fields()), [""; 0]);
    let broken = [
        (host::CR4, 0x620, "host CR4"),
        (host::IA32_EFER_FULL, 0, "host IA32_EFER"),
        (host::GS_BASE, 1 << 50, "host GS base"),
        (host::TR_SELECTOR, 0, "host TR selector"),
        (host::CS_SELECTOR, 0xb, "host CS selector"),
    ];
    for (field, value, name) in broken {
        assert_eq!(wrong(8, &host_fields().with(&[(field, value)])), [name]);
    }
}

#[test]
fn a_report_stops_at_its_room() {
    let failure = explain(INVALID_STATE, &Fields::default(), &ICELAKE);
    assert!(failure.fields.iter().all(Option::is_some));
}

#[test]
fn a_failure_is_told_in_the_manuals_words() {
    let fields = vmcs(long(), NESTED).with(&[(guest::RFLAGS, 0)]);
    let text: String = format!("{}", explain(INVALID_STATE, &fields, &ICELAKE));
    assert_eq!(
        text,
        "the CPU refused to enter the guest: VM-entry failure due to invalid guest state \
         (0x80000021)\n  guest RFLAGS = 0x0: reserved bits must be 0 and bit 1 must be 1"
    );
    assert_eq!(reason_text(5), "VMRESUME with non-launched VMCS");
    assert_eq!(reason_text(0x8000_0022), "VM-entry failure due to MSR loading");
}
