extern crate std;

use crate::action::Stop;
use crate::fake::{FakeMachine, FakeVcpu, machine};
use crate::memory::{Memslot, SlotId};
use anchorite_abi::Verdict;
use anchorite_addr::{Gfn, Gpa, Hpa};
use anchorite_vcpu::{ControlRegister, Event, Segment, SegmentRegister, Vcpu, Vector, VmExit};
use std::vec::Vec;

/// The code page in guest-physical memory, and another one.
const CODE: u64 = 0x8000;
const OTHER: u64 = 0x9000;
/// Where the guest sees its code page.
const RIP: u64 = 0xffff_8000_0000_0000;

const CPUID: [u8; 2] = [0x0f, 0xa2];
/// CPUID behind an operand-size prefix.
const PREFIXED: [u8; 3] = [0x66, 0x0f, 0xa2];

/// A guest in 64-bit mode on a CPU that does not tell lengths: its tables lie in
/// frames 0 to 3.
fn long_mode(vcpu: FakeVcpu) -> FakeMachine {
    let mut machine = machine(vcpu);
    let tables = [(0x800, 0x1007u64), (0x1000, 0x2007), (0x2000, 0x3007), (0x3000, CODE | 7)];
    for (at, entry) in tables {
        put(&mut machine, at, &entry.to_le_bytes());
    }
    put(&mut machine, CODE, &CPUID);
    put(&mut machine, OTHER, &PREFIXED);
    let vcpu = &mut machine.vcpu;
    vcpu.length = None;
    vcpu.set_control(ControlRegister::Cr0, 1 << 31 | 1);
    vcpu.set_control(ControlRegister::Cr4, 1 << 5);
    vcpu.set_control(ControlRegister::Efer, 1 << 8);
    vcpu.set_segment(SegmentRegister::Cs, Segment::flat(8, true, true));
    vcpu.registers.rip = RIP;
    machine
}

fn put(machine: &mut FakeMachine, at: u64, bytes: &[u8]) {
    machine.memory().place(Gpa::new(at), bytes).unwrap();
}

/// Carries out one CPUID at [`RIP`] and gives the length it was found to have.
fn cpuid(machine: &mut FakeMachine) -> u64 {
    machine.vcpu.registers.rip = RIP;
    machine.cpuid();
    let action = machine.skip();
    assert!(machine.apply(action).is_ok(), "{action:?}");
    machine.vcpu.registers.rip - RIP
}

#[test]
fn a_second_instruction_in_the_page_needs_no_second_walk() {
    let mut machine = long_mode(FakeVcpu::default());
    assert_eq!((cpuid(&mut machine), cpuid(&mut machine), cpuid(&mut machine)), (2, 2, 2));
    assert_eq!(machine.counters.fetch_walks, 1);
}

#[test]
fn the_code_itself_is_never_remembered() {
    let mut machine = long_mode(FakeVcpu::default());
    assert_eq!(cpuid(&mut machine), 2);
    put(&mut machine, CODE, &PREFIXED);
    assert_eq!(cpuid(&mut machine), 3);
    assert_eq!(machine.counters.fetch_walks, 1);
}

#[test]
fn an_entry_changed_at_any_level_is_noticed() {
    // Another way from each level down to the other page.
    let spare = [(0x4000, 0x5007u64), (0x5000, 0x6007), (0x6000, OTHER | 7)];
    for (at, entry) in [(0x3000, OTHER | 7), (0x2000, 0x6007), (0x1000, 0x5007), (0x800, 0x4007)] {
        let mut machine = long_mode(FakeVcpu::default());
        for (at, entry) in spare {
            put(&mut machine, at, &entry.to_le_bytes());
        }
        assert_eq!(cpuid(&mut machine), 2);
        put(&mut machine, at, &entry.to_le_bytes());
        assert_eq!(cpuid(&mut machine), 3, "entry at {at:#x}");
    }
}

