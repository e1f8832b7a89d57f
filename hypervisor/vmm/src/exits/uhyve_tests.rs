//! The hypercalls of a Hermit kernel, by parameters in guest memory.

extern crate std;

use crate::action::{Outcome, Stop};
use crate::fake::{FakeMachine, FakeVcpu, machine, out};
use crate::uhyve::{File, Files};
use anchorite_abi::Verdict;
use anchorite_addr::Gpa;
use anchorite_vcpu::{ControlRegister, Cr0, Cr4, Efer, Gpr};
use std::string::String;
use std::vec;
use std::vec::Vec;
use uhyve_interface::HypercallAddress::{self, *};
use uhyve_interface::parameters::{EBADF, EFAULT, EINVAL, ENOENT, EROFS};

/// Where parameters lie.
const AT: u64 = 0x5000;
const PATH: u64 = 0x6000;
/// Two pages that follow each other in virtual memory alone, and a hole behind them.
const VIRTUAL: u64 = 0x40_0000;
const FIRST_PAGE: u64 = 0x3_0000;
const SECOND_PAGE: u64 = 0x2_0000;
/// Where the machine has no memory.
const NOWHERE: u64 = 0x900_0000;

/// A kernel in 64-bit mode that makes these calls one after the other, then ends.
fn kernel(calls: &[(HypercallAddress, u64)]) -> FakeMachine {
    let mut vcpu = FakeVcpu::default();
    for (register, value) in [
        (ControlRegister::Cr0, (Cr0::PE | Cr0::PG).bits()),
        (ControlRegister::Cr3, 0x1_0000),
        (ControlRegister::Cr4, Cr4::PAE.bits()),
        (ControlRegister::Efer, (Efer::LME | Efer::LMA).bits()),
    ] {
        vcpu.controls.insert(register, value);
    }
    for &(call, argument) in calls {
        let load = move |vcpu: &mut FakeVcpu| vcpu.registers[Gpr::Rax] = argument;
        vcpu = vcpu.after(load, out(call as u16, 4));
    }
    let mut machine = machine(vcpu);
    let entries = [
        (0x1_0000, 0x1_1003),
        (0x1_1000, 0x1_2003),
        (0x1_2010, 0x1_3003),
        (0x1_3000, FIRST_PAGE | 3),
        (0x1_3008, SECOND_PAGE | 3),
    ];
    for (at, entry) in entries {
        put(&mut machine, at, &u64::to_le_bytes(entry));
    }
    let files = vec![File::new("dir/a.txt", b"0123456789"), File::new("page", &[7; 0x1800])];
    machine.serve_uhyve(Files::new(files, "program", "-- one two"));
    machine
}

fn put(machine: &mut FakeMachine, at: u64, bytes: &[u8]) {
    machine.memory().write(Gpa::new(at), bytes).expect("memory");
}

fn get<const N: usize>(machine: &mut FakeMachine, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    machine.memory().read(Gpa::new(at), &mut bytes).expect("memory");
    bytes
}

fn int(machine: &mut FakeMachine, at: u64) -> i32 {
    i32::from_le_bytes(get(machine, at))
}

/// Fields one after the other, as the packed parameters have them.
fn put_fields(machine: &mut FakeMachine, fields: &[&[u8]]) {
    put(machine, AT, &fields.concat());
}

fn ended_well(machine: &mut FakeMachine) {
    let outcome = machine.run();
    assert_eq!(outcome.verdict(), Verdict::Pass, "{}", machine.host.console());
}

/// Opens `path` with `flags`; the result, and the machine.
fn opened(path: &str, flags: i32, then: &[(HypercallAddress, u64)]) -> (i32, FakeMachine) {
    let mut machine = kernel(&[&[(FileOpen, AT)], then].concat());
    put(&mut machine, PATH, path.as_bytes());
    put(&mut machine, PATH + path.len() as u64, &[0]);
    put_fields(&mut machine, &[&PATH.to_le_bytes(), &flags.to_le_bytes(), &[0; 8]]);
    // The parameters of a later call are the caller's to write, behind these.
    let mut result = 0;
    if then.is_empty() {
        ended_well(&mut machine);
        result = int(&mut machine, AT + 16);
    }
    (result, machine)
}

