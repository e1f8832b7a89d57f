//! The registers that XSAVE knows.
#![expect(unsafe_code, reason = "they are loaded and saved as memory")]

use crate::{cr0, set_cr0};
use anchorite_vcpu::StateArea;
use core::arch::asm;

/// XCR0.
///
/// To be called only where the host's CR4.OSXSAVE is set.
pub fn xcr0() -> u64 {
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
pub fn set_xcr0(value: u64) {
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
pub fn pkru() -> u32 {
    let value;
    // SAFETY: PKE is set by the caller's promise; reading has no effect.
    unsafe {
        asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _,
            options(nomem, nostack, preserves_flags));
    }
    value
}

/// Saves the registers of `states`, or x87 and SSE where that is 0.
pub fn save_extended(area: &mut StateArea, states: u64) {
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
pub fn compacted(area: &StateArea, states: u64) -> StateArea {
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
pub fn legacy_state() -> StateArea {
    let mut area = StateArea::INITIAL;
    save_extended(&mut area, 0);
    area
}

/// Loads the registers of `states`, or x87 and SSE where that is 0.
pub fn restore_extended(area: &StateArea, states: u64) {
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
