extern crate std;
use super::*;
use crate::testing::Strict;
use std::vec;
use std::vec::Vec;

/// Decodes with only these fields readable.
fn decoded(raw: u32, fields: Vec<(u32, u64)>) -> Decoded {
    decode(raw, &Strict(fields))
}

/// Decodes an instruction's exit.
fn instruction(raw: u32, qualification: u64, length: u64) -> Decoded {
    decoded(
        raw,
        vec![(ro::EXIT_QUALIFICATION, qualification), (ro::VMEXIT_INSTRUCTION_LEN, length)],
    )
}

const NOTHING_INTERRUPTED: (u32, u64) = (ro::IDT_VECTORING_INFO, 0);

#[test]
fn captured_port_accesses_decode() {
    let io = |port, size, direction, string, repeat| {
        VmExit::Io(IoExit { port, size, direction, string, repeat, next_rip: None })
    };
    let captured = [
        (0x80_0040, 2, io(0x80, 1, Direction::Out, false, false)),
        (0x3f8_0009, 1, io(0x3f8, 2, Direction::In, false, false)),
        (0x3f8_0038, 2, io(0x3f8, 1, Direction::In, true, true)),
        // By hand: OUTSD to 0xffff.
        (0xffff_0013, 1, io(0xffff, 4, Direction::Out, true, false)),
    ];
    for (qualification, length, exit) in captured {
        let decoded = instruction(0x1e, qualification, length);
        assert_eq!(decoded.exit, exit);
        assert_eq!(decoded.instruction_length, Some(length as u8));
        assert_eq!(decoded.interrupted, None);
    }
}

#[test]
fn captured_control_register_accesses_decode() {
    let control = |number, access| VmExit::Control(ControlExit { number, access });
    let captured = [
        (0x4, 3, control(4, ControlAccess::Write(Some(Gpr::Rax)))),
        (0x0, 3, control(0, ControlAccess::Write(Some(Gpr::Rax)))),
        (0x118, 4, control(8, ControlAccess::Read(Some(Gpr::Rcx)))),
        (0x108, 4, control(8, ControlAccess::Write(Some(Gpr::Rcx)))),
        // By hand: MOV R15, CR3; CLTS; LMSW with 0xfff0.
        (0xf13, 4, control(3, ControlAccess::Read(Some(Gpr::R15)))),
        (0x20, 2, control(0, ControlAccess::Clts)),
        (0xfff0_0030, 3, control(0, ControlAccess::Lmsw(Some(0xfff0)))),
    ];
    for (qualification, length, exit) in captured {
        assert_eq!(instruction(0x1c, qualification, length).exit, exit);
    }
}

#[test]
fn captured_debug_register_accesses_decode() {
    let debug =
        |number, direction| VmExit::Debug(DebugExit { number, direction, gpr: Some(Gpr::Rdx) });
    assert_eq!(instruction(0x1d, 0x213, 3).exit, debug(3, Direction::In));
    assert_eq!(instruction(0x1d, 0x207, 3).exit, debug(7, Direction::Out));
}

#[test]
fn instructions_without_qualification_read_only_their_length() {
    let plain = [
        (10, VmExit::Cpuid),
        (12, VmExit::Halt),
        (13, VmExit::Invd),
        (15, VmExit::Rdpmc),
        (18, VmExit::Hypercall),
        (31, VmExit::ReadMsr),
        (32, VmExit::WriteMsr),
        (36, VmExit::MonitorMwait),
        (39, VmExit::MonitorMwait),
        (40, VmExit::Pause),
        (54, VmExit::Wbinvd),
        (55, VmExit::Xsetbv),
        (58, VmExit::Invpcid),
    ];
    for (raw, exit) in plain {
        let decoded = decoded(raw, vec![(ro::VMEXIT_INSTRUCTION_LEN, 3)]);
        assert_eq!((decoded.exit, decoded.instruction_length), (exit, Some(3)));
    }
}

#[test]
fn every_vmx_instruction_is_one_the_guest_is_not_shown() {
    for raw in [11, 19, 20, 21, 22, 23, 24, 25, 26, 27, 50, 53, 59] {
        let decoded = decoded(raw, vec![(ro::VMEXIT_INSTRUCTION_LEN, 4)]);
        assert_eq!(decoded.exit, VmExit::VirtualizationInstruction, "reason {raw}");
    }
}

#[test]
fn invlpg_carries_its_address() {
    let exit = instruction(14, 0xffff_8000_0000_5000, 8).exit;
    assert_eq!(exit, VmExit::Invlpg(Some(Gva::new(0xffff_8000_0000_5000))));
}

#[test]
fn asynchronous_exits_read_nothing() {
    let plain = [
        (1, VmExit::HostInterrupt),
        (2, VmExit::TripleFault),
        (7, VmExit::InterruptWindow),
        (8, VmExit::NmiWindow),
        (52, VmExit::Preempted),
    ];
    for (raw, exit) in plain {
        assert_eq!(decoded(raw, vec![]), Decoded::plain(exit));
    }
}

#[test]
fn a_captured_host_nmi_is_no_exception_of_the_guest() {
    let fields = vec![(ro::VMEXIT_INTERRUPTION_INFO, 0x8000_0202), NOTHING_INTERRUPTED];
    assert_eq!(decoded(0, fields).exit, VmExit::HostNmi);
}

