//! A vCPU without its CPU: everything but the privileged instructions.
extern crate std;

use super::delivery::{NmiState, VirtualUse};
use super::{Creation, SvmVcpu};
use crate::asid::AsidPool;
use crate::capabilities::{RawCapabilities, SvmFeatures, probe};
use crate::controls::{IRET, VIRTUAL_INTERRUPT};
use crate::fields::{Clean, VirtualInterrupt, get, set};
use crate::passive::Slot;
use anchorite_addr::{Hpa, HpaPage};
use anchorite_vcpu::exit::ExceptionExit;
use anchorite_vcpu::root::ShadowFormat;
use anchorite_vcpu::{
    ControlRegister, Cr4, Efer, Event, EventKind, Extended, FlushScope, Gpr, GuestMsr, HostPages,
    Page, Root, Segment, SegmentRegister, Vcpu, Vector, VmExit,
};
use std::boxed::Box;
use std::string::String;
use std::vec;

const TABLE: HpaPage = Hpa::new(0x5000).page();
const NESTED: Root = Root::Nested { table: TABLE };
const SHADOW: Root = Root::Shadow { cr3: Hpa::new(0x6000), format: ShadowFormat::FourLevel };
const CR0_LONG: u64 = 0x8000_0011;

fn pages(count: usize) -> HostPages {
    let memory = Box::leak(vec![Page([0; 4096]); count].into_boxed_slice());
    HostPages { physical: Hpa::new(0x10_0000).page(), memory }
}

/// A CPU with these features and 4 ASIDs, by QEMU or not.
fn vcpu(features: SvmFeatures, emulated_by_qemu: bool) -> SvmVcpu {
    let raw = RawCapabilities {
        extended_ecx: 1 << 2,
        extended_edx: 1 << 20 | 1 << 29,
        asids: 4,
        features: features | SvmFeatures::NESTED_PAGING,
        emulated_by_qemu,
        ..RawCapabilities::default()
    };
    SvmVcpu::new(Creation {
        raw,
        capabilities: probe(&raw).expect("usable"),
        extended: Extended::default(),
        slot: Slot::new(pages(1), AsidPool::new(raw.asids)),
        host: TABLE,
        vmcb: pages(1),
        maps: pages(5),
        resting: pages(1),
    })
}

fn plain() -> SvmVcpu {
    vcpu(SvmFeatures::empty(), false)
}

fn enter_long_mode(vcpu: &mut SvmVcpu) {
    vcpu.set_control(ControlRegister::Cr4, 0x20);
    vcpu.set_control(ControlRegister::Cr3, 0x9000);
    vcpu.set_control(ControlRegister::Efer, 0x100);
    vcpu.set_control(ControlRegister::Cr0, CR0_LONG);
}

#[test]
fn a_new_vcpu_is_as_after_reset_and_intercepts_everything() {
    let mut vcpu = plain();
    assert_eq!((vcpu.regs().rip, vcpu.regs().rflags, vcpu.cpl()), (0xfff0, 2, 0));
    let code = vcpu.segment(SegmentRegister::Cs);
    assert_eq!((code.selector, code.base), (0xf000, 0xffff_0000));
    assert_eq!(vcpu.debug_register(7), 0x400);
    // What of the maps the processor looks at: ports and three bits more, three ranges of MSRs.
    let (ports, msrs) = vcpu.map_bytes().split_at(3 * 4096);
    assert!(ports[..=0x2000].iter().chain(&msrs[..0x1800]).all(|&byte| byte == 0xff));
    assert_eq!(get!(vcpu.vmcb, control.msrpm_base), 0x10_3000);
    assert_eq!(get!(vcpu.vmcb, control.clean), 0);
    assert!(!vcpu.is_confined(), "there is no root yet");
}

#[test]
fn efer_exits_whatever_is_asked() {
    let mut vcpu = plain();
    vcpu.intercept_msr(0xc000_0080, false, false);
    assert_eq!(vcpu.map_bytes()[3 * 4096 + 0x820] & 3, 3);
    vcpu.intercept_msr(0xc000_0101, false, true);
    assert_eq!(vcpu.map_bytes()[3 * 4096 + 0x840] & 0xc, 0x8);
    vcpu.intercept_port(0x80, false);
    assert_eq!(vcpu.map_bytes()[0x10] & 1, 0);
}

