//! The local APIC in x2APIC mode, and the ways into it and out of it.
//!
//! Source: SDM vol. 3, 10.12 "Extended xAPIC (x2APIC)".

use core::sync::atomic::{AtomicU32, Ordering};

use anchorite_guests::instructions::{cli, nothing, rdmsr, sti, wrmsr};
use anchorite_guests::trap::{self, Exception};
use anchorite_guests::{Report, memory};

const APIC_BASE: u32 = 0x1b;
const ENABLED: u64 = 1 << 11;
const EXTENDED: u64 = 1 << 10;
/// The version's register in memory.
const VERSION_IN_MEMORY: u64 = 0xfee0_0030;

const ID: u32 = 0x802;
const VERSION: u32 = 0x803;
const TASK_PRIORITY: u32 = 0x808;
const END: u32 = 0x80b;
const LOGICAL_ID: u32 = 0x80d;
const SPURIOUS: u32 = 0x80f;
const COMMAND: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LINT0: u32 = 0x835;
const INITIAL: u32 = 0x838;
const CURRENT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;
const SELF_IPI: u32 = 0x83f;

const MASKED: u64 = 1 << 16;
const BY_1: u64 = 0b1011;
const VECTOR: u8 = 0x51;

static TAKEN: AtomicU32 = AtomicU32::new(0);

fn write(index: u32, value: u64) -> Result<(), Exception> {
    // SAFETY: the APIC's registers change no memory; its interrupts have a handler here or are
    // held back by RFLAGS.IF.
    unsafe { wrmsr(index, value) }
}

/// Goes to a mode; what else IA32_APIC_BASE holds stays.
fn switch(mode: u64) -> Result<(), Exception> {
    let base = rdmsr(APIC_BASE).unwrap_or(0);
    write(APIC_BASE, base & !(ENABLED | EXTENDED) | mode)
}

pub(crate) fn works(report: &mut Report) {
    let version: u32 = memory::read(VERSION_IN_MEMORY);
    report.same("a register before", rdmsr(ID), Err(Exception::PROTECTION));
    report.same("EXTD without EN", switch(EXTENDED), Err(Exception::PROTECTION));
    report.same("into x2APIC mode", switch(ENABLED | EXTENDED), Ok(()));
    report.same("the identifier", rdmsr(ID), Ok(0));
    report.same("the version is that in memory", rdmsr(VERSION), Ok(version.into()));
    report.same("the logical identifier", rdmsr(LOGICAL_ID), Ok(1));
    registers_are_checked(report);
    interrupts(report);
    timer(report);
    report.same("back without a stop", switch(ENABLED), Err(Exception::PROTECTION));
    report.same("off", switch(0), Ok(()));
    report.same(
        "from off into x2APIC mode",
        switch(ENABLED | EXTENDED),
        Err(Exception::PROTECTION),
    );
    report.same("and a register there", rdmsr(ID), Err(Exception::PROTECTION));
    report.same("on again", switch(ENABLED), Ok(()));
    report.same("and in memory", memory::read::<u32>(VERSION_IN_MEMORY), version);
}

fn registers_are_checked(report: &mut Report) {
    for index in [0x80b, 0x80e, 0x831, 0x83f, 0x840, 0x8ff] {
        report.same(format_args!("MSR {index:#x}"), rdmsr(index), Err(Exception::PROTECTION));
    }
    for (index, value) in [
        (ID, 0),
        (VERSION, 0),
        (TASK_PRIORITY, 0x100),
        (END, 1),
        (LOGICAL_ID, 1),
        (SPURIOUS, 1 << 32),
        (INITIAL, 1 << 32),
        (DIVIDE, 1 << 4),
        (SELF_IPI, 0x100),
    ] {
        let written = write(index, value);
        report.same(format_args!("{value:#x} to {index:#x}"), written, Err(Exception::PROTECTION));
    }
}

/// By the command register and by the short way.
fn interrupts(report: &mut Report) {
    trap::set_handler(
        VECTOR,
        Some(|_| {
            TAKEN.fetch_add(1, Ordering::SeqCst);
            let _ = write(END, 0);
        }),
    );
    report.same("enabled by software", write(SPURIOUS, 0x1ff), Ok(()));
    let line = rdmsr(LINT0).unwrap_or(0);
    report.same("LINT0 is masked", write(LINT0, MASKED), Ok(()));
    for (way, index, value) in [
        ("SELF IPI", SELF_IPI, u64::from(VECTOR)),
        ("ICR to identifier 0", COMMAND, u64::from(VECTOR)),
        ("ICR to the logical identifier", COMMAND, 1 << 32 | 1 << 11 | u64::from(VECTOR)),
        ("ICR to all", COMMAND, 0xffff_ffff << 32 | u64::from(VECTOR)),
    ] {
        TAKEN.store(0, Ordering::SeqCst);
        report.same(way, write(index, value), Ok(()));
        pause();
        report.equal(way, TAKEN.load(Ordering::SeqCst), 1);
    }
    TAKEN.store(0, Ordering::SeqCst);
    report.same("the task priority", write(TASK_PRIORITY, 0x60), Ok(()));
    let _ = write(SELF_IPI, VECTOR.into());
    pause();
    report.equal("held back by the task priority", TAKEN.load(Ordering::SeqCst), 0);
    report.same("no task priority", write(TASK_PRIORITY, 0), Ok(()));
    pause();
    report.equal("let go", TAKEN.load(Ordering::SeqCst), 1);
    report.same("LINT0 goes back", write(LINT0, line), Ok(()));
}

fn timer(report: &mut Report) {
    let line = rdmsr(LINT0).unwrap_or(0);
    let _ = write(LINT0, MASKED);
    TAKEN.store(0, Ordering::SeqCst);
    report.same("the timer's divisor", write(DIVIDE, BY_1), Ok(()));
    report.same("the timer's vector", write(LVT_TIMER, VECTOR.into()), Ok(()));
    report.same("the timer starts", write(INITIAL, 100_000), Ok(()));
    // Until it stands at 0: it counts by itself, so this ends.
    while rdmsr(CURRENT).is_ok_and(|count| count > 0) {}
    pause();
    report.equal("the timer interrupts once", TAKEN.load(Ordering::SeqCst), 1);
    let _ = write(LVT_TIMER, MASKED);
    let _ = write(LINT0, line);
}

/// Takes interrupts for a moment.
fn pause() {
    sti();
    (0..100).for_each(|_| nothing());
    let _ = rdmsr(VERSION);
    cli();
}

pub(crate) fn faults(report: &mut Report) {
    let base = rdmsr(APIC_BASE).unwrap_or(0);
    report.same(
        "IA32_APIC_BASE.EXTD",
        switch(base & ENABLED | EXTENDED),
        Err(Exception::PROTECTION),
    );
    report.same("IA32_APIC_BASE after it", rdmsr(APIC_BASE), Ok(base));
    for index in [ID, COMMAND, 0x8ff] {
        report.same(format_args!("MSR {index:#x}"), rdmsr(index), Err(Exception::PROTECTION));
        report.same(format_args!("to {index:#x}"), write(index, 0), Err(Exception::PROTECTION));
    }
}
