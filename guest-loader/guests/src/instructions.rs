//! Privileged and otherwise special instructions, each wrapped once.
//!
//! A wrapper is safe where the instruction cannot break Rust's own assumptions on
//! this machine, which runs one thread with all memory mapped one to one.
#![expect(unsafe_code, reason = "wraps instructions that Rust does not know")]

use core::arch::asm;

use crate::guarded;
use crate::trap::Exception;

/// Declares a port read and a port write of one width.
macro_rules! port_access {
    ($width:ty, $read:ident, $write:ident, $register:tt) => {
        #[doc = concat!("Reads a port, ", stringify!($width), ".")]
        #[inline]
        pub fn $read(port: u16) -> $width {
            let value;
            // SAFETY: port reads of this machine's devices touch no memory of ours.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value,
                    options(nomem, nostack, preserves_flags));
            }
            value
        }

        #[doc = concat!("Writes a port, ", stringify!($width), ".")]
        #[inline]
        pub fn $write(port: u16, value: $width) {
            // SAFETY: no device of this machine is programmed to touch our memory.
            // Memory is not marked untouched: the write may raise an interrupt at once.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                    options(nostack, preserves_flags));
            }
        }
    };
}

port_access!(u8, inb, outb, "al");
port_access!(u16, inw, outw, "ax");
port_access!(u32, inl, outl, "eax");

/// What CPUID gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpuid {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// CPUID of `leaf` and `subleaf`.
#[inline]
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    let (eax, ecx, edx);
    let ebx: u64;
    // SAFETY: every processor in long mode has CPUID. RBX is the compiler's own, so it
    // is saved in another register.
    unsafe {
        asm!("mov {saved}, rbx", "cpuid", "xchg {saved}, rbx", saved = out(reg) ebx,
            inout("eax") leaf => eax, inout("ecx") subleaf => ecx, out("edx") edx,
            options(nomem, nostack, preserves_flags));
    }
    Cpuid { eax, ebx: ebx as u32, ecx, edx }
}

/// The time-stamp counter.
#[inline]
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: RDTSC only writes EDX:EAX. Volatile, so that it stays where it is written.
    unsafe {
        asm!("rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Reads a model-specific register.
#[inline]
pub fn rdmsr(index: u32) -> Result<u64, Exception> {
    let (mut low, mut high) = (0u32, 0u32);
    // SAFETY: reading has no effect on memory; an exception is caught.
    let result = unsafe {
        guarded!("rdmsr", in("ecx") index, inout("eax") low, inout("edx") high, options(nostack))
    };
    result.map(|()| u64::from(high) << 32 | u64::from(low))
}

/// Writes a model-specific register.
///
/// # Safety
/// The value must not change how memory is mapped or executed in a way that the
/// running code does not expect (EFER, APIC base, memory types, syscall targets).
#[inline]
pub unsafe fn wrmsr(index: u32, value: u64) -> Result<(), Exception> {
    // SAFETY: by the caller; an exception is caught.
    unsafe {
        guarded!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack))
    }
}

/// VMCALL with `number` in EAX; gives EAX.
#[inline]
pub fn vmcall(number: u32) -> Result<u32, Exception> {
    let mut eax = number;
    // SAFETY: the protocol's hypercalls change no memory of the guest.
    let result = unsafe { guarded!("vmcall", inout("eax") eax, options(nostack)) };
    result.map(|()| eax)
}

/// VMMCALL with `number` in EAX; gives EAX.
#[inline]
pub fn vmmcall(number: u32) -> Result<u32, Exception> {
    let mut eax = number;
    // SAFETY: as for `vmcall`.
    let result = unsafe { guarded!("vmmcall", inout("eax") eax, options(nostack)) };
    result.map(|()| eax)
}

/// VMCALL with `number` in EAX and arguments in RDI and RSI; gives EAX.
pub fn vmcall_with(number: u32, rdi: u64, rsi: u64) -> Result<u32, Exception> {
    let mut eax = number;
    // SAFETY: calls that change memory are told where by their arguments, which are the
    // caller's affair, as for `memory::write`.
    let result = unsafe {
        guarded!("vmcall", inout("eax") eax, in("rdi") rdi, in("rsi") rsi, options(nostack))
    };
    result.map(|()| eax)
}