#[test]
fn the_guests_view_survives_a_change_of_root() {
    let mut vcpu = plain();
    vcpu.set_root(NESTED);
    enter_long_mode(&mut vcpu);
    for root in [SHADOW, NESTED, SHADOW] {
        vcpu.set_root(root);
        assert_eq!(vcpu.control(ControlRegister::Cr0), CR0_LONG);
        assert_eq!(vcpu.control(ControlRegister::Cr3), 0x9000);
        assert_eq!(vcpu.control(ControlRegister::Cr4), 0x20);
        assert_eq!(vcpu.control(ControlRegister::Efer), 0x500);
    }
    assert_eq!(get!(vcpu.vmcb, save.cr3), 0x6000, "the hardware walks the shadow root");
    assert_eq!(get!(vcpu.vmcb, control.nested_control), 0);
    assert_eq!(get!(vcpu.vmcb, control.exceptions), 1 << 14);
    vcpu.set_control(ControlRegister::Cr3, 0xa000);
    assert_eq!(get!(vcpu.vmcb, save.cr3), 0x6000);
    vcpu.set_root(NESTED);
    assert_eq!(get!(vcpu.vmcb, save.cr3), 0xa000);
    assert_eq!(get!(vcpu.vmcb, control.nested_cr3), 0x5000);
    assert_eq!(get!(vcpu.vmcb, control.exceptions), 0);
}

#[test]
fn the_privilege_level_is_that_of_ss() {
    let mut vcpu = plain();
    let user = anchorite_vcpu::SegmentAttributes::from_bits_retain(0xc0f3);
    vcpu.set_segment(
        SegmentRegister::Ss,
        Segment { attributes: user, ..Segment::flat(0x1b, false, false) },
    );
    assert_eq!(vcpu.cpl(), 3);
    set!(vcpu.vmcb, save.cpl, 0);
    assert_eq!(vcpu.segment(SegmentRegister::Ss).attributes.dpl(), 0, "the field decides");
}

#[test]
fn a_task_priority_does_not_disturb_a_pending_interrupt() {
    let mut vcpu = vcpu(SvmFeatures::empty(), true);
    vcpu.inject(Event::interrupt(Vector(0x30)));
    vcpu.arm_event();
    vcpu.set_control(ControlRegister::Cr8, 9);
    assert_eq!(vcpu.control(ControlRegister::Cr8), 9);
    assert_eq!(vcpu.undelivered(), Some(Vector(0x30)));
}

#[test]
fn changed_parts_are_no_longer_clean() {
    let mut vcpu = vcpu(SvmFeatures::CLEAN_BITS, false);
    assert_eq!(vcpu.clean, 0x3ff);
    set!(vcpu.vmcb, control.clean, vcpu.clean);
    vcpu.set_msr(GuestMsr::Pat, 0);
    vcpu.set_control(ControlRegister::Cr2, 1);
    let dirty = Clean::NESTED_PAGING | Clean::CR2;
    assert_eq!(get!(vcpu.vmcb, control.clean), 0x3ff & !dirty.bits());
    assert_eq!(plain().clean, 0, "without the feature nothing is ever clean");
}

#[test]
fn a_flush_takes_a_new_asid_or_flushes_the_old_one() {
    let state =
        |vcpu: &SvmVcpu| (get!(vcpu.vmcb, control.asid), get!(vcpu.vmcb, control.tlb_control));
    let mut old = plain();
    old.tag_translations();
    assert_eq!(state(&old), (1, 1), "the first one flushes everything");
    old.tag_translations();
    assert_eq!(state(&old), (1, 0));
    for expected in [(2, 0), (3, 0), (1, 1), (2, 0)] {
        old.flush(FlushScope::All);
        old.tag_translations();
        assert_eq!(state(&old), expected);
    }

    let mut new = vcpu(SvmFeatures::FLUSH_BY_ASID, false);
    new.tag_translations();
    new.flush(FlushScope::All);
    new.tag_translations();
    assert_eq!(state(&new), (1, 3));
    new.tag_translations();
    assert_eq!(state(&new), (1, 0), "once is enough");
}

