# From 64-bit mode down to real mode and back, noting what each mode sees.
#
# Copied to LOW (real mode reaches only the first MiB), so labels are written
# relative to `modes_start`. Selectors are those of the runtime's GDT (boot.s), which
# stays loaded throughout: 0x08 64-bit code, 0x10 flat data, 0x18 32-bit code, 0x20 and
# 0x28 16-bit code and data. AMD64 APM vol. 2, 14.6 "Enabling and Activating Long Mode";
# SDM vol. 3, 10.9 "Mode Switching".
.set LOW, 0x8000
.set EFER, 0xc0000080

.section .rodata
.globl modes_start
modes_start:
.code64
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, LOW + stack - modes_start
    sidt LOW + idt - modes_start
    pushq $0x18
    pushq $(LOW + compatibility - modes_start)
    lretq

.code32
compatibility:
    movl $0x10, %eax
    movl %eax, %ss
    movl $(LOW - 0x100), %esp
    # A push of 4 bytes and an address that wraps at 4 GiB: this is 32-bit code.
    pushl $0x11111111
    popl LOW + saw_compatibility - modes_start

    movl %cr0, %eax
    andl $0x7fffffff, %eax              # paging off leaves long mode
    movl %eax, %cr0
    movl $EFER, %ecx
    rdmsr
    movl %eax, LOW + efer_without_paging - modes_start
    andl $~0x100, %eax                  # EFER.LME
    wrmsr
    rdmsr
    movl %eax, LOW + efer_protected - modes_start
    .byte 0xea                          # far jump to 16-bit code
    .long LOW + protected16 - modes_start
    .word 0x20

.code16
protected16:
    movw $0x10, %ax
    movw %ax, %fs                       # its 4 GiB limit is to survive into real mode
    movw $0x28, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr0, %eax
    andl $~1, %eax
    movl %eax, %cr0
    .byte 0xea                          # far jump into real mode
    .word LOW + real - modes_start
    .word 0

real:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $(LOW - 0x100), %sp
    smsww LOW + msw_real - modes_start
    lidtl LOW + real_idt - modes_start

    # Segments count in paragraphs.
    movw $(LOW >> 4), %ax
    movw %ax, %es
    movl %es:marker - modes_start, %eax
    movl %eax, LOW + saw_marker - modes_start

    # A software interrupt through the interrupt vector table.
    movl 0x60 * 4, %esi
    movl $(LOW + handler - modes_start), %eax
    movl %eax, 0x60 * 4
    int $0x60
    movl %esi, 0x60 * 4

    # The firmware's services: KiB of conventional memory, and one that nobody has.
    int $0x12
    movw %ax, LOW + low_memory - modes_start
    movw $0xff00, %ax
    clc
    int $0x15
    setc LOW + refused - modes_start
    movb %ah, LOW + refusal - modes_start

    # Exits in real mode.
    movb $0x5a, %al
    outb %al, $0x80
    xorl %eax, %eax
    cpuid
    movl %ebx, LOW + vendor_real - modes_start

    # A limit loaded in protected mode stays: "big real mode".
    movl $0x100000, %ebx
    movl %fs:(%ebx), %eax
    movl %eax, LOW + above_one_mib - modes_start

    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    .byte 0x66, 0xea                    # far jump to 32-bit code
    .long LOW + protected32 - modes_start
    .word 0x18

handler:
    incl %cs:LOW + interrupts - modes_start
    iretw

.code32
protected32:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %cr0, %eax
    movl %eax, LOW + cr0_protected - modes_start
    movl $EFER, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    .byte 0xea                          # far jump to 64-bit code
    .long LOW + long - modes_start
    .word 0x08

.code64
long:
    movq LOW + stack - modes_start, %rsp
    lidt LOW + idt - modes_start
    movl $EFER, %ecx
    rdmsr
    movl %eax, LOW + efer_long - modes_start
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

.balign 8
stack: .quad 0
idt: .quad 0, 0
real_idt: .word 0x3ff
    .long 0
marker: .long 0x22222222
.balign 8
.globl modes_results
modes_results:
saw_compatibility: .long 0
efer_without_paging: .long 0
efer_protected: .long 0
msw_real: .long 0
saw_marker: .long 0
interrupts: .long 0
vendor_real: .long 0
above_one_mib: .long 0
cr0_protected: .long 0
efer_long: .long 0
low_memory: .long 0
refused: .byte 0
refusal: .byte 0
    .word 0
.globl modes_end
modes_end:
.section .text
