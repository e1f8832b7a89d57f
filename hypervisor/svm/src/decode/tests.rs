extern crate std;

use super::{DecodeAssists, decode};
use crate::FieldSource;
use anchorite_addr::{Gpa, Gva};
use anchorite_vcpu::exit::{
    ControlAccess, ControlExit, DebugExit, Direction, ExceptionExit, IoExit, NestedAccess,
    NestedFault,
};
use anchorite_vcpu::{Gpr, Vector, VmExit};
use std::vec::Vec;

const PLAIN: DecodeAssists = DecodeAssists(false);
const ASSISTED: DecodeAssists = DecodeAssists(true);

/// EXITINFO1, EXITINFO2, DR6.
struct Captured(u64, u64, u64);

impl FieldSource for Captured {
    fn exit_info_1(&self) -> u64 {
        self.0
    }

    fn exit_info_2(&self) -> u64 {
        self.1
    }

    fn dr6(&self) -> u64 {
        self.2
    }
}

const NOTHING: Captured = Captured(0, 0, 0);

#[test]
fn an_out_names_port_size_and_next_instruction() {
    // OUT DX, AL at port 0x3f8: 8 bits wide, 16-bit address size.
    let exit = decode(0x7b, PLAIN, &Captured(0x03f8_0090, 0x1003, 0));
    let expected = IoExit {
        port: 0x3f8,
        size: 1,
        direction: Direction::Out,
        string: false,
        repeat: false,
        next_rip: Some(0x1003),
    };
    assert_eq!(exit, VmExit::Io(expected));
}

#[test]
fn a_repeated_string_input_says_so() {
    let VmExit::Io(io) = decode(0x7b, PLAIN, &Captured(0x01f0_022d, 0x2002, 0)) else {
        panic!("not I/O")
    };
    assert_eq!((io.port, io.size, io.direction), (0x1f0, 2, Direction::In));
    assert!(io.string && io.repeat);
    let VmExit::Io(io) = decode(0x7b, PLAIN, &Captured(0x0cfc_0041, 0x2002, 0)) else {
        panic!("not I/O")
    };
    assert_eq!((io.size, io.string, io.repeat), (4, false, false));
}

#[test]
fn an_msr_access_has_its_direction_in_bit_0() {
    assert_eq!(decode(0x7c, PLAIN, &NOTHING), VmExit::ReadMsr);
    assert_eq!(decode(0x7c, PLAIN, &Captured(1, 0, 0)), VmExit::WriteMsr);
}

#[test]
fn a_nested_fault_tells_address_and_access() {
    let exit = decode(0x400, PLAIN, &Captured(0x1_0000_0006, 0xfee0_0300, 0));
    let expected =
        NestedFault { gpa: Gpa::new(0xfee0_0300), gva: None, access: NestedAccess::WRITE };
    assert_eq!(exit, VmExit::NestedFault(expected));

    let exit = decode(0x400, PLAIN, &Captured(0x2_0000_0015, 0x5000, 0));
    let VmExit::NestedFault(fault) = exit else { panic!("not a nested fault") };
    let access = NestedAccess::FETCH | NestedAccess::PRESENT | NestedAccess::TABLE_WALK;
    assert_eq!(fault.access, access);
}

#[test]
fn a_page_fault_carries_error_code_and_address() {
    let exit = decode(0x4e, PLAIN, &Captured(0x6, 0xdead_b000, 0));
    let expected = ExceptionExit {
        vector: Vector::PAGE_FAULT,
        error_code: Some(6),
        qualification: 0xdead_b000,
    };
    assert_eq!(exit, VmExit::Exception(expected));
}

