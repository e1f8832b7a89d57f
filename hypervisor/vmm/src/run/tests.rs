//! The run loop and the exits' handlers, driven by scripted guests.

extern crate std;

use crate::action::{Outcome, Stop};
use crate::fake::{Done, FakeMachine, FakeVcpu, HERTZ, HOST_BASE, io, machine, out, program_pic};
use crate::host::Host;
use crate::machine::Window;
use anchorite_abi::{Verdict, port};
use anchorite_addr::{Gfn, Gpa, Hpa};
use anchorite_vcpu::exit::{ControlAccess, ControlExit, DebugExit, Direction, ExceptionExit};
use anchorite_vcpu::exit::{NestedAccess, NestedFault};
use anchorite_vcpu::{
    ControlRegister, Cr0, Cr4, Efer, Event, EventKind, ExitReason, FlushScope, Gpr, GuestMsr,
    Segment, SegmentRegister, Vector, VmExit,
};
use std::vec;
use std::vec::Vec;

const IF: u64 = 1 << 9;
const GP: Event = Event::fault(Vector::GENERAL_PROTECTION, 0);
const UD: Event = Event::exception(Vector::INVALID_OPCODE);

/// Runs a scripted guest to its end.
fn run(vcpu: FakeVcpu) -> (Outcome, FakeMachine) {
    let mut machine = machine(vcpu);
    let outcome = machine.run();
    (outcome, machine)
}

/// Runs a scripted guest that must end well, and gives the vCPU.
fn finish(vcpu: FakeVcpu) -> FakeMachine {
    let (outcome, machine) = run(vcpu);
    assert_eq!(outcome.verdict(), Verdict::Pass, "{}", machine.host.console());
    machine
}

/// A guest with RFLAGS.IF set.
fn interruptible() -> FakeVcpu {
    let mut vcpu = FakeVcpu::default();
    vcpu.registers.rflags |= IF;
    vcpu
}

fn raise(vector: u8) -> impl FnOnce(&mut FakeVcpu) {
    move |vcpu| vcpu.registers[Gpr::Rax] = vector.into()
}

fn exception(vector: Vector, error_code: Option<u32>, qualification: u64) -> VmExit {
    VmExit::Exception(ExceptionExit { vector, error_code, qualification })
}

fn fault(gpa: u64, access: NestedAccess) -> VmExit {
    VmExit::NestedFault(NestedFault { gpa: Gpa::new(gpa), gva: None, access })
}

fn write_control(number: u8, value: u64) -> FakeVcpu {
    let access = ControlAccess::Write(Some(Gpr::Rbx));
    FakeVcpu::default().after(
        move |vcpu| vcpu.registers[Gpr::Rbx] = value,
        VmExit::Control(ControlExit { number, access }),
    )
}

mod interrupts {
    use super::*;

    #[test]
    fn an_interrupt_is_injected_at_once_where_the_guest_takes_them() {
        let machine = finish(interruptible().after(raise(0x55), out(port::RAISE_INTERRUPT, 1)));
        assert_eq!(machine.vcpu.injected(), [Event::interrupt(Vector(0x55))]);
        assert_eq!(machine.counters.interrupts, 1);
        let asked = machine.vcpu.log.iter().any(|done| matches!(done, Done::InterruptWindow(true)));
        assert!(!asked, "no window is needed");
    }

    #[test]
    fn an_interrupt_waits_for_a_window_and_the_window_is_closed_afterwards() {
        let vcpu = FakeVcpu::default()
            .after(raise(0x55), out(port::RAISE_INTERRUPT, 1))
            .after(|vcpu| vcpu.registers.rflags |= IF, VmExit::InterruptWindow);
        let machine = finish(vcpu);
        assert_eq!(machine.vcpu.injected(), [Event::interrupt(Vector(0x55))]);
        let windows: Vec<_> = machine
            .vcpu
            .log
            .iter()
            .filter(|done| matches!(done, Done::InterruptWindow(_)))
            .collect();
        assert_eq!(windows, [&Done::InterruptWindow(true), &Done::InterruptWindow(false)]);
    }

    #[test]
    fn the_shadow_of_sti_blocks_for_one_instruction() {
        let vcpu = interruptible()
            .after(raise(0x55), out(port::RAISE_INTERRUPT, 1))
            .after(|vcpu| vcpu.shadow = true, VmExit::HostInterrupt);
        let mut machine = machine(vcpu);
        machine.vcpu.shadow = true;
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        assert_eq!(machine.vcpu.injected().len(), 1, "the OUT itself ended the first shadow");

        let vcpu = interruptible()
            .then(VmExit::HostInterrupt)
            .after(|vcpu| vcpu.shadow = false, VmExit::InterruptWindow);
        let mut machine = super::machine(vcpu);
        machine.devices.interrupts.raise(Vector(0x66));
        machine.vcpu.shadow = true;
        machine.run();
        assert_eq!(machine.vcpu.injected().len(), 1, "only when an instruction has passed");
        assert!(machine.vcpu.log.contains(&Done::InterruptWindow(true)));
    }

    #[test]
    fn of_two_interrupts_the_higher_goes_first_and_the_other_asks_for_a_window() {
        let mut machine = machine(interruptible().then(VmExit::InterruptWindow));
        machine.devices.interrupts.raise(Vector(0x40));
        machine.devices.interrupts.raise(Vector(0x80));
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        let expected = [Event::interrupt(Vector(0x80)), Event::interrupt(Vector(0x40))];
        assert_eq!(machine.vcpu.injected(), expected);
        assert!(machine.vcpu.log.contains(&Done::InterruptWindow(true)));
    }

    #[test]
    fn an_nmi_goes_before_an_interrupt_and_ignores_the_flag() {
        let vcpu = FakeVcpu::default()
            .then(out(port::RAISE_NMI, 1))
            .after(|vcpu| vcpu.registers.rflags |= IF, VmExit::InterruptWindow);
        let mut machine = machine(vcpu);
        machine.devices.interrupts.raise(Vector(0x30));
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        assert_eq!(machine.vcpu.injected(), [Event::nmi(), Event::interrupt(Vector(0x30))]);
    }

    #[test]
    fn an_nmi_waits_while_nmis_are_blocked() {
        let vcpu = FakeVcpu::default()
            .after(|vcpu| vcpu.nmi_blocked = true, out(port::RAISE_NMI, 1))
            .then(VmExit::HostInterrupt)
            .after(|vcpu| vcpu.nmi_blocked = false, VmExit::NmiWindow);
        let machine = finish(vcpu);
        assert_eq!(machine.vcpu.injected(), [Event::nmi()]);
        assert!(machine.vcpu.log.contains(&Done::NmiWindow(true)));
        assert_eq!(machine.vcpu.entries().len(), 4);
    }

    #[test]
    fn an_event_that_an_exit_interrupted_is_injected_again() {
        let interrupted = Event::interrupt(Vector(0x31));
        let vcpu = interruptible().after(
            move |vcpu| vcpu.interrupted = Some(interrupted),
            fault(0x1000, NestedAccess::WRITE),
        );
        let machine = finish(vcpu);
        assert_eq!(machine.vcpu.injected(), [interrupted]);
        assert_eq!(machine.counters.reinjected, 1);
    }

    #[test]
    fn an_interrupted_interrupt_met_by_an_exception_is_delivered_after_it() {
        let interrupted = Event::interrupt(Vector(0x31));
        let db = exception(Vector::ALIGNMENT_CHECK, Some(0), 0);
        let vcpu = interruptible()
            .after(move |vcpu| vcpu.interrupted = Some(interrupted), db)
            .then(VmExit::InterruptWindow);
        let machine = finish(vcpu);
        let expected = [Event::fault(Vector::ALIGNMENT_CHECK, 0), interrupted];
        assert_eq!(machine.vcpu.injected(), expected);
    }

