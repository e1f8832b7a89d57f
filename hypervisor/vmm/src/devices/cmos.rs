//! CMOS memory and real-time clock (ports 0x70, 0x71) with a flat battery.
//!
//! Everything reads as zero until it is written, the clock's registers always:
//! register D then says that time and memory are not valid, and register A that no
//! update is in progress, so nobody waits. (All ones, an absent chip's answer,
//! would read as an update that never ends: a Linux spends 80,000 reads on it.)

/// The chip's 128 bytes and the index that selects one.
#[derive(Clone, Debug)]
pub struct Cmos {
    index: u8,
    memory: [u8; 128],
}

/// First byte that is plain memory; below are the clock and its status registers.
const FIRST_MEMORY_BYTE: u8 = 0x0e;

impl Default for Cmos {
    fn default() -> Self {
        Self { index: 0, memory: [0; 128] }
    }
}

impl Cmos {
    /// Selects a byte. Bit 7, which masks NMIs on a PC, is ignored: the only NMIs of
    /// this machine are those that the guest asks for.
    pub const fn select(&mut self, value: u8) {
        self.index = value & 0x7f;
    }

    /// Reads the selected byte.
    pub const fn read(&self) -> u8 {
        self.memory[self.index as usize & 0x7f]
    }

    /// Writes the selected byte; the clock's registers keep reading zero.
    pub const fn write(&mut self, value: u8) {
        if self.index >= FIRST_MEMORY_BYTE {
            self.memory[self.index as usize & 0x7f] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_reads_zero_whatever_is_written_and_memory_keeps_its_bytes() {
        let mut cmos = Cmos::default();
        for index in 0..=u8::MAX {
            cmos.select(index);
            cmos.write(index | 1);
            let expected = if index & 0x7f < FIRST_MEMORY_BYTE { 0 } else { index | 1 };
            assert_eq!(cmos.read(), expected, "{index:#x}");
        }
    }
}
