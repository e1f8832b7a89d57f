//! The root of address translation.

use anchorite_addr::{Hpa, HpaPage};

/// What translates the guest's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Guest-physical to host-physical tables (NPT, EPT) with four levels.
    Nested {
        /// The topmost table.
        table: HpaPage,
    },
    /// Guest-virtual to host-physical tables, loaded as the hardware CR3.
    Shadow {
        /// The CR3 value: a table's address, for PAE a 32-byte aligned address
        /// below 4 GiB.
        cr3: Hpa,
        /// Which paging mode the hardware walks them in.
        format: ShadowFormat,
    },
}

/// The paging mode of shadow tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShadowFormat {
    /// PAE: guests outside long mode, paging on or off.
    Pae,
    /// Four levels: guests in long mode.
    FourLevel,
    /// Five levels: guests in long mode with CR4.LA57.
    FiveLevel,
}

/// What a flush must discard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushScope {
    /// Every translation of this vCPU, global ones included.
    All,
    /// One linear address under a shadow root.
    Address(anchorite_addr::Gva),
}