    #[test]
    fn an_interrupt_that_the_backend_still_holds_is_neither_lost_nor_doubled() {
        let held = Event::interrupt(Vector(0x31));
        let vcpu = interruptible()
            .after(
                move |vcpu| vcpu.untaken = Some(held),
                exception(Vector::ALIGNMENT_CHECK, Some(0), 0),
            )
            .after(raise(0x80), out(port::RAISE_INTERRUPT, 1))
            .after(|_| {}, out(port::RAISE_NMI, 1))
            .after(|vcpu| vcpu.untaken = None, VmExit::InterruptWindow)
            .then(VmExit::InterruptWindow);
        let machine = finish(vcpu);
        let expected = [
            Event::fault(Vector::ALIGNMENT_CHECK, 0),
            Event::nmi(),
            Event::interrupt(Vector(0x80)),
        ];
        assert_eq!(machine.vcpu.injected(), expected);
    }

    #[test]
    fn a_fault_while_a_fault_is_delivered_becomes_a_double_fault() {
        let first = Event::fault(Vector::GENERAL_PROTECTION, 8);
        let vcpu = FakeVcpu::default().after(
            move |vcpu| vcpu.interrupted = Some(first),
            exception(Vector::STACK_FAULT, Some(0), 0),
        );
        assert_eq!(finish(vcpu).vcpu.injected(), [Event::fault(Vector::DOUBLE_FAULT, 0)]);
    }

    #[test]
    fn a_fault_while_a_double_fault_is_delivered_ends_the_run() {
        let first = Event::fault(Vector::DOUBLE_FAULT, 0);
        let vcpu = FakeVcpu::default().after(
            move |vcpu| vcpu.interrupted = Some(first),
            exception(Vector::PAGE_FAULT, Some(2), 0x1234),
        );
        let (outcome, machine) = run(vcpu);
        assert_eq!(outcome.stop, Stop::TripleFault);
        assert!(machine.vcpu.injected().is_empty());
    }
}

mod instructions {
    use super::*;

    #[test]
    fn skipping_ends_the_shadow_of_sti_and_clears_the_resume_flag() {
        let vcpu = FakeVcpu::default().after(
            |vcpu| {
                vcpu.shadow = true;
                vcpu.registers.rflags |= 1 << 16;
            },
            VmExit::Wbinvd,
        );
        let machine = finish(vcpu);
        assert_eq!(machine.vcpu.entries(), [0, 2]);
        assert!(!machine.vcpu.shadow);
        assert_eq!(machine.vcpu.registers.rflags, 2);
    }

    #[test]
    fn a_single_step_over_an_emulated_instruction_traps_behind_it() {
        let vcpu = FakeVcpu::default()
            .after(|vcpu| vcpu.registers.rflags |= 1 << 8, VmExit::Cpuid)
            .after(|vcpu| vcpu.registers.rflags &= !(1 << 8), VmExit::HostInterrupt);
        let machine = finish(vcpu);
        assert_eq!(machine.vcpu.injected(), [Event::exception(Vector::DEBUG)]);
        assert_eq!(machine.vcpu.debug[6] & 1 << 14, 1 << 14, "DR6.BS");
        assert_eq!(machine.vcpu.entries()[1], 2);
    }

    #[test]
    fn rip_wraps_at_four_gigabytes_outside_64_bit_mode_only() {
        let at_the_top = |vcpu: &mut FakeVcpu| vcpu.registers.rip = 0xffff_fffe;
        assert_eq!(
            finish(FakeVcpu::default().after(at_the_top, VmExit::Pause)).vcpu.entries()[1],
            0
        );

        let mut vcpu = FakeVcpu::default();
        vcpu.controls.insert(ControlRegister::Cr0, 1 << 31 | 1);
        vcpu.controls.insert(ControlRegister::Efer, Efer::LME.bits());
        vcpu.segments[SegmentRegister::Cs as usize] = Segment::flat(8, true, true);
        let machine = finish(vcpu.after(at_the_top, VmExit::Pause));
        assert_eq!(machine.vcpu.entries()[1], 0x1_0000_0000);
    }

    #[test]
    fn cpuid_answers_from_the_table() {
        let vcpu = FakeVcpu::default().after(
            |vcpu| {
                vcpu.registers[Gpr::Rax] = 0xdead_beef_4000_0000;
                vcpu.registers[Gpr::Rbx] = u64::MAX;
            },
            VmExit::Cpuid,
        );
        let machine = finish(vcpu.then(VmExit::Pause));
        assert_eq!(machine.vcpu.registers[Gpr::Rbx], u64::from(u32::from_le_bytes(*b"Anch")));
        assert_eq!(machine.vcpu.entries()[1], 2);
    }

    #[test]
    fn known_hypercalls_return_zero_and_unknown_ones_all_ones() {
        for (number, answer) in [(0, 0), (1, 0), (2, 0xffff_ffff), (u64::MAX, 0xffff_ffff)] {
            let vcpu = FakeVcpu::default()
                .after(move |vcpu| vcpu.registers[Gpr::Rax] = number, VmExit::Hypercall)
                .after(move |vcpu| assert_eq!(vcpu.registers[Gpr::Rax], answer), VmExit::Pause);
            finish(vcpu);
        }
    }

    /// A machine with 16 frames of remap window, whose guest makes `calls`: number, RDI,
    /// answer.
    fn window_calls(cpl: u8, calls: &'static [(u32, u64, u32)]) -> FakeMachine {
        let mut vcpu = FakeVcpu::default();
        vcpu.cpl = cpl;
        for &(number, argument, answer) in calls {
            vcpu = vcpu
                .after(
                    move |vcpu| {
                        vcpu.registers[Gpr::Rax] = number.into();
                        vcpu.registers[Gpr::Rdi] = argument;
                    },
                    VmExit::Hypercall,
                )
                .after(
                    move |vcpu| {
                        let got = vcpu.registers[Gpr::Rax];
                        assert_eq!(got, u64::from(answer), "call {number} of {argument:#x}");
                    },
                    VmExit::Pause,
                );
        }
        let mut machine = machine(vcpu);
        let host = Hpa::new(HOST_BASE).frame();
        machine.config.window = Some(Window { host, frames: 16 });
        assert_eq!(machine.run().verdict(), Verdict::Pass, "{}", machine.host.console());
        machine
    }

    #[test]
    fn the_window_is_where_the_guest_put_it_last_and_bad_calls_change_nothing() {
        use anchorite_abi::hypercall::*;
        let machine = window_calls(
            0,
            &[
                (WINDOW_FRAMES, 0, 16),
                (WINDOW_DELETE, 0, REFUSED),
                (WINDOW_MOVE, 0xd000_0000, REFUSED),
                (WINDOW_READ_ONLY, 1, REFUSED),
                (WINDOW_ADD, 0x1000, REFUSED),
                (WINDOW_ADD, 0xd000_0001, REFUSED),
                (WINDOW_ADD, !0xfff, REFUSED),
                (WINDOW_ADD, 0xd000_0000, 0),
                (WINDOW_ADD, 0xe000_0000, REFUSED),
                (WINDOW_MOVE, 0xd000_f000, 0),
                (WINDOW_MOVE, 0x1000, REFUSED),
                (WINDOW_READ_ONLY, 2, REFUSED),
                (WINDOW_READ_ONLY, 1, 0),
                (DIRTY_START, 0, REFUSED),
                (DIRTY_HARVEST, 0x2000, REFUSED),
                (DIRTY_STOP, 0, REFUSED),
                (10, 0, UNKNOWN),
            ],
        );
        let slots: Vec<_> = machine.memory.slots().iter().skip(1).collect();
        assert_eq!(slots.len(), 1);
        assert_eq!((slots[0].first, slots[0].frames), (Gfn::new(0xd_000f), 16));
        assert!(slots[0].read_only);
    }

