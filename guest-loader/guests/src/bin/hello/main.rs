//! Says hello on every console there is and ends with status 0.
#![no_std]
#![no_main]

use core::fmt::Write;

use anchorite_guests::console::{self, Console};
use anchorite_guests::{BootInfo, Report, Status, entry, machine, println};

entry!(run);

fn run(boot: &BootInfo) -> Status {
    let place = if machine::is_anchorite() { "under Anchorite" } else { "on a bare machine" };
    println!("hello {place}: {:?} processor", machine::vendor());
    println!("hello: by {:?}, loader {:?}", boot.protocol, boot.loader);
    println!("hello: command line {:?}", boot.command_line);
    boot.modules().for_each(|module| println!("hello: {module:x?}"));

    let mut report = Report::new("hello");
    let serial = writeln!(Console::Serial, "hello: from the serial line");
    report.check("the serial line takes text", serial.is_ok());
    if console::has_debug_console() {
        let debug = writeln!(Console::Debug, "hello: from the debug console");
        report.check("the debug console takes text", debug.is_ok());
    }
    report.check("there is RAM", boot.memory.ram().next().is_some());
    report.finish()
}
