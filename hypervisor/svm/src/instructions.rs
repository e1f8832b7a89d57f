//! Each privileged instruction, wrapped once.
//!
//! The functions are safe to call where a wrong argument can at worst spoil the
//! guest, and `unsafe` where it could reach the host's memory or state. All of them
//! need ring 0; the crate's only entry, [`SvmCpu::enable`](crate::SvmCpu::enable),
//! makes its caller promise that. VMRUN, VMLOAD and VMSAVE stand in
//! [`world`](crate::world), the only place that can use them.
//!
//! Source: APM vol. 3, chapter 4 "System Instruction Reference".
#![expect(unsafe_code, reason = "privileged instructions have no safe form")]

use crate::passive::FloatingPoint;
use core::arch::asm;
use x86::{controlregs, debugregs, msr};

/// Clears the global interrupt flag: nothing interrupts this CPU until [`stgi`].
#[inline]
pub(crate) fn clgi() {
    // SAFETY: ring 0, EFER.SVME is set.
    unsafe { asm!("clgi", options(nostack, preserves_flags)) };
}

/// Sets the global interrupt flag; what was held back is taken now.
#[inline]
pub(crate) fn stgi() {
    // SAFETY: ring 0, EFER.SVME is set, host state in place.
    unsafe { asm!("stgi", options(nostack, preserves_flags)) };
}

/// Discards the translation of one linear address under one ASID, global ones too.
pub(crate) fn invlpga(address: u64, asid: u32) {
    // SAFETY: ring 0, EFER.SVME is set; it only ever discards cached translations.
    unsafe {
        asm!("invlpga rax, ecx", in("rax") address, in("ecx") asid,
            options(nostack, preserves_flags));
    }
}

/// EAX, EBX, ECX, EDX of CPUID with this leaf and subleaf 0.
pub(crate) fn cpuid(leaf: u32) -> [u32; 4] {
    // SAFETY: every CPU that runs 64-bit code has CPUID.
    #[allow(unused_unsafe, reason = "safe from Rust 1.94 on")]
    let result = unsafe { core::arch::x86_64::__cpuid_count(leaf, 0) };
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Reads an MSR.
///
/// # Safety
/// The CPU has it; else the host takes a #GP.
pub(crate) unsafe fn rdmsr(index: u32) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { msr::rdmsr(index) }
}

/// Writes an MSR.
///
/// # Safety
/// The CPU has it, it takes the value, and the host does not depend on it.
pub(crate) unsafe fn wrmsr(index: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { msr::wrmsr(index, value) }
}

/// Sets CR2, which means nothing to the host outside its own page-fault handler.
pub(crate) fn set_cr2(value: u64) {
    // SAFETY: ring 0; CR2 is only a record of the last page fault.
    unsafe { controlregs::cr2_write(value) }
}

/// DR0 to DR3, in this order.
pub(crate) fn debug_registers() -> [u64; 4] {
    // SAFETY: ring 0, DR7.GD is clear (each exit leaves DR7 at 0x400); reading has no
    // effect.
    unsafe {
        [debugregs::dr0(), debugregs::dr1(), debugregs::dr2(), debugregs::dr3()]
            .map(|value| value as u64)
    }
}

/// Sets DR0 to DR3.
///
/// Only DR7 arms a breakpoint, and it is the guest's while the guest runs only.
pub(crate) fn set_debug_registers([dr0, dr1, dr2, dr3]: [u64; 4]) {
    // SAFETY: ring 0, DR7.GD is clear; these registers take any value while no
    // breakpoint is armed.
    unsafe {
        debugregs::dr0_write(dr0 as usize);
        debugregs::dr1_write(dr1 as usize);
        debugregs::dr2_write(dr2 as usize);
        debugregs::dr3_write(dr3 as usize);
    }
}

/// Saves the x87 and SSE state.
pub(crate) fn save_floating_point(image: &mut FloatingPoint) {
    // SAFETY: ring 0; the image is 512 bytes, aligned to 16. CR0.TS would make FXSAVE
    // trap; it is put back.
    unsafe {
        asm!("mov {cr0}, cr0", "clts", "fxsave64 [{image}]", "mov cr0, {cr0}",
            cr0 = out(reg) _, image = in(reg) image, options(nostack, preserves_flags));
    }
}

/// Loads the x87 and SSE state.
pub(crate) fn restore_floating_point(image: &FloatingPoint) {
    // SAFETY: ring 0; the image is 512 bytes, aligned to 16, and was written by FXSAVE
    // or is the initial one, so its MXCSR is valid. CR0.TS is put back. The host holds
    // no floating-point instruction that could miss its own values.
    unsafe {
        asm!("mov {cr0}, cr0", "clts", "fxrstor64 [{image}]", "mov cr0, {cr0}",
            cr0 = out(reg) _, image = in(reg) image, options(nostack, preserves_flags));
    }
}
