//! Features that are shown work, and hidden ones fault: XCR0, INVPCID, PCIDs, TSC_AUX.

extern crate std;

use crate::fake::{Done, FakeMachine, FakeVcpu, machine_without};
use anchorite_abi::Verdict;
use anchorite_addr::Gpa;
use anchorite_vcpu::exit::{ControlAccess, ControlExit};
use anchorite_vcpu::{
    ControlRegister, Cr0, Cr4, Efer, Event, Gpr, GuestMsr, Instructions, Segment,
    SegmentAttributes, SegmentRegister, Vcpu, Vector, VmExit,
};
use std::vec::Vec;

const GP: Event = Event::fault(Vector::GENERAL_PROTECTION, 0);
const UD: Event = Event::exception(Vector::INVALID_OPCODE);

/// Runs a scripted guest to its end on a machine that hides `names`.
fn finish(vcpu: FakeVcpu, names: &str) -> FakeMachine {
    let mut machine = machine_without(vcpu, names);
    let outcome = machine.run();
    assert_eq!(outcome.verdict(), Verdict::Pass, "{}", machine.host().console());
    machine
}

fn with_cr4(cr4: Cr4) -> FakeVcpu {
    let mut vcpu = FakeVcpu::default();
    vcpu.controls.insert(ControlRegister::Cr4, cr4.bits());
    vcpu
}

/// In 64-bit mode, but for the tables.
fn long(cr4: Cr4) -> FakeVcpu {
    let mut vcpu = with_cr4(cr4 | Cr4::PAE);
    vcpu.controls.insert(ControlRegister::Cr0, (Cr0::PE | Cr0::PG).bits());
    vcpu.controls.insert(ControlRegister::Efer, (Efer::LME | Efer::LMA).bits());
    let attributes = SegmentAttributes::PRESENT | SegmentAttributes::LONG;
    let code = Segment { attributes, ..Segment::default() };
    vcpu.segments[SegmentRegister::Cs as usize] = code;
    vcpu
}

fn write_control(vcpu: FakeVcpu, number: u8, value: u64) -> FakeVcpu {
    let access = ControlAccess::Write(Some(Gpr::Rbx));
    let exit = VmExit::Control(ControlExit { number, access });
    vcpu.after(move |vcpu| vcpu.registers[Gpr::Rbx] = value, exit)
}

mod xcr0 {
    use super::*;

    fn xsetbv(vcpu: FakeVcpu, index: u64, value: u64) -> FakeVcpu {
        let load = move |vcpu: &mut FakeVcpu| {
            vcpu.registers[Gpr::Rcx] = index;
            vcpu.registers[Gpr::Rax] = value & 0xffff_ffff | 0xdead << 32;
            vcpu.registers[Gpr::Rdx] = value >> 32;
        };
        vcpu.after(load, VmExit::Xsetbv)
    }

    fn injected(vcpu: FakeVcpu, names: &str) -> Vec<Event> {
        finish(vcpu, names).vcpu().injected()
    }

    #[test]
    fn values_that_the_manual_permits_reach_the_cpu() {
        let machine = finish(xsetbv(with_cr4(Cr4::OSXSAVE), 0, 0x2e7), "");
        assert_eq!(machine.vcpu().injected(), []);
        assert_eq!(machine.vcpu().control(ControlRegister::Xcr0), 0x2e7);
    }

    #[test]
    fn senseless_ones_and_states_that_are_hidden_are_refused() {
        for (index, value, names) in
            [(0, 0, ""), (0, 5, ""), (0, 0x101, ""), (1, 1, ""), (0, 7, "avx"), (0, 0x201, "pku")]
        {
            let vcpu = xsetbv(with_cr4(Cr4::OSXSAVE), index, value);
            assert_eq!(injected(vcpu, names), [GP], "XCR{index} = {value:#x} without {names}");
        }
    }

    #[test]
    fn only_the_kernel_may_and_only_with_osxsave() {
        let mut user = with_cr4(Cr4::OSXSAVE);
        user.cpl = 3;
        assert_eq!(injected(xsetbv(user, 0, 1), ""), [GP]);
        assert_eq!(injected(xsetbv(with_cr4(Cr4::empty()), 0, 1), ""), [UD]);
    }

    #[test]
    fn cpuid_shows_osxsave_as_cr4_stands() {
        let ask = |vcpu: FakeVcpu| {
            let leaf = |vcpu: &mut FakeVcpu| vcpu.registers[Gpr::Rax] = 1;
            let machine = finish(vcpu.after(leaf, VmExit::Cpuid), "");
            machine.vcpu().regs()[Gpr::Rcx] >> 27 & 1
        };
        assert_eq!(ask(with_cr4(Cr4::OSXSAVE)), 1);
        assert_eq!(ask(with_cr4(Cr4::empty())), 0);
    }
}

mod pcids {
    use super::*;

    /// INVPCID RAX, [RBX].
    const CODE: [u8; 5] = [0x66, 0x0f, 0x38, 0x82, 0x03];
    const DESCRIPTOR: u64 = 0x3000;

    /// In protected mode without paging, so that no tables are needed.
    fn protected(cr4: Cr4) -> FakeVcpu {
        let mut vcpu = with_cr4(cr4);
        vcpu.controls.insert(ControlRegister::Cr0, Cr0::PE.bits());
        let flat = SegmentAttributes::PRESENT | SegmentAttributes::DEFAULT_32;
        let segment = Segment { limit: !0, attributes: flat, ..Segment::default() };
        vcpu.segments = [segment; 8];
        vcpu.registers.rip = 0x1000;
        vcpu.length = Some(5);
        vcpu
    }

