//! Each privileged instruction, wrapped once; those that AMD has too in `anchorite-cpu`.
//!
//! The functions are safe to call where a wrong argument can at worst spoil the
//! guest, and `unsafe` where it could reach the host's memory or state. All of them
//! need ring 0; the crate's only entry, [`VmxCpu::enable`](crate::VmxCpu::enable),
//! makes its caller promise that.
//!
//! Source: SDM chapter 31 "VMX Instruction Reference"; vol. 2 for the others.
#![expect(unsafe_code, reason = "privileged instructions have no safe form")]

use crate::FieldSource;
use anchorite_addr::HpaPage;
pub(crate) use anchorite_cpu::{
    compacted, cpuid, cpuid_subleaf, cr0, legacy_state, pkru, rdmsr, restore_extended,
    save_extended, set_cr0, set_cr2, set_xcr0, wrmsr, xcr0,
};
use core::arch::asm;
use x86::bits64::vmx;
use x86::dtables::{self, DescriptorTablePointer};
use x86::{controlregs, debugregs};

/// The VMCS that is current on this CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CurrentVmcs;

impl FieldSource for CurrentVmcs {
    #[inline]
    fn read(&self, field: u32) -> u64 {
        // SAFETY: ring 0 in VMX operation. VMREAD reads the current VMCS and fails
        // harmlessly where there is none or it has no such field.
        unsafe { vmx::vmread(field) }.unwrap_or(0)
    }
}

/// Writes a field of the current VMCS. A field that the CPU lacks stays unwritten:
/// creation has written each of them once and reported a refusal.
///
/// # Safety
/// Control and host fields decide what memory the CPU uses after the next entry or
/// exit: `value` must keep that to memory meant for it. Guest state decides nothing
/// of the kind.
#[inline]
pub(crate) unsafe fn vmwrite(field: u32, value: u64) {
    // SAFETY: the caller answers for the value.
    let _ = unsafe { vmx::vmwrite(field, value) };
}

/// Writes a field of the current VMCS and says whether the CPU has it.
///
/// # Safety
/// As for [`vmwrite`].
pub(crate) unsafe fn try_vmwrite(field: u32, value: u64) -> bool {
    // SAFETY: the caller answers for the value.
    unsafe { vmx::vmwrite(field, value) }.is_ok()
}

/// Enters VMX operation; `false` where the CPU refuses.
///
/// # Safety
/// `region` is a page of ours that nobody else uses, with the revision identifier in
/// its first word; CR0 and CR4 satisfy the fixed bits; IA32_FEATURE_CONTROL allows it.
pub(crate) unsafe fn vmxon(region: HpaPage) -> bool {
    // SAFETY: the caller's promise.
    unsafe { vmx::vmxon(region.as_u64()) }.is_ok()
}

/// Initializes a VMCS region and makes its launch state "clear".
///
/// # Safety
/// `region` is a page of ours that serves as a VMCS, in VMX operation.
pub(crate) unsafe fn vmclear(region: HpaPage) -> bool {
    // SAFETY: the caller's promise.
    unsafe { vmx::vmclear(region.as_u64()) }.is_ok()
}

/// Makes a VMCS current.
///
/// # Safety
/// As for [`vmclear`].
pub(crate) unsafe fn vmptrld(region: HpaPage) -> bool {
    // SAFETY: the caller's promise.
    unsafe { vmx::vmptrld(region.as_u64()) }.is_ok()
}

/// What INVEPT discards.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Invept {
    /// One EPT pointer's translations.
    Single(u64),
    /// All.
    All,
}

/// Discards translations derived from EPT; `false` where the type is not supported.
pub(crate) fn invept(what: Invept) -> bool {
    let (kind, descriptor): (u64, [u64; 2]) = match what {
        Invept::Single(pointer) => (1, [pointer, 0]),
        Invept::All => (2, [0, 0]),
    };
    let failed: u8;
    // SAFETY: ring 0 in VMX operation; the instruction reads the descriptor and only
    // ever discards cached translations.
    unsafe {
        asm!("invept {kind}, [{descriptor}]", "setbe {failed}",
            kind = in(reg) kind, descriptor = in(reg) &raw const descriptor,
            failed = lateout(reg_byte) failed, options(nostack));
    }
    failed == 0
}

/// What INVVPID discards.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Invvpid {
    /// One linear address of one VPID.
    Address(u16, u64),
    /// One VPID.
    Single(u16),
    /// All VPIDs.
    All,
}

/// Discards translations of linear addresses; `false` where the type is not
/// supported or the address is not canonical.
pub(crate) fn invvpid(what: Invvpid) -> bool {
    let (kind, descriptor): (u64, [u64; 2]) = match what {
        Invvpid::Address(vpid, address) => (0, [u64::from(vpid), address]),
        Invvpid::Single(vpid) => (1, [u64::from(vpid), 0]),
        Invvpid::All => (2, [0, 0]),
    };
    let failed: u8;
    // SAFETY: as for INVEPT.
    unsafe {
        asm!("invvpid {kind}, [{descriptor}]", "setbe {failed}",
            kind = in(reg) kind, descriptor = in(reg) &raw const descriptor,
            failed = lateout(reg_byte) failed, options(nostack));
    }
    failed == 0
}

