//! The guest's registers by name.

use core::fmt;
use core::ops::{Index, IndexMut};

/// A general register, in the order of its instruction encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Gpr {
    /// RAX, encoding 0.
    Rax,
    /// RCX, encoding 1.
    Rcx,
    /// RDX, encoding 2.
    Rdx,
    /// RBX, encoding 3.
    Rbx,
    /// RSP, encoding 4.
    Rsp,
    /// RBP, encoding 5.
    Rbp,
    /// RSI, encoding 6.
    Rsi,
    /// RDI, encoding 7.
    Rdi,
    /// R8.
    R8,
    /// R9.
    R9,
    /// R10.
    R10,
    /// R11.
    R11,
    /// R12.
    R12,
    /// R13.
    R13,
    /// R14.
    R14,
    /// R15.
    R15,
}

impl Gpr {
    /// All sixteen, in encoding order.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// The register with the low four bits of `encoding`.
    pub const fn from_encoding(encoding: u8) -> Self {
        Self::ALL[(encoding & 15) as usize]
    }
}

/// General registers, RIP and RFLAGS.
///
/// The layout is part of the contract: the world switches address the general
/// registers as sixteen u64 in encoding order from offset 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// RAX to R15 in encoding order.
    pub gpr: [u64; 16],
    /// The instruction pointer.
    pub rip: u64,
    /// The flags; bit 1 is always one.
    pub rflags: u64,
}

impl Index<Gpr> for Registers {
    type Output = u64;

    fn index(&self, register: Gpr) -> &u64 {
        &self.gpr[register as usize]
    }
}

impl IndexMut<Gpr> for Registers {
    fn index_mut(&mut self, register: Gpr) -> &mut u64 {
        &mut self.gpr[register as usize]
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, register) in Gpr::ALL.iter().enumerate() {
            let end = if position % 4 == 3 { "\n" } else { "  " };
            write!(f, "{register:>3?}={:016x}{end}", self[*register])?;
        }
        write!(f, "Rip={:016x}  Rflags={:08x}", self.rip, self.rflags)
    }
}

/// A control register that the contract reads and writes by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ControlRegister {
    /// CR0.
    Cr0,
    /// CR2, the linear address of the last page fault.
    Cr2,
    /// CR3 as the guest wrote it.
    Cr3,
    /// CR4.
    Cr4,
    /// CR8, the task priority.
    Cr8,
    /// IA32_EFER with SCE, LME, LMA, NXE; the backend hides the rest.
    Efer,
    /// XCR0, which says what XSAVE moves; 1 where the CPU has none.
    Xcr0,
}

/// An MSR whose guest value the backend keeps or the hardware switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestMsr {
    /// STAR, 0xc0000081.
    Star,
    /// LSTAR, 0xc0000082.
    Lstar,
    /// CSTAR, 0xc0000083.
    Cstar,
    /// SFMASK, 0xc0000084.
    Sfmask,
    /// FS.base, 0xc0000100.
    FsBase,
    /// GS.base, 0xc0000101.
    GsBase,
    /// KernelGSbase, 0xc0000102.
    KernelGsBase,
    /// IA32_SYSENTER_CS, 0x174.
    SysenterCs,
    /// IA32_SYSENTER_ESP, 0x175.
    SysenterEsp,
    /// IA32_SYSENTER_EIP, 0x176.
    SysenterEip,
    /// IA32_PAT, 0x277.
    Pat,
    /// IA32_DEBUGCTL, 0x1d9.
    DebugCtl,
    /// TSC_AUX, 0xc0000103, which RDTSCP and RDPID read; 0 where the CPU has none.
    TscAux,
}
