//! Descriptor tables, the TSS and the LDT, which guests move about.
#![expect(unsafe_code, reason = "loads descriptor-table and task registers")]

use core::arch::asm;

use crate::trap::TSS_SELECTOR;

unsafe extern "C" {
    static guest_gdt_ldt: [u64; 2];
    static guest_gdt_tss: [u64; 2];
    static guest_gdt_tss32: u64;
}

/// Where a descriptor table lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, packed)]
pub struct Table {
    /// Its last byte.
    pub limit: u16,
    /// Its first byte.
    pub base: u64,
}

/// The GDT in use.
pub fn gdt() -> Table {
    let mut table = Table::default();
    // SAFETY: ten bytes are stored, and the operand has as many.
    unsafe { asm!("sgdt [{}]", in(reg) &raw mut table, options(nostack, preserves_flags)) };
    table
}

/// Makes `table` the GDT. It must hold the descriptors that are in use; a mistake ends the
/// guest.
pub fn load_gdt(table: Table) {
    // SAFETY: segment registers keep what they hold; what is loaded later is the caller's.
    unsafe { asm!("lgdt [{}]", in(reg) &raw const table, options(nostack, preserves_flags)) };
}

/// The IDT in use.
pub fn idt() -> Table {
    let mut table = Table::default();
    // SAFETY: as for `gdt`.
    unsafe { asm!("sidt [{}]", in(reg) &raw mut table, options(nostack, preserves_flags)) };
    table
}

/// Makes `table` the IDT. It must hold the runtime's gates; a mistake ends the guest.
pub fn load_idt(table: Table) {
    // SAFETY: interrupts are off; what an exception finds there is the caller's affair.
    unsafe { asm!("lidt [{}]", in(reg) &raw const table, options(nostack, preserves_flags)) };
}

/// The address of the TSS in use, by its descriptor.
pub fn tss() -> u64 {
    // SAFETY: the descriptor lies in the GDT, which is initialized before any guest runs.
    let [low, high] = unsafe { (&raw const guest_gdt_tss).read_volatile() };
    low >> 16 & 0xff_ffff | (low >> 56) << 24 | high << 32
}

/// Makes the 104 bytes at `base` the TSS.
pub fn load_tss(base: u64) {
    let low = system_descriptor(base, 0x67, 0x89);
    let descriptor = (&raw const guest_gdt_tss).cast_mut();
    // SAFETY: the descriptor's 16 bytes are reserved in the GDT, which is writable memory
    // of this image. What a change of privilege finds in the TSS is the caller's affair.
    unsafe {
        descriptor.write_volatile([low, base >> 32]);
        asm!("ltr {0:x}", in(reg) TSS_SELECTOR, options(nostack, preserves_flags));
    }
}

/// Has selector 0x70 name the 104 bytes at `base`, a TSS of 32-bit modes that is not busy.
pub(crate) fn prepare_tss32(base: u64) {
    let descriptor = (&raw const guest_gdt_tss32).cast_mut();
    // SAFETY: the descriptor's 8 bytes are reserved in the GDT, which is writable memory of
    // this image; TR holds it only while 32-bit code runs.
    unsafe { descriptor.write_volatile(system_descriptor(base, 0x67, 0x89)) };
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

/// Where 32-bit code must write which descriptor before it loads the `limit + 1` bytes at
/// `base` as LDT.
pub(crate) fn ldt32(base: u64, limit: u16) -> (u64, u64) {
    (&raw const guest_gdt_ldt as u64, system_descriptor(base, limit, 0x82))
}

/// The low half of a system descriptor of `attributes` (type and present bit).
pub(crate) const fn system_descriptor(base: u64, limit: u16, attributes: u64) -> u64 {
    limit as u64 | (base & 0xff_ffff) << 16 | attributes << 40 | (base >> 24 & 0xff) << 56
}