#[test]
fn captured_exceptions_decode() {
    let breakpoint = decoded(
        0,
        vec![
            (ro::VMEXIT_INTERRUPTION_INFO, 0x8000_0603),
            (ro::VMEXIT_INSTRUCTION_LEN, 1),
            NOTHING_INTERRUPTED,
        ],
    );
    let expected = ExceptionExit { vector: Vector::BREAKPOINT, error_code: None, qualification: 0 };
    assert_eq!(breakpoint.exit, VmExit::Exception(expected));
    assert_eq!(breakpoint.instruction_length, Some(1));

    let invalid =
        decoded(0, vec![(ro::VMEXIT_INTERRUPTION_INFO, 0x8000_0306), NOTHING_INTERRUPTED]);
    assert_eq!(invalid.exit.reason(), anchorite_vcpu::ExitReason::Exception);
    assert_eq!(invalid.instruction_length, None);
}

#[test]
fn a_page_fault_carries_error_code_and_address() {
    let fault = decoded(
        0,
        vec![
            (ro::VMEXIT_INTERRUPTION_INFO, 0x8000_0b0e),
            (ro::VMEXIT_INTERRUPTION_ERR_CODE, 3),
            (ro::EXIT_QUALIFICATION, 0x6000),
            NOTHING_INTERRUPTED,
        ],
    );
    let expected =
        ExceptionExit { vector: Vector::PAGE_FAULT, error_code: Some(3), qualification: 0x6000 };
    assert_eq!(fault.exit, VmExit::Exception(expected));
}

#[test]
fn a_fault_of_the_iret_that_ended_nmi_blocking_is_noticed() {
    let fields = |vectoring| {
        vec![
            (ro::VMEXIT_INTERRUPTION_INFO, 0x8000_1b0d),
            (ro::VMEXIT_INTERRUPTION_ERR_CODE, 0),
            (ro::IDT_VECTORING_INFO, vectoring),
        ]
    };
    assert!(decoded(0, fields(0)).nmi_unblocked);
    assert!(!decoded(0, fields(0x8000_0030)).nmi_unblocked, "undefined during a delivery");
}

fn violation(qualification: u64, vectoring: Vec<(u32, u64)>) -> Decoded {
    let mut fields =
        vec![(ro::EXIT_QUALIFICATION, qualification), (ro::GUEST_PHYSICAL_ADDR_FULL, 0x7ff8)];
    fields.extend(vectoring);
    decoded(48, fields)
}

#[test]
fn a_captured_violation_in_the_middle_of_a_software_interrupt_decodes() {
    let decoded = violation(
        0x182,
        vec![
            (ro::GUEST_LINEAR_ADDR, 0x7ff8),
            (ro::IDT_VECTORING_INFO, 0x8000_0480),
            (ro::VMEXIT_INSTRUCTION_LEN, 2),
        ],
    );
    let fault = NestedFault {
        gpa: Gpa::new(0x7ff8),
        gva: Some(Gva::new(0x7ff8)),
        access: NestedAccess::WRITE,
    };
    assert_eq!(decoded.exit, VmExit::NestedFault(fault));
    assert_eq!(decoded.instruction_length, None);
    let interrupted = decoded.interrupted.expect("INT 0x80");
    assert_eq!((interrupted.vector, interrupted.instruction_length), (Vector(0x80), 2));
}

#[test]
fn violations_tell_what_was_tried() {
    let access = |qualification| {
        let linear = vec![(ro::GUEST_LINEAR_ADDR, 0), NOTHING_INTERRUPTED];
        match violation(qualification, linear).exit {
            VmExit::NestedFault(fault) => fault.access,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(access(0x181), NestedAccess::empty(), "captured: a read");
    assert_eq!(access(0x184), NestedAccess::FETCH);
    assert_eq!(access(0x1aa), NestedAccess::WRITE | NestedAccess::PRESENT);
    assert_eq!(access(0x081), NestedAccess::TABLE_WALK);
}

#[test]
fn a_violation_without_a_linear_address_reads_none() {
    let decoded = violation(0x1, vec![NOTHING_INTERRUPTED]);
    assert!(matches!(decoded.exit, VmExit::NestedFault(NestedFault { gva: None, .. })));
    assert!(violation(0x1001, vec![NOTHING_INTERRUPTED]).nmi_unblocked);
}

#[test]
fn a_task_switch_names_the_selector() {
    let fields = vec![(ro::EXIT_QUALIFICATION, 0x8000_0028), NOTHING_INTERRUPTED];
    assert_eq!(decoded(9, fields).exit, VmExit::TaskSwitch { selector: 0x28 });
}

#[test]
fn a_refused_entry_keeps_the_whole_reason() {
    let exit = decoded(0x8000_0021, vec![]).exit;
    assert_eq!(exit, VmExit::EntryFailure { code: 0x8000_0021 });
}

#[test]
fn what_is_not_known_is_called_unknown() {
    for raw in [3, 4, 6, 16, 37, 43, 49, 62, 77, 0xffff] {
        assert_eq!(decoded(raw, vec![]).exit, VmExit::Unknown { raw: raw.into() });
    }
}
