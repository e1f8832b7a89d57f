//! A guest that means harm: whatever it does to its page tables, its descriptor tables and
//! its stack, it gets what a processor would give it, or the run ends with a verdict.
//!
//! Without a word it does what a guest survives. `fatal=NAME` does one thing that no machine
//! goes on from; see `fatal.rs`. `rounds=N` repeats the floods.
#![no_std]
#![no_main]

mod delivery;
mod fatal;
mod floods;
mod writes;

use anchorite_guests::control::{enable_sse, load_root};
use anchorite_guests::oracle::Controls;
use anchorite_guests::paging::{Frames, Space};
use anchorite_guests::{BootInfo, Report, Status, entry, println};

entry!(run);

fn run(boot: &BootInfo) -> Status {
    let mut frames = Frames::new(boot);
    let space = Space::with_kernel(&mut frames);
    load_root(space.root);
    enable_sse();
    Controls { wp: true, ..Controls::default() }.apply();
    let mut report = Report::new("hostile");
    if let Some(name) = boot.argument("fatal") {
        return fatal::run(name, &mut frames, space);
    }
    let rounds = boot.argument("rounds").and_then(|text| text.parse().ok()).unwrap_or(2);
    writes::check(&mut report, &mut frames, space);
    println!("hostile: page tables written in every way");
    delivery::check(&mut report, &mut frames, space);
    println!("hostile: events delivered through bad places");
    floods::check(&mut report, &mut frames, space, rounds);
    report.finish()
}