#[test]
fn an_interrupt_goes_through_the_injection_field_except_under_qemu() {
    let mut real = plain();
    real.inject(Event::interrupt(Vector(0x30)));
    assert_eq!(real.queued_event(), Some(Event::interrupt(Vector(0x30))));
    real.arm_event();
    assert_eq!(get!(real.vmcb, control.event_injection), 0x8000_0030);
    assert_eq!(real.queued_event(), None);

    let mut qemu = vcpu(SvmFeatures::empty(), true);
    qemu.inject(Event::interrupt(Vector(0x30)));
    qemu.arm_event();
    assert_eq!(get!(qemu.vmcb, control.event_injection), 0);
    assert_eq!(get!(qemu.vmcb, control.virtual_vector), 0x30);
    assert!(qemu.virtual_interrupt().contains(VirtualInterrupt::PENDING));
    assert_eq!(get!(qemu.vmcb, control.misc1) & VIRTUAL_INTERRUPT, 0, "it must not exit");
}

#[test]
fn an_interrupt_that_qemu_has_not_delivered_is_reported_once_and_kept() {
    let mut vcpu = vcpu(SvmFeatures::empty(), true);
    vcpu.inject(Event::interrupt(Vector(0x0e)));
    vcpu.arm_event();
    let interrupt = Some(Event::interrupt(Vector(0x0e)));
    assert_eq!(vcpu.interrupted_event(), interrupt, "not taken at all");
    assert_eq!(vcpu.queued_event(), interrupt);
    // Captured: QEMU reports the delivery of an interrupt as that of an exception.
    set!(vcpu.vmcb, control.exit_int_info, 0x8000_030e);
    assert_eq!(vcpu.interrupted_event(), interrupt, "interrupted in its delivery");
    set!(vcpu.vmcb, control.exit_int_info, 0x8000_0306);
    assert_eq!(vcpu.interrupted_event(), Some(Event::exception(Vector::INVALID_OPCODE)));

    let taken = vcpu.virtual_interrupt() - VirtualInterrupt::PENDING;
    vcpu.set_virtual_interrupt(taken);
    set!(vcpu.vmcb, control.exit_int_info, 0);
    assert_eq!((vcpu.interrupted_event(), vcpu.queued_event()), (None, None));
}

#[test]
fn what_qemus_delivery_of_an_exception_raises_exits_until_something_else_is_injected() {
    const CONTRIBUTORY: u32 = 0b1111 << 10;
    for (emulated_by_qemu, watched) in [(true, CONTRIBUTORY), (false, 0)] {
        let mut vcpu = vcpu(SvmFeatures::empty(), emulated_by_qemu);
        vcpu.intercept_exceptions(1 << 1);
        vcpu.inject(Event::fault(Vector::PAGE_FAULT, 2));
        vcpu.arm_event();
        assert_eq!(get!(vcpu.vmcb, control.exceptions), 1 << 1 | watched);
        vcpu.arm_event();
        assert_eq!(get!(vcpu.vmcb, control.exceptions), 1 << 1 | watched, "nothing is injected");
        vcpu.inject(Event::interrupt(Vector(0x40)));
        vcpu.arm_event();
        assert_eq!(get!(vcpu.vmcb, control.exceptions), 1 << 1);
    }
}

#[test]
fn qemu_does_not_see_long_mode_enabled_before_pae_is() {
    for (emulated_by_qemu, held_back) in [(true, true), (false, false)] {
        let mut vcpu = vcpu(SvmFeatures::empty(), emulated_by_qemu);
        let in_hardware = |vcpu: &SvmVcpu| get!(vcpu.vmcb, save.efer) & Efer::LME.bits() != 0;
        vcpu.set_control(ControlRegister::Efer, Efer::LME.bits());
        assert_eq!(vcpu.control(ControlRegister::Efer), Efer::LME.bits());
        assert_eq!(in_hardware(&vcpu), !held_back);
        vcpu.set_control(ControlRegister::Cr4, Cr4::PAE.bits());
        assert_eq!(vcpu.control(ControlRegister::Efer), Efer::LME.bits());
        assert!(in_hardware(&vcpu));
    }
}