    #[test]
    fn only_the_kernel_may_change_the_machine() {
        use anchorite_abi::hypercall::*;
        let calls = &[(NOP, 0, 0), (ZAP_ALL, 0, DENIED), (WINDOW_ADD, 0xd000_0000, DENIED)];
        let machine = window_calls(3, calls);
        assert_eq!(machine.memory.slots().iter().count(), 1);
    }

    #[test]
    fn caching_that_goes_on_or_off_counts_as_a_change_of_memory_types() {
        let toggled = write_control(0, (Cr0::PE | Cr0::CD).bits());
        assert_eq!(finish(toggled).counters.memory_types, 1);
        assert_eq!(finish(write_control(0, Cr0::PE.bits())).counters.memory_types, 0);
    }

    #[test]
    fn instructions_of_hidden_features_are_undefined() {
        let exits = [VmExit::Rdtscp, VmExit::MonitorMwait, VmExit::VirtualizationInstruction];
        for exit in exits {
            let machine = finish(FakeVcpu::default().then(exit));
            assert_eq!(machine.vcpu.injected(), [UD], "{exit:?}");
            assert_eq!(machine.vcpu.entries(), [0, 0], "a fault points at its instruction");
        }
        assert_eq!(finish(FakeVcpu::default().then(VmExit::Rdpmc)).vcpu.injected(), [GP]);
    }

    #[test]
    fn invlpg_flushes_before_the_next_entry() {
        let vcpu = FakeVcpu::default()
            .then(VmExit::Pause)
            .then(VmExit::Invlpg(Some(anchorite_addr::Gva::new(0x1000))));
        let machine = finish(vcpu);
        let flushes = machine.vcpu.log.iter().filter(|done| matches!(done, Done::Flush(_)));
        assert_eq!(flushes.count(), 2, "one for the root, one for INVLPG");
        assert_eq!(machine.vcpu.entries(), [0, 2, 4]);
    }

    #[test]
    fn debug_registers_take_what_the_manual_lets_them() {
        let access =
            |number, direction| VmExit::Debug(DebugExit { number, direction, gpr: Some(Gpr::Rsi) });
        let write = |number: u8, value: u64| {
            let set = move |vcpu: &mut FakeVcpu| vcpu.registers[Gpr::Rsi] = value;
            finish(FakeVcpu::default().after(set, access(number, Direction::Out))).vcpu
        };
        assert_eq!(write(0, u64::MAX).debug[0], u64::MAX);
        assert_eq!(write(6, 0xffff_ffff).debug[6], 0xffff_efff);
        assert_eq!(write(7, 0).debug[7], 0x400);
        assert_eq!(write(5, 0x155).debug[7], 0x555, "DR5 is DR7 while CR4.DE is clear");
        assert_eq!(write(6, 1 << 32).injected(), [GP]);

        let mut vcpu = FakeVcpu::default();
        vcpu.controls.insert(ControlRegister::Cr4, Cr4::DE.bits());
        assert_eq!(finish(vcpu.then(access(4, Direction::In))).vcpu.injected(), [UD]);
    }
}

mod ports {
    use super::*;

    #[test]
    fn a_port_that_nothing_answers_reads_all_ones_of_its_size() {
        for (size, expected) in
            [(1, 0x1111_1111_1111_11ff), (2, 0x1111_1111_1111_ffff), (4, 0xffff_ffff)]
        {
            let before = 0x1111_1111_1111_1111;
            let vcpu = FakeVcpu::default()
                .after(
                    move |vcpu| vcpu.registers[Gpr::Rax] = before,
                    io(0x1234, size, Direction::In),
                )
                .after(move |vcpu| assert_eq!(vcpu.registers[Gpr::Rax], expected), VmExit::Pause);
            let machine = finish(vcpu);
            assert_eq!(machine.devices().unknown.counts()[0].reads, 1);
        }
    }

    #[test]
    fn exit_ports_end_the_run_with_the_guests_status() {
        let vcpu = FakeVcpu::default()
            .after(|vcpu| vcpu.registers[Gpr::Rax] = 3, out(port::END_OF_RUN, 4));
        assert_eq!(run(vcpu).0.verdict(), Verdict::Fail { status: 3 });
    }

    #[test]
    fn both_consoles_reach_the_hosts() {
        let vcpu = FakeVcpu::default()
            .after(|vcpu| vcpu.registers[Gpr::Rax] = b'a'.into(), out(port::DEBUG_CONSOLE, 1))
            .after(|vcpu| vcpu.registers[Gpr::Rax] = b'b'.into(), out(port::COM1, 1));
        assert_eq!(finish(vcpu).host.console(), "ab");
    }

    #[test]
    fn the_keyboard_controller_resets_and_a_benchmark_gives_up() {
        let reset = FakeVcpu::default().after(|vcpu| vcpu.registers[Gpr::Rax] = 0xfe, out(0x64, 1));
        assert_eq!(run(reset).0.stop, Stop::Reset);
        let panic = FakeVcpu::default()
            .after(|vcpu| vcpu.registers[Gpr::Rax] = 7 | 42 << 8, out(port::BENCH_COMMAND, 4));
        assert_eq!(run(panic).0.verdict(), Verdict::Fail { status: 42 });
    }

    #[test]
    fn a_reset_and_a_triple_fault_pass_each_where_it_is_expected() {
        let passes = |reset, triple_fault| {
            let vcpu = || FakeVcpu::default();
            let reset_line = vcpu().after(|vcpu| vcpu.registers[Gpr::Rax] = 0xfe, out(0x64, 1));
            [reset_line, vcpu().then(VmExit::TripleFault)].map(|vcpu| {
                let mut machine = machine(vcpu);
                machine.config.reset_passes = reset;
                machine.config.triple_fault_passes = triple_fault;
                machine.run().verdict() == Verdict::Pass
            })
        };
        assert_eq!(passes(false, false), [false, false]);
        assert_eq!(passes(true, false), [true, false], "a crash is no reset");
        assert_eq!(passes(false, true), [false, true]);
    }

    #[test]
    fn a_timed_zap_is_accounted_apart() {
        let vcpu = FakeVcpu::default()
            .after(|vcpu| vcpu.registers[Gpr::Rax] = 4 | 1 << 8, out(port::BENCH_COMMAND, 4))
            .after(|vcpu| vcpu.registers[Gpr::Rax] = 4, out(port::BENCH_COMMAND, 4));
        let machine = finish(vcpu);
        assert_eq!(machine.counters.zap_all().count, 1);
        assert_eq!(machine.counters.cost(ExitReason::IoOut).count, 1);
    }

    #[test]
    fn the_next_instruction_is_where_the_cpu_says() {
        let VmExit::Io(exit) = out(port::BENCH_LIGHTEST, 1) else { unreachable!() };
        for port in [port::BENCH_LIGHTEST, port::BENCH_NOP, 0x1234] {
            let exit = anchorite_vcpu::exit::IoExit { port, next_rip: Some(0x105), ..exit };
            let vcpu =
                FakeVcpu::default().after(|vcpu| vcpu.registers.rip = 0x102, VmExit::Io(exit));
            assert_eq!(finish(vcpu).vcpu.entries()[1], 0x105, "port {port:#x}");
        }
    }

