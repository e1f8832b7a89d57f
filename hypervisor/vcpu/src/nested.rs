//! The entry format of nested tables.

use anchorite_addr::{HpaPage, PageSize};
use bitflags::bitflags;

bitflags! {
    /// What a nested mapping permits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct NestedRights: u8 {
        /// Loads.
        const READ = 1 << 0;
        /// Stores.
        const WRITE = 1 << 1;
        /// Instruction fetches.
        const EXECUTE = 1 << 2;
    }
}

/// The target of a leaf entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedFrame {
    /// The page's host address, aligned to `size`.
    pub page: HpaPage,
    /// 4 KiB, 2 MiB or 1 GiB.
    pub size: PageSize,
    /// What is permitted.
    pub rights: NestedRights,
}

/// How a vendor writes the entries of a four-level nested table.
///
/// Source: APM vol. 2, 15.25 "Nested Paging"; SDM vol. 3, 29.3 "The Extended
/// Page Table Mechanism (EPT)".
pub trait NestedFormat {
    /// The entry that maps `frame` as write-back memory.
    fn leaf(frame: NestedFrame) -> u64;
    /// The entry that refers to the next lower table, all rights granted.
    fn table(table: HpaPage) -> u64;
    /// The next lower table of a present non-leaf entry at `level` (4 is the topmost).
    fn child(entry: u64, level: u8) -> Option<HpaPage>;
    /// Whether the entry maps or refers to anything.
    fn is_present(entry: u64) -> bool;
}