#[test]
fn the_window_waits_for_an_interrupt_on_its_way() {
    let mut vcpu = vcpu(SvmFeatures::empty(), true);
    vcpu.inject(Event::interrupt(Vector(0x30)));
    vcpu.arm_event();
    vcpu.request_interrupt_window(true);
    vcpu.arm_window();
    assert_eq!(vcpu.virtual_use, VirtualUse::Interrupt(Vector(0x30)));

    let taken = vcpu.virtual_interrupt() - VirtualInterrupt::PENDING;
    vcpu.set_virtual_interrupt(taken);
    vcpu.arm_window();
    assert_eq!(vcpu.virtual_use, VirtualUse::Window);
    assert_ne!(get!(vcpu.vmcb, control.misc1) & VIRTUAL_INTERRUPT, 0);
    assert_eq!(vcpu.queued_event(), None, "a window is no interrupt");

    vcpu.request_interrupt_window(false);
    vcpu.arm_window();
    assert!(!vcpu.virtual_interrupt().contains(VirtualInterrupt::PENDING));
    assert_eq!(get!(vcpu.vmcb, control.misc1) & VIRTUAL_INTERRUPT, 0);
}

#[test]
fn a_software_interrupt_returns_behind_its_instruction() {
    let event = Event {
        kind: EventKind::SoftwareInterrupt,
        vector: Vector(0x80),
        error_code: None,
        instruction_length: 2,
    };
    let mut vcpu = vcpu(SvmFeatures::NEXT_RIP, false);
    vcpu.regs_mut().rip = 0x1000;
    vcpu.inject(event);
    vcpu.arm_event();
    assert_eq!((vcpu.regs().rip, get!(vcpu.vmcb, control.next_rip)), (0x1002, 0x1002));
    // Its delivery is interrupted: it is reported whole, and RIP is back.
    set!(vcpu.vmcb, control.exit_int_info, 0x8000_0480);
    set!(vcpu.vmcb, control.exit_code, 0x400);
    assert!(matches!(vcpu.settle(), VmExit::NestedFault(_)));
    assert_eq!((vcpu.regs().rip, vcpu.interrupted_event()), (0x1000, Some(event)));
    // The same report without an injection: the guest's own INT n will run again.
    vcpu.arm_event();
    assert_eq!(vcpu.interrupted_event(), None);
}

#[test]
fn a_delivered_software_interrupt_leaves_rip_alone() {
    let kind = EventKind::SoftwareException;
    let vector = Vector::BREAKPOINT;
    let mut vcpu = plain();
    vcpu.inject(Event { kind, vector, error_code: None, instruction_length: 1 });
    vcpu.arm_event();
    vcpu.regs_mut().rip = 0x2000;
    set!(vcpu.vmcb, control.exit_code, 0x72);
    assert_eq!((vcpu.settle(), vcpu.regs().rip), (VmExit::Cpuid, 0x2000));
}

/// A vCPU whose guest is about to execute the IRET of an NMI handler.
fn stepping(flags: u64) -> SvmVcpu {
    let mut vcpu = plain();
    vcpu.set_root(NESTED);
    vcpu.inject(Event::nmi());
    vcpu.arm_event();
    assert_eq!(vcpu.nmi, NmiState::Blocked);
    assert!(vcpu.nmi_blocked());
    assert_ne!(get!(vcpu.vmcb, control.misc1) & IRET, 0);
    vcpu.regs_mut().rip = 0x3000;
    vcpu.regs_mut()[Gpr::Rsp] = 0x7000;
    vcpu.regs_mut().rflags = flags;
    vcpu.begin_step();
    assert_eq!(vcpu.regs().rflags & 0x100, 0x100);
    assert_eq!(get!(vcpu.vmcb, control.exceptions), u32::MAX);
    vcpu
}

fn end(vcpu: &mut SvmVcpu, exit: VmExit) -> Option<VmExit> {
    let NmiState::Stepping(step) = vcpu.nmi else { panic!("not stepping") };
    vcpu.end_step(exit, step)
}

fn raised(vector: Vector, error_code: Option<u32>) -> VmExit {
    VmExit::Exception(ExceptionExit { vector, error_code, qualification: 0x4ff0 })
}