    #[test]
    fn input_waits_for_the_uart_and_arrives_in_order() {
        let enable = |vcpu: &mut FakeVcpu| vcpu.registers[Gpr::Rax] = 1;
        let mut vcpu =
            interruptible().after(enable, out(port::COM1 + 1, 1)).then(VmExit::HostInterrupt);
        for expected in [b'x', b'y'] {
            vcpu = vcpu.then(io(port::COM1, 1, Direction::In)).after(
                move |vcpu| assert_eq!(vcpu.registers[Gpr::Rax] as u8, expected),
                VmExit::HostInterrupt,
            );
        }
        let mut machine = machine(vcpu);
        program_pic(&mut machine);
        machine.host.typed.extend(b"xy");
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        assert_eq!(machine.vcpu.injected()[0], Event::interrupt(Vector(0x24)));
    }
}

mod control_registers {
    use super::*;

    fn long_mode(mut vcpu: FakeVcpu) -> FakeVcpu {
        vcpu.controls.insert(ControlRegister::Cr0, (Cr0::PE | Cr0::PG | Cr0::ET).bits());
        vcpu.controls.insert(ControlRegister::Cr4, Cr4::PAE.bits());
        vcpu.controls.insert(ControlRegister::Efer, Efer::LME.bits());
        vcpu.segments[SegmentRegister::Cs as usize] = Segment::flat(8, true, true);
        vcpu
    }

    #[test]
    fn cr0_refuses_what_the_manual_forbids() {
        for bad in [1 << 31, 1 << 29, 1 << 32, u64::MAX] {
            let machine = finish(write_control(0, bad));
            // Outside 64-bit mode the upper half of the register is not looked at.
            let expected: &[Event] = if bad == 1 << 32 { &[] } else { &[GP] };
            let expected = if bad == u64::MAX { &[] } else { expected };
            assert_eq!(machine.vcpu.injected(), expected, "{bad:#x}");
        }
        assert_eq!(
            finish(long_mode(write_control(0, 1 << 32 | 0x8000_0011))).vcpu.injected(),
            [GP]
        );
        assert_eq!(finish(long_mode(write_control(0, 0x11))).vcpu.injected(), [GP], "PG off");
    }

    #[test]
    fn paging_cannot_begin_in_long_mode_without_pae_or_from_64_bit_code() {
        let enable = || {
            let mut vcpu = write_control(0, 0x8000_0011);
            vcpu.controls.insert(ControlRegister::Efer, Efer::LME.bits());
            vcpu
        };
        assert_eq!(finish(enable()).vcpu.injected(), [GP]);
        let mut with_pae = enable();
        with_pae.controls.insert(ControlRegister::Cr4, Cr4::PAE.bits());
        assert!(finish(with_pae).vcpu.injected().is_empty());
        let mut long_code = enable();
        long_code.controls.insert(ControlRegister::Cr4, Cr4::PAE.bits());
        long_code.segments[SegmentRegister::Cs as usize] = Segment::flat(8, true, true);
        assert_eq!(finish(long_code).vcpu.injected(), [GP]);
    }

    #[test]
    fn a_change_of_paging_flushes_and_another_does_not() {
        let flushes = |vcpu| {
            let log = finish(vcpu).vcpu.log;
            log.iter().filter(|done| **done == Done::Flush(FlushScope::All)).count()
        };
        assert_eq!(flushes(write_control(0, 0x8000_0011)), 2, "one is the root's");
        assert_eq!(flushes(write_control(0, 0x1b)), 1, "PE, MP, TS");
        assert_eq!(flushes(write_control(4, Cr4::PSE.bits())), 2);
        assert_eq!(flushes(write_control(4, Cr4::PGE.bits())), 2, "global translations too");
        assert_eq!(flushes(write_control(4, Cr4::OSFXSR.bits())), 1);
        assert_eq!(flushes(write_control(3, 0x1000)), 2);
    }

    #[test]
    fn every_hidden_cr4_bit_is_refused_and_every_shown_one_taken() {
        let all = machine(FakeVcpu::default()).cr4_bits;
        assert!(all.contains(Cr4::PAE | Cr4::PGE | Cr4::OSFXSR | Cr4::TSD | Cr4::SMEP | Cr4::LA57));
        assert!(!all.intersects(Cr4::VMXE | Cr4::SMXE));
        // PCIDE needs long mode.
        let shown = all - Cr4::PCIDE;
        for bit in (0..32).map(|bit| 1u64 << bit) {
            let machine = finish(write_control(4, bit));
            let taken = machine.vcpu.controls.get(&ControlRegister::Cr4) == Some(&bit);
            assert_eq!(taken, shown.bits() & bit != 0, "{bit:#x}");
            assert_eq!(machine.vcpu.injected().is_empty(), taken);
        }
    }

    #[test]
    fn paging_on_in_pae_mode_loads_the_four_pointers_and_refuses_reserved_bits() {
        let enable = |second: u64, cr3: u64| {
            let mut vcpu = write_control(0, 0x8000_0011);
            vcpu.controls.insert(ControlRegister::Cr4, Cr4::PAE.bits());
            vcpu.controls.insert(ControlRegister::Cr3, cr3);
            let mut machine = machine(vcpu);
            for (at, entry) in [(0x1020, 0x2001u64), (0x1028, second), (0x1038, 0x5001)] {
                machine.memory().place(Gpa::new(at), &entry.to_le_bytes()).unwrap();
            }
            assert_eq!(machine.run().verdict(), Verdict::Pass);
            (machine.vcpu.pdptes, machine.vcpu.injected())
        };
        let loaded = Some([0x2001, 0x3001, 0, 0x5001]);
        assert_eq!(enable(0x3001, 0x1020), (loaded, vec![]));
        let accessed = Some([0x2001, 0x3021, 0, 0x5001]);
        assert_eq!(enable(0x3021, 0x1020), (accessed, vec![]), "as a walking processor left it");
        let absent = Some([0x2001, 0x1e6, 0, 0x5001]);
        assert_eq!(enable(0x1e6, 0x1020), (absent, vec![]), "not present: any bits will do");
        for bad in [0x3003, 0x3041, 0x3101, 1 << 40 | 1, 1 << 63 | 1] {
            assert_eq!(enable(bad, 0x1020), (None, vec![GP]), "{bad:#x}");
        }
        assert_eq!(enable(0, 0x8000_0000), (None, vec![GP]), "no memory");
    }

    #[test]
    fn only_the_bits_that_load_the_four_pointers_check_and_take_them() {
        let write = |number, value: u64, entry: u64| {
            let mut vcpu = write_control(number, value);
            vcpu.controls.insert(ControlRegister::Cr0, 0x8000_0011);
            vcpu.controls.insert(ControlRegister::Cr4, Cr4::PAE.bits());
            vcpu.controls.insert(ControlRegister::Cr3, 0x1020);
            let mut machine = machine(vcpu);
            machine.memory().place(Gpa::new(0x1020), &entry.to_le_bytes()).unwrap();
            assert_eq!(machine.run().verdict(), Verdict::Pass);
            (machine.vcpu.pdptes, machine.vcpu.injected())
        };
        let cr4 = |bit: Cr4| (4, (Cr4::PAE | bit).bits());
        let cr0 = |bit: Cr0| (0, 0x8000_0011 | bit.bits());
        for (number, value) in
            [cr0(Cr0::CD), cr0(Cr0::CD | Cr0::NW), cr4(Cr4::PSE), cr4(Cr4::PGE), cr4(Cr4::SMEP)]
        {
            assert_eq!(write(number, value, 0x2001), (Some([0x2001, 0, 0, 0]), vec![]));
            assert_eq!(write(number, value, 0x2003), (None, vec![GP]));
        }
        for (number, value) in [cr0(Cr0::TS), cr0(Cr0::WP), cr4(Cr4::DE), cr4(Cr4::SMAP)] {
            assert_eq!(write(number, value, 0x2001), (None, vec![]));
            assert_eq!(write(number, value, 0x2003), (None, vec![]));
        }
    }