/// VMMCALL with `number` in EAX and arguments in RDI and RSI; gives EAX.
pub fn vmmcall_with(number: u32, rdi: u64, rsi: u64) -> Result<u32, Exception> {
    let mut eax = number;
    // SAFETY: as for `vmcall_with`.
    let result = unsafe {
        guarded!("vmmcall", inout("eax") eax, in("rdi") rdi, in("rsi") rsi, options(nostack))
    };
    result.map(|()| eax)
}

/// Declares a read of a control register.
macro_rules! control_read {
    ($name:ident, $register:literal) => {
        #[doc = concat!("Reads ", $register, ".")]
        #[inline]
        pub fn $name() -> u64 {
            let value;
            // SAFETY: a read has no effect.
            unsafe {
                asm!(concat!("mov {}, ", $register), out(reg) value,
                    options(nomem, nostack, preserves_flags));
            }
            value
        }
    };
}

/// Declares a guarded write of a control register.
macro_rules! control_write {
    ($name:ident, $register:literal) => {
        #[doc = concat!("Writes ", $register, ".")]
        ///
        /// # Safety
        /// The running code, its stack and its data must stay mapped as they are.
        #[inline]
        pub unsafe fn $name(value: u64) -> Result<(), Exception> {
            // SAFETY: by the caller; an exception is caught.
            unsafe {
                guarded!(concat!("mov ", $register, ", {value}"), value = in(reg) value,
                    options(nostack))
            }
        }
    };
}

control_read!(read_cr0, "cr0");
control_read!(read_cr2, "cr2");
control_read!(read_cr3, "cr3");
control_read!(read_cr4, "cr4");
control_write!(write_cr0, "cr0");
control_write!(write_cr3, "cr3");
control_write!(write_cr4, "cr4");

/// Loads CR3 with the value it has: flushes the TLB except for global pages.
#[inline]
pub fn reload_cr3() {
    // SAFETY: the same tables stay in use.
    unsafe {
        asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags));
    }
}

/// Forgets the translation of one linear address.
#[inline]
pub fn invlpg(address: u64) {
    // SAFETY: a translation is only dropped, never changed.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) }
}

/// Loads the IDT register.
///
/// # Safety
/// `limit + 1` bytes at `base` are gates that stay valid.
pub unsafe fn lidt(base: u64, limit: u16) {
    let pointer = DescriptorPointer { limit, base };
    // SAFETY: the pointer is read once; the gates are valid by the caller.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) }
}

/// The operand of LIDT and LGDT.
#[repr(C, packed)]
struct DescriptorPointer {
    limit: u16,
    base: u64,
}

/// Allows maskable interrupts, after the next instruction.
#[inline]
pub fn sti() {
    // SAFETY: every vector has a gate.
    unsafe { asm!("sti", options(nostack)) }
}

/// Holds maskable interrupts off.
#[inline]
pub fn cli() {
    // SAFETY: fewer events than before.
    unsafe { asm!("cli", options(nostack)) }
}

/// Allows interrupts and waits for one, with nothing in between; then holds them off.
#[inline]
pub fn wait_for_interrupt() {
    // SAFETY: every vector has a gate.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// The flags register.
#[inline]
pub fn rflags() -> u64 {
    let value;
    // SAFETY: pushes and pops one word; the target has no red zone.
    unsafe { asm!("pushfq", "pop {}", out(reg) value, options(nomem, preserves_flags)) }
    value
}

/// Stops the processor for good, interrupts off.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: nothing runs after it but this loop.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Nothing, but the compiler may not remove the loop around it.
#[inline]
pub fn nothing() {
    // SAFETY: no instruction at all.
    unsafe { asm!("", options(nostack, preserves_flags)) }
}

/// Reads DR6, the debug status.
pub fn read_dr6() -> u64 {
    let value;
    // SAFETY: a read has no effect.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Disables all hardware breakpoints; DR6 starts afresh.
pub fn clear_breakpoints() {
    // SAFETY: fewer exceptions than before.
    unsafe {
        asm!("mov dr7, {0}", "mov dr6, {1}", in(reg) 0x400u64, in(reg) 0xffff_0ff0u64,
            options(nostack, preserves_flags));
    }
}
