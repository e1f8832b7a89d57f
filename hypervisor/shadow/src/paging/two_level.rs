//! 32-bit paging: two levels of 1024 4-byte entries.
//! Intel SDM vol. 3, 4.3 "32-Bit Paging".

use anchorite_addr::Hpa;

use super::GuestFormat;
use crate::memory::GuestMemory;

/// 32-bit paging.
pub(crate) enum TwoLevel {}

impl GuestFormat for TwoLevel {
    const LEVELS: u8 = 2;
    const ENTRY_SHIFT: u32 = 2;
    const INDEX_BITS: u32 = 10;
    const ADDRESS: u64 = 0xffff_f000;
    const PDPTES: bool = false;

    #[inline]
    fn read<M: GuestMemory>(memory: &M, at: Hpa) -> u64 {
        u64::from(memory.read_u32(at))
    }

    #[inline]
    fn each_of_eight<M: GuestMemory>(memory: &M, at: Hpa, mut look: impl FnMut(u64, u64)) {
        memory.each_of_eight_u32(at, |number, entry| look(number, entry.into()));
    }

    #[inline]
    fn compare_exchange<M: GuestMemory>(memory: &mut M, at: Hpa, old: u64, new: u64) -> bool {
        memory.compare_exchange_u32(at, old as u32, new as u32)
    }

    /// PSE-36: bits 20:13 of a 4 MiB page's entry are address bits 39:32.
    #[inline]
    fn large_frame(entry: u64, _level: u8) -> u64 {
        (entry & 0xffc0_0000 | (entry & 0x001f_e000) << 19) >> 12
    }
}
