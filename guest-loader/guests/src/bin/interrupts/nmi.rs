//! Non-maskable interrupts.

use core::sync::atomic::{AtomicU32, Ordering};

use anchorite_guests::Report;
use anchorite_guests::abi::port::{POST, RAISE_NMI};
use anchorite_guests::instructions::{cli, nothing, outb};
use anchorite_guests::trap::{self, TrapFrame, vector};

use crate::{events, note, start_counting};

/// NMI handlers that are running.
static DEPTH: AtomicU32 = AtomicU32::new(0);
/// The most that ever were.
static DEEPEST: AtomicU32 = AtomicU32::new(0);

pub(crate) fn check(report: &mut Report) {
    start_counting(vector::NMI);
    cli();
    for number in 1..=100 {
        outb(RAISE_NMI, 0);
        nothing();
        if events() != number {
            break;
        }
    }
    report.equal("NMIs raised one by one, IF = 0", events(), 100);
    blocked(report);
    trap::set_handler(vector::NMI, None);
}

/// While one is handled the next one waits, until IRET.
fn blocked(report: &mut Report) {
    start_counting(vector::NMI);
    trap::set_handler(vector::NMI, Some(raise_another));
    outb(RAISE_NMI, 0);
    nothing();
    // An exit behind the IRET, should the hypervisor deliver the second one late.
    outb(POST, 0);
    report.equal("NMIs, the second raised while the first is handled", events(), 2);
    report.equal("NMI handlers running at once", DEEPEST.load(Ordering::SeqCst), 1);
}

fn raise_another(frame: &mut TrapFrame) {
    note(frame);
    let depth = DEPTH.fetch_add(1, Ordering::SeqCst) + 1;
    DEEPEST.fetch_max(depth, Ordering::SeqCst);
    if events() == 1 {
        outb(RAISE_NMI, 0);
        for _ in 0..100 {
            nothing();
        }
    }
    DEPTH.fetch_sub(1, Ordering::SeqCst);
}
