//! Counts of accesses that nothing answers.

use alloc::vec::Vec;

/// How many distinct ports a table tells apart.
pub const TRACKED_PORTS: usize = 32;

/// How often an unanswered port was read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCount {
    /// The port.
    pub port: u16,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Counts of the first [`TRACKED_PORTS`] unanswered ports, and of all others together.
#[derive(Clone, Debug, Default)]
pub struct UnknownPorts {
    table: Vec<PortCount>,
    /// Accesses to ports for which the table had no room.
    pub others: u64,
}

impl UnknownPorts {
    /// Counts a read of `port` and gives what a floating bus reads as: all ones in
    /// the low `size` bytes.
    pub fn read(&mut self, port: u16, size: u8) -> u32 {
        match self.slot(port) {
            Some(count) => count.reads += 1,
            None => self.others += 1,
        }
        all_ones(size)
    }

    /// Counts a write to `port`.
    pub fn write(&mut self, port: u16) {
        match self.slot(port) {
            Some(count) => count.writes += 1,
            None => self.others += 1,
        }
    }

    /// The ports told apart, in the order of their first access.
    pub fn counts(&self) -> &[PortCount] {
        &self.table
    }

    fn slot(&mut self, port: u16) -> Option<&mut PortCount> {
        let known = self.table.iter().position(|count| count.port == port);
        if known.is_none() && self.table.len() < TRACKED_PORTS {
            self.table.push(PortCount { port, ..PortCount::default() });
            return self.table.last_mut();
        }
        self.table.get_mut(known?)
    }
}

/// All ones in the low `size` bytes: 1, 2 or 4.
pub(super) const fn all_ones(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_give_all_ones_of_the_size_and_are_counted_by_port() {
        let mut ports = UnknownPorts::default();
        assert_eq!(ports.read(0xcf8, 1), 0xff);
        assert_eq!(ports.read(0xcf8, 2), 0xffff);
        assert_eq!(ports.read(0xcfc, 4), 0xffff_ffff);
        ports.write(0xcf8);
        let expected = [
            PortCount { port: 0xcf8, reads: 2, writes: 1 },
            PortCount { port: 0xcfc, reads: 1, writes: 0 },
        ];
        assert_eq!(ports.counts(), expected);
    }

    #[test]
    fn a_guest_that_scans_all_ports_fills_the_table_and_no_more() {
        let mut ports = UnknownPorts::default();
        for port in 0..=u16::MAX {
            ports.read(port, 1);
            ports.write(port);
        }
        assert_eq!(ports.counts().len(), TRACKED_PORTS);
        assert_eq!(ports.others, 2 * (65_536 - TRACKED_PORTS as u64));
    }
}
