//! The control bits of paging: setting them, and what CPUID shows of them.
#![expect(unsafe_code, reason = "writes control registers")]

use crate::instructions::{
    cpuid, rdmsr, read_cr0, read_cr4, reload_cr3, write_cr0, write_cr3, write_cr4, wrmsr,
};
use crate::oracle::Controls;

/// EFER.
pub const EFER: u32 = 0xc000_0080;
/// EFER.NXE.
pub const NXE: u64 = 1 << 11;
/// IA32_MTRR_PHYSBASE7.
const MTRR_BASE: u32 = 0x20e;
/// CR0.TS.
pub const TS: u64 = 1 << 3;
/// CR0.WP.
pub const WP: u64 = 1 << 16;
/// CR0.CD.
pub const CD: u64 = 1 << 30;
/// CR4.DE.
pub const DE: u64 = 1 << 3;
/// CR4.PSE.
pub const PSE: u64 = 1 << 4;
/// CR4.PAE.
pub const PAE: u64 = 1 << 5;
/// CR4.PGE.
pub const PGE: u64 = 1 << 7;
const OSFXSR: u64 = 1 << 9;
/// CR4.LA57.
pub const LA57: u64 = 1 << 12;
/// CR4.SMEP.
pub const SMEP: u64 = 1 << 20;
/// CR4.SMAP.
pub const SMAP: u64 = 1 << 21;
/// CR4.PKE.
pub const PKE: u64 = 1 << 22;

/// Paging features that CPUID shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Features {
    pub no_execute: bool,
    pub gigabyte_pages: bool,
    pub pse36: bool,
    pub smep: bool,
    pub smap: bool,
    pub pku: bool,
    pub la57: bool,
    pub global: bool,
}

impl Features {
    /// What CPUID shows.
    pub fn read() -> Self {
        let basic = if cpuid(0, 0).eax >= 7 { cpuid(7, 0) } else { cpuid(0x4fff_ffff, 0) };
        let extended = cpuid(0x8000_0001, 0).edx;
        let has_seven = cpuid(0, 0).eax >= 7;
        let first = cpuid(1, 0).edx;
        Self {
            no_execute: extended >> 20 & 1 == 1,
            gigabyte_pages: extended >> 26 & 1 == 1,
            pse36: first >> 17 & 1 == 1,
            smep: has_seven && basic.ebx >> 7 & 1 == 1,
            smap: has_seven && basic.ebx >> 20 & 1 == 1,
            pku: has_seven && basic.ecx >> 3 & 1 == 1,
            la57: has_seven && basic.ecx >> 16 & 1 == 1,
            global: first >> 13 & 1 == 1,
        }
    }
}

impl Controls {
    /// Makes them the processor's, and flushes its translations.
    ///
    /// # Panics
    /// Where the processor refuses one: ask [`Features`] first.
    pub fn apply(&self) {
        let with = |old: u64, bit: u64, on: bool| if on { old | bit } else { old & !bit };
        let mut cr4 = with(with(read_cr4(), SMEP, self.smep), SMAP, self.smap);
        cr4 = with(with(cr4, PSE, self.pse), PKE, self.pkru.is_some());
        let efer = with(rdmsr(EFER).expect("EFER exists"), NXE, self.nxe);
        // SAFETY: the kernel's own pages are writable, executable, not privilege level 3's,
        // so that none of these bits changes what they permit.
        let set = unsafe {
            write_cr0(with(read_cr0(), WP, self.wp))
                .and_then(|()| write_cr4(cr4))
                .and_then(|()| wrmsr(EFER, efer))
        };
        set.expect("the processor takes these control bits");
        if let Some(pkru) = self.pkru {
            write_pkru(pkru);
        }
        reload_cr3();
    }
}

/// Makes `root` the tables in use.
///
/// The caller's tables map the guest as it was mapped; a mistake ends the guest.
pub fn load_root(root: u64) {
    // SAFETY: by the caller; a mistake ends in a fault that nobody handles, not in Rust.
    unsafe { write_cr3(root) }.expect("CR3 takes an address of RAM");
}

/// Lets SSE instructions run, for stores of 16 bytes.
pub fn enable_sse() {
    // SAFETY: no code of ours uses SSE, and FXSR and SSE exist on any 64-bit processor.
    unsafe { write_cr4(read_cr4() | OSFXSR) }.expect("CR4.OSFXSR exists");
}

/// Turns CR0.CD on and off again: caching is off for a moment.
pub fn toggle_caching() {
    let cr0 = read_cr0();
    // SAFETY: memory stays what it is, however it is cached.
    unsafe { write_cr0(cr0 | CD).and_then(|()| write_cr0(cr0)) }.expect("CR0.CD exists");
}

/// Changes a variable MTRR, and back; it is not enabled at any moment.
pub fn toggle_memory_types() {
    let old = rdmsr(MTRR_BASE).expect("CPUID shows MTRRs");
    // SAFETY: the range is disabled as long as its mask register says so.
    unsafe { wrmsr(MTRR_BASE, old ^ 1 << 12).and_then(|()| wrmsr(MTRR_BASE, old)) }
        .expect("an MTRR takes an address");
}

/// Writes PKRU; CR4.PKE must be set.
pub fn write_pkru(value: u32) {
    // SAFETY: the kernel's pages are no user's, so that keys do not matter to them.
    unsafe {
        core::arch::asm!(".byte 0x0f, 0x01, 0xef", in("eax") value, in("ecx") 0, in("edx") 0,
            options(nostack, preserves_flags));
    }
}
