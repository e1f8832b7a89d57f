//! Entries of nested page tables: guest-physical to host-physical.
//!
//! Source: APM vol. 2, 15.25 "Nested Paging"; 5.3.3 "4-Kbyte Page Translation" to
//! 5.3.5 "1-Gbyte Page Translation" for the entries' layout.

use anchorite_addr::{Hpa, HpaPage, PageSize};
use anchorite_vcpu::{NestedFormat, NestedFrame, NestedRights};
use bitflags::bitflags;

/// The format of nested tables: that of the host's own long mode.
#[derive(Clone, Copy, Debug)]
pub enum Npt {}

bitflags! {
    /// Bits of an entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Entry: u64 {
        const PRESENT = 1 << 0;
        const WRITABLE = 1 << 1;
        /// Always set: the walk counts as a user access (15.25.5).
        const USER = 1 << 2;
        const ACCESSED = 1 << 5;
        const DIRTY = 1 << 6;
        /// A leaf at level 2 or 3.
        const LARGE = 1 << 7;
        const NO_EXECUTE = 1 << 63;
    }
}

/// Bits 12–51: the address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The topmost level at which an entry can be a leaf: 1 GiB.
const TOPMOST_LEAF: u8 = 3;

impl NestedFormat for Npt {
    /// Accessed and dirty are set beforehand so that the walker need not write them.
    /// Without [`NestedRights::READ`] nothing is mapped: x86 entries cannot withhold
    /// loads; nor do nested tables have 4 MiB leaves.
    fn leaf(frame: NestedFrame) -> u64 {
        let mut entry = Entry::PRESENT | Entry::USER | Entry::ACCESSED;
        match frame.size {
            PageSize::Size4K => {}
            PageSize::Size2M | PageSize::Size1G => entry |= Entry::LARGE,
            PageSize::Size4M => return 0,
        }
        if !frame.rights.contains(NestedRights::READ) {
            return 0;
        }
        if frame.rights.contains(NestedRights::WRITE) {
            entry |= Entry::WRITABLE | Entry::DIRTY;
        }
        if !frame.rights.contains(NestedRights::EXECUTE) {
            entry |= Entry::NO_EXECUTE;
        }
        entry.bits() | frame.page.as_u64() & ADDRESS
    }

    fn table(table: HpaPage) -> u64 {
        let entry = Entry::PRESENT | Entry::WRITABLE | Entry::USER | Entry::ACCESSED;
        entry.bits() | table.as_u64() & ADDRESS
    }

    fn child(entry: u64, level: u8) -> Option<HpaPage> {
        let leaf = level <= 1 || (level <= TOPMOST_LEAF && entry & Entry::LARGE.bits() != 0);
        (Self::is_present(entry) && !leaf).then(|| Hpa::new(entry & ADDRESS).page())
    }

    fn is_present(entry: u64) -> bool {
        entry & Entry::PRESENT.bits() != 0
    }
}

#[cfg(test)]
mod tests;
