//! Which ports and MSRs exit.
//!
//! Source: SDM 25.6.4 "I/O-Bitmap Addresses", 25.6.9 "MSR-Bitmap Address".

use bitvec::order::Lsb0;
use bitvec::slice::BitSlice;

/// Bytes of the two I/O bitmaps, one bit for each port.
pub const PORT_BYTES: usize = 0x1_0000 / 8;

/// MSRs in each half of the bitmap.
const MSRS: u32 = 0x2000;
/// First MSR of the upper half.
const HIGH_BASE: u32 = 0xc000_0000;
/// First bit for reads of the upper half; reads of the lower half start at 0.
const READ_HIGH: u32 = MSRS;
/// Distance from a read's bit to that of the write.
const WRITES: u32 = 2 * MSRS;

/// Makes accesses to `port` exit or not: bitmap A holds ports below 0x8000, B follows.
pub fn intercept_port(bitmaps: &mut [u8], port: u16, exit: bool) {
    set(bitmaps, u32::from(port), exit);
}

/// Makes RDMSR (`read`) and WRMSR (`write`) of `index` exit or not.
///
/// An MSR outside the two ranges of the bitmap always exits, whatever is asked.
pub fn intercept_msr(bitmap: &mut [u8], index: u32, read: bool, write: bool) {
    let Some(bit) = msr_bit(index) else { return };
    set(bitmap, bit, read);
    set(bitmap, bit + WRITES, write);
}

fn msr_bit(index: u32) -> Option<u32> {
    if index < MSRS {
        return Some(index);
    }
    index.checked_sub(HIGH_BASE).filter(|&low| low < MSRS).map(|low| READ_HIGH + low)
}

fn set(bytes: &mut [u8], bit: u32, value: bool) {
    let bits = BitSlice::<u8, Lsb0>::from_slice_mut(bytes);
    if let Some(mut entry) = bits.get_mut(bit as usize) {
        *entry = value;
    }
}

#[cfg(test)]
mod tests;
