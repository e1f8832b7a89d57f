//! Interrupts raised through the port of the guest protocol.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use anchorite_guests::Report;
use anchorite_guests::abi::bench::Command;
use anchorite_guests::abi::port::RAISE_INTERRUPT;
use anchorite_guests::instructions::{cli, inb, nothing, outb, rflags, sti};
use anchorite_guests::timing::command;
use anchorite_guests::{println, trap};

use crate::{VECTOR, events, last_rip, start_counting};

/// A vector of a lower and one of a higher priority class than [`VECTOR`].
const LOW: u8 = 0x31;
const HIGH: u8 = 0xe2;
const MANY: u32 = 1000;
const INTERRUPT_FLAG: u64 = 1 << 9;

/// Vectors in the order of their delivery, a byte each, the last lowest.
static ORDER: AtomicU64 = AtomicU64::new(0);

pub(crate) fn check(report: &mut Report) {
    held_off(report);
    shadows(report);
    halt(report);
    many(report);
    order(report);
    nested(report);
    after_a_zap(report);
}

fn raise(vector: u8) {
    outb(RAISE_INTERRUPT, vector);
}

/// Raised with interrupts held off: pending until they are allowed.
fn held_off(report: &mut Report) {
    start_counting(VECTOR);
    cli();
    raise(VECTOR);
    for _ in 0..1000 {
        nothing();
    }
    report.equal("interrupts delivered while IF = 0", events(), 0);
    report.check("the port shows that one is pending", inb(RAISE_INTERRUPT) != 0);
    sti();
    nothing();
    inb(RAISE_INTERRUPT);
    report.equal("interrupts delivered once IF = 1", events(), 1);
    report.equal("nothing is pending then", inb(RAISE_INTERRUPT), 0);
    report.equal("IF after the return", rflags() & INTERRUPT_FLAG, INTERRUPT_FLAG);
    cli();
}

/// Runs instructions with an interrupt pending since before; the interrupt must arrive
/// at the label 2.
macro_rules! arrives {
    ($report:expr, $name:literal, $($instruction:literal),+) => {{
        start_counting(VECTOR);
        cli();
        raise(VECTOR);
        let expected: u64;
        // SAFETY: the vector has a handler that returns; DX and AL name port 0x80.
        unsafe {
            asm!("lea {expected}, [rip + 2f]", $($instruction,)+ "cli",
                expected = out(reg) expected, out("rax") _, out("rcx") _, out("rdx") _);
        }
        $report.equal(concat!($name, ": interrupts"), events(), 1);
        $report.equal(concat!($name, ": where"), last_rip(), expected);
    }};
}

fn shadows(report: &mut Report) {
    arrives!(report, "one instruction after STI", "sti", "nop", "2: nop");
    arrives!(report, "after STI and an exit", "sti", "out 0x80, al", "2: nop", "nop");
    arrives!(report, "after STI and an IN that exits", "sti", "in al, 0x80", "2: nop");
    arrives!(
        report,
        "at once after POPF",
        "pushfq",
        "or dword ptr [rsp], 0x200",
        "popfq",
        "2: nop"
    );
    shadow_over_cli(report);
    two_shadows(report);
}

/// The shadow of STI covers CLI: interrupts are off again before one can come.
fn shadow_over_cli(report: &mut Report) {
    start_counting(VECTOR);
    cli();
    raise(VECTOR);
    // SAFETY: the vector has a handler.
    unsafe { asm!("sti", "cli", "nop", "nop") };
    report.equal("interrupts between STI and CLI", events(), 0);
    sti();
    nothing();
    inb(RAISE_INTERRUPT);
    cli();
    report.equal("interrupts behind them", events(), 1);
}

