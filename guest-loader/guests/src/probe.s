# One access of a chosen kind at a chosen address and privilege level; see probe.rs.
.section .text

# extern "C" fn probe_run(address: rdi, value: rsi, code: rdx, user_stack: rcx, flags: r8)
# Ends in `probe_return`, on this stack, whatever the access did.
.globl probe_run
probe_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + {stack}], rsp
    mov eax, 0x10                       # data segments that privilege level 3 can have too
    mov ds, eax
    mov es, eax
    test rcx, rcx
    jnz 2f
    push r8
    popfq
    jmp rdx
2:  push 0x53                           # SS
    push rcx
    push r8
    push 0x4b                           # CS
    push rdx
    iretq

.globl probe_return
probe_return:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    xor eax, eax
    mov fs, eax
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

# The instructions that access. They lie in less than a page and run at any address.
.balign 16
.globl probe_code
probe_code:
.balign 16
    mov rax, [rdi]                      # 0: read
    int 0x81
.balign 16
    mov [rdi], rsi                      # 1: write
    int 0x81
.balign 16
    jmp rdi                             # 2: fetch; INT 0x81 stands there
.balign 16
    lock add [rdi], rsi                 # 3: read and write at once
    int 0x81
.balign 16
    mov fs, esi                         # 4: a descriptor, by the processor itself
    int 0x81
.balign 16
    mov rsp, rdi                        # 5: push
    push rsi
    int 0x81
.balign 16
    mov rsi, rdi                        # 6: eight bytes copied onto themselves by REP MOVS
    mov ecx, 8
    rep movsb
    int 0x81
.balign 16
    movq xmm0, rsi                      # 7: 16 bytes
    punpcklqdq xmm0, xmm0
    movups [rdi], xmm0
    int 0x81
.balign 16
.globl probe_code_end
probe_code_end:
