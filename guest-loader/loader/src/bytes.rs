//! Reading little-endian fields of a file, and building structures for a guest.

use alloc::vec::Vec;

use crate::Problem;

/// A structure inside a file, all of whose bytes are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Structure<'a>(&'a [u8]);

impl<'a> Structure<'a> {
    /// The structure `what`: `bytes` bytes at `offset` of `file`.
    pub(crate) fn new(
        file: &'a [u8],
        what: &'static str,
        offset: u64,
        bytes: u64,
    ) -> Result<Self, Problem> {
        let file_bytes = file.len() as u64;
        slice(file, offset, bytes).map(Self).ok_or(Problem::Truncated {
            what,
            offset,
            bytes,
            file_bytes,
        })
    }

    /// The bytes.
    pub(crate) const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The byte at `offset`; 0 beyond the structure.
    pub(crate) fn u8(self, offset: usize) -> u8 {
        self.0.get(offset).copied().unwrap_or(0)
    }

    /// The 16-bit field at `offset`; missing bytes read as 0.
    pub(crate) fn u16(self, offset: usize) -> u16 {
        u16::from_le_bytes([self.u8(offset), self.u8(offset + 1)])
    }

    /// The 32-bit field at `offset`; missing bytes read as 0.
    pub(crate) fn u32(self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    /// The 64-bit field at `offset`; missing bytes read as 0.
    pub(crate) fn u64(self, offset: usize) -> u64 {
        u64::from(self.u32(offset)) | u64::from(self.u32(offset + 4)) << 32
    }
}

/// `bytes` bytes at `offset`, if they are all there.
pub(crate) fn slice(file: &[u8], offset: u64, bytes: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(bytes).ok()?)?;
    file.get(start..end)
}

/// Bytes of a structure in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Builder(Vec<u8>);

impl Builder {
    /// A structure of `bytes` zeroes.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        Self(alloc::vec![0; bytes])
    }

    /// Appends a 32-bit field.
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends a 64-bit field.
    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends a 32-bit field, the most significant byte first.
    pub(crate) fn be32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a text and a zero byte.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    /// Appends zeroes up to a multiple of `bytes`.
    pub(crate) fn align(&mut self, bytes: usize) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(bytes), 0);
        self
    }

    /// Overwrites the bytes at `offset`, which lie inside the structure.
    pub(crate) fn put(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// The bytes so far.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