#[test]
fn only_the_vectors_of_the_manual_carry_error_codes() {
    let carriers: Vec<u64> = (0..32)
        .filter(|vector| match decode(0x40 + vector, PLAIN, &NOTHING) {
            VmExit::Exception(exception) => exception.error_code.is_some(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(carriers, [8, 10, 11, 12, 13, 14, 17, 21, 29, 30]);
}

#[test]
fn a_debug_exception_carries_dr6() {
    let exit = decode(0x41, PLAIN, &Captured(0, 0, 0xffff_4ff0));
    let expected =
        ExceptionExit { vector: Vector::DEBUG, error_code: None, qualification: 0xffff_4ff0 };
    assert_eq!(exit, VmExit::Exception(expected));
}

#[test]
fn without_assists_the_operand_of_a_control_access_is_unknown() {
    let access = |exit| match exit {
        VmExit::Control(ControlExit { number, access }) => (number, access),
        other => panic!("{other:?}"),
    };
    let garbage = Captured(u64::MAX, 0, 0);
    assert_eq!(access(decode(0x03, PLAIN, &garbage)), (3, ControlAccess::Read(None)));
    assert_eq!(access(decode(0x14, PLAIN, &garbage)), (4, ControlAccess::Write(None)));
    assert_eq!(access(decode(0x65, PLAIN, &garbage)), (0, ControlAccess::Write(None)));
    let mov = Captured(1 << 63 | 9, 0, 0);
    assert_eq!(access(decode(0x14, ASSISTED, &mov)), (4, ControlAccess::Write(Some(Gpr::R9))));
    assert_eq!(access(decode(0x10, ASSISTED, &NOTHING)), (0, ControlAccess::Write(None)));
}

#[test]
fn debug_register_accesses_name_the_register() {
    let exit = decode(0x37, ASSISTED, &Captured(3, 0, 0));
    let expected = DebugExit { number: 7, direction: Direction::Out, gpr: Some(Gpr::Rbx) };
    assert_eq!(exit, VmExit::Debug(expected));
    let exit = decode(0x26, PLAIN, &Captured(3, 0, 0));
    let expected = DebugExit { number: 6, direction: Direction::In, gpr: None };
    assert_eq!(exit, VmExit::Debug(expected));
}

#[test]
fn invlpg_tells_its_address_with_assists_only() {
    let info = Captured(0x7fff_0000_1000, 0, 0);
    assert_eq!(decode(0x79, PLAIN, &info), VmExit::Invlpg(None));
    assert_eq!(decode(0x79, ASSISTED, &info), VmExit::Invlpg(Some(Gva::new(0x7fff_0000_1000))));
}

#[test]
fn plain_exits_are_decoded_one_by_one() {
    for (raw, exit) in [
        (0x60, VmExit::HostInterrupt),
        (0x61, VmExit::HostNmi),
        (0x64, VmExit::InterruptWindow),
        (0x6f, VmExit::Rdpmc),
        (0x72, VmExit::Cpuid),
        (0x74, VmExit::NmiWindow),
        (0x76, VmExit::Invd),
        (0x77, VmExit::Pause),
        (0x78, VmExit::Halt),
        (0x7a, VmExit::VirtualizationInstruction),
        (0x7f, VmExit::TripleFault),
        (0x80, VmExit::VirtualizationInstruction),
        (0x81, VmExit::Hypercall),
        (0x82, VmExit::VirtualizationInstruction),
        (0x86, VmExit::VirtualizationInstruction),
        (0x89, VmExit::Wbinvd),
        (0x8a, VmExit::MonitorMwait),
        (0x8c, VmExit::MonitorMwait),
        (0x8d, VmExit::Xsetbv),
        (0xa2, VmExit::Invpcid),
        (0x87, VmExit::Rdtscp),
    ] {
        assert_eq!(decode(raw, PLAIN, &NOTHING), exit, "{raw:#x}");
    }
}

#[test]
fn a_task_switch_names_the_selector() {
    let exit = decode(0x7d, PLAIN, &Captured(0x28, 0x1_0000_0000, 0));
    assert_eq!(exit, VmExit::TaskSwitch { selector: 0x28 });
}

#[test]
fn an_invalid_state_is_recognized_in_64_and_in_32_bits() {
    for raw in [u64::MAX, 0xffff_ffff] {
        assert_eq!(decode(raw, PLAIN, &NOTHING), VmExit::EntryFailure { code: raw });
    }
}

#[test]
fn every_other_code_is_unknown_and_none_panics() {
    for raw in [0x62, 0x63, 0x7e, 0x88, 0x8f, 0x90, 0xa0, 0x401, 0x403, 1 << 40] {
        assert_eq!(decode(raw, PLAIN, &NOTHING), VmExit::Unknown { raw });
    }
    for raw in 0..0x1000 {
        for assists in [PLAIN, ASSISTED] {
            let _ = decode(raw, assists, &Captured(u64::MAX, u64::MAX, u64::MAX));
        }
    }
}
