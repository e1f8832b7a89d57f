//! Local and I/O APIC.
#![expect(unsafe_code, reason = "reads and writes CR8")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use anchorite_guests::instructions::{cli, cpuid, nothing, rdmsr, rdtsc, sti};
use anchorite_guests::{Report, memory, trap};

use crate::{count, halt_until, is_about, pic, taken, taken_one, timer};

const APIC_BASE: u32 = 0x1b;
const LOCAL: u64 = 0xfee0_0000;
const IO: u64 = 0xfec0_0000;

const VERSION: u64 = 0x30;
const TASK_PRIORITY: u64 = 0x80;
const END: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const LVT_TIMER: u64 = 0x320;
const LINT0: u64 = 0x350;
const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const TO_SELF: u32 = 1 << 18;
const BY_1: u32 = 0b1011;
const LOW: u8 = 0x41;
const HIGH: u8 = 0x72;

/// Vectors in the order of their delivery, a byte each.
static ORDER: AtomicU64 = AtomicU64::new(0);

pub(crate) fn is_there() -> bool {
    cpuid(1, 0).edx & 1 << 9 != 0
}

fn read(register: u64) -> u32 {
    memory::read(LOCAL + register)
}

fn write(register: u64, value: u32) {
    memory::write(LOCAL + register, value);
}

pub(crate) fn check(report: &mut Report) {
    let base = rdmsr(APIC_BASE).unwrap_or(0);
    report.equal("IA32_APIC_BASE: place, enabled, bootstrap", base, LOCAL | 0x900);
    report.check("it is integrated", read(VERSION) & 0xf0 == 0x10);
    write(SPURIOUS, 0x1ff);
    write(LINT0, MASKED);
    to_self(report);
    priority(report);
    one_shot_and_periodic(report);
    through_the_io_apic(report);
    write(LINT0, 0x700);
}

fn remember(vector: u64) {
    ORDER.store(ORDER.load(Ordering::SeqCst) << 8 | vector, Ordering::SeqCst);
    write(END, 0);
}

fn start_remembering() {
    ORDER.store(0, Ordering::SeqCst);
    [LOW, HIGH].map(|vector| trap::set_handler(vector, Some(|frame| remember(frame.vector))));
}

/// Two at once: the higher class first, each once.
fn to_self(report: &mut Report) {
    start_remembering();
    cli();
    [LOW, HIGH, LOW].into_iter().for_each(|vector| write(COMMAND, TO_SELF | u32::from(vector)));
    sti();
    (0..100).for_each(|_| nothing());
    read(VERSION);
    cli();
    let order = ORDER.load(Ordering::SeqCst);
    report.equal("interrupts to oneself, in their order", order, 0x7241);
}

/// The task priority holds a class back, written in memory or as CR8.
fn priority(report: &mut Report) {
    start_remembering();
    write(TASK_PRIORITY, 0x40);
    report.equal("CR8 follows the task priority", cr8(), 4);
    write(COMMAND, TO_SELF | u32::from(LOW));
    sti();
    (0..100).for_each(|_| nothing());
    read(VERSION);
    report.equal("held back", ORDER.load(Ordering::SeqCst), 0);
    set_cr8(0);
    report.equal("the task priority follows CR8", read(TASK_PRIORITY), 0);
    (0..100).for_each(|_| nothing());
    cli();
    report.equal("let go", ORDER.load(Ordering::SeqCst), LOW.into());
}

fn one_shot_and_periodic(report: &mut Report) {
    count(LOW, |_| {
        taken_one();
        write(END, 0);
    });
    write(DIVIDE, BY_1);
    write(LVT_TIMER, LOW.into());
    write(INITIAL, 10_000_000);
    let once = halt_until(1);
    report.equal("a timer that has fired stands at", read(CURRENT), 0);

    write(LVT_TIMER, PERIODIC | u32::from(LOW));
    write(INITIAL, 1_000_000);
    let often = halt_until(31);
    write(INITIAL, 0);
    report.equal("30 periods interrupt 30 times", taken(), 31);
    report.check(
        format_args!("10 M counts took {once} ticks, 30 M in 30 periods {often}"),
        is_about(often, once * 3) || is_about(once * 3, often),
    );

    write(LVT_TIMER, MASKED);
    write(INITIAL, u32::MAX);
    // In this order: the host may be busy in between, and that counts for the timer.
    let first = read(CURRENT);
    let start = rdtsc();
    while rdtsc().wrapping_sub(start) < once {}
    report.check("a masked timer counts", first - read(CURRENT) >= 9_000_000);
    write(INITIAL, 0);
}

/// The 8254's interrupt by way of input 2.
fn through_the_io_apic(report: &mut Report) {
    pic::program(0);
    count(LOW, |_| {
        taken_one();
        write(END, 0);
    });
    set_redirection(2, LOW.into());
    timer::set(0, 2, 1_193);
    halt_until(10);
    set_redirection(2, MASKED);
    let before = taken();
    sti();
    (0..100_000).for_each(|_| nothing());
    cli();
    report.equal("a masked input is silent", taken(), before);
    timer::stop();
}

fn set_redirection(input: u32, low: u32) {
    for (register, value) in [(0x11 + 2 * input, 0), (0x10 + 2 * input, low)] {
        memory::write(IO, register);
        memory::write(IO + 0x10, value);
    }
}

fn cr8() -> u64 {
    let value;
    // SAFETY: reading CR8 changes nothing.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn set_cr8(value: u64) {
    // SAFETY: the task priority only holds interrupts back.
    unsafe { asm!("mov cr8, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}
