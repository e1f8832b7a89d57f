//! The test device: one page of registers with no RAM behind it, and one read-only page.
//!
//! It exists so that a guest can check how the hypervisor decodes and emulates
//! memory accesses: every register stores what was written or counts, nothing
//! has a side effect outside the page.
//!
//! | offset | width | register |
//! |---|---|---|
//! | 0x00–0x7f | 1, 2, 4, 8 at any alignment | [`SCRATCH`]: bytes that store what was written |
//! | 0x80 | 8 | [`READS`]: reads of scratch; a write sets it |
//! | 0x88 | 8 | [`WRITES`]: writes to scratch; a write sets it |
//! | 0x90 | 8, read-only | [`LAST_ACCESS`]: what the last access to scratch was |
//! | 0xf8 | 8, read-only | [`ID`]: [`ID_VALUE`] |
//!
//! An access of n bytes that lies wholly inside scratch counts once, whatever n is;
//! a read-modify-write instruction counts one read and one write; each iteration of
//! a REP string instruction counts on its own. Anything else in the page reads all
//! ones, ignores writes and counts nothing. Narrower reads of the registers from
//! 0x80 up return the bytes at that place; narrower writes to them are ignored.

/// Guest-physical address of the register page (4 KiB). Neither HPET
/// (0xfed0_0000), TPM (0xfed4_0000) nor an APIC lies there on a PC.
pub const DEVICE: u64 = 0xfed6_0000;
/// Offset of the scratch bytes.
pub const SCRATCH: u64 = 0x00;
/// Number of scratch bytes.
pub const SCRATCH_BYTES: u64 = 0x80;
/// Offset of the count of reads of scratch, 64-bit.
pub const READS: u64 = 0x80;
/// Offset of the count of writes to scratch, 64-bit.
pub const WRITES: u64 = 0x88;
/// Offset of the record of the last access to scratch: see [`last_access`].
pub const LAST_ACCESS: u64 = 0x90;
/// Offset of the identification, [`ID_VALUE`], 64-bit.
pub const ID: u64 = 0xf8;
/// What [`ID`] reads as: "ANCHMMIO" in memory order.
pub const ID_VALUE: u64 = u64::from_le_bytes(*b"ANCHMMIO");

/// Guest-physical address of a 4 KiB page in a read-only memory slot: reads and
/// instruction fetches work without an exit, writes are dropped and counted.
/// Byte i holds [`read_only_byte`]`(i)`. Where no such slot exists the page reads
/// all ones.
pub const READ_ONLY_PAGE: u64 = DEVICE + 0x1000;

/// The value of [`LAST_ACCESS`] after an access of `bytes` bytes at `offset`:
/// bits 0–7 the offset, 8–15 the width in bytes, bit 16 set for a write.
pub const fn last_access(offset: u64, bytes: u64, write: bool) -> u64 {
    (offset & 0xff) | (bytes & 0xff) << 8 | (write as u64) << 16
}

/// The byte at offset `index` of the page at [`READ_ONLY_PAGE`].
pub const fn read_only_byte(index: u16) -> u8 {
    (index ^ (index >> 8)) as u8 ^ 0x5a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_an_access_keeps_its_three_parts_apart() {
        assert_eq!(last_access(0x7f, 1, false), 0x0_01_7f);
        assert_eq!(last_access(0x10, 8, true), 0x1_08_10);
    }

    #[test]
    fn the_read_only_page_differs_from_all_ones_and_zeroes() {
        let page: [u8; 4096] = core::array::from_fn(|index| read_only_byte(index as u16));
        assert!(page.iter().any(|&byte| byte != 0xff && byte != 0));
        assert_ne!(page[..8], [0xff; 8]);
        assert_ne!(page[..256], page[256..512]);
    }
}
