/* Entries for the CPU's exceptions in the hypervisor itself (Intel syntax).
 * Each pushes a zero where the CPU pushes no error code, then its vector; 16 bytes apart.
 * Source: SDM vol. 3, 6.13 "Error Code".
 */
.balign 16
.global exception_entries
exception_entries:
.set vector, 0
.rept 32
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    jmp exception_common
    .set vector, vector + 1
.endr

.balign 16
exception_common:
    push r15
    push r14
    push r13
    push r12
    push r11
    push r10
    push r9
    push r8
    push rdi
    push rsi
    push rbp
    push rbx
    push rdx
    push rcx
    push rax
    cld
    mov rdi, rsp
    call exception_entry
    pop rax
    pop rcx
    pop rdx
    pop rbx
    pop rbp
    pop rsi
    pop rdi
    pop r8
    pop r9
    pop r10
    pop r11
    pop r12
    pop r13
    pop r14
    pop r15
    add rsp, 16
    iretq

/* u64 platform_read_msr(u32 index, u64 *value): 0, or 1 where the CPU raised #GP. */
.balign 16
.global platform_read_msr
platform_read_msr:
    mov ecx, edi
.global msr_read_site
msr_read_site:
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov [rsi], rax
    xor eax, eax
    ret

/* u64 platform_write_msr(u32 index, u64 value): likewise. */
.balign 16
.global platform_write_msr
platform_write_msr:
    mov ecx, edi
    mov eax, esi
    mov rdx, rsi
    shr rdx, 32
.global msr_write_site
msr_write_site:
    wrmsr
    xor eax, eax
    ret

.global msr_fault
msr_fault:
    mov eax, 1
    ret
