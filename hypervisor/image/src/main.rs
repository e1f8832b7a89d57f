//! The hypervisor image.
#![no_std]
#![no_main]

use anchorite_abi::Verdict;
use anchorite_platform::{boot, console::Console, memory};
use core::fmt::Write;

anchorite_platform::entry!(run);

fn run() -> u8 {
    let mut console = Console::new();
    let start = boot::boot();
    let _ = writeln!(console, "anchorite: {:x?}", start.layout);
    let _ = writeln!(console, "{:?}", anchorite_platform::msr::read(0xdead_beef));
    for module in memory::modules() {
        let _ = writeln!(console, "module {} {:?} {}", module.name, module.arguments, module.bytes.len());
    }
    let verdict = Verdict::Pass;
    let _ = writeln!(console, "{}{verdict}", Verdict::PREFIX);
    verdict.exit_status()
}