#[test]
fn files_are_opened_by_name_for_reading_only() {
    let open = |path, flags| opened(path, flags, &[]).0;
    assert_eq!(open("/root/a.txt", 0), 3);
    assert_eq!(open("/root/b.txt", 0), -ENOENT);
    assert_eq!(open("/root/a.txt", 1), -EROFS);
    assert_eq!(open(&"x".repeat(4096), 0), -EINVAL);
}

/// A read of `bytes` bytes from descriptor `fd` to `buffer`, after the first file was opened.
fn read(path: &str, fd: i32, buffer: u64, bytes: u64) -> (i64, FakeMachine) {
    let parameters = AT + 0x100;
    let (_, mut machine) = opened(path, 0, &[(FileRead, parameters)]);
    let fields = [&fd.to_le_bytes()[..], &buffer.to_le_bytes(), &bytes.to_le_bytes(), &[0; 8]];
    put(&mut machine, parameters, &fields.concat());
    ended_well(&mut machine);
    (i64::from_le_bytes(get(&mut machine, parameters + 20)), machine)
}

#[test]
fn a_read_fills_a_virtual_buffer_wherever_its_pages_lie() {
    let (result, mut machine) = read("a.txt", 3, VIRTUAL + 0xffc, 100);
    assert_eq!(result, 10);
    assert_eq!(&get::<4>(&mut machine, FIRST_PAGE + 0xffc), b"0123");
    assert_eq!(&get::<7>(&mut machine, SECOND_PAGE), b"456789\0");
    let dirty = |entry: u64| entry & 0x60 == 0x60;
    let entries: [u8; 16] = get(&mut machine, 0x1_3000);
    let (first, second) = entries.split_at(8);
    let entry = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight"));
    assert!(dirty(entry(first)) && dirty(entry(second)), "as if the guest had written");
}

#[test]
fn a_read_ends_where_the_guests_memory_does() {
    // 0x1000 bytes to the end of the second page, of 0x1800 that the file has.
    assert_eq!(read("page", 3, VIRTUAL + 0x1000, 0x1800).0, 0x1000);
    assert_eq!(read("page", 3, VIRTUAL + 0x2000, 1).0, i64::from(-EFAULT));
    assert_eq!(read("page", 4, VIRTUAL, 1).0, i64::from(-EBADF));
    assert_eq!(read("page", 3, VIRTUAL, 0).0, 0);
}

#[test]
fn a_seek_and_a_close_answer_in_their_parameters() {
    let (seek, close, again) = (AT + 0x100, AT + 0x200, AT + 0x300);
    let calls = [(FileLseek, seek), (FileClose, close), (FileClose, again)];
    let (_, mut machine) = opened("a.txt", 0, &calls);
    let fields = [&3i32.to_le_bytes()[..], &(-4i64).to_le_bytes(), &2i32.to_le_bytes()];
    put(&mut machine, seek, &fields.concat());
    put(&mut machine, close, &3i32.to_le_bytes());
    put(&mut machine, again, &3i32.to_le_bytes());
    ended_well(&mut machine);
    assert_eq!(i64::from_le_bytes(get(&mut machine, seek + 4)), 6);
    assert_eq!((int(&mut machine, close + 4), int(&mut machine, again + 4)), (0, -EBADF));
}

#[test]
fn nothing_can_be_removed() {
    let mut machine = kernel(&[(FileUnlink, AT)]);
    put(&mut machine, PATH, b"/root/a.txt\0");
    put_fields(&mut machine, &[&PATH.to_le_bytes()]);
    ended_well(&mut machine);
    assert_eq!(int(&mut machine, AT + 8), -EROFS);
}

#[test]
fn text_reaches_the_console_by_every_way_there_is() {
    let write = AT + 0x100;
    let file = AT + 0x200;
    let calls = [(SerialBufferWrite, AT), (Uart, u64::from(b'-')), (FileWrite, write)];
    let mut machine = kernel(&[&calls[..], &[(FileWrite, file)]].concat());
    put(&mut machine, FIRST_PAGE - 4, b"physically");
    put(&mut machine, FIRST_PAGE + 0xffc, b"virt");
    put(&mut machine, SECOND_PAGE, b"ually");
    put_fields(&mut machine, &[&(FIRST_PAGE - 4).to_le_bytes(), &10u64.to_le_bytes()]);
    let fields = |fd: i32| {
        let (buffer, bytes) = ((VIRTUAL + 0xffc).to_le_bytes(), 9u64.to_le_bytes());
        [&fd.to_le_bytes()[..], &buffer, &bytes].concat()
    };
    put(&mut machine, write, &fields(1));
    put(&mut machine, file, &fields(3));
    ended_well(&mut machine);
    assert_eq!(machine.host.console(), "physically-virtually");
}