/// Of two instructions that each cast a shadow only the first is sure to do so (SDM
/// vol. 2, "MOV—Move"), so behind STI and MOV SS there are two places to arrive at.
fn two_shadows(report: &mut Report) {
    start_counting(VECTOR);
    cli();
    raise(VECTOR);
    let (first, second): (u64, u64);
    // SAFETY: the vector has a handler; SS keeps its value.
    unsafe {
        asm!("lea {first}, [rip + 2f]", "lea {second}, [rip + 3f]", "mov eax, ss", "sti",
            "mov ss, eax", "2: nop", "3: nop", "cli",
            first = out(reg) first, second = out(reg) second, out("rax") _);
    }
    report.equal("after STI and MOV SS: interrupts", events(), 1);
    report.check("after STI and MOV SS: where", [first, second].contains(&last_rip()));
}

fn halt(report: &mut Report) {
    arrives!(report, "HLT with one pending", "sti", "hlt", "2: nop");
    arrives!(report, "HLT in a shadow of its own", "sti", "nop", "2: nop", "nop");
}

/// Each raised with interrupts allowed comes once, at the next instruction.
fn many(report: &mut Report) {
    start_counting(VECTOR);
    sti();
    let mut late = 0;
    for number in 1..=MANY {
        raise(VECTOR);
        nothing();
        late += u32::from(events() != number);
    }
    cli();
    report.equal("interrupts raised one by one", events(), MANY);
    report.equal("of which late or early", late, 0);

    start_counting(VECTOR);
    for _ in 0..MANY {
        cli();
        raise(VECTOR);
        sti();
        nothing();
        inb(RAISE_INTERRUPT);
    }
    cli();
    report.equal("interrupts held off one by one", events(), MANY);
}

/// Of several pending the highest vector comes first, each once.
fn order(report: &mut Report) {
    ORDER.store(0, Ordering::SeqCst);
    for vector in [LOW, VECTOR, HIGH] {
        trap::set_handler(vector, Some(|frame| remember(frame.vector)));
    }
    cli();
    [LOW, HIGH, VECTOR].into_iter().for_each(raise);
    // SAFETY: all three have handlers.
    unsafe { asm!("sti", "nop", "nop", "nop") };
    // A processor takes all three before the first NOP's successor. A hypervisor may
    // need an exit for each: that is told, not judged.
    let at_once = ORDER.load(Ordering::SeqCst);
    println!("interrupts: of three pending came without an exit: {at_once:#x}");
    while inb(RAISE_INTERRUPT) != 0 {}
    nothing();
    cli();
    report.equal("the order of three", ORDER.load(Ordering::SeqCst), 0xe2_40_31);
}

fn remember(vector: u64) {
    let before = ORDER.load(Ordering::SeqCst);
    ORDER.store(before << 8 | vector, Ordering::SeqCst);
}

/// A handler that allows interrupts is interrupted in turn.
fn nested(report: &mut Report) {
    ORDER.store(0, Ordering::SeqCst);
    trap::set_handler(HIGH, Some(|frame| remember(frame.vector)));
    trap::set_handler(
        LOW,
        Some(|frame| {
            remember(frame.vector);
            sti();
            raise(HIGH);
            nothing();
            cli();
            remember(0xff);
        }),
    );
    sti();
    raise(LOW);
    nothing();
    cli();
    report.equal("outer, inner, end of outer", ORDER.load(Ordering::SeqCst), 0x31_e2_ff);
    trap::set_handler(LOW, None);
    trap::set_handler(HIGH, None);
}

/// An event whose delivery finds no translation (the IDT's, the stack's) is delivered
/// again after the hypervisor has made them, and once only.
fn after_a_zap(report: &mut Report) {
    start_counting(VECTOR);
    sti();
    for _ in 0..MANY / 10 {
        command(Command::ZapAll { timed: false });
        raise(VECTOR);
        nothing();
    }
    cli();
    report.equal("interrupts right after a zap", events(), MANY / 10);

    start_counting(VECTOR);
    for _ in 0..MANY / 10 {
        command(Command::ZapAll { timed: false });
        // SAFETY: the vector has a handler.
        unsafe { asm!("int {}", const VECTOR) };
    }
    report.equal("software interrupts right after a zap", events(), MANY / 10);
}
