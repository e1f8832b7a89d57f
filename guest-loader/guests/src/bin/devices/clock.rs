//! The real-time clock and its periodic interrupt.

use anchorite_guests::Report;
use anchorite_guests::instructions::{inb, outb};

use crate::{count, halt_until, pic, taken, taken_one};

const VECTOR: u8 = pic::FIRST_VECTOR + 8;
const LINE: u16 = 1 << 8;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
const PERIODIC: u8 = 1 << 6;

fn read(index: u8) -> u8 {
    outb(0x70, index);
    inb(0x71)
}

fn write(index: u8, value: u8) {
    outb(0x70, index);
    outb(0x71, value);
}

/// Whether its battery is good.
pub(crate) fn is_there() -> bool {
    read(REGISTER_D) == 0x80
}

pub(crate) fn check(report: &mut Report) {
    let b = read(REGISTER_B);
    report.equal("BCD, 24 hours", b & 0x06, 2);
    for (index, most) in [(0, 0x59), (2, 0x59), (4, 0x23), (7, 0x31), (8, 0x12), (9, 0x99)] {
        let value = read(index);
        let good = value <= most && value & 15 <= 9;
        report.check(format_args!("time register {index} holds {value:#x}"), good);
    }
    pic::program(LINE);
    count(VECTOR, |_| {
        if read(REGISTER_C) & PERIODIC != 0 {
            taken_one();
        }
        pic::end_both();
    });
    read(REGISTER_C);
    write(REGISTER_B, b | PERIODIC);
    halt_until(32);
    write(REGISTER_B, b);
    report.equal("periodic interrupts", taken(), 32);
    read(REGISTER_C);
    pic::open(0);
}
