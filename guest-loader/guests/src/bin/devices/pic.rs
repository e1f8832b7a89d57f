//! The 8259 pair.

use anchorite_guests::Report;
use anchorite_guests::instructions::{inb, outb};

/// IRQ 0 is delivered here.
pub(crate) const FIRST_VECTOR: u8 = 0x20;
const COMMANDS: [u16; 2] = [0x20, 0xa0];
const MASKS: [u16; 2] = [0x21, 0xa1];
const END: u8 = 0x20;

/// Found as Linux does it.
pub(crate) fn is_there() -> bool {
    outb(MASKS[1], 0xff);
    outb(MASKS[0], 0xfb);
    inb(MASKS[0]) == 0xfb
}

/// Programs both, and lets `lines` through.
pub(crate) fn program(lines: u16) {
    for (command, mask, base, wiring) in [(0x20, 0x21, FIRST_VECTOR, 4), (0xa0, 0xa1, 0x28, 2)] {
        outb(command, 0x11);
        [base, wiring, 1].into_iter().for_each(|word| outb(mask, word));
    }
    open(lines);
}

/// Lets `lines` through, and the cascade.
pub(crate) fn open(lines: u16) {
    let [low, high] = (!lines & !4).to_le_bytes();
    outb(MASKS[0], low);
    outb(MASKS[1], high);
}

pub(crate) fn end_first() {
    outb(COMMANDS[0], END);
}

pub(crate) fn end_both() {
    outb(COMMANDS[1], END);
    outb(COMMANDS[0], END);
}

pub(crate) fn check(report: &mut Report) {
    program(0);
    for mask in [0, 0x55, 0xaa, 0xff] {
        MASKS.into_iter().for_each(|port| outb(port, mask));
        report.equal("the first mask reads back", inb(MASKS[0]), mask);
        report.equal("the second mask reads back", inb(MASKS[1]), mask);
    }
    for command in COMMANDS {
        outb(command, 0x0b);
        report.equal("nothing is in service", inb(command), 0);
    }
}
