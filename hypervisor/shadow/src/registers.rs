//! The control registers that decide how a guest address is translated.

use bitflags::bitflags;

bitflags! {
    /// CR0 bits that paging looks at. Intel SDM vol. 3, 2.5 "Control Registers".
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cr0: u64 {
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Write protect: supervisor writes respect read-only entries.
        const WP = 1 << 16;
        /// Paging.
        const PG = 1 << 31;
        /// The rest is carried along.
        const _ = !0;
    }
}

bitflags! {
    /// CR4 bits that paging looks at. Intel SDM vol. 3, 2.5 "Control Registers".
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cr4: u64 {
        /// Page size extension: 4 MiB pages in two-level paging.
        const PSE = 1 << 4;
        /// Physical address extension: 8-byte entries.
        const PAE = 1 << 5;
        /// Global pages.
        const PGE = 1 << 7;
        /// 57-bit linear addresses: five-level paging.
        const LA57 = 1 << 12;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 21;
        /// Protection keys for user pages.
        const PKE = 1 << 22;
        /// The rest is carried along.
        const _ = !0;
    }
}

bitflags! {
    /// EFER bits that paging looks at. Intel SDM vol. 3, 2.2.1 "Extended Feature Enable Register".
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Efer: u64 {
        /// Long mode enabled; active once paging is on.
        const LME = 1 << 8;
        /// Long mode active. Derived by the engine from LME and CR0.PG; ignored on input.
        const LMA = 1 << 10;
        /// No-execute enabled: bit 63 of an entry is XD rather than reserved.
        const NXE = 1 << 11;
        /// The rest is carried along.
        const _ = !0;
    }
}

/// The guest's view of the registers that select a paging mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// CR0.
    pub cr0: Cr0,
    /// CR3 as the guest wrote it, PCID and no-flush bit included.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
}

/// A guest's paging mode. Intel SDM vol. 3, 4.1.1 "Four Paging Modes", plus paging off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PagingMode {
    /// CR0.PG = 0: linear addresses are physical.
    None = 0,
    /// 32-bit paging: two levels of 4-byte entries.
    TwoLevel = 1,
    /// PAE paging: four PDPTE registers and two levels of 8-byte entries.
    Pae = 2,
    /// 4-level paging.
    FourLevel = 3,
    /// 5-level paging.
    FiveLevel = 4,
}

impl PagingMode {
    /// Every mode, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::None, Self::TwoLevel, Self::Pae, Self::FourLevel, Self::FiveLevel];

    /// Whether the guest runs in IA-32e mode.
    pub const fn is_long(self) -> bool {
        matches!(self, Self::FourLevel | Self::FiveLevel)
    }

    /// The format in which hardware walks the shadow of this mode.
    pub const fn root_format(self) -> RootFormat {
        match self {
            Self::None | Self::TwoLevel | Self::Pae => RootFormat::Pae,
            Self::FourLevel => RootFormat::FourLevel,
            Self::FiveLevel => RootFormat::FiveLevel,
        }
    }
}

/// How hardware must be set up to walk a shadow root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootFormat {
    /// `root` is the 32-aligned address of four PDPTEs, below 4 GiB; CR0.PG and
    /// CR4.PAE are set and EFER.LMA clear, whatever the guest believes.
    Pae,
    /// `root` is a PML4 table.
    FourLevel,
    /// `root` is a PML5 table.
    FiveLevel,
}

impl Registers {
    /// As a processor leaves reset: paging off.
    pub const RESET: Self = Self {
        cr0: Cr0::from_bits_retain(0x6000_0010),
        cr3: 0,
        cr4: Cr4::empty(),
        efer: Efer::empty(),
    };

    /// The paging mode these registers select.
    ///
    /// LME with PG but without PAE is refused by hardware (#GP); the caller never
    /// passes it, and here it reads as two-level paging.
    pub fn mode(&self) -> PagingMode {
        if !self.cr0.contains(Cr0::PG) {
            PagingMode::None
        } else if !self.cr4.contains(Cr4::PAE) {
            PagingMode::TwoLevel
        } else if !self.efer.contains(Efer::LME) {
            PagingMode::Pae
        } else if self.cr4.contains(Cr4::LA57) {
            PagingMode::FiveLevel
        } else {
            PagingMode::FourLevel
        }
    }
}

/// Why a register write must raise #GP in the guest instead of taking effect.
/// Nothing has changed when this is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterFault {
    /// A present PDPTE has a reserved bit set.
    /// Intel SDM vol. 3, 4.4.1 "PDPTE Registers".
    ReservedPdpte {
        /// Which of the four.
        index: u8,
        /// Its value in guest memory.
        value: u64,
    },
    /// CR3 has a bit set at or above the guest's physical address width.
    ReservedCr3 {
        /// The value the guest tried to load.
        value: u64,
    },
}
