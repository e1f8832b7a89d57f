//! The LDT register and other segments that guests move about.
#![expect(unsafe_code, reason = "loads LDTR")]

use core::arch::asm;

unsafe extern "C" {
    static guest_gdt_ldt: [u64; 2];
}

/// Selector of the LDT.
const LDT_SELECTOR: u16 = 0x60;

/// Makes the LDT the `limit + 1` bytes at `base`. Nothing is read from there now.
pub fn load_ldt(base: u64, limit: u16) {
    let low = system_descriptor(base, limit, 0x82);
    let descriptor = (&raw const guest_gdt_ldt).cast_mut();
    // SAFETY: the descriptor's 16 bytes are reserved in the GDT, which only this module
    // writes there; no segment of the running code lies in an LDT.
    unsafe {
        descriptor.write_volatile([low, base >> 32]);
        asm!("lldt {0:x}", in(reg) LDT_SELECTOR, options(nostack, preserves_flags));
    }
}

/// The low half of a system descriptor of `attributes` (type and present bit).
pub(crate) const fn system_descriptor(base: u64, limit: u16, attributes: u64) -> u64 {
    limit as u64 | (base & 0xff_ffff) << 16 | attributes << 40 | (base >> 24 & 0xff) << 56
}
