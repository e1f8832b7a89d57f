//! Bits of page-table entries. Intel SDM vol. 3, 4.3 to 4.5, figures 4-4, 4-7 and 4-11.
//! Shadow entries use the 8-byte formats; guest entries of 4 bytes are widened.

use crate::role::{EXEC, Rights, USER, WRITE};

pub(crate) const PRESENT: u64 = 1 << 0;
pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const USER_BIT: u64 = 1 << 2;
pub(crate) const ACCESSED: u64 = 1 << 5;
pub(crate) const DIRTY: u64 = 1 << 6;
pub(crate) const LARGE: u64 = 1 << 7;
pub(crate) const KEY: u64 = 0xf << 59;
pub(crate) const NX: u64 = 1 << 63;
/// Bits 51:12.
pub(crate) const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// What a shadow entry that points at a shadow table holds besides the address: every
/// right, because the leaf alone restricts.
pub(crate) const TABLE_FLAGS: u64 = PRESENT | WRITABLE | USER_BIT | ACCESSED;

/// The rights an entry grants.
#[inline]
pub(crate) fn rights(entry: u64) -> Rights {
    let write_user = (entry >> 1) as u8 & (WRITE | USER);
    let exec = if entry & NX == 0 { EXEC } else { 0 };
    write_user | exec
}

/// The flag bits of a shadow leaf that grants `rights`: A always, D with W, so that
/// hardware never needs to write the entry.
#[inline]
pub(crate) fn leaf_flags(rights: Rights) -> u64 {
    let write = if rights & WRITE != 0 { WRITABLE | DIRTY } else { 0 };
    let user = if rights & USER != 0 { USER_BIT } else { 0 };
    let nx = if rights & EXEC != 0 { 0 } else { NX };
    PRESENT | ACCESSED | write | user | nx
}

/// Whether a shadow entry at `level` maps memory (rather than pointing at a table).
#[inline]
pub(crate) fn is_leaf(entry: u64, level: u8) -> bool {
    level == 1 || entry & LARGE != 0
}
