//! The end of the run.

#![expect(unsafe_code, reason = "port I/O")]

use crate::instructions::out32;
use core::sync::atomic::{AtomicBool, Ordering};

/// The status of a run that the hypervisor itself could not finish.
pub const STATUS_ERROR: u8 = 120;

/// QEMU's isa-debug-exit device; nothing elsewhere.
const DEBUG_EXIT: u16 = 0xf4;

static ENDING: AtomicBool = AtomicBool::new(false);

/// Ends the run with `status`: QEMU's process ends with 2 × `status` + 1, any other
/// machine is powered off through ACPI, and one that cannot is stopped.
pub fn end_run(status: u8) -> ! {
    // SAFETY: the port is QEMU's exit device or has nothing behind it.
    unsafe { out32(DEBUG_EXIT, u32::from(status & 0x7f)) };
    if !ENDING.swap(true, Ordering::Relaxed) && hermit_is_up() {
        hermit::syscalls::sys_exit(i32::from(status));
    }
    crate::instructions::stop()
}

/// Hermit can power the machine off once it has found the ACPI tables, which it has
/// when it calls the application: then an interrupt table of its own is loaded.
fn hermit_is_up() -> bool {
    x86_64::instructions::tables::sidt().limit != 0
        && x86_64::registers::model_specific::GsBase::read().as_u64() != 0
}
