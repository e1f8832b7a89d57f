//! Ends itself by a triple fault: the run's verdict must be an error, not a hang.
//!
//! With an IDT of limit 0 no vector can be delivered, neither #UD's nor the double
//! fault's that follows (AMD64 APM vol. 2, 8.2.9 "#DF—Double-Fault Exception").
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "breaks the IDT on purpose")]

use core::arch::asm;

use anchorite_guests::{BootInfo, Status, entry, instructions, println};

entry!(run);

fn run(_boot: &BootInfo) -> Status {
    println!("triple_fault: the next line, if there is one, means that it failed");
    // SAFETY: no gate is valid, and the next instruction needs one: that is the test.
    unsafe {
        instructions::lidt(0, 0);
        asm!("ud2");
    }
    println!("triple_fault: fail (still running)");
    Status::FAIL
}