    #[test]
    fn long_mode_keeps_pae_and_a_narrow_cr3() {
        assert_eq!(finish(long_mode(write_control(4, 0))).vcpu.injected(), [GP]);
        assert_eq!(finish(long_mode(write_control(3, 1 << 40))).vcpu.injected(), [GP]);
        assert_eq!(finish(long_mode(write_control(3, 1 << 63 | 0x1000))).vcpu.injected(), [GP]);
        let machine = finish(long_mode(write_control(3, 0xff_ffff_f018)));
        assert_eq!(machine.vcpu.controls[&ControlRegister::Cr3], 0xff_ffff_f018);
    }

    #[test]
    fn lmsw_sets_pe_but_cannot_clear_it_and_clts_clears_ts() {
        let exit = |access| VmExit::Control(ControlExit { number: 0, access });
        let with = |cr0: u64, access| {
            let mut vcpu = FakeVcpu::default();
            vcpu.controls.insert(ControlRegister::Cr0, cr0);
            finish(vcpu.then(exit(access))).vcpu.controls[&ControlRegister::Cr0]
        };
        assert_eq!(with(0x10, ControlAccess::Lmsw(Some(0xfff1))), 0x11);
        assert_eq!(with(0x1b, ControlAccess::Lmsw(Some(0))), 0x11);
        assert_eq!(with(0x1b, ControlAccess::Clts), 0x13);
    }

    /// A machine in protected mode at an instruction that reads or writes CR0.
    fn at_instruction(bytes: &[u8], exit: VmExit) -> FakeMachine {
        let mut vcpu = FakeVcpu::default();
        vcpu.length = None;
        vcpu.registers.rip = 0x100;
        vcpu.registers[Gpr::Rbx] = 0xffff_ffff_ffff_0000;
        vcpu.controls.insert(ControlRegister::Cr0, 0x6000_0011);
        for register in SegmentRegister::ALL {
            let flat = Segment::flat(8, register == SegmentRegister::Cs, false);
            vcpu.segments[register as usize] = flat;
        }
        let mut machine = machine(vcpu.then(exit));
        machine.memory.place(Gpa::new(0x100), bytes).unwrap();
        machine
    }

    fn access(access: ControlAccess) -> VmExit {
        VmExit::Control(ControlExit { number: 0, access })
    }

    #[test]
    fn smsw_stores_as_much_of_cr0_as_its_operand_holds() {
        let read = access(ControlAccess::Read(None));
        for (bytes, stored) in [
            (&[0x0f, 0x01, 0xe3, 0x90][..], 0x6000_0011),
            (&[0x66, 0x0f, 0x01, 0xe3], 0xffff_ffff_ffff_0011),
        ] {
            let mut machine = at_instruction(bytes, read);
            assert_eq!(machine.run().verdict(), Verdict::Pass);
            assert_eq!(machine.vcpu.registers[Gpr::Rbx], stored, "{bytes:x?}");
        }
        // smsw [0x200]
        let mut machine = at_instruction(&[0x0f, 0x01, 0x25, 0, 2, 0, 0], read);
        machine.memory.place(Gpa::new(0x200), &[0xaa; 4]).unwrap();
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        assert_eq!(machine.memory.load_u32(Gpa::new(0x200)), Ok(0xaaaa_0011));
    }

    #[test]
    fn lmsw_loads_its_operand_from_memory_and_takes_the_faults_of_that() {
        let write = access(ControlAccess::Write(None));
        let mut machine = at_instruction(&[0x0f, 0x01, 0x35, 0, 2, 0, 0], write);
        machine.memory.place(Gpa::new(0x200), &[0x0b, 0xff]).unwrap();
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        assert_eq!(machine.vcpu.controls[&ControlRegister::Cr0], 0x6000_001b);

        let mut machine = at_instruction(&[0x0f, 0x01, 0x35, 0, 2, 0, 0], write);
        machine.vcpu.segments[SegmentRegister::Ds as usize].limit = 0x200;
        machine.run();
        assert_eq!(machine.vcpu.injected(), [GP]);
        assert_eq!(machine.vcpu.controls[&ControlRegister::Cr0], 0x6000_0011);
    }

    #[test]
    fn a_read_gives_the_register_and_registers_that_do_not_exist_are_undefined_or_refused() {
        let read = |number| {
            let access = ControlAccess::Read(Some(Gpr::R9));
            VmExit::Control(ControlExit { number, access })
        };
        let mut vcpu = FakeVcpu::default();
        vcpu.controls.insert(ControlRegister::Cr8, 5);
        assert_eq!(finish(vcpu.then(read(8))).vcpu.registers[Gpr::R9], 5);
        assert_eq!(finish(FakeVcpu::default().then(read(1))).vcpu.injected(), [UD]);
        assert_eq!(finish(write_control(8, 16)).vcpu.injected(), [GP]);
    }
}

mod msrs {
    use super::*;

    fn write(index: u32, value: u64) -> FakeMachine {
        let set = move |vcpu: &mut FakeVcpu| {
            vcpu.registers[Gpr::Rcx] = 0xffff_ffff_0000_0000 | u64::from(index);
            vcpu.registers[Gpr::Rax] = 0xffff_ffff_0000_0000 | value & 0xffff_ffff;
            vcpu.registers[Gpr::Rdx] = 0xffff_ffff_0000_0000 | value >> 32;
        };
        finish(FakeVcpu::default().after(set, VmExit::WriteMsr))
    }

    fn assert_reads_back(index: u32, value: u64) {
        let set = move |vcpu: &mut FakeVcpu| {
            vcpu.registers[Gpr::Rcx] = index.into();
            vcpu.registers[Gpr::Rax] = value & 0xffff_ffff;
            vcpu.registers[Gpr::Rdx] = value >> 32;
        };
        let forget = |vcpu: &mut FakeVcpu| {
            vcpu.registers[Gpr::Rax] = u64::MAX;
            vcpu.registers[Gpr::Rdx] = u64::MAX;
        };
        let check = move |vcpu: &mut FakeVcpu| {
            let read = [vcpu.registers[Gpr::Rax], vcpu.registers[Gpr::Rdx]];
            assert_eq!(read, [value & 0xffff_ffff, value >> 32], "{index:#x}");
        };
        let vcpu = FakeVcpu::default()
            .after(set, VmExit::WriteMsr)
            .after(forget, VmExit::ReadMsr)
            .after(check, VmExit::Pause);
        assert!(finish(vcpu).vcpu.injected().is_empty());
    }

