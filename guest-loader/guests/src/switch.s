# Out of 64-bit mode through paging off: to other tables and another CR4, or into 32-bit
# protected mode with tables of its own, where a list of steps is done; see script.rs.
#
# All of it lies below 4 GiB where linear and physical addresses are the same. Selectors
# are those of the runtime's GDT (boot.s).
# SDM vol. 3, 10.9 "Mode Switching"; APM vol. 2, 14.6 "Enabling and Activating Long Mode".
.set SWITCH_EFER, 0xc0000080
.set SWITCH_LME, 1 << 8
.set SWITCH_PG, 1 << 31

# A step's words.
.set STEP_CODE, 0
.set STEP_ADDRESS, 4
.set STEP_VALUE, 8
.set STEP_HIGH, 12
.set STEP_STACK, 16
.set STEP_FLAGS, 20
.set STEP_VECTOR, 24
.set STEP_ERROR, 28
.set STEP_CR2, 32
.set STEP_EAX, 36
.set STEP_EIP, 40
.set STEP_BYTES, 48

.section .bss
.balign 16
switch_rsp: .skip 8
switch_idt: .skip 16
switch_cr3: .skip 4
switch_cr4: .skip 4
script_next: .skip 4
script_end: .skip 4
.balign 16
script_stack: .skip 4096
script_stack_top:

.section .data
.balign 16
.globl script_tss
script_tss:                             # a 32-bit TSS: ESP0 and SS0 (SDM vol. 3, 8.2.1)
    .long 0, script_stack_top, 0x10
    .skip 104 - 12
script_idt:
    .word 0x82 * 8 - 1
    .long {gates}

.section .text
# extern "sysv64" fn switch_levels(cr3: rdi, cr4: rsi)
.globl switch_levels
.code64
switch_levels:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + switch_rsp], rsp
    sidt [rip + switch_idt]
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
    and eax, ~SWITCH_PG
    mov cr0, eax
switch_long:                            # esi = CR4, edi = CR3
    mov cr4, esi
    mov cr3, edi
    mov eax, cr0
    or eax, SWITCH_PG
    mov cr0, eax
    .byte 0xea                          # far jump to 64-bit code
    .long switch_64
    .word 0x08
.code64
switch_64:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lidt [rip + switch_idt]
    mov rsp, [rip + switch_rsp]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

# extern "sysv64" fn script_run(first: rdi, end: rsi, cr3: rdx, cr4: rcx)
# TR holds the 32-bit TSS afterwards.
.globl script_run
script_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + switch_rsp], rsp
    sidt [rip + switch_idt]
    mov [rip + script_next], edi
    mov [rip + script_end], esi
    mov edi, edx
    mov esi, ecx
    mov rax, cr3
    mov [rip + switch_cr3], eax
    mov rax, cr4
    mov [rip + switch_cr4], eax
    push 0x18
    lea rax, [rip + script_run_32]
    push rax
    .byte 0x48, 0xcb
.code32
script_run_32:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, offset script_stack_top
    mov eax, cr0
    and eax, ~SWITCH_PG
    mov cr0, eax
    mov ecx, SWITCH_EFER
    rdmsr
    and eax, ~SWITCH_LME
    wrmsr
    mov cr4, esi
    mov cr3, edi
    mov eax, cr0
    or eax, SWITCH_PG
    mov cr0, eax
    lidt [script_idt]
    mov eax, 0x70
    ltr ax

script_step:
    mov ebx, [script_next]
    cmp ebx, [script_end]
    je script_done
    mov eax, 0x53                       # data segments that both privilege levels can have
    mov ds, eax
    mov es, eax
    mov edi, [ebx + STEP_ADDRESS]
    mov esi, [ebx + STEP_VALUE]
    mov edx, [ebx + STEP_HIGH]
    mov ecx, [ebx + STEP_STACK]
    mov ebp, [ebx + STEP_CODE]
    test ecx, ecx
    jnz 2f
    push dword ptr [ebx + STEP_FLAGS]
    popfd
    jmp ebp