#[test]
fn the_debug_exception_behind_an_iret_opens_the_nmi_window() {
    let mut vcpu = stepping(2);
    vcpu.regs_mut().rip = 0x1000;
    vcpu.regs_mut().rflags = 2;
    set!(vcpu.vmcb, save.dr6, 0xffff_4ff0);
    assert_eq!(end(&mut vcpu, raised(Vector::DEBUG, None)), Some(VmExit::NmiWindow));
    assert!(!vcpu.nmi_blocked());
    assert_eq!((vcpu.queued_event(), vcpu.debug_register(6)), (None, 0xffff_0ff0));
    assert_eq!(get!(vcpu.vmcb, control.exceptions), 0);
    assert_eq!(get!(vcpu.vmcb, control.misc1) & IRET, 0);
}

#[test]
fn a_guest_that_steps_by_itself_gets_its_debug_exception() {
    let mut vcpu = stepping(0x102);
    vcpu.regs_mut().rip = 0x1000;
    assert_eq!(end(&mut vcpu, raised(Vector::DEBUG, None)), Some(VmExit::NmiWindow));
    assert_eq!(vcpu.queued_event(), Some(Event::exception(Vector::DEBUG)));
}

#[test]
fn an_iret_that_faults_leaves_nmis_blocked_and_no_trap_flag() {
    let mut vcpu = stepping(2);
    assert_eq!(end(&mut vcpu, raised(Vector::GENERAL_PROTECTION, Some(0x50))), None);
    assert!(vcpu.nmi_blocked());
    assert_eq!(vcpu.regs().rflags & 0x100, 0);
    let fault = Event::fault(Vector::GENERAL_PROTECTION, 0x50);
    assert_eq!(vcpu.queued_event(), Some(fault));
    assert_ne!(get!(vcpu.vmcb, control.misc1) & IRET, 0);
}

#[test]
fn an_exception_that_the_machine_asked_for_goes_to_the_machine() {
    let mut vcpu = stepping(2);
    vcpu.intercept_exceptions(1 << 14);
    let fault = raised(Vector::PAGE_FAULT, Some(0));
    assert_eq!(end(&mut vcpu, fault), Some(fault));
    assert_eq!(vcpu.queued_event(), None);
}

#[test]
fn another_exit_puts_the_step_off() {
    let mut vcpu = stepping(2);
    assert_eq!(end(&mut vcpu, VmExit::HostInterrupt), Some(VmExit::HostInterrupt));
    assert_eq!((vcpu.nmi, vcpu.regs().rflags), (NmiState::Blocked, 2));
}

#[test]
fn an_nmi_window_is_open_where_nothing_blocks() {
    let mut vcpu = plain();
    set!(vcpu.vmcb, control.exit_int_info, 0x8000_0306);
    assert!(!vcpu.nmi_window_is_open(), "nobody asked");
    vcpu.request_nmi_window(true);
    vcpu.inject(Event::exception(Vector::INVALID_OPCODE));
    assert!(!vcpu.nmi_window_is_open(), "an event goes first");
    vcpu.arm_event();
    assert!(vcpu.nmi_window_is_open());
    assert_eq!(vcpu.interrupted_event(), None, "it has been reported before");
}

#[test]
fn lengths_come_from_the_next_rip_field_where_it_makes_sense() {
    let mut with = vcpu(SvmFeatures::NEXT_RIP, false);
    with.regs_mut().rip = 0x1000;
    for (next, length) in
        [(0x1002, Some(2)), (0x100f, Some(15)), (0, None), (0x1000, None), (0x1010, None)]
    {
        set!(with.vmcb, control.next_rip, next);
        assert_eq!(with.instruction_length(), length, "{next:#x}");
    }
    let mut without = plain();
    set!(without.vmcb, control.next_rip, without.regs.rip + 2);
    assert_eq!(without.instruction_length(), None);
}

#[test]
fn instruction_bytes_are_as_many_as_were_fetched() {
    let mut vcpu = vcpu(SvmFeatures::DECODE_ASSISTS, false);
    assert!(vcpu.instruction_bytes().is_empty());
    set!(vcpu.vmcb, control.bytes_fetched, 3);
    set!(vcpu.vmcb, control.instruction_bytes, [0x90; 15]);
    assert_eq!(vcpu.instruction_bytes(), [0x90; 3]);
    assert!(plain().instruction_bytes().is_empty());
}

#[test]
fn a_dump_names_the_fields() {
    let mut text = String::new();
    plain().dump(&mut text).expect("a string takes everything");
    for line in ["cs = 0xf000 base 0xffff0000", "dr7 = 0x400", "msrpm_base = 0x103000"] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}
