//! The serial line's "transmitter empty" interrupt, through the 8259 pair where there
//! is one.

use core::sync::atomic::{AtomicU32, Ordering};

use anchorite_guests::Report;
use anchorite_guests::abi::port::COM1;
use anchorite_guests::instructions::{cli, inb, nothing, outb, sti};
use anchorite_guests::trap;

const INTERRUPT_ENABLE: u16 = COM1 + 1;
const INTERRUPT_IDENTIFICATION: u16 = COM1 + 2;
const MODEM_CONTROL: u16 = COM1 + 4;
const THR_EMPTY: u8 = 1 << 1;
/// DTR, RTS and OUT2, which connects the line to the interrupt controller on a PC.
const MODEM_OUT2: u8 = 0x0b;
/// Interrupt identification: transmitter empty.
const CAUSE_THR_EMPTY: u8 = 0x02;
/// IRQ 4 where IRQ 0 is at vector 0x20.
const VECTOR: u8 = 0x24;
/// Turns of an empty loop in which an interrupt must come.
const PATIENCE: u32 = 20_000_000;

static TRANSMITTED: AtomicU32 = AtomicU32::new(0);
static OTHER_CAUSES: AtomicU32 = AtomicU32::new(0);

pub(crate) fn check(report: &mut Report) {
    program_interrupt_controllers(0xef);
    trap::set_handler(VECTOR, Some(|_| handle()));
    let control = inb(MODEM_CONTROL);
    outb(MODEM_CONTROL, MODEM_OUT2);
    inb(INTERRUPT_IDENTIFICATION);
    sti();
    outb(INTERRUPT_ENABLE, THR_EMPTY);
    report.check("enabling the interrupt with an empty transmitter raises it", wait_for(1));
    for (sent, byte) in (2..).zip("interrupts: sent by interrupt\n".bytes()) {
        outb(COM1, byte);
        if !wait_for(sent) {
            report.check(format_args!("interrupt {sent} of the serial line comes"), false);
            break;
        }
    }
    report.equal("interrupts for 30 bytes and the enabling", transmitted(), 31);
    outb(INTERRUPT_ENABLE, 0);
    outb(COM1, b'\r');
    report.check("a disabled interrupt stays away", !wait_briefly(32));
    cli();
    outb(MODEM_CONTROL, control);
    trap::set_handler(VECTOR, None);
    program_interrupt_controllers(0xff);
    report.equal("interrupts of another cause", OTHER_CAUSES.load(Ordering::SeqCst), 0);
}

fn handle() {
    // Reading the cause acknowledges it to the UART; the other write to the 8259.
    if inb(INTERRUPT_IDENTIFICATION) & 0x0f == CAUSE_THR_EMPTY {
        TRANSMITTED.fetch_add(1, Ordering::SeqCst);
    } else {
        OTHER_CAUSES.fetch_add(1, Ordering::SeqCst);
    }
    outb(0x20, 0x20);
}

fn transmitted() -> u32 {
    TRANSMITTED.load(Ordering::SeqCst)
}

fn wait_for(count: u32) -> bool {
    wait(count, PATIENCE)
}

fn wait_briefly(count: u32) -> bool {
    wait(count, PATIENCE / 100)
}

fn wait(count: u32, turns: u32) -> bool {
    for _ in 0..turns {
        if transmitted() >= count {
            return true;
        }
        nothing();
    }
    false
}

/// IRQ 0 to vector 0x20, IRQ 8 to 0x28; `mask` for the first controller. A machine
/// without them ignores the writes.
fn program_interrupt_controllers(mask: u8) {
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 0x20),
        (0xa1, 0x28),
        (0x21, 0x04),
        (0xa1, 0x02),
        (0x21, 0x01),
        (0xa1, 0x01),
        (0x21, mask),
        (0xa1, 0xff),
    ] {
        outb(port, value);
    }
}
