//! Model-specific registers whose existence is not sure.

#![expect(unsafe_code, reason = "calls the assembly that survives a #GP")]

use core::fmt;

unsafe extern "C" {
    fn platform_read_msr(index: u32, value: *mut u64) -> u64;
    fn platform_write_msr(index: u32, value: u64) -> u64;
}

/// The CPU raised #GP on an access to the MSR with this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrFault(pub u32);

impl fmt::Display for MsrFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this CPU refuses an access to MSR {:#x}", self.0)
    }
}

/// Reads the MSR `index`.
pub fn read(index: u32) -> Result<u64, MsrFault> {
    let mut value = 0;
    // SAFETY: reading an MSR changes nothing, and a #GP comes back as a value.
    match unsafe { platform_read_msr(index, &mut value) } {
        0 => Ok(value),
        _ => Err(MsrFault(index)),
    }
}

/// Writes the MSR `index`.
///
/// # Safety
/// The value must be one the hypervisor can go on with.
pub unsafe fn write(index: u32, value: u64) -> Result<(), MsrFault> {
    // SAFETY: passed on from the caller; a #GP comes back as a value.
    match unsafe { platform_write_msr(index, value) } {
        0 => Ok(()),
        _ => Err(MsrFault(index)),
    }
}
