//! Idle time: HLT until the timer's channel 0 interrupts.

use anchorite_guests::instructions::{outb, wait_for_interrupt};
use anchorite_guests::trap;

/// The vector that the interrupt controllers are told to give IRQ 0.
const TIMER: u8 = 0x20;

/// Programs the two interrupt controllers as every PC kernel does: vectors from [`TIMER`] on,
/// nothing but IRQ 0 let through. (Intel 8259A data sheet, "Initialization Command Words".)
pub(crate) fn prepare() {
    trap::set_handler(TIMER, Some(|_| outb(0x20, 0x20)));
    for (port, value) in [
        (0x20, 0x11),
        (0x21, TIMER),
        (0x21, 4),
        (0x21, 1),
        (0xa0, 0x11),
        (0xa1, TIMER + 8),
        (0xa1, 2),
        (0xa1, 1),
        (0x21, 0xfe),
        (0xa1, 0xff),
    ] {
        outb(port, value);
    }
}

/// Sleeps for so many microseconds, at most 54,000. (Intel 8254 data sheet, "Mode 0:
/// interrupt on terminal count"; the clock has 1.193182 MHz.)
pub(crate) fn sleep(microseconds: u64) {
    let before = trap::count(TIMER);
    let count = (microseconds * 1_193_182 / 1_000_000).clamp(1, 0xffff) as u16;
    outb(0x43, 0x30);
    outb(0x40, count as u8);
    outb(0x40, (count >> 8) as u8);
    while trap::count(TIMER) == before {
        wait_for_interrupt();
    }
}
