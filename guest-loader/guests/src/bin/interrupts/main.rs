//! Interrupts and exceptions: each is delivered exactly once, at the right instruction,
//! with the right error code.
//!
//! Everything that is counted is compared with what was caused, so an event delivered
//! twice fails as surely as a lost one. On a bare machine, which has no port to raise
//! interrupts with, those checks are skipped; exceptions, software interrupts and the
//! serial line's interrupt are checked there too.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "checks at which instruction an event arrives")]

mod exceptions;
mod nmi;
mod raised;
mod uart;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anchorite_guests::trap::{self, TrapFrame};
use anchorite_guests::{BootInfo, Report, Status, entry, machine};

entry!(run);

/// The vector most checks use.
pub(crate) const VECTOR: u8 = 0x40;

fn run(_boot: &BootInfo) -> Status {
    let mut report = Report::new("interrupts");
    exceptions::check(&mut report);
    uart::check(&mut report);
    if machine::is_anchorite() {
        raised::check(&mut report);
        nmi::check(&mut report);
    } else {
        report.skip("raised interrupts and NMIs", "bare machine without the ports for it");
    }
    report.finish()
}

/// RIP that the last event interrupted.
static LAST_RIP: AtomicU64 = AtomicU64::new(0);
/// Events since [`start_counting`].
static EVENTS: AtomicU32 = AtomicU32::new(0);

/// A handler that notes where it interrupted.
pub(crate) fn note(frame: &mut TrapFrame) {
    LAST_RIP.store(frame.rip, Ordering::SeqCst);
    EVENTS.fetch_add(1, Ordering::SeqCst);
}

/// Makes `vector` call [`note`] and forgets earlier events.
pub(crate) fn start_counting(vector: u8) {
    trap::set_handler(vector, Some(note));
    LAST_RIP.store(0, Ordering::SeqCst);
    EVENTS.store(0, Ordering::SeqCst);
}

/// Events noted since then.
pub(crate) fn events() -> u32 {
    EVENTS.load(Ordering::SeqCst)
}

/// Where the last one interrupted.
pub(crate) fn last_rip() -> u64 {
    LAST_RIP.load(Ordering::SeqCst)
}
