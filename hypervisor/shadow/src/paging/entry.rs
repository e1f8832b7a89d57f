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

/// In a shadow entry that points at a table: the table shadows one of the guest's (it is not
/// direct). Bits 11:9 are ignored by hardware.
pub(crate) const INDIRECT: u64 = 1 << 9;

// `Rights` are laid out so that they are an entry's bits, moved: the functions below
// compile to shifts and masks.
const _: () = assert!(WRITE == 1 && USER == 2 && EXEC == 4);

/// The rights an entry grants.
#[inline]
pub(crate) fn rights(entry: u64) -> Rights {
    let write_user = (entry >> 1) as u8 & (WRITE | USER);
    let exec = (!entry >> 61) as u8 & EXEC;
    write_user | exec
}

/// The flag bits of a shadow leaf that grants `rights`: A always, D with W, so that
/// hardware never needs to write the entry.
#[inline]
pub(crate) fn leaf_flags(rights: Rights) -> u64 {
    let rights = u64::from(rights);
    let write_user = (rights & 3) << 1;
    let dirty = (rights & 1) << 6;
    let nx = (!rights & 4) << 61;
    PRESENT | ACCESSED | write_user | dirty | nx
}

/// The flags of a shadow leaf for what a guest's `entry` and [`leaf_flags`] both grant: the
/// same as of the rights of both, whose bits lie in the same places in the two entries.
#[inline]
pub(crate) fn both_grant(entry: u64, flags: u64) -> u64 {
    let write_user = entry & flags & (WRITABLE | USER_BIT);
    let dirty = (write_user & WRITABLE) << 5;
    PRESENT | ACCESSED | write_user | dirty | (entry | flags) & NX
}

/// Whether a shadow entry at `level` maps memory (rather than pointing at a table).
#[inline]
pub(crate) fn is_leaf(entry: u64, level: u8) -> bool {
    level == 1 || entry & LARGE != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_rights_are_each_others_inverse() {
        for granted in 0..8 {
            let flags = leaf_flags(granted);
            assert_eq!(rights(flags), granted);
            assert_eq!(flags & WRITABLE != 0, granted & WRITE != 0);
            assert_eq!(flags & DIRTY != 0, granted & WRITE != 0);
            assert_eq!(flags & USER_BIT != 0, granted & USER != 0);
            assert_eq!(flags & NX != 0, granted & EXEC == 0);
            assert_eq!(flags & (PRESENT | ACCESSED), PRESENT | ACCESSED);
        }
    }

    #[test]
    fn what_both_grant_is_what_the_rights_of_both_are() {
        let bits = [PRESENT, WRITABLE, USER_BIT, ACCESSED, DIRTY, LARGE, NX, 1 << 59, 0xfff << 12];
        for chosen in 0..1_u32 << bits.len() {
            let is_chosen = |(n, _): &(usize, &u64)| chosen >> n & 1 != 0;
            let entry =
                bits.iter().enumerate().filter(is_chosen).fold(0, |all, (_, bit)| all | bit);
            for allowed in 0..8 {
                let wanted = leaf_flags(rights(entry) & allowed);
                assert_eq!(both_grant(entry, leaf_flags(allowed)), wanted, "{entry:#x} {allowed}");
            }
        }
    }
}
