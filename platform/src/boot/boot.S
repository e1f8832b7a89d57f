/* Entry from a boot loader, 32-bit protected mode without paging (AT&T syntax).
 *
 * Two headers, one entry: multiboot 1 with the address override (QEMU -kernel,
 * GRUB `multiboot`), multiboot 2 (GRUB `multiboot2`; from UEFI it is the one that
 * hands over the ACPI root pointer).
 * In:  EAX = magic number of the protocol, EBX = its information structure.
 * Out: boot_main(magic, information) in 64-bit mode, the first 4 GiB mapped 1:1.
 */
.section .boot, "ax", @progbits
.code32

.set MB1_MAGIC, 0x1BADB002
.set MB1_FLAGS, 0x00010003      /* modules on pages, memory map, address fields valid */
.set MB2_MAGIC, 0xE85250D6

.align 8
multiboot1_header:
    .long MB1_MAGIC
    .long MB1_FLAGS
    .long -(MB1_MAGIC + MB1_FLAGS)
    .long multiboot1_header
    .long __image_start
    .long __load_end
    .long __image_end
    .long boot_entry

.align 8
multiboot2_header:
    .long MB2_MAGIC
    .long 0                     /* i386 */
    .long multiboot2_header_end - multiboot2_header
    .long -(MB2_MAGIC + (multiboot2_header_end - multiboot2_header))
    .short 6, 0                 /* tag: modules on page boundaries */
    .long 8
    .short 0, 0                 /* end tag */
    .long 8
multiboot2_header_end:

.global boot_entry
boot_entry:
    cli
    cld
    movl %eax, %edi             /* first argument of boot_main */
    movl %ebx, %esi             /* second */
    movl $boot_stack_top, %esp
    rdtsc
    movl %eax, boot_tsc
    movl %edx, boot_tsc + 4

    /* PML4 -> PDPT -> four page directories of 2 MiB pages: 4 GiB mapped 1:1. */
    movl $boot_pdpt + 3, boot_pml4
    movl $boot_pd + 3, %eax
    movl $boot_pdpt, %ecx
1:  movl %eax, (%ecx)
    addl $0x1000, %eax
    addl $8, %ecx
    cmpl $boot_pdpt + 4 * 8, %ecx
    jb 1b
    movl $0x83, %eax            /* present, writable, large */
    movl $boot_pd, %ecx
2:  movl %eax, (%ecx)
    addl $0x200000, %eax
    addl $8, %ecx
    cmpl $boot_pd + 4 * 4096, %ecx
    jb 2b

    movl %cr4, %eax
    orl $0x20, %eax             /* CR4.PAE */
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx      /* IA32_EFER */
    rdmsr
    orl $0x900, %eax            /* LME, NXE */
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax       /* PG, PE */
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $8, $3f

.code64
3:  movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movl %edi, %edi
    movl %esi, %esi
    call boot_main
4:  hlt
    jmp 4b

.align 8
boot_gdt:
    .quad 0
    .quad 0x00AF9A000000FFFF    /* 64-bit code */
    .quad 0x00CF92000000FFFF    /* data */
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .long boot_gdt

.align 8
.global boot_tsc
boot_tsc: .quad 0

/* The linker's TLS symbols as values in memory: a compiler may assume that the
 * address of a symbol is not zero, and here it may be. */
.global boot_tls
boot_tls: .quad __tls_start, __tls_filesz, __tls_memsz, __tls_align

.section .bss.boot, "aw", @nobits
.align 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
.global boot_stack_bottom
boot_stack_bottom: .skip 0x8000
boot_stack_top:
.section .text
