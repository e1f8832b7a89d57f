//! The keyboard controller.

use anchorite_guests::Report;
use anchorite_guests::instructions::{inb, nothing, outb};

use crate::{count, halt_until, pic, taken_one};

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;
const OUTPUT_FULL: u8 = 1 << 0;
const INPUT_FULL: u8 = 1 << 1;
const SELF_TEST: u8 = 0xaa;
const PASSED: u8 = 0x55;
const READ_CONFIGURATION: u8 = 0x20;
const WRITE_CONFIGURATION: u8 = 0x60;
const WRITE_OUTPUT_BUFFER: u8 = 0xd2;
const PATIENCE: u32 = 100_000;

fn command(value: u8) {
    wait(INPUT_FULL, 0);
    outb(COMMAND, value);
}

fn put(value: u8) {
    wait(INPUT_FULL, 0);
    outb(DATA, value);
}

fn take() -> Option<u8> {
    wait(OUTPUT_FULL, OUTPUT_FULL).then(|| inb(DATA))
}

fn wait(bit: u8, value: u8) -> bool {
    (0..PATIENCE).any(|_| inb(COMMAND) & bit == value)
}

/// Whether a controller answers at all.
pub(crate) fn is_there() -> bool {
    inb(COMMAND) != 0xff
}

pub(crate) fn check(report: &mut Report) {
    while inb(COMMAND) & OUTPUT_FULL != 0 {
        inb(DATA);
    }
    command(SELF_TEST);
    report.same("the self-test passes", take(), Some(PASSED));
    command(READ_CONFIGURATION);
    let configuration = take().unwrap_or(0);
    interrupt(report, configuration);
    command(WRITE_CONFIGURATION);
    put(configuration);
    command(READ_CONFIGURATION);
    report.same("the configuration reads back", take(), Some(configuration));
    while inb(COMMAND) & OUTPUT_FULL != 0 {
        inb(DATA);
    }
}

/// A byte as if from the keyboard interrupts.
fn interrupt(report: &mut Report, configuration: u8) {
    command(WRITE_CONFIGURATION);
    put(configuration & !0x10 | 1);
    pic::program(1 << 1);
    count(pic::FIRST_VECTOR + 1, |_| {
        if inb(DATA) == 0x5a {
            taken_one();
        }
        pic::end_first();
    });
    command(WRITE_OUTPUT_BUFFER);
    put(0x5a);
    halt_until(1);
    nothing();
    report.equal("the byte has been taken", inb(COMMAND) & OUTPUT_FULL, 0);
    pic::open(0);
}
