//! The processor's instructions that both backends need, each wrapped once.
//!
//! The functions are safe to call where a wrong argument can at worst spoil the
//! guest, and `unsafe` where it could reach the host's memory or state. All of them but
//! CPUID need ring 0, which the callers of the backends' `enable` promise; so nobody but
//! the backends may import this crate (`cargo xtask lint` checks that).
//!
//! Source: SDM vol. 2 and APM vol. 3, at the names of the instructions.
#![no_std]
#![expect(unsafe_code, reason = "privileged instructions have no safe form")]

mod extended;

pub use extended::{
    compacted, legacy_state, pkru, restore_extended, save_extended, set_xcr0, xcr0,
};

use core::arch::asm;
use x86::{controlregs, msr};

/// EAX, EBX, ECX, EDX of CPUID with this leaf and subleaf 0.
pub fn cpuid(leaf: u32) -> [u32; 4] {
    cpuid_subleaf(leaf, 0)
}

/// The same of any subleaf.
pub fn cpuid_subleaf(leaf: u32, subleaf: u32) -> [u32; 4] {
    // SAFETY: every CPU that runs 64-bit code has CPUID.
    #[allow(unused_unsafe, reason = "safe from Rust 1.94 on")]
    let result = unsafe { core::arch::x86_64::__cpuid_count(leaf, subleaf) };
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Reads an MSR.
///
/// # Safety
/// The CPU has it; else the host takes a #GP.
pub unsafe fn rdmsr(index: u32) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { msr::rdmsr(index) }
}

/// Writes an MSR.
///
/// # Safety
/// The CPU has it, it takes the value, and the host does not depend on it.
pub unsafe fn wrmsr(index: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { msr::wrmsr(index, value) }
}

/// CR0, all bits.
pub fn cr0() -> u64 {
    let value: u64;
    // SAFETY: ring 0; reading has no effect. (The `x86` crate drops unknown bits.)
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets CR0.
///
/// # Safety
/// The host goes on working with these bits.
pub unsafe fn set_cr0(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Sets CR2, which means nothing to the host outside its own page-fault handler.
pub fn set_cr2(value: u64) {
    // SAFETY: ring 0; CR2 is only a record of the last page fault.
    unsafe { controlregs::cr2_write(value) }
}
