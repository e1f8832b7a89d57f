//! The benchmark of the memory management: every row of the race against KVM.
//!
//! Words on the command line choose sections (`exits`, `cr3`, `edit`, `touch`, `zap`,
//! `limit`, `fork`, `reader`, `remap`); without one all run. `quick` leaves out the
//! shapes that need minutes where a zap costs what KVM's does. `max=N` leaves out
//! shapes of more than N tables; `row=NAME` leaves only that row of the sections whose rows
//! do not build on each other, for a profile of it.
//!
//! Each section is timed by the guest itself with RDTSC; the host is told of its begin
//! and its end outside the timed window. Every sample goes out as
//! `R name a k count v0 v1 …`: a tables, k leaves in each (or k pages at a time), each v
//! the ticks of a whole section of `count` operations.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "edits its own page tables and holds measured loops")]
#![expect(clippy::inline_always, reason = "a call would be measured too")]

mod edit;
mod fork;
mod frames;
mod instructions;
mod limit;
mod section;
mod steady;
mod tables;
mod touch;
mod verify;
mod zap;

use anchorite_guests::abi::bench::Command;
use anchorite_guests::timing::command;
use anchorite_guests::{BootInfo, Status, entry, exit, println};

use frames::Frames;
use section::Bench;

entry!(run);

/// A section's name on the command line, and what runs it.
type Section = (&'static str, fn(&mut Bench));

const SECTIONS: [Section; 10] = [
    ("exits", instructions::run),
    ("cr3", instructions::roots),
    ("edit", edit::run),
    ("touch", touch::run),
    ("zap", zap::run),
    ("limit", limit::run),
    ("fork", fork::run),
    ("reader", steady::reader),
    ("remap", steady::remap),
    ("verify", verify::run),
];

fn run(boot: &BootInfo) -> Status {
    command(Command::Boot);
    let frames = match Frames::new(boot) {
        Ok(frames) => frames,
        Err(message) => give_up(message, 1),
    };
    let chosen = SECTIONS.iter().any(|(name, _)| boot.has_flag(name));
    let mut bench = Bench::new(frames, boot);
    for (name, section) in SECTIONS {
        if !chosen || boot.has_flag(name) {
            bench.renew();
            section(&mut bench);
        }
    }
    command(Command::Done);
    Status::PASS
}

/// Ends the run: figures after a wrong result would mean nothing.
fn give_up(message: &str, code: u32) -> ! {
    println!("bench: {message}");
    command(Command::Panic(code));
    exit::exit(Status(code))
}
