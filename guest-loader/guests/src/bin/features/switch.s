# Through paging off, to other tables and another CR4, and back into 64-bit mode.
#
# All of it lies below 4 GiB where linear and physical addresses are the same. Selectors
# are those of the runtime's GDT: 0x08 64-bit code, 0x10 data, 0x18 32-bit code.
# SDM vol. 3, 10.9 "Mode Switching"; APM vol. 2, 14.6 "Enabling and Activating Long Mode".
.set FEATURES_EFER, 0xc0000080

.section .bss
.balign 8
features_rsp: .skip 8
features_cr3: .skip 4
features_cr4: .skip 4

.section .text
# rdi = CR3, rsi = CR4
.globl switch_levels
.code64
switch_levels:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + features_rsp], rsp
    push 0x18
    lea rax, [rip + switch_levels_32]
    push rax
    .byte 0x48, 0xcb                    # far return
.code32
switch_levels_32:
    mov eax, 0x10
    mov ds, eax
    mov ss, eax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
features_long:                          # esi = CR4, edi = CR3, ebx = the result
    mov cr4, esi
    mov cr3, edi
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    .byte 0xea                          # far jump to 64-bit code
    .long features_64
    .word 0x08
.code64
features_64:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, ebx
    mov rsp, [rip + features_rsp]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

# rdi = page directory, rsi = address, rdx = CR4; returns the word
.globl read_two_level
read_two_level:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + features_rsp], rsp
    mov rax, cr3
    mov [rip + features_cr3], eax
    mov rax, cr4
    mov [rip + features_cr4], eax
    push 0x18
    lea rax, [rip + read_two_level_32]
    push rax
    .byte 0x48, 0xcb
.code32
read_two_level_32:
    mov eax, 0x10
    mov ds, eax
    mov ss, eax
    mov ebp, edx
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, FEATURES_EFER
    rdmsr
    and eax, 0xfffffeff                 # EFER.LME
    wrmsr
    mov cr4, ebp
    mov cr3, edi
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    mov ebx, [esi]
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    # CR4.PAE before EFER.LME: QEMU 7.2 loses the host's CR0 at an exit in between.
    mov esi, [features_cr4]
    mov cr4, esi
    mov ecx, FEATURES_EFER
    rdmsr
    or eax, 0x100
    wrmsr
    mov edi, [features_cr3]
    jmp features_long
.code64
