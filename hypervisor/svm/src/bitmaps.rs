//! Which ports and MSRs exit.
//!
//! Source: APM vol. 2, 15.10.1 "I/O Permissions Map"; 15.11 "MSR Intercepts".

use bitvec::field::BitField;
use bitvec::order::Lsb0;
use bitvec::slice::BitSlice;

/// Pages of the I/O permissions map: one bit a port, and room for an access that
/// starts at port 0xffff.
pub const PORT_PAGES: usize = 3;
/// Pages of the MSR permissions map: two bits an MSR.
pub const MSR_PAGES: usize = 2;

/// MSRs in each range of the map.
const MSRS: u32 = 0x2000;
/// First MSR of each range, in the map's order.
const RANGES: [u32; 3] = [0, 0xc000_0000, 0xc001_0000];

/// Bytes of the I/O permissions map that the processor looks at, in whole words.
const PORT_BYTES: usize = (1 << 16) / 8 + 8;
/// Bytes of the MSR permissions map that it looks at.
const MSR_BYTES: usize = RANGES.len() * MSRS as usize / 4;

/// Makes all accesses to ports and MSRs exit, whatever the maps hold.
pub fn intercept_all(ports: &mut [u8], msrs: &mut [u8]) {
    for (map, bytes) in [(ports, PORT_BYTES), (msrs, MSR_BYTES)] {
        let used = bytes.min(map.len());
        map[..used].fill(0xff);
    }
}

/// Makes accesses to `port` exit or not.
///
/// An access exits where the bit of any of its bytes is set.
pub fn intercept_port(map: &mut [u8], port: u16, exit: bool) {
    let bits = BitSlice::<u8, Lsb0>::from_slice_mut(map);
    if let Some(mut entry) = bits.get_mut(usize::from(port)) {
        *entry = exit;
    }
}

/// Makes RDMSR (`read`) and WRMSR (`write`) of `index` exit or not.
///
/// An MSR outside the three ranges of the map always exits, whatever is asked.
pub fn intercept_msr(map: &mut [u8], index: u32, read: bool, write: bool) {
    let Some(first) = msr_bit(index) else { return };
    let bits = BitSlice::<u8, Lsb0>::from_slice_mut(map);
    if let Some(entry) = bits.get_mut(first as usize..first as usize + 2) {
        entry.store(u8::from(read) | u8::from(write) << 1);
    }
}

fn msr_bit(index: u32) -> Option<u32> {
    (0..).zip(RANGES).find_map(|(range, first)| {
        let offset = index.checked_sub(first).filter(|&offset| offset < MSRS)?;
        Some(2 * (range * MSRS + offset))
    })
}

#[cfg(test)]
mod tests;
