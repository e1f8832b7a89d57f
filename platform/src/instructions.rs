//! Each privileged instruction this crate needs, wrapped once.

#![expect(unsafe_code, reason = "privileged instructions")]

/// Writes a byte to a port.
///
/// # Safety
/// The device behind the port must do nothing that breaks memory safety.
pub(crate) unsafe fn out8(port: u16, value: u8) {
    // SAFETY: passed on from the caller.
    unsafe { x86::io::outb(port, value) }
}

/// Writes 32 bits to a port.
///
/// # Safety
/// As for [`out8`].
pub(crate) unsafe fn out32(port: u16, value: u32) {
    // SAFETY: passed on from the caller.
    unsafe { x86::io::outl(port, value) }
}

/// Reads a byte from a port.
///
/// # Safety
/// As for [`out8`].
pub(crate) unsafe fn in8(port: u16) -> u8 {
    // SAFETY: passed on from the caller.
    unsafe { x86::io::inb(port) }
}

/// The time stamp counter.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: RDTSC exists on every 64-bit CPU and changes nothing.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads an MSR that every CPU has which leads here.
pub(crate) fn rdmsr(index: u32) -> u64 {
    // SAFETY: reading an MSR that exists changes nothing.
    unsafe { x86::msr::rdmsr(index) }
}

/// Writes an MSR.
///
/// # Safety
/// The MSR exists, takes the value, and the hypervisor can go on with it.
pub(crate) unsafe fn wrmsr(index: u32, value: u64) {
    // SAFETY: passed on from the caller.
    unsafe { x86::msr::wrmsr(index, value) }
}

/// Waits for the next interrupt, interrupts enabled.
pub(crate) fn wait_for_interrupt() {
    x86_64::instructions::interrupts::enable_and_hlt();
}

/// Stops this CPU for good.
pub(crate) fn stop() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// The linear address that caused the last page fault.
pub(crate) fn page_fault_address() -> u64 {
    x86_64::registers::control::Cr2::read_raw()
}
