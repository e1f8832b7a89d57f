# 256 entry points, 16 bytes apart, that bring every vector to one frame layout.
# Vectors 8, 10-14, 17, 21, 29, 30 push an error code (AMD64 APM vol. 2, 8.2
# "Exception and Interrupt Descriptions"); the others get a zero in its place.
.section .text
.balign 16
.globl trap_entries
trap_entries:
.set vector, 0
.rept 256
    .balign 16
    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)
    .byte 0x6a, 0                       # push 0
    .endif
    .byte 0x68                          # push vector: as bytes, because the Intel
    .long vector                        # syntax takes a bare symbol for memory
    jmp trap_common
    .set vector, vector + 1
.endr

.balign 16
trap_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    call {dispatch}
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