    #[test]
    fn an_unknown_msr_is_a_general_protection_fault_and_is_counted() {
        let get = |vcpu: &mut FakeVcpu| vcpu.registers[Gpr::Rcx] = 0x1234;
        let vcpu = FakeVcpu::default()
            .after(get, VmExit::ReadMsr)
            .after(|_| {}, VmExit::WriteMsr)
            .then(VmExit::ReadMsr);
        let machine = finish(vcpu);
        assert_eq!(machine.vcpu.injected(), [GP; 3]);
        let counted = machine.msrs().unknown();
        assert_eq!((counted[0].index, counted[0].reads, counted[0].writes), (0x1234, 2, 1));
    }

    #[test]
    fn all_halves_of_a_value_reach_the_register() {
        let machine = write(0xc000_0081, 0x0023_0010_dead_beef);
        assert_eq!(machine.vcpu.msrs[&GuestMsr::Star], 0x0023_0010_dead_beef);
        for (index, value) in
            [(0x200, 0x12_0000_0006), (0xc000_0082, !0), (0x250, 0), (0x2ff, 0xc06)]
        {
            assert_reads_back(index, value);
        }
    }

    #[test]
    fn senseless_values_are_refused() {
        let bad = [
            (0xc000_0082, 1 << 56),
            (0xc000_0100, 1 << 63),
            (0x277, 2),
            (0x277, 0x0800_0000_0000_0000),
            (0x1d9, 1),
            (0x2ff, 2),
            (0x3a, 1),
            (0xc000_0080, 1 << 12),
            (0xc000_0080, 1 << 1),
        ];
        for (index, value) in bad {
            assert_eq!(write(index, value).vcpu.injected(), [GP], "{index:#x} = {value:#x}");
        }
    }

    #[test]
    fn efer_takes_its_bits_and_ignores_lma() {
        let value = (Efer::SCE | Efer::LME | Efer::NXE | Efer::LMA).bits();
        let machine = write(0xc000_0080, value);
        assert!(machine.vcpu.injected().is_empty());
        let expected = (Efer::SCE | Efer::LME | Efer::NXE).bits();
        assert_eq!(machine.vcpu.controls[&ControlRegister::Efer], expected);
    }

    #[test]
    fn long_mode_cannot_be_switched_while_paging_is_on() {
        let mut vcpu = FakeVcpu::default();
        vcpu.controls.insert(ControlRegister::Cr0, (Cr0::PG | Cr0::PE).bits());
        let set = |vcpu: &mut FakeVcpu| {
            vcpu.registers[Gpr::Rcx] = 0xc000_0080;
            vcpu.registers[Gpr::Rax] = Efer::LME.bits();
        };
        assert_eq!(finish(vcpu.after(set, VmExit::WriteMsr)).vcpu.injected(), [GP]);
    }

    #[test]
    fn a_write_to_the_tsc_moves_its_offset() {
        let machine = write(0x10, 5_000_000);
        let offset = machine.vcpu.log.iter().find_map(|done| match done {
            Done::TscOffset(offset) => Some(*offset),
            _ => None,
        });
        let now = 5_000_000u64.wrapping_sub(offset.unwrap());
        assert!((1_000..2_000).contains(&now), "the host's clock stood at {now}");
    }

    #[test]
    fn registers_that_the_hardware_switches_are_opened_and_others_are_not() {
        let open = machine(FakeVcpu::default()).vcpu.open_msrs;
        assert!(open.contains(&0xc000_0100) && open.contains(&0x176));
        assert!(!open.contains(&0xc000_0080) && !open.contains(&0x277) && !open.contains(&0x1b));
    }
}

mod memory_faults {
    use super::*;
    use crate::start::StartState;
    use anchorite_abi::mmio;

    /// Flat 32-bit code at 0x1000.
    const CODE: u32 = 0x1000;

    /// Runs a machine whose guest has `code` at [`CODE`] and starts there.
    fn run_code(vcpu: FakeVcpu, code: &[u8], start: &StartState) -> (Outcome, FakeMachine) {
        let mut machine = machine(vcpu);
        machine.memory().place(Gpa::new(CODE.into()), code).unwrap();
        machine.start(start).unwrap();
        let outcome = machine.run();
        (outcome, machine)
    }

    fn start() -> StartState {
        StartState::protected(CODE)
    }

    #[test]
    fn a_devices_registers_are_written_and_read_by_instructions() {
        // MOV [0xfed60000], EAX; MOV EBX, [0xfed60000]
        let code = [0xa3, 0, 0, 0xd6, 0xfe, 0x8b, 0x1d, 0, 0, 0xd6, 0xfe];
        let vcpu = FakeVcpu::default()
            .then(fault(mmio::DEVICE, NestedAccess::WRITE))
            .then(fault(mmio::DEVICE, NestedAccess::empty()))
            .after(|vcpu| assert_eq!(vcpu.registers[Gpr::Rbx], 0x1234_5678), VmExit::Pause);
        let (outcome, machine) = run_code(vcpu, &code, &start().with(Gpr::Rax, 0x1234_5678));
        assert_eq!(outcome.verdict(), Verdict::Pass);
        assert_eq!(machine.vcpu.entries()[..3], [0x1000, 0x1005, 0x100b]);
        assert_eq!((machine.counters.mmio, machine.counters.emulated), (2, 2));
        assert_eq!(machine.counters.mmio_unclaimed, 0);
    }

    #[test]
    fn an_address_that_nobody_answers_reads_all_ones_and_is_counted() {
        // MOV EBX, [0xd0000000]
        let code = [0x8b, 0x1d, 0, 0, 0, 0xd0];
        let vcpu = FakeVcpu::default()
            .then(fault(0xd000_0000, NestedAccess::empty()))
            .after(|vcpu| assert_eq!(vcpu.registers[Gpr::Rbx], 0xffff_ffff), VmExit::Pause);
        let (outcome, machine) = run_code(vcpu, &code, &start());
        assert_eq!(outcome.verdict(), Verdict::Pass);
        assert_eq!(machine.counters.mmio_unclaimed, 1);
    }

    #[test]
    fn a_write_to_a_rom_is_lost_and_the_guest_goes_on() {
        // MOV [0x800000], EAX: the first byte behind the RAM.
        let code = [0xa3, 0, 0, 0x80, 0];
        let vcpu = FakeVcpu::default().then(fault(0x80_0000, NestedAccess::WRITE));
        let mut machine = machine(vcpu);
        let host = anchorite_addr::Hpa::new(crate::fake::HOST_BASE + 0x80_0000).frame();
        let (id, first) = (crate::memory::SlotId(1), Gfn::new(0x800));
        let rom = crate::memory::Memslot { id, first, frames: 1, host, read_only: true };
        machine.add_slot(rom).unwrap();
        machine.memory().place(Gpa::new(CODE.into()), &code).unwrap();
        machine.memory().place(Gpa::new(0x80_0000), b"ROM!").unwrap();
        machine.start(&start().with(Gpr::Rax, 7)).unwrap();
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        assert_eq!(machine.vcpu.entries()[1], 0x1005);
        let mut rom = [0; 4];
        machine.memory().read(Gpa::new(0x80_0000), &mut rom).unwrap();
        assert_eq!(&rom, b"ROM!");
    }

    #[test]
    fn a_string_is_written_to_the_console_by_one_instruction() {
        // REP OUTSB
        let code = [0xf3, 0x6e];
        let VmExit::Io(exit) = out(port::DEBUG_CONSOLE, 1) else { unreachable!() };
        let exit = VmExit::Io(anchorite_vcpu::exit::IoExit { string: true, repeat: true, ..exit });
        let state = start()
            .with(Gpr::Rcx, 5)
            .with(Gpr::Rsi, 0x2000)
            .with(Gpr::Rdx, port::DEBUG_CONSOLE.into());
        let mut machine = machine(FakeVcpu::default().then(exit));
        machine.memory().place(Gpa::new(CODE.into()), &code).unwrap();
        machine.memory().place(Gpa::new(0x2000), b"hello").unwrap();
        machine.start(&state).unwrap();
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        assert_eq!(machine.host.console(), "hello");
        assert_eq!(machine.vcpu.registers[Gpr::Rcx], 0);
        assert_eq!(machine.vcpu.entries()[1], 0x1002);
    }

