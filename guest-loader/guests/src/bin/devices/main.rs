//! The devices of a PC: interrupt controllers, timers, clock, keyboard controller,
//! configuration device, APICs.
//!
//! What is there is found out as a kernel does it, told on the console, and checked.
//! Nothing in it is particular to Anchorite, so that a bare machine, whose devices others
//! made, must pass as well. Time is measured by one device against another.
//!
//! `end=poweroff` leaves by ACPI's soft-off, `end=reset` by the reset control register;
//! without either the guest exits with its status, as it does whenever a check fails.
//! `sleeps=N` checks nothing but that N sleeps end, by whatever clock.
#![no_std]
#![no_main]

mod acpi;
mod apic;
mod clock;
mod fw_cfg;
mod keyboard;
mod pic;
mod sleeps;
mod timer;

use core::sync::atomic::{AtomicU32, Ordering};

use anchorite_guests::instructions::{cli, outb, outw, rdtsc, wait_for_interrupt};
use anchorite_guests::{BootInfo, Report, Status, entry, println, trap};

entry!(run);

/// Interrupts since the last [`count`].
static TAKEN: AtomicU32 = AtomicU32::new(0);

fn run(boot: &BootInfo) -> Status {
    let mut report = Report::new("devices");
    if let Some(number) = boot.argument("sleeps") {
        sleeps::check(&mut report, number);
        return report.finish();
    }
    if pic::is_there() {
        println!("devices: 8259 pair");
        pic::check(&mut report);
    }
    if pic::is_there() && timer::is_there() {
        println!("devices: 8254");
        timer::check(&mut report);
    }
    if timer::second_is_there() {
        println!("devices: 8254 channel 2");
        timer::check_second(&mut report);
    }
    if clock::is_there() {
        println!("devices: real-time clock");
        clock::check(&mut report);
    }
    if keyboard::is_there() {
        println!("devices: keyboard controller");
        keyboard::check(&mut report);
    }
    if fw_cfg::is_there() {
        println!("devices: fw_cfg");
        fw_cfg::check(&mut report);
    }
    if apic::is_there() {
        println!("devices: APICs");
        apic::check(&mut report);
        acpi::check(&mut report);
    }
    let failed = report.failures() != 0;
    let status = report.finish();
    match boot.argument("end") {
        Some("poweroff") if !failed => outw(0x604, 0x2000),
        Some("reset") if !failed => outb(0xcf9, 0x06),
        _ => {}
    }
    status
}

/// Makes `vector` count, and `end` tell its controller that it was handled.
fn count(vector: u8, end: trap::Handler) {
    trap::set_handler(vector, Some(end));
    TAKEN.store(0, Ordering::SeqCst);
}

/// For handlers: one more.
fn taken_one() {
    TAKEN.fetch_add(1, Ordering::SeqCst);
}

fn taken() -> u32 {
    TAKEN.load(Ordering::SeqCst)
}

/// Halts until `number` interrupts were taken; the ticks of the TSC that took.
fn halt_until(number: u32) -> u64 {
    let start = rdtsc();
    while taken() < number {
        wait_for_interrupt();
        cli();
    }
    rdtsc().wrapping_sub(start)
}

/// Whether `got` is not below `least` and at most twice that: a busy host may be late,
/// but none may be early.
fn is_about(got: u64, least: u64) -> bool {
    got >= least - least / 50 && got <= least * 2
}
