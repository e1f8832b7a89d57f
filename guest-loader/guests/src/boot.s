# From the boot loader to Rust: multiboot 1 or PVH entry, long mode, `runtime_main`.
#
# Both protocols enter in 32-bit protected mode, paging off, interrupts off:
#   multiboot 1 (Multiboot Specification 0.6.96, 3.2 "Machine state"):
#     EAX = 0x2BADB002, EBX = multiboot information
#   PVH (Xen, public/arch-x86/hvm/start_info.h): EBX = hvm_start_info
.set MULTIBOOT_FLAGS, 0x00010003        # modules on pages, memory map, addresses below

.section .boot, "awx", @progbits
.code32
.balign 8
multiboot_header:
    .long 0x1BADB002
    .long MULTIBOOT_FLAGS
    .long -(0x1BADB002 + MULTIBOOT_FLAGS)
    .long multiboot_header
    .long __image_start
    .long __load_end
    .long __image_end
    .long _start

.globl pvh_start
pvh_start:
    mov eax, 0x336ec578                 # the magic of hvm_start_info tells Rust which it was
.globl _start
_start:
    cli
    cld
    mov edi, eax
    mov esi, ebx
    mov esp, offset boot_stack_top

    # Identity map of the first 4 GiB: PML4[0] -> four page directories of 2 MiB pages.
    mov dword ptr [boot_pml4], offset boot_pdpt + 3
    mov eax, offset boot_pd + 3
    mov ecx, offset boot_pdpt
2:  mov [ecx], eax
    add eax, 4096
    add ecx, 8
    cmp ecx, offset boot_pdpt + 32
    jb 2b
    mov ecx, offset boot_pd
    mov eax, 0x83                       # present, writable, large
3:  mov [ecx], eax
    add ecx, 8
    add eax, 0x200000
    jnc 3b

    mov eax, cr4
    or eax, 1 << 5                      # CR4.PAE
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080                 # EFER
    rdmsr
    or eax, 1 << 8                      # EFER.LME
    wrmsr
    mov eax, cr0
    or eax, 0x80000001                  # CR0.PG, CR0.PE
    mov cr0, eax
    lgdt [gdt_pointer]
    .byte 0xea                          # jmp far 8:long_mode
    .long long_mode
    .word 8

.code64
long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov edi, edi                        # the upper halves are undefined after the switch
    mov esi, esi
    xor ebp, ebp
    call {main}
5:  hlt
    jmp 5b

.section .note.Xen, "a", @note
.balign 4
    .long 4
    .long 4
    .long 18                            # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

.section .data
.balign 16
.globl guest_gdt
guest_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 0x08: 64-bit code
    .quad 0x00cf93000000ffff            # 0x10: data
    .quad 0x00cf9b000000ffff            # 0x18: 32-bit code
    .quad 0x00009b000000ffff            # 0x20: 16-bit code
    .quad 0x000093000000ffff            # 0x28: 16-bit data, limit 64 KiB
    .quad 0x00cf13000000ffff            # 0x30: data, not present
.globl guest_gdt_tss
guest_gdt_tss:
    .quad 0, 0                          # 0x38: TSS, filled at run time
    .quad 0x00affb000000ffff            # 0x48: 64-bit code of privilege level 3
    .quad 0x00cff3000000ffff            # 0x50: data of privilege level 3
    .quad 0x00cffb000000ffff            # 0x58: 32-bit code of privilege level 3
.globl guest_gdt_ldt
guest_gdt_ldt:
    .quad 0, 0                          # 0x60: LDT, filled where a guest wants one
.globl guest_gdt_tss32
guest_gdt_tss32:
    .quad 0                             # 0x70: TSS of 32-bit modes
guest_gdt_end:
.globl gdt_pointer
gdt_pointer:
    .word guest_gdt_end - guest_gdt - 1
    .quad guest_gdt

.section .bss, "aw", @nobits
.balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
boot_stack: .skip 64 * 1024
.globl boot_stack_top
boot_stack_top:

.section .text
