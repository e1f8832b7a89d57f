//! Bytes of a table, put together field by field.

use alloc::vec::Vec;

/// A table being written, little-endian.
#[derive(Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    pub(super) fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(self, value: u8) -> Self {
        self.put(&[value])
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.put(&value.to_le_bytes())
    }

    /// Zeroes up to `offset`.
    pub(super) fn until(mut self, offset: usize) -> Self {
        debug_assert!(self.0.len() <= offset, "{} bytes before {offset}", self.0.len());
        self.0.resize(offset, 0);
        self
    }

    /// Sets the byte at `at` so that the first `length` bytes add up to 0.
    pub(super) fn checksum(mut self, at: usize, length: usize) -> Self {
        self.0[at] = 0;
        self.0[at] = sum(&self.0[..length]).wrapping_neg();
        self
    }
}

/// What bytes add up to.
pub(super) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