/// CR2.
pub(crate) fn cr2() -> u64 {
    // SAFETY: ring 0; reading has no effect.
    unsafe { controlregs::cr2() as u64 }
}

/// CR3.
pub(crate) fn cr3() -> u64 {
    // SAFETY: ring 0; reading has no effect.
    unsafe { controlregs::cr3() }
}

/// CR4, all bits.
pub(crate) fn cr4() -> u64 {
    let value: u64;
    // SAFETY: ring 0; reading has no effect. (The `x86` crate drops unknown bits.)
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets CR4.
///
/// # Safety
/// The host goes on working with these bits.
pub(crate) unsafe fn set_cr4(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// DR0 to DR3 and DR6, in this order.
pub(crate) fn debug_registers() -> [u64; 5] {
    let dr6: u64;
    // SAFETY: ring 0, DR7.GD is clear (each exit leaves DR7 at 0x400); reading has no
    // effect. (For DR6 the `x86` crate drops unknown bits.)
    unsafe {
        asm!("mov {}, dr6", out(reg) dr6, options(nomem, nostack, preserves_flags));
        let [dr0, dr1, dr2, dr3] =
            [debugregs::dr0(), debugregs::dr1(), debugregs::dr2(), debugregs::dr3()];
        [dr0 as u64, dr1 as u64, dr2 as u64, dr3 as u64, dr6]
    }
}

/// Sets DR0 to DR3 and DR6.
///
/// Only DR7 arms a breakpoint, and it is the guest's while the guest runs only.
pub(crate) fn set_debug_registers([dr0, dr1, dr2, dr3, dr6]: [u64; 5]) {
    // SAFETY: ring 0, DR7.GD is clear; DR0-DR3 take any value while no breakpoint is
    // armed. DR6 faults on a set upper half only, which the mask clears.
    unsafe {
        debugregs::dr0_write(dr0 as usize);
        debugregs::dr1_write(dr1 as usize);
        debugregs::dr2_write(dr2 as usize);
        debugregs::dr3_write(dr3 as usize);
        asm!("mov dr6, {}", in(reg) dr6 & 0xffff_ffff, options(nomem, nostack, preserves_flags));
    }
}

/// Base and limit of GDTR.
pub(crate) fn gdtr() -> (u64, u16) {
    let mut table = DescriptorTablePointer::<u64>::default();
    // SAFETY: ring 0; it writes the ten bytes of `table`.
    unsafe { dtables::sgdt(&mut table) };
    (table.base as u64, table.limit)
}

/// Base and limit of IDTR.
pub(crate) fn idtr() -> (u64, u16) {
    let mut table = DescriptorTablePointer::<u64>::default();
    // SAFETY: ring 0; it writes the ten bytes of `table`.
    unsafe { dtables::sidt(&mut table) };
    (table.base as u64, table.limit)
}

/// The selectors of ES, CS, SS, DS, FS, GS and TR.
pub(crate) fn selectors() -> [u16; 7] {
    let [es, cs, ss, ds, fs, gs]: [u16; 6];
    // SAFETY: reading selectors has no effect.
    unsafe {
        asm!("mov {0:x}, es", "mov {1:x}, cs", "mov {2:x}, ss", "mov {3:x}, ds",
            "mov {4:x}, fs", "mov {5:x}, gs",
            out(reg) es, out(reg) cs, out(reg) ss, out(reg) ds, out(reg) fs, out(reg) gs,
            options(nomem, nostack, preserves_flags));
    }
    // SAFETY: as above.
    let tr = unsafe { x86::task::tr() }.bits();
    [es, cs, ss, ds, fs, gs, tr]
}

/// Turns interrupts off; tells whether they were on.
#[inline]
pub(crate) fn disable_interrupts() -> bool {
    let flags: u64;
    // SAFETY: ring 0; the flags are read through the stack, and only IF changes.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
    flags & 1 << 9 != 0
}

/// Turns interrupts on and lets a pending one be taken before it returns.
#[inline]
pub(crate) fn enable_interrupts() {
    // SAFETY: ring 0, host state in place. STI holds interrupts back for one
    // instruction, so a pending one is taken right after the NOP.
    unsafe { asm!("sti", "nop", options(nostack)) };
}

/// Runs the host's NMI handler, whose IRET also ends the NMI blocking that the exit
/// left behind.
///
/// Source: SDM 28.5.5 "Updating Non-Register State".
pub(crate) fn handle_nmi() {
    // SAFETY: ring 0; vector 2 has a handler as in any host that takes NMIs.
    unsafe { asm!("int 2") };
}
