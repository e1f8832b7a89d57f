//! The entry format of EPT tables.
//!
//! Source: SDM 29.3.2 "EPT Translation Mechanism", tables 29-1 to 29-6.

use anchorite_addr::{Hpa, HpaPage, PageSize};
use anchorite_vcpu::{NestedFormat, NestedFrame, NestedRights};

/// EPT entries.
#[derive(Clone, Copy, Debug)]
pub struct Ept;

/// Bit 0: loads.
const READ: u64 = 1 << 0;
/// Bit 1: stores.
const WRITE: u64 = 1 << 1;
/// Bit 2: instruction fetches.
const EXECUTE: u64 = 1 << 2;
/// Bits 5:3 of a leaf: memory type write-back.
const WRITE_BACK: u64 = 6 << 3;
/// Bit 7 of an entry at level 2 or 3: it maps a page.
const LEAF: u64 = 1 << 7;
/// Bits 51:12: the address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// EPTP bits 2:0: the tables themselves are write-back memory.
const EPTP_WRITE_BACK: u64 = 6;
/// EPTP bits 5:3: levels of a walk, minus one.
const EPTP_WALK_4: u64 = 3 << 3;

/// The EPT pointer for a four-level table.
///
/// Source: SDM 25.6.11 "Extended-Page-Table Pointer (EPTP)".
pub const fn pointer(table: HpaPage) -> u64 {
    table.as_u64() | EPTP_WALK_4 | EPTP_WRITE_BACK
}

impl NestedFormat for Ept {
    fn leaf(frame: NestedFrame) -> u64 {
        let large = match frame.size {
            PageSize::Size4K => 0,
            PageSize::Size2M | PageSize::Size4M | PageSize::Size1G => LEAF,
        };
        frame.page.as_u64() & ADDRESS | rights(frame.rights) | WRITE_BACK | large
    }

    fn table(table: HpaPage) -> u64 {
        table.as_u64() & ADDRESS | READ | WRITE | EXECUTE
    }

    fn child(entry: u64, level: u8) -> Option<HpaPage> {
        let is_leaf = level <= 1 || entry & LEAF != 0;
        (Self::is_present(entry) && !is_leaf).then(|| Hpa::new(entry & ADDRESS).page())
    }

    fn is_present(entry: u64) -> bool {
        entry & (READ | WRITE | EXECUTE) != 0
    }
}

/// The low three bits. A store without loads would be a misconfiguration, so
/// writable implies readable.
///
/// Source: SDM 29.3.3.1 "EPT Misconfigurations".
fn rights(rights: NestedRights) -> u64 {
    let mut bits = 0;
    if rights.contains(NestedRights::READ) {
        bits |= READ;
    }
    if rights.contains(NestedRights::WRITE) {
        bits |= READ | WRITE;
    }
    if rights.contains(NestedRights::EXECUTE) {
        bits |= EXECUTE;
    }
    bits
}

#[cfg(test)]
mod tests;