    #[test]
    fn a_device_under_an_events_delivery_ends_the_run() {
        let interrupted = Event::interrupt(Vector(0x20));
        let vcpu = FakeVcpu::default().after(
            move |vcpu| vcpu.interrupted = Some(interrupted),
            fault(mmio::DEVICE, NestedAccess::WRITE),
        );
        let (outcome, _) = run_code(vcpu, &[0x90], &start());
        assert!(matches!(outcome.stop, Stop::Unsupported { .. }), "{outcome:?}");
    }

    #[test]
    fn an_instruction_without_emulation_ends_the_run_with_its_bytes_in_the_dump() {
        // FNSAVE [0xd0000000]
        let code = [0xdd, 0x35, 0, 0, 0, 0xd0];
        let vcpu = FakeVcpu::default().then(fault(0xd000_0000, NestedAccess::WRITE));
        let (outcome, machine) = run_code(vcpu, &code, &start());
        assert!(matches!(outcome.stop, Stop::Emulation { gpa: Some(_), .. }), "{outcome:?}");
        assert!(machine.host.console().contains("[dd, 35, 00, 00, 00, d0"));
    }

    #[test]
    fn a_fault_on_ram_is_mapped_and_the_guest_goes_on() {
        let machine = finish(FakeVcpu::default().then(fault(0x5000, NestedAccess::FETCH)));
        assert_eq!(machine.vcpu.entries(), [0, 0]);
        assert_eq!(machine.translation.stats().leaves, [0, 1, 0]);
    }

    #[test]
    fn a_page_table_outside_memory_ends_the_run() {
        let walk = NestedAccess::TABLE_WALK | NestedAccess::WRITE;
        let (outcome, _) = run(FakeVcpu::default().then(fault(0x8000_0000, walk)));
        assert_eq!(outcome.stop, Stop::TableOutsideMemory { gpa: Gpa::new(0x8000_0000) });
    }

    #[test]
    fn code_outside_memory_ends_the_run() {
        let (outcome, _) = run(FakeVcpu::default().then(fault(0x8000_0000, NestedAccess::FETCH)));
        assert!(matches!(outcome.stop, Stop::Emulation { gpa: Some(_), .. }), "{outcome:?}");
    }

    #[test]
    fn running_out_of_tables_ends_the_run() {
        let mut machine = machine(FakeVcpu::default().then(fault(0, NestedAccess::WRITE)));
        machine.translation.tables_mut().limit = 2;
        assert_eq!(machine.run().stop, Stop::OutOfTables);
    }

    #[test]
    fn a_deleted_slot_is_a_hole_at_once() {
        let vcpu = FakeVcpu::default()
            .then(fault(0x5000, NestedAccess::WRITE))
            .then(fault(0x5000, NestedAccess::FETCH));
        let mut machine = machine(vcpu);
        machine.delete_slot(crate::memory::SlotId(0)).unwrap();
        assert!(matches!(machine.run().stop, Stop::Emulation { .. }));
        assert!(machine.memory().slots().find(Gfn::new(5)).is_none());
    }
}

mod exceptions {
    use super::*;

    #[test]
    fn what_could_loop_without_an_exit_is_intercepted_and_nothing_else() {
        assert_eq!(machine(FakeVcpu::default()).vcpu.exceptions, 1 << 1 | 1 << 17);
    }

    #[test]
    fn a_debug_exception_reaches_the_guest_with_its_causes() {
        let set = |vcpu: &mut FakeVcpu| {
            vcpu.debug[6] = 0xffff_0ff0;
            vcpu.debug[7] = 0x2400;
        };
        let vcpu = FakeVcpu::default().after(set, exception(Vector::DEBUG, None, 1 << 14 | 1));
        let machine = finish(vcpu);
        assert_eq!(machine.vcpu.injected(), [Event::exception(Vector::DEBUG)]);
        assert_eq!((machine.vcpu.debug[6], machine.vcpu.debug[7]), (0xffff_4ff1, 0x400));
    }

    #[test]
    fn a_page_fault_under_nested_paging_is_the_guests_own() {
        let machine =
            finish(FakeVcpu::default().then(exception(Vector::PAGE_FAULT, Some(6), 0x1234)));
        assert_eq!(machine.vcpu.injected(), [Event::fault(Vector::PAGE_FAULT, 6)]);
        assert_eq!(machine.vcpu.controls[&ControlRegister::Cr2], 0x1234);
    }

    #[test]
    fn a_breakpoint_carries_its_instructions_length() {
        let machine = finish(FakeVcpu::default().then(exception(Vector::BREAKPOINT, None, 0)));
        let event = machine.vcpu.injected()[0];
        assert_eq!((event.kind, event.instruction_length), (EventKind::SoftwareException, 2));
    }
}

mod endings {
    use super::*;

    #[test]
    fn a_guest_that_runs_too_long_is_stopped_with_a_dump() {
        let mut vcpu = FakeVcpu::default();
        for _ in 0..HERTZ / 20 + 10 {
            vcpu = vcpu.then(VmExit::HostInterrupt);
        }
        let (outcome, machine) = run(vcpu);
        assert_eq!(outcome.verdict(), Verdict::Timeout { seconds: 1 });
        assert!(machine.host.console().contains("time limit"), "{}", machine.host.console());
        assert!(machine.host.wake.is_some_and(|tick| tick >= HERTZ));
    }

    #[test]
    fn halting_with_interrupts_off_ends_the_run() {
        let (outcome, _) = run(FakeVcpu::default().then(VmExit::Halt));
        assert_eq!(
            outcome.verdict(),
            Verdict::Error { reason: "halted with interrupts off at rip 0x0" }
        );
    }

    #[test]
    fn halting_waits_for_an_interrupt_and_the_sleep_costs_nothing() {
        let enable = |vcpu: &mut FakeVcpu| vcpu.registers[Gpr::Rax] = 1;
        let vcpu = interruptible().after(enable, out(port::COM1 + 1, 1)).then(VmExit::Halt);
        let mut machine = machine(vcpu);
        program_pic(&mut machine);
        machine.host.typed_later.push_back(b'!');
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        assert_eq!(machine.vcpu.injected(), [Event::interrupt(Vector(0x24))]);
        assert_eq!(machine.host.idled, 1);
        assert_eq!(*machine.vcpu.entries().last().unwrap(), 4, "behind OUT and HLT");
        assert!(machine.counters.idle_ticks > 0);
    }

    #[test]
    fn an_interrupt_that_waits_already_ends_a_halt_at_once() {
        let vcpu = interruptible().then(VmExit::Halt);
        let mut machine = machine(vcpu);
        machine.vcpu.shadow = true;
        machine.devices.interrupts.raise(Vector(0x70));
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        assert_eq!(machine.host.idled, 0);
        assert_eq!(machine.vcpu.injected(), [Event::interrupt(Vector(0x70))]);
        assert_eq!(machine.vcpu.entries(), [0, 1 + 1]);
    }

