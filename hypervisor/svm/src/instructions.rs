//! Each privileged instruction, wrapped once; those that Intel has too in `anchorite-cpu`.
//!
//! The functions are safe to call where a wrong argument can at worst spoil the
//! guest, and `unsafe` where it could reach the host's memory or state. All of them
//! need ring 0; the crate's only entry, [`SvmCpu::enable`](crate::SvmCpu::enable),
//! makes its caller promise that. VMRUN, VMLOAD and VMSAVE stand in
//! [`world`](crate::world), the only place that can use them.
//!
//! Source: APM vol. 3, chapter 4 "System Instruction Reference".
#![expect(unsafe_code, reason = "privileged instructions have no safe form")]

pub(crate) use anchorite_cpu::{
    compacted, cpuid, cpuid_subleaf, legacy_state, pkru, rdmsr, restore_extended, save_extended,
    set_cr2, set_xcr0, wrmsr, xcr0,
};
use anchorite_vcpu::Cr4;
use core::arch::asm;
use x86::debugregs;

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

/// Writes CR8 as it is, which makes an emulator look at what its local APIC holds back.
pub(crate) fn rewrite_cr8() {
    // SAFETY: ring 0; the task priority keeps its value.
    unsafe {
        asm!("mov {priority}, cr8", "mov cr8, {priority}", priority = out(reg) _,
            options(nostack, preserves_flags));
    }
}

/// Discards the translation of one linear address under one ASID, global ones too.
pub(crate) fn invlpga(address: u64, asid: u32) {
    // SAFETY: ring 0, EFER.SVME is set; it only ever discards cached translations.
    unsafe {
        asm!("invlpga rax, ecx", in("rax") address, in("ecx") asid,
            options(nostack, preserves_flags));
    }
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
