//! The world switch.
//!
//! The hardware switches RSP, RIP, RFLAGS, segments, control registers and the MSRs
//! named in the controls. The general registers are ours. Floating-point and vector
//! registers, XCR0 and TSC_AUX stay the guest's, because the host holds no instruction
//! that depends on them.
#![expect(unsafe_code, reason = "the general registers change hands in assembly")]

use anchorite_vcpu::Registers;
use core::arch::global_asm;
use x86::vmx::vmcs::host;

// `Registers` starts with RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8–R15, by contract.
const _: () = assert!(core::mem::offset_of!(Registers, gpr) == 0);

global_asm!(
    ".global anchorite_vmx_enter",
    ".global anchorite_vmx_exited",
    // rdi = registers, rsi = where HOST_RSP as last written is kept, dl = launched
    "anchorite_vmx_enter:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "cmp [rsi], rsp",
    "je 2f",
    "mov eax, {host_rsp}",
    "vmwrite rax, rsp",
    "jbe 5f",
    "mov [rsi], rsp",
    "2:",
    "test dl, dl", // MOV leaves the flags alone
    "mov rax, [rdi]",
    "mov rcx, [rdi + 0x08]",
    "mov rdx, [rdi + 0x10]",
    "mov rbx, [rdi + 0x18]",
    "mov rbp, [rdi + 0x28]",
    "mov rsi, [rdi + 0x30]",
    "mov r8, [rdi + 0x40]",
    "mov r9, [rdi + 0x48]",
    "mov r10, [rdi + 0x50]",
    "mov r11, [rdi + 0x58]",
    "mov r12, [rdi + 0x60]",
    "mov r13, [rdi + 0x68]",
    "mov r14, [rdi + 0x70]",
    "mov r15, [rdi + 0x78]",
    "mov rdi, [rdi + 0x38]",
    "jnz 3f",
    "vmlaunch",
    "jmp 5f",
    "3:",
    "vmresume",
    // The instruction failed: CF without, ZF with an error number.
    "5:",
    "mov eax, 1",
    "mov ecx, 2",
    "cmovz eax, ecx",
    "pop rdi",
    "jmp 6f",
    // The exit arrives here with RSP as at the label 2.
    "anchorite_vmx_exited:",
    "xchg rdi, [rsp]",
    "mov [rdi], rax",
    "mov [rdi + 0x08], rcx",
    "mov [rdi + 0x10], rdx",
    "mov [rdi + 0x18], rbx",
    "mov [rdi + 0x28], rbp",
    "mov [rdi + 0x30], rsi",
    "pop qword ptr [rdi + 0x38]",
    "mov [rdi + 0x40], r8",
    "mov [rdi + 0x48], r9",
    "mov [rdi + 0x50], r10",
    "mov [rdi + 0x58], r11",
    "mov [rdi + 0x60], r12",
    "mov [rdi + 0x68], r13",
    "mov [rdi + 0x70], r14",
    "mov [rdi + 0x78], r15",
    "xor eax, eax",
    "6:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    host_rsp = const host::RSP,
);

unsafe extern "sysv64" {
    fn anchorite_vmx_enter(registers: *mut Registers, host_rsp: *mut u64, launched: bool) -> u32;
    fn anchorite_vmx_exited();
}

/// How an attempt to enter the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A VM exit; the exit-reason field is valid.
    Exited,
    /// VMfailInvalid: no VMCS is current.
    NoVmcs,
    /// VMfailValid: the VM-instruction error field says why.
    Refused,
}

/// The value for the HOST_RIP field.
pub(crate) fn exit_address() -> u64 {
    anchorite_vmx_exited as *const () as u64
}

/// Enters the guest of the current VMCS and returns at its next exit.
///
/// `host_rsp` is what HOST_RSP holds, 0 at first; it is written only when the stack
/// has moved since.
///
/// # Safety
/// In VMX operation, ring 0, interrupts off. The current VMCS is the vCPU's whose
/// registers and launch state these are; its host fields describe the running host
/// and its controls confine the guest to memory meant for it.
#[inline]
pub(crate) unsafe fn enter(
    registers: &mut Registers,
    host_rsp: &mut u64,
    launched: bool,
) -> Outcome {
    // SAFETY: the caller's promise; the assembly keeps to the calling convention:
    // it restores the callee-saved registers and the stack on each of its ways out.
    match unsafe { anchorite_vmx_enter(registers, host_rsp, launched) } {
        0 => Outcome::Exited,
        1 => Outcome::NoVmcs,
        _ => Outcome::Refused,
    }
}