    #[test]
    fn an_interrupt_that_the_backend_still_holds_ends_a_halt() {
        let held = |vcpu: &mut FakeVcpu| vcpu.untaken = Some(Event::interrupt(Vector(0x31)));
        let machine = finish(interruptible().after(held, VmExit::Halt));
        assert_eq!(machine.host.idled, 0);
    }

    #[test]
    fn a_halt_that_nothing_ends_runs_into_the_time_limit() {
        let (outcome, machine) = run(interruptible().then(VmExit::Halt));
        assert_eq!(outcome.stop, Stop::Timeout);
        assert!(machine.host.idled >= 1);
    }

    #[test]
    fn shadow_pages_are_zapped_by_the_clock_at_the_rate_asked_for() {
        let mut vcpu = FakeVcpu::default();
        for _ in 0..200 {
            vcpu = vcpu.then(VmExit::HostInterrupt);
        }
        let mut machine = machine(vcpu);
        machine.config.zaps_per_second = 1_000;
        let outcome = machine.run();
        let ticks = machine.host.ticks() - 1_000;
        let due = ticks / (HERTZ / 1_000);
        assert_eq!(outcome.verdict(), Verdict::Pass);
        let zaps = machine.counters.timed_zaps;
        assert!(due >= 5 && (due - 1..=due).contains(&zaps), "{zaps} zaps in {ticks} ticks");
        assert!(machine.host.wake.is_some_and(|tick| tick <= 1_000 + ticks + HERTZ / 1_000));
    }

    #[test]
    fn a_guest_that_halts_is_zapped_as_well_and_still_ends_at_its_limit() {
        let mut machine = machine(interruptible().then(VmExit::Halt));
        machine.config.zaps_per_second = 10;
        assert_eq!(machine.run().stop, Stop::Timeout);
        assert!((8..=10).contains(&machine.counters.timed_zaps));
    }

    #[test]
    fn exits_that_nobody_knows_dump_the_machine_and_end_the_run() {
        let cases = vec![
            (VmExit::Unknown { raw: 0x1234 }, "unknown exit 0x1234"),
            (VmExit::TripleFault, "triple fault"),
            (VmExit::EntryFailure { code: 7 }, "entry refused with code 0x7"),
            (VmExit::TaskSwitch { selector: 8 }, "a hardware task switch is not supported"),
        ];
        for (exit, words) in cases {
            let vcpu = FakeVcpu::default().after(|vcpu| vcpu.registers.rip = 0x1000, exit);
            let (outcome, machine) = run(vcpu);
            let reason = std::format!("{words} at rip 0x1000");
            assert_eq!(outcome.verdict(), Verdict::Error { reason: &reason });
            let console = machine.host.console();
            for part in [words, "Rip=0000000000001000", "field = value", "gdtr", "Cs"] {
                assert!(console.contains(part), "{part}: {console}");
            }
        }
        let (_, machine) = run(FakeVcpu::default().then(VmExit::EntryFailure { code: 7 }));
        assert!(machine.host.console().contains("a scripted refusal"));
    }

    #[test]
    fn a_round_trip_costs_from_exit_to_entry() {
        let machine = finish(FakeVcpu::default().then(VmExit::Pause).then(VmExit::Pause));
        let cost = machine.counters.cost(ExitReason::Pause);
        // The fake clock moves by 10 a reading, and is read twice a round trip.
        assert_eq!((cost.count, cost.ticks, cost.longest), (2, 20, 10));
        assert_eq!(machine.counters.guest_ticks, 30);
        assert_eq!(machine.first_entry(), 1_020);
    }
}

mod benchmarks {
    use super::*;
    use anchorite_abi::bench::Command;

    fn command(command: Command) -> impl FnOnce(&mut FakeVcpu) {
        move |vcpu| vcpu.registers[Gpr::Rax] = command.encode().into()
    }

    fn commanded(commands: &[Command]) -> FakeVcpu {
        let bench = || out(port::BENCH_COMMAND, 4);
        commands.iter().fold(FakeVcpu::default(), |vcpu, one| vcpu.after(command(*one), bench()))
    }

    /// The lines for the tools, which a guest of these commands leaves.
    fn told(commands: &[Command]) -> Vec<serde_json::Value> {
        let vcpu = commanded(commands)
            .after(|vcpu| vcpu.registers[Gpr::Rax] = 0, out(port::END_OF_RUN, 4));
        let mut machine = machine(vcpu);
        machine.tell_benchmarks(true);
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        let text = machine.host.console();
        let lines = text.lines().filter_map(|line| line.strip_prefix("json: "));
        lines.map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    #[test]
    fn a_section_tells_what_was_counted_between_its_begin_and_its_end() {
        let lines =
            told(&[Command::Begin(7), Command::Limit(0), Command::Limit(0), Command::End(7)]);
        assert_eq!(lines.len(), 1);
        assert_eq!(
            (&lines[0]["record"], &lines[0]["section"]),
            (&"bench_section".into(), &7.into())
        );
        assert_eq!(lines[0]["exits"], 3, "the two commands, and the begin's own exit");
    }

    #[test]
    fn an_end_without_its_begin_tells_nothing() {
        assert!(told(&[Command::End(1), Command::Begin(1), Command::End(2)]).is_empty());
    }

    #[test]
    fn each_timed_zap_is_told_once_and_the_others_never() {
        let timed = Command::ZapAll { timed: true };
        let untimed = Command::ZapAll { timed: false };
        let lines = told(&[timed, untimed, timed, timed, Command::Done]);
        let ticks = |line: &serde_json::Value| line["ticks"].as_array().expect("zaps").len();
        assert_eq!(lines.iter().map(ticks).sum::<usize>(), 3);
        assert!(lines.iter().all(|line| line["record"] == "bench_zap"));
    }

    #[test]
    fn zaps_beyond_what_is_kept_are_counted() {
        let lines = told(&vec![Command::ZapAll { timed: true }; 1030]);
        let kept: usize =
            lines.iter().map(|line| line["ticks"].as_array().map_or(0, Vec::len)).sum();
        let left_out: u64 = lines.iter().filter_map(|line| line["left_out"].as_u64()).sum();
        assert_eq!((kept, left_out), (1024, 6));
    }

    #[test]
    fn the_first_boot_command_tells_what_making_the_machine_took() {
        let lines = told(&[Command::Boot, Command::Boot]);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["record"], "bench_create");
    }

    #[test]
    fn after_done_the_value_that_ends_the_run_says_nothing() {
        let ended = |commands: &[Command]| {
            let vcpu = commanded(commands)
                .after(|vcpu| vcpu.registers[Gpr::Rax] = 3, out(port::END_OF_RUN, 4));
            run(vcpu).0.verdict().exit_status()
        };
        assert_eq!(ended(&[Command::Boot, Command::Done]), 0);
        assert_eq!(ended(&[Command::Boot]), 3);
        assert_eq!(ended(&[Command::Panic(9), Command::Done]), 9);
    }

    #[test]
    fn a_line_for_the_tools_never_continues_one_of_the_guests() {
        let vcpu = FakeVcpu::default()
            .after(|vcpu| vcpu.registers[Gpr::Rax] = b'x'.into(), out(port::DEBUG_CONSOLE, 1))
            .after(command(Command::Boot), out(port::BENCH_COMMAND, 4))
            .after(|vcpu| vcpu.registers[Gpr::Rax] = 0, out(port::END_OF_RUN, 4));
        let mut machine = machine(vcpu);
        machine.tell_benchmarks(true);
        assert_eq!(machine.run().verdict(), Verdict::Pass);
        assert!(machine.host.console().starts_with("x\njson: {"));
    }
}
