//! A guest's access to memory, and the #PF that forbids it.

use anchorite_addr::{Gpa, Gva, PageSize};
use bitflags::bitflags;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// A data read.
    Read,
    /// A data write, or the write half of a read-modify-write.
    Write,
    /// An instruction fetch.
    Execute,
}

/// One access, with all of the processor state that its permission depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Read, write or fetch.
    pub kind: AccessKind,
    /// A user-mode access: CPL = 3 and not implicit. Take it from U/S of the hardware's
    /// error code, which is right even while the rest of the code is not.
    pub user: bool,
    /// An implicit supervisor access (descriptor tables, TSS, shadow stacks…): SMAP
    /// applies to it whatever EFLAGS.AC says.
    pub implicit: bool,
    /// EFLAGS.AC.
    pub ac: bool,
    /// PKRU; looked at where CR4.PKE is set in long mode.
    pub pkru: u32,
}

impl Access {
    /// An explicit supervisor access with AC = 0 and PKRU = 0.
    pub const fn supervisor(kind: AccessKind) -> Self {
        Self { kind, user: false, implicit: false, ac: false, pkru: 0 }
    }

    /// A user-mode access with PKRU = 0.
    pub const fn user(kind: AccessKind) -> Self {
        Self { user: true, ..Self::supervisor(kind) }
    }

    /// Whether this is a write.
    #[inline]
    pub const fn is_write(&self) -> bool {
        matches!(self.kind, AccessKind::Write)
    }

    /// Whether this is an instruction fetch.
    #[inline]
    pub const fn is_fetch(&self) -> bool {
        matches!(self.kind, AccessKind::Execute)
    }
}

bitflags! {
    /// A page-fault error code. Intel SDM vol. 3, 4.7 "Page-Fault Exceptions", figure 4-12.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ErrorCode: u32 {
        /// P: a protection violation rather than a page that is not present.
        const PRESENT = 1 << 0;
        /// W/R: the access was a write.
        const WRITE = 1 << 1;
        /// U/S: a user-mode access.
        const USER = 1 << 2;
        /// RSVD: a reserved bit was set in an entry.
        const RESERVED = 1 << 3;
        /// I/D: an instruction fetch (only with NXE or SMEP).
        const FETCH = 1 << 4;
        /// PK: a protection key forbade it.
        const KEY = 1 << 5;
    }
}

/// A #PF to be injected into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The error code, from our own walk.
    pub code: ErrorCode,
    /// What CR2 must hold when the handler starts.
    pub cr2: Gva,
}

/// Where a permitted access lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The byte accessed.
    pub gpa: Gpa,
    /// The size of the guest's page that maps it (4 KiB where paging is off).
    pub size: PageSize,
}