2:  push 0x53                           # SS
    push ecx
    push dword ptr [ebx + STEP_FLAGS]
    push 0x5b                           # CS: 32-bit code of privilege level 3
    push ebp
    iretd

# Every vector: the stack holds vector, error code, EIP.
script_caught:
    push 2
    popfd                               # RFLAGS.AC would suspend SMAP
    mov ebx, [script_next]
    mov [ebx + STEP_EAX], eax
    mov eax, cr2
    mov [ebx + STEP_CR2], eax
    pop dword ptr [ebx + STEP_VECTOR]
    pop dword ptr [ebx + STEP_ERROR]
    pop dword ptr [ebx + STEP_EIP]
    add ebx, STEP_BYTES
    mov [script_next], ebx
    mov esp, offset script_stack_top
    xor eax, eax
    mov fs, eax
    jmp script_step

script_done:
    mov eax, 0x10
    mov ds, eax
    mov eax, cr0
    and eax, ~SWITCH_PG
    mov cr0, eax
    # CR4.PAE before EFER.LME: QEMU 7.2 loses the host's CR0 at an exit in between.
    mov esi, [switch_cr4]
    mov cr4, esi
    mov ecx, SWITCH_EFER
    rdmsr
    or eax, SWITCH_LME
    wrmsr
    mov edi, [switch_cr3]
    jmp switch_long

# Entry points of vectors 0-31 and 0x81, 16 bytes apart. Vectors 8, 10-14, 17, 21, 29, 30
# push an error code (SDM vol. 3, 6.15 "Exception and Interrupt Reference").
.balign 16
.globl script_entries
script_entries:
.set vector, 0
.rept 33
    .balign 16
    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
    .byte 0x6a, 0                       # push 0
    .endif
    .byte 0x68                          # push the vector
    .if vector == 32
    .long 0x81
    .else
    .long vector
    .endif
    jmp script_caught
    .set vector, vector + 1
.endr

# The steps' instructions. They lie in less than a page and run at any address.
.balign 16
.globl script_code
script_code:
    mov eax, [edi]                      # 0: read
    int 0x81
.balign 16
    mov [edi], esi                      # 1: write
    int 0x81
.balign 16
    jmp edi                             # 2: fetch; INT 0x81 stands there
.balign 16
    lock add [edi], esi                 # 3: read and write at once
    int 0x81
.balign 16
    mov fs, esi                         # 4: a descriptor, by the processor itself
    int 0x81
.balign 16
    mov esp, edi                        # 5: push
    push esi
    int 0x81
.balign 16
    mov esi, edi                        # 6: four bytes copied onto themselves by REP MOVS
    mov ecx, 4
    rep movsb
    int 0x81
.balign 16
    movd xmm0, esi                      # 7: 16 bytes
    pshufd xmm0, xmm0, 0
    movups [edi], xmm0
    int 0x81
.balign 16
    invlpg [edi]                        # 8
    int 0x81
.balign 16
    mov cr3, edi                        # 9
    int 0x81
.balign 16
    mov [edi], esi                      # 10: an entry of 8 bytes
    mov [edi + 4], edx
    int 0x81
.balign 16
    mov [edi], esi                      # 11: a descriptor of the LDT, which is loaded
    mov [edi + 4], edx
    mov eax, 0x60
    lldt ax
    int 0x81
.balign 16
    mov eax, cr0                        # 12: bits of CR0 are turned over
    xor eax, edi
    mov cr0, eax
    int 0x81
.balign 16
    mov eax, cr4                        # 13: of CR4
    xor eax, edi
    mov cr4, eax
    int 0x81
.balign 16
    mov ecx, SWITCH_EFER                # 14: of EFER
    rdmsr
    xor eax, edi
    wrmsr
    int 0x81
.balign 16
.globl script_code_end
script_code_end:
.code64