fn outcome(calls: &[(HypercallAddress, u64)], parameters: &[u8]) -> (Outcome, String) {
    let mut machine = kernel(calls);
    put(&mut machine, AT, parameters);
    let outcome = machine.run();
    (outcome, machine.host.console())
}

#[test]
fn an_exit_ends_the_run_with_its_status() {
    for (status, stop) in [(0, 0), (3, 3), (-1, u32::MAX)] {
        let (outcome, _) = outcome(&[(Exit, AT)], &i32::to_le_bytes(status));
        assert_eq!(outcome.stop, Stop::Exit { status: stop });
    }
}

#[test]
fn text_longer_than_the_run_may_last_ends_with_the_time_limit() {
    // The clock moves by 10 whenever it is read, and the limit is 1,000,000: 100,000 pages
    // of a buffer that lies at the same place again and again would be needed; so start late.
    let mut machine = kernel(&[(SerialBufferWrite, AT)]);
    put_fields(&mut machine, &[&0u64.to_le_bytes(), &(8u64 << 20).to_le_bytes()]);
    machine.config.limit_seconds = 0;
    assert_eq!(machine.run().stop, Stop::Timeout);
}

#[test]
fn parameters_outside_memory_end_the_run_with_a_reason() {
    let calls = [Exit, SerialBufferWrite, FileWrite, FileOpen, FileRead, FileLseek, FileClose];
    for call in calls.into_iter().chain([FileUnlink, Cmdsize, Cmdval]) {
        let (outcome, console) = outcome(&[(call, NOWHERE)], &[]);
        assert!(matches!(outcome.stop, Stop::Unsupported { .. }), "{call:?}: {outcome:?}");
        assert!(console.contains("where there is no memory"), "{console}");
    }
    // Text there, of any length.
    let text = [NOWHERE.to_le_bytes(), u64::MAX.to_le_bytes()].concat();
    assert!(matches!(outcome(&[(SerialBufferWrite, AT)], &text).0.stop, Stop::Unsupported { .. }));
}

#[test]
fn a_path_outside_memory_is_an_error_of_the_call() {
    let mut machine = kernel(&[(FileOpen, AT)]);
    put_fields(&mut machine, &[&NOWHERE.to_le_bytes(), &[0; 12]]);
    ended_well(&mut machine);
    assert_eq!(int(&mut machine, AT + 16), -EFAULT);
}

#[test]
fn an_older_kernel_gets_its_arguments_in_two_calls() {
    let mut machine = kernel(&[(Cmdsize, AT), (Cmdval, AT + 0x800)]);
    put(&mut machine, AT + 0x800, &0x7000u64.to_le_bytes());
    let places: Vec<u8> =
        [0x7100u64, 0x7200, 0x7300].iter().flat_map(|p| p.to_le_bytes()).collect();
    put(&mut machine, 0x7000, &places);
    ended_well(&mut machine);
    let sizes = [0, 4, 8, 12].map(|offset| int(&mut machine, AT + offset));
    assert_eq!(sizes, [3, 8, 4, 4]);
    assert_eq!(int(&mut machine, AT + 4 + 4 * 128), 0, "no environment");
    assert_eq!(&get::<8>(&mut machine, 0x7100), b"program\0");
    assert_eq!(&get::<4>(&mut machine, 0x7300), b"two\0");
}

#[test]
fn the_ports_are_there_for_a_hermit_kernel_alone() {
    let vcpu = FakeVcpu::default().then(out(Exit as u16, 4));
    let mut machine = machine(vcpu);
    ended_well(&mut machine);
    assert_eq!(machine.devices().unknown.counts()[0].port, Exit as u16);
    // Of another size it is no call.
    let mut machine = kernel(&[]);
    machine.vcpu = FakeVcpu::default().then(out(Exit as u16, 2));
    ended_well(&mut machine);
}
