//! The test device of [`anchorite_abi::mmio`]: a page of registers without RAM.

use anchorite_abi::mmio::{
    ID, ID_VALUE, LAST_ACCESS, READS, SCRATCH, SCRATCH_BYTES, WRITES, last_access,
};

/// The registers of the page.
#[derive(Clone, Debug)]
pub struct MmioTest {
    scratch: [u8; SCRATCH_BYTES as usize],
    reads: u64,
    writes: u64,
    last_access: u64,
}

impl Default for MmioTest {
    fn default() -> Self {
        Self { scratch: [0; SCRATCH_BYTES as usize], reads: 0, writes: 0, last_access: 0 }
    }
}

impl MmioTest {
    /// Reads `size` bytes (1, 2, 4 or 8) at `offset` in the page; all ones where no
    /// register lies.
    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        if let Some(bytes) = self.scratch_bytes(offset, size) {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            self.reads = self.reads.wrapping_add(1);
            self.last_access = last_access(offset, size.into(), false);
            return u64::from_le_bytes(value);
        }

        self.register_bytes(offset, size).unwrap_or(mask(size))
    }

    /// Writes the low `size` bytes (1, 2, 4 or 8) of `value` at `offset` in the page;
    /// ignored where no writable register lies.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        if let Some(bytes) = self.scratch_bytes(offset, size) {
            let length = bytes.len();
            bytes.copy_from_slice(&value.to_le_bytes()[..length]);
            self.writes = self.writes.wrapping_add(1);
            self.last_access = last_access(offset, size.into(), true);
            return;
        }

        match (offset, size) {
            (READS, 8) => self.reads = value,
            (WRITES, 8) => self.writes = value,
            _ => {}
        }
    }

    fn scratch_bytes(&mut self, offset: u64, size: u8) -> Option<&mut [u8]> {
        let start = usize::try_from(offset.checked_sub(SCRATCH)?).ok()?;
        let size = usize::from(size);
        if size > 8 {
            return None;
        }
        self.scratch.get_mut(start..start.checked_add(size)?)
    }

    /// The bytes of a counter or of the identification, shifted down to bit 0.
    fn register_bytes(&self, offset: u64, size: u8) -> Option<u64> {
        let within = offset % 8;
        if within + u64::from(size) > 8 {
            return None;
        }
        let register = match offset - within {
            READS => self.reads,
            WRITES => self.writes,
            LAST_ACCESS => self.last_access,
            ID => ID_VALUE,
            _ => return None,
        };
        Some(register >> (within * 8) & mask(size))
    }
}

const fn mask(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (size as u32 * 8)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_stores_every_width_at_any_alignment_and_counts() {
        let mut device = MmioTest::default();
        for size in [1, 2, 4, 8] {
            device.write(3, size, 0x8877_6655_4433_2211);
            assert_eq!(device.read(3, size), 0x8877_6655_4433_2211 & mask(size));
            assert_eq!(device.read(LAST_ACCESS, 8), last_access(3, size.into(), false));
        }
        assert_eq!((device.read(READS, 8), device.read(WRITES, 8)), (4, 4));
    }

    #[test]
    fn counters_can_be_set_whole_but_not_in_part() {
        let mut device = MmioTest::default();
        device.write(READS, 8, 0x1122_3344_5566_7788);
        device.write(READS, 4, 0);
        assert_eq!(device.read(READS + 2, 2), 0x5566);
        device.write(ID, 8, 0);
        assert_eq!(device.read(ID, 8), ID_VALUE);
    }

    #[test]
    fn what_lies_across_or_beyond_the_registers_reads_all_ones_and_counts_nothing() {
        let mut device = MmioTest::default();
        for (offset, size) in [(0x7c, 8), (0x7f, 2), (0x84, 8), (0x98, 4), (0xff8, 8)] {
            device.write(offset, size, 0);
            assert_eq!(device.read(offset, size), mask(size), "{offset:#x}");
        }
        assert_eq!((device.reads, device.writes, device.last_access), (0, 0, 0));
    }

    #[test]
    fn no_offset_and_size_panic() {
        let mut device = MmioTest::default();
        for offset in (0..0x1100).chain(u64::MAX - 0x100..=u64::MAX) {
            for size in [0, 1, 2, 4, 8, 9, 255] {
                device.write(offset, size, 1);
                device.read(offset, size);
            }
        }
    }
}
