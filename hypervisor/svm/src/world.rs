//! The world switch.
//!
//! VMRUN switches RAX, RSP, RIP, RFLAGS, the control registers, CS, DS, ES, SS, GDTR
//! and IDTR; VMLOAD and VMSAVE the other segments, TR, LDTR, KernelGSbase and the MSRs
//! of SYSCALL and SYSENTER. The other general registers are ours. Floating-point and
//! vector registers, XCR0 and TSC_AUX stay the guest's, because the host holds no
//! instruction that depends on them.
//!
//! Source: APM vol. 2, 15.5 "VMRUN Instruction", 15.6 "#VMEXIT", 15.7 "Saving and
//! Loading State", 15.17 "Global Interrupt Flag, STGI and CLGI Instructions".
#![expect(unsafe_code, reason = "the general registers change hands in assembly")]

use anchorite_addr::Hpa;
use anchorite_vcpu::Registers;
use core::arch::asm;

// `Registers` starts with RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8–R15, by contract.
const _: () = assert!(core::mem::offset_of!(Registers, gpr) == 0);

/// Enters the guest of `vmcb` and returns at its next exit with the global interrupt
/// flag set: an interrupt that ended the guest's turn has been taken by then.
///
/// RAX and RSP of the guest are in the VMCB, not in `registers`. The host's part of the
/// state that VMLOAD switches rests in `host`, and is back before the flag is set, for
/// a handler needs GS and TR.
///
/// # Safety
/// Ring 0, EFER.SVME set, VM_HSAVE_PA set, the global interrupt flag clear, RFLAGS.IF
/// set. `vmcb` is a VMCB whose intercepts, maps and tables confine the guest; `host`
/// is a page that no other code uses on this CPU.
#[inline]
pub(crate) unsafe fn enter(registers: &mut Registers, vmcb: Hpa, host: Hpa) {
    // SAFETY: the caller's promise; the assembly restores the stack, RBX and RBP, and
    // names every other register as clobbered. RAX survives VMRUN by definition.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rax",
            "push rdi",
            "vmsave rax",
            "mov rax, rsi",
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
            "vmload rax",
            "vmrun rax",
            "vmsave rax",
            "pop rax",
            "mov [rax + 0x08], rcx",
            "mov [rax + 0x10], rdx",
            "mov [rax + 0x18], rbx",
            "mov [rax + 0x28], rbp",
            "mov [rax + 0x30], rsi",
            "mov [rax + 0x38], rdi",
            "mov [rax + 0x40], r8",
            "mov [rax + 0x48], r9",
            "mov [rax + 0x50], r10",
            "mov [rax + 0x58], r11",
            "mov [rax + 0x60], r12",
            "mov [rax + 0x68], r13",
            "mov [rax + 0x70], r14",
            "mov [rax + 0x78], r15",
            "pop rax",
            "vmload rax",
            "stgi",
            "pop rbp",
            "pop rbx",
            inout("rdi") registers => _, inout("rsi") vmcb.as_u64() => _,
            inout("rax") host.as_u64() => _,
            out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
}
