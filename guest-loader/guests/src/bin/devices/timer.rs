//! The 8254: interrupts of channel 0, the output of channel 2.

use anchorite_guests::Report;
use anchorite_guests::instructions::{inb, outb, rdtsc};

use crate::{count, halt_until, is_about, pic, taken, taken_one};

/// Counts in a millisecond.
const MILLISECOND: u16 = 1_193;
const CONTROL: u16 = 0x43;
const PORT_B: u16 = 0x61;
const OUTPUT: u8 = 1 << 5;
/// Turns after which an output that does not move is given up.
const PATIENCE: u32 = 5_000_000;

/// Whether channel 0's status shows the mode it was given.
pub(crate) fn is_there() -> bool {
    set(0, 2, 0);
    outb(CONTROL, 0xe2);
    inb(0x40) & 0x3f == 0x34
}

/// The same for channel 2.
pub(crate) fn second_is_there() -> bool {
    set(2, 0, 0);
    outb(CONTROL, 0xe8);
    inb(0x42) & 0x3f == 0xb0 & 0x3f
}

/// Gives `channel` a mode and a count.
pub(crate) fn set(channel: u8, mode: u8, count: u16) {
    outb(CONTROL, channel << 6 | 0x30 | mode << 1);
    let port = 0x40 + u16::from(channel);
    count.to_le_bytes().into_iter().for_each(|byte| outb(port, byte));
}

/// Makes channel 0's interrupts count.
pub(crate) fn count_interrupts() {
    count(pic::FIRST_VECTOR, |_| {
        taken_one();
        pic::end_first();
    });
}

/// Masks channel 0's interrupt and stops it.
pub(crate) fn stop() {
    pic::open(0);
    set(0, 0, 0);
}

pub(crate) fn check(report: &mut Report) {
    pic::program(1);
    let ten = one_shot(report);
    let thirty = periodic(report);
    report.check(
        format_args!("30 periods of 1 ms took {thirty} ticks, one of 10 ms {ten}"),
        is_about(thirty, ten * 3) || is_about(ten * 3, thirty),
    );
    stop();
}

/// Counts 10 ms once; the ticks of the TSC that took.
fn one_shot(report: &mut Report) -> u64 {
    count_interrupts();
    set(0, 0, 10 * MILLISECOND);
    let ticks = halt_until(1);
    report.equal("a one-shot timer interrupts once", taken(), 1);
    ticks
}

fn periodic(report: &mut Report) -> u64 {
    set(0, 2, MILLISECOND);
    // The mode's output may rise at once, which is an interrupt too.
    halt_until(2);
    let before = taken();
    let ticks = halt_until(before + 30);
    report.equal("each period interrupts once", taken(), before + 30);
    ticks
}

/// Channel 2 by its gate and its output, which nothing interrupts for.
pub(crate) fn check_second(report: &mut Report) {
    let gate = inb(PORT_B) & !3;
    outb(PORT_B, gate | 1);
    let mut ticks = [0; 2];
    for (ticks, milliseconds) in ticks.iter_mut().zip([2, 8]) {
        set(2, 0, milliseconds * MILLISECOND);
        report.equal("the output is low while it counts", inb(PORT_B) & OUTPUT, 0);
        let start = rdtsc();
        let mut turns = 0;
        while inb(PORT_B) & OUTPUT == 0 && turns < PATIENCE {
            turns += 1;
        }
        report.check("the output rises", turns < PATIENCE);
        *ticks = rdtsc().wrapping_sub(start);
    }
    let [two, eight] = ticks;
    report.check(
        format_args!("2 ms took {two} ticks, 8 ms {eight}"),
        is_about(eight, two * 4) || is_about(two * 4, eight),
    );
    outb(PORT_B, gate);
}
