# Ways to make [rdi] hold rsi, a value that differs from what it holds in bit 12 alone.
# Each begins at a multiple of 64 bytes and ends in INT 0x81.
.section .text
.macro way
.balign 64, 0xcc
.endm

.balign 64
.globl writes_start
writes_start:
    mov [rdi], rsi                      # 0
    int 0x81
way
    mov [rdi], esi                      # 1: in two halves
    shr rsi, 32
    mov [rdi + 4], esi
    int 0x81
way
    mov [rdi], si                       # 2
    int 0x81
way
    mov eax, esi                        # 3: the byte that differs
    mov [rdi + 1], ah
    int 0x81
way
    mov eax, [rdi - 4]                  # 4: across two entries
    shl rsi, 32
    or rsi, rax
    mov [rdi - 4], rsi
    int 0x81
way
    movq xmm0, rsi                      # 5: 16 bytes
    movhps xmm0, [rdi + 8]
    movups [rdi], xmm0
    int 0x81
way
    movq xmm1, rsi                      # 6: 16 bytes, past the caches
    movhps xmm1, [rdi + 8]
    movntdq [rdi], xmm1
    int 0x81
way
    movnti [rdi], rsi                   # 7
    int 0x81
way
    mov rax, rsi                        # 8
    mov ecx, 1
    rep stosq
    int 0x81
way
    push rsi                            # 9: from the stack by REP MOVSB, upwards
    mov rsi, rsp
    mov ecx, 8
    rep movsb
    pop rsi
    int 0x81
way
    push rsi                            # 10: the same downwards
    lea rsi, [rsp + 7]
    add rdi, 7
    mov ecx, 8
    std
    rep movsb
    cld
    pop rsi
    int 0x81
way
    xchg [rdi], rsi                     # 11: locked by itself
    int 0x81
way
    mov rax, [rdi]                      # 12
    lock cmpxchg [rdi], rsi
    int 0x81
way
    sub rsi, [rdi]                      # 13
    lock xadd [rdi], rsi
    int 0x81
way
    xor rsi, [rdi]                      # 14
    lock xor [rdi], rsi
    int 0x81
way
    lock btc qword ptr [rdi], 12        # 15
    int 0x81
way
    mov eax, 12                         # 16: the bit's number in a register
    btc [rdi], rax
    int 0x81
way
    sub rsi, [rdi]                      # 17
    add [rdi], rsi
    int 0x81
way
    mov rax, rsp                        # 18
    lea rsp, [rdi + 8]
    push rsi
    mov rsp, rax
    int 0x81
way
    push rsi                            # 19
    pop qword ptr [rdi]
    int 0x81
way
    movq xmm2, rsi                      # 20: the low half of a vector register
    movlps [rdi], xmm2
    int 0x81
way
    xor rsi, [rdi]                      # 21
    mov rax, [rdi]
    not rax
    xor rax, rsi
    not qword ptr [rdi]                 # for a moment something else entirely
    mov [rdi], rax
    not qword ptr [rdi]
    int 0x81
.balign 64, 0xcc
.globl writes_end
writes_end:

# The instructions before INT 0x81 take away the page they lie in: RDI points to its entry,
# RSI is the page's own address. What comes behind must not be reached.
.balign 64
.globl unmaps_itself
unmaps_itself:
    mov qword ptr [rdi], 0
    invlpg [rsi]
    int 0x81
.balign 64
.globl unmaps_itself_by_cr3
unmaps_itself_by_cr3:
    mov qword ptr [rdi], 0
    mov rax, cr3
    mov cr3, rax
    int 0x81
# As above, and makes the entry whole again before anything is flushed.
.balign 64
.globl flickers
flickers:
    mov rax, [rdi]
    mov qword ptr [rdi], 0
    mov [rdi], rax
    invlpg [rsi]
    int 0x81
.balign 64
.globl flickers_end
flickers_end:

# Stores that no emulator need know: FXSAVE of 512 bytes, SGDT of 10 bytes at RDI.
.balign 64
.globl saves
saves:
    fxsave64 [rdi]
    int 0x81
.balign 64
.globl stores_gdtr
stores_gdtr:
    sgdt [rdi]
    int 0x81

# RSP is RDI; an interrupt pushes there.
.balign 64
.globl interrupts_on_stack
interrupts_on_stack:
    mov rsp, rdi
    int 0x81
# RSP is RDI; a fault that is none of the stack's does so.
.balign 64
.globl faults_on_stack
faults_on_stack:
    mov rsp, rdi
    ud2
# DS is loaded with RSI.
.balign 64
.globl loads_ds
loads_ds:
    mov ds, esi
    int 0x81
