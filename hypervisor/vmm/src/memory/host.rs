//! The host memory that backs guest RAM.

use anchorite_addr::Hpa;
use core::fmt;

/// Access to the host memory set aside for guests, and to nothing else.
///
/// Implemented by `platform` on its direct map. Every method checks its bounds, so
/// that no mistake above can reach the hypervisor's own memory. Methods take `&self`
/// because guests write the same bytes at any time; a naturally aligned read or
/// write of 1, 2, 4 or 8 bytes is one access, so that it cannot be torn.
pub trait HostMemory {
    /// An aligned 8-byte word of this memory that passed the check. Memory set aside
    /// for guests stays so, hence it passes for good.
    type Word: Copy + fmt::Debug;

    /// Whether all of `bytes` bytes from `first` may back guest memory.
    fn contains(&self, first: Hpa, bytes: u64) -> bool;

    /// Fills `into` from the bytes at `at`.
    fn read(&self, at: Hpa, into: &mut [u8]) -> Result<(), OutsideHostMemory>;

    /// Stores `from` at `at`.
    fn write(&self, at: Hpa, from: &[u8]) -> Result<(), OutsideHostMemory>;

    /// Zeroes `bytes` bytes at `at`.
    fn zero(&self, at: Hpa, bytes: u64) -> Result<(), OutsideHostMemory>;

    /// The 4-byte little-endian value at `at`, a multiple of 4.
    fn load_u32(&self, at: Hpa) -> Result<u32, OutsideHostMemory>;

    /// The 8-byte little-endian value at `at`, a multiple of 8.
    fn load_u64(&self, at: Hpa) -> Result<u64, OutsideHostMemory>;

    /// The aligned 8-byte word at `at`, checked once, for [`read_word`](Self::read_word).
    fn word(&self, at: Hpa) -> Result<Self::Word, OutsideHostMemory>;

    /// The value of a word that was checked before: one load.
    fn read_word(&self, word: Self::Word) -> u64;

    /// Stores `new` at `at` (a multiple of 4) if it holds `old`, atomically; tells
    /// whether it did.
    fn compare_exchange_u32(&self, at: Hpa, old: u32, new: u32) -> Result<bool, OutsideHostMemory>;

    /// Stores `new` at `at` (a multiple of 8) if it holds `old`, atomically; tells
    /// whether it did.
    fn compare_exchange_u64(&self, at: Hpa, old: u64, new: u64) -> Result<bool, OutsideHostMemory>;
}

/// An access outside the memory set aside for guests, or not aligned as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideHostMemory {
    /// The first byte asked for.
    pub at: Hpa,
    /// How many.
    pub bytes: u64,
}

impl fmt::Display for OutsideHostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {} are not memory set aside for guests", self.bytes, self.at)
    }
}
