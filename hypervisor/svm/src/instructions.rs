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

use anchorite_vcpu::{Cr4, StateArea};
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
    cpuid_subleaf(leaf, 0)
}

/// The same of any subleaf.
pub(crate) fn cpuid_subleaf(leaf: u32, subleaf: u32) -> [u32; 4] {
    // SAFETY: every CPU that runs 64-bit code has CPUID.
    #[allow(unused_unsafe, reason = "safe from Rust 1.94 on")]
    let result = unsafe { core::arch::x86_64::__cpuid_count(leaf, subleaf) };
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

/// CR0.
fn cr0() -> u64 {
    let value: u64;
    // SAFETY: ring 0; reading has no effect. (The `x86` crate drops unknown bits.)
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets CR0.
///
/// # Safety
/// The host can run with it.
unsafe fn set_cr0(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Sets bits of CR4.
///
/// # Safety
/// The CPU has them, and the host does not depend on their being clear.
pub(crate) unsafe fn set_cr4_bits(bits: Cr4) {
    // SAFETY: ring 0, and the caller's promise.
    unsafe {
        asm!("mov {old}, cr4", "or {old}, {bits}", "mov cr4, {old}", old = out(reg) _,
            bits = in(reg) bits.bits(), options(nostack));
    }
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

/// XCR0.
///
/// To be called only where the host's CR4.OSXSAVE is set.
pub(crate) fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE is set by the caller's promise; reading has no effect.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Sets XCR0.
///
/// To be called only where the host's CR4.OSXSAVE is set, with a value that the CPU
/// takes.
pub(crate) fn set_xcr0(value: u64) {
    // SAFETY: the caller's promise; the host executes no instruction that depends on
    // XCR0 but those below.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// PKRU.
///
/// To be called only where the host's CR4.PKE is set.
pub(crate) fn pkru() -> u32 {
    let value;
    // SAFETY: PKE is set by the caller's promise; reading has no effect.
    unsafe {
        asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _,
            options(nomem, nostack, preserves_flags));
    }
    value
}

/// Saves the registers of `states`, or x87 and SSE where that is 0.
pub(crate) fn save_extended(area: &mut StateArea, states: u64) {
    let cr0 = cr0();
    // SAFETY: ring 0; the area is aligned to 64 and holds all that `Extended::states`
    // can have. CR0.TS would make the instructions trap; it is put back.
    unsafe {
        asm!("clts", options(nostack));
        if states == 0 {
            asm!("fxsave64 [{}]", in(reg) area, options(nostack));
        } else {
            set_xcr0(states);
            asm!("xsave64 [{}]", in(reg) area, in("eax") states as u32,
                in("edx") (states >> 32) as u32, options(nostack));
        }
        set_cr0(cr0);
    }
}

/// Loads the registers of `area`, saves them in the compacted format, and initializes
/// them.
///
/// To be called only where CPUID shows XSAVEC.
pub(crate) fn compacted(area: &StateArea, states: u64) -> StateArea {
    restore_extended(area, states);
    let mut compacted = StateArea::INITIAL;
    let cr0 = cr0();
    // SAFETY: as in `save_extended`; the compacted format is no longer than the other.
    unsafe {
        asm!("clts", options(nostack));
        asm!("xsavec64 [{}]", in(reg) &raw mut compacted, in("eax") states as u32,
            in("edx") (states >> 32) as u32, options(nostack));
        set_cr0(cr0);
    }
    restore_extended(&StateArea::INITIAL, states);
    compacted
}

/// The x87 and SSE registers.
pub(crate) fn legacy_state() -> StateArea {
    let mut area = StateArea::INITIAL;
    save_extended(&mut area, 0);
    area
}

/// Loads the registers of `states`, or x87 and SSE where that is 0.
pub(crate) fn restore_extended(area: &StateArea, states: u64) {
    let cr0 = cr0();
    // SAFETY: ring 0; the area was written by the same instructions or is the initial
    // one, so its header and MXCSR are valid. CR0.TS is put back. The host holds no
    // floating-point instruction that could miss its own values.
    unsafe {
        asm!("clts", options(nostack));
        if states == 0 {
            asm!("fxrstor64 [{}]", in(reg) area, options(nostack));
        } else {
            set_xcr0(states);
            asm!("xrstor64 [{}]", in(reg) area, in("eax") states as u32,
                in("edx") (states >> 32) as u32, options(nostack));
        }
        set_cr0(cr0);
    }
}