    fn invpcid(cr4: Cr4, kind: u64, [context, address]: [u64; 2], names: &str) -> FakeMachine {
        let load = move |vcpu: &mut FakeVcpu| {
            vcpu.registers[Gpr::Rax] = kind;
            vcpu.registers[Gpr::Rbx] = DESCRIPTOR;
        };
        let vcpu = protected(cr4).after(load, VmExit::Invpcid);
        let mut machine = machine_without(vcpu, names);
        machine.memory().place(Gpa::new(0x1000), &CODE).expect("memory");
        machine.memory().place(Gpa::new(DESCRIPTOR), &context.to_le_bytes()).expect("memory");
        machine.memory().place(Gpa::new(DESCRIPTOR + 8), &address.to_le_bytes()).expect("memory");
        assert_eq!(machine.run().verdict(), Verdict::Pass, "{}", machine.host().console());
        machine
    }

    fn flushes(machine: &FakeMachine) -> usize {
        machine.vcpu().log.iter().filter(|done| matches!(done, Done::Flush(_))).count()
    }

    #[test]
    fn every_kind_flushes() {
        for (kind, descriptor) in [(0, [1, 0x5000]), (1, [2, 0]), (2, [0, 0]), (3, [0, 0])] {
            let machine = invpcid(Cr4::PCIDE, kind, descriptor, "");
            assert_eq!(machine.vcpu().injected(), [], "{kind}");
            assert_eq!(machine.vcpu().entries(), [0x1000, 0x1005], "{kind}");
            assert_eq!(flushes(&machine), 2, "one for the root, one for kind {kind}");
        }
    }

    #[test]
    fn senseless_operands_are_refused_and_flush_nothing() {
        let bad = [
            (4, [0, 0], Cr4::PCIDE),
            (0, [0x1000, 0], Cr4::PCIDE),
            (0, [1 << 63, 0], Cr4::PCIDE),
            (0, [0, 1 << 47], Cr4::PCIDE),
            (0, [1, 0], Cr4::empty()),
            (1, [1, 0], Cr4::empty()),
        ];
        for (kind, descriptor, cr4) in bad {
            let machine = invpcid(cr4, kind, descriptor, "");
            assert_eq!(machine.vcpu().injected(), [GP], "{kind} {descriptor:x?}");
            assert_eq!(flushes(&machine), 1);
        }
    }

    #[test]
    fn hidden_it_is_undefined_and_the_backend_knows() {
        let machine = invpcid(Cr4::empty(), 2, [0, 0], "invpcid");
        assert_eq!(machine.vcpu().injected(), [UD]);
        assert_eq!(machine.vcpu().permitted, Instructions::RDTSCP);
    }

    #[test]
    fn bit_63_of_cr3_is_taken_with_pcids_only_and_never_kept() {
        let value = 1 << 63 | 0x2005;
        let machine = finish(write_control(long(Cr4::PCIDE), 3, value), "");
        assert_eq!(machine.vcpu().controls[&ControlRegister::Cr3], 0x2005);
        let machine = finish(write_control(long(Cr4::empty()), 3, value), "");
        assert_eq!(machine.vcpu().injected(), [GP]);
    }

    #[test]
    fn pcids_start_in_long_mode_with_the_first_one() {
        let set = (Cr4::PAE | Cr4::PCIDE).bits();
        assert_eq!(finish(write_control(long(Cr4::empty()), 4, set), "").vcpu().injected(), []);
        let mut other = long(Cr4::empty());
        other.controls.insert(ControlRegister::Cr3, 0x2001);
        assert_eq!(finish(write_control(other, 4, set), "").vcpu().injected(), [GP]);
        let legacy = with_cr4(Cr4::PAE);
        assert_eq!(finish(write_control(legacy, 4, set), "").vcpu().injected(), [GP]);
        assert_eq!(
            finish(write_control(long(Cr4::empty()), 4, set), "pcid").vcpu().injected(),
            [GP]
        );
    }
}

#[test]
fn long_mode_keeps_the_number_of_levels() {
    let set = (Cr4::PAE | Cr4::LA57).bits();
    assert_eq!(finish(write_control(long(Cr4::empty()), 4, set), "").vcpu().injected(), [GP]);
    let clear = write_control(long(Cr4::LA57), 4, Cr4::PAE.bits());
    assert_eq!(finish(clear, "").vcpu().injected(), [GP]);
    let machine = finish(write_control(with_cr4(Cr4::PAE), 4, set), "");
    assert_eq!(machine.vcpu().controls[&ControlRegister::Cr4], set);
}

#[test]
fn registers_of_hidden_features_do_not_exist() {
    let write = |index: u64, names| {
        let load = move |vcpu: &mut FakeVcpu| {
            vcpu.registers[Gpr::Rcx] = index;
            vcpu.registers[Gpr::Rax] = 0x1234;
        };
        finish(FakeVcpu::default().after(load, VmExit::WriteMsr), names)
    };
    let shown = write(0xc000_0103, "");
    assert_eq!(shown.vcpu().msrs[&GuestMsr::TscAux], 0x1234);
    let hidden = write(0xc000_0103, "rdtscp");
    assert_eq!(hidden.vcpu().injected(), [GP]);
    assert_eq!(hidden.msrs().unknown()[0].index, 0xc000_0103);
    assert_eq!(write(0x250, "mtrr").vcpu().injected(), [GP]);
}
