//! Files, read-only.

#![expect(unsafe_code, reason = "hands paths and buffers to the kernel")]

use alloc::vec::Vec;
use core::ffi::CStr;
use hermit::syscalls::{sys_close, sys_lseek, sys_open, sys_read, sys_unlink};

/// An open file; closed when it goes.
#[derive(Debug)]
pub struct File(i32);

impl File {
    /// Opens with Hermit's `O_…` flags, 0 for reading; else its error number.
    pub fn open(path: &CStr, flags: i32) -> Result<Self, i32> {
        // SAFETY: the path is a text with a zero byte behind it, which the kernel only reads.
        let descriptor = unsafe { sys_open(path.as_ptr(), flags, 0) };
        if descriptor < 0 { Err(-descriptor) } else { Ok(Self(descriptor)) }
    }

    /// Reads once; gives how many bytes came.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, i32> {
        // SAFETY: the slice is valid for writes of its length.
        let read = unsafe { sys_read(self.0, into.as_mut_ptr(), into.len()) };
        usize::try_from(read).map_err(|_| -read as i32)
    }

    /// Reads all that is left.
    pub fn read_to_end(&self) -> Result<Vec<u8>, i32> {
        let mut all = Vec::new();
        let mut part = [0; 1000];
        loop {
            match self.read(&mut part)? {
                0 => return Ok(all),
                bytes => all.extend_from_slice(&part[..bytes]),
            }
        }
    }

    /// Goes to `offset` from the start; whether that went well. (Where the file stands then,
    /// this kernel does not tell.)
    pub fn seek(&self, offset: isize) -> bool {
        const SEEK_SET: i32 = 0;
        sys_lseek(self.0, offset, SEEK_SET) == 0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        sys_close(self.0);
    }
}

/// Removes a file; whether it is gone.
pub fn unlink(path: &CStr) -> bool {
    // SAFETY: as in `File::open`.
    unsafe { sys_unlink(path.as_ptr()) == 0 }
}
