//! Never ends: its time limit must.
//!
//! `interrupts=off` (the default) spins with interrupts held off, where a hypervisor
//! that waits for the guest to take one never gets control; `interrupts=on` spins with
//! interrupts allowed; `halt` halts with them held off, which nothing but an NMI ends.
#![no_std]
#![no_main]

use anchorite_guests::{BootInfo, Status, entry, instructions, println};

entry!(run);

fn run(boot: &BootInfo) -> Status {
    let on = boot.argument("interrupts") == Some("on");
    let halt = boot.has_flag("halt");
    println!("spin: interrupts {}, halt {halt}; now spinning", if on { "on" } else { "off" });
    if on {
        instructions::sti();
    }
    if halt {
        instructions::halt_forever()
    }
    loop {
        instructions::nothing();
    }
}