#[test]
fn other_tables_other_slots_and_another_mode_are_noticed() {
    let mut machine = long_mode(FakeVcpu::default());
    assert_eq!(cpuid(&mut machine), 2);
    // The same tables once more, but for the last entry.
    for (at, entry) in
        [(0x10800, 0x1_1007u64), (0x11000, 0x1_2007), (0x12000, 0x1_3007), (0x13000, OTHER | 7)]
    {
        put(&mut machine, at, &entry.to_le_bytes());
    }
    machine.vcpu.set_control(ControlRegister::Cr3, 0x10000);
    assert_eq!(cpuid(&mut machine), 3);
    machine.vcpu.set_control(ControlRegister::Cr3, 0);
    assert_eq!(cpuid(&mut machine), 2);

    // The same addresses, other host memory: frame 8 shows what frame 9 showed.
    machine.delete_slot(SlotId(0)).unwrap();
    let host = |gpa: u64| Hpa::new(crate::fake::HOST_BASE + gpa).frame();
    let slot = |id, first: u64, frames, from: u64| {
        let first = Gpa::new(first).frame();
        Memslot { id: SlotId(id), first, frames, host: host(from), read_only: false }
    };
    machine.add_slot(slot(0, 0, 8, 0)).unwrap();
    machine.add_slot(slot(1, CODE, 1, OTHER)).unwrap();
    assert_eq!(cpuid(&mut machine), 3);
    assert!(machine.memory().slots().find(Gfn::new(9)).is_none());
}

#[test]
fn an_instruction_at_the_end_of_a_page_is_read_across_it() {
    let mut machine = long_mode(FakeVcpu::default());
    put(&mut machine, 0x3008, &(OTHER | 7).to_le_bytes());
    put(&mut machine, CODE + 0xffe, &PREFIXED[..2]);
    put(&mut machine, OTHER, &PREFIXED[2..]);
    machine.vcpu.registers.rip = RIP + 0xffe;
    machine.cpuid();
    let action = machine.skip();
    assert!(machine.apply(action).is_ok());
    assert_eq!(machine.vcpu.registers.rip, RIP + 0x1001);
}

#[test]
fn the_last_instruction_before_a_hole_is_read_all_the_same() {
    let mut machine = long_mode(FakeVcpu::default());
    put(&mut machine, CODE + 0xffe, &CPUID);
    machine.vcpu.registers.rip = RIP + 0xffe;
    machine.cpuid();
    let action = machine.skip();
    assert!(machine.apply(action).is_ok());
    assert_eq!(machine.vcpu.registers.rip, RIP + 0x1000);
}

#[test]
fn code_that_is_gone_by_now_faults_in_the_guest() {
    let mut machine = long_mode(FakeVcpu::default().then(VmExit::Cpuid));
    put(&mut machine, 0x3000, &0u64.to_le_bytes());
    assert_eq!(machine.run().verdict(), Verdict::Pass);
    assert_eq!(machine.vcpu.injected(), [Event::fault(Vector::PAGE_FAULT, 0)]);
    assert_eq!(machine.vcpu.control(ControlRegister::Cr2), RIP);
}

#[test]
fn code_sizes_decide_how_long_an_instruction_is() {
    // In 16-bit code 0F 01 3E takes a displacement of two bytes: INVLPG.
    let invlpg = [0x0f, 0x01, 0x3e, 0x34, 0x12];
    let lengths: Vec<_> = [(true, 3), (false, 5)]
        .map(|(long, expected)| {
            let mut machine = long_mode(FakeVcpu::default());
            put(&mut machine, CODE, &invlpg);
            if !long {
                machine.vcpu.set_control(ControlRegister::Cr0, 0);
                machine.vcpu.set_segment(SegmentRegister::Cs, Segment::real_mode(0x800, true));
                machine.vcpu.registers.rip = 0;
            }
            let before = machine.vcpu.registers.rip;
            let action = machine.invlpg(Some(anchorite_addr::Gva::new(0)));
            assert!(machine.apply(action).is_ok());
            (machine.vcpu.registers.rip - before, expected)
        })
        .into();
    assert!(lengths.iter().all(|(found, expected)| found == expected), "{lengths:?}");
}

#[test]
fn bytes_that_are_no_instruction_end_the_run() {
    let mut machine = long_mode(FakeVcpu::default().then(VmExit::Cpuid));
    put(&mut machine, CODE, &[0x06; 15]);
    assert!(matches!(machine.run().stop, Stop::Emulation { .. }));
}
