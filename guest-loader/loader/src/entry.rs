//! The processor's state at a guest's first instruction.

use anchorite_addr::Gpa;

/// In which mode and with which registers a guest starts.
///
/// In every mode interrupts are off (RFLAGS = 2), registers not named are 0, the FPU
/// and the MSRs are as after reset and the A20 gate is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 16-bit real mode.
    Real(RealMode),
    /// 32-bit protected mode, paging off.
    Protected(ProtectedMode),
    /// 64-bit mode.
    Long(LongMode),
}

/// Real mode: CR0 as after reset without cache disable; each segment has limit
/// 0xffff and base = selector × 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealMode {
    /// CS.
    pub cs: u16,
    /// IP.
    pub ip: u16,
    /// SS, and with it DS, ES, FS and GS.
    pub ss: u16,
    /// SP.
    pub sp: u16,
    /// DL: the BIOS's number of the boot drive.
    pub dl: u8,
}

/// 32-bit protected mode: CR0.PE = 1, CR0.PG = 0, CR4 = 0. CS is a flat 4 GiB
/// execute/read segment, DS, ES, FS, GS and SS are flat 4 GiB read/write segments; TR
/// is a 32-bit TSS at 0 with limit 0x67.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtectedMode {
    /// EIP, a physical address.
    pub eip: u32,
    /// EAX: 0x2BADB002 for multiboot, 0x36D76289 for multiboot 2, else 0.
    pub eax: u32,
    /// EBX: the information block of multiboot, PVH and plain ELF, else 0.
    pub ebx: u32,
    /// ESI: the zero page of Linux, else 0.
    pub esi: u32,
    /// The visible selector of CS.
    pub code_selector: u16,
    /// The visible selector of the data segments.
    pub data_selector: u16,
    /// The GDT that holds these selectors. Only the Linux boot protocol promises one;
    /// elsewhere GDTR has base 0, limit 0 and the guest must load its own.
    pub gdt: Option<DescriptorTable>,
}

impl ProtectedMode {
    /// How multiboot, PVH and plain ELF kernels start: with the address of their information
    /// block in EBX.
    pub(crate) const fn with_info(eip: u32, eax: u32, ebx: u32) -> Self {
        Self { eip, eax, ebx, esi: 0, code_selector: 0x08, data_selector: 0x10, gdt: None }
    }
}

/// 64-bit mode: CR0 = PG | PE, CR4 = PAE, EFER = LME | LMA; segments as in 32-bit
/// mode but CS is a 64-bit code segment; the GDT holds both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongMode {
    /// RIP, a physical address (memory is mapped one to one).
    pub rip: u64,
    /// RSP: the top of one free page, aligned to 16; of a Hermit kernel the lowest address of
    /// a free stack, of which it knows the size.
    pub rsp: u64,
    /// RDI: the information block of a plain ELF file or a Hermit kernel, else 0.
    pub rdi: u64,
    /// RSI: the zero page of Linux, else 0.
    pub rsi: u64,
    /// CR3: four-level tables that map the first 4 GiB one to one; the first GiB, and themselves
    /// by their last entry, for a Hermit kernel.
    pub cr3: Gpa,
    /// The selector of CS in the GDT.
    pub code_selector: u16,
    /// The selector of the data segments in the GDT.
    pub data_selector: u16,
    /// The GDT.
    pub gdt: DescriptorTable,
}

/// What GDTR holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorTable {
    /// The table's first byte.
    pub base: Gpa,
    /// Offset of its last byte.
    pub limit: u16,
}
