//! Guest memory: an anonymous mapping, every page of it there from the start.
#![expect(unsafe_code, reason = "maps memory, and hands it to a guest")]

use std::io;
use std::ptr::{self, NonNull};

use anchorite_addr::Gpa;
use anchorite_loader::{
    self as loader, Entry, Guest, GuestRam, Kind, MemoryRange, OutsideRam, RangeKind,
};

use crate::Failure;

/// RAM that a PC's memory map shows below 1 MiB, and where it goes on.
const LOW_RAM: u64 = 0x9_fc00;
const HIGH_RAM: u64 = 1 << 20;

/// The guest's RAM, from guest-physical address 0 on. Never unmapped: a machine that uses it
/// lives as long as the process.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    map: [MemoryRange; 3],
}

impl Memory {
    /// `bytes` of zeroed memory.
    pub(crate) fn new(bytes: u64) -> Result<Self, Failure> {
        let length = usize::try_from(bytes)?;
        Ok(Self { start: mapping(length)?, bytes: length, map: map(bytes) })
    }

    /// The mapping's first address and its size.
    pub(crate) fn mapping(&self) -> (u64, u64) {
        (self.start.as_ptr() as u64, self.bytes as u64)
    }

    /// Places a guest file.
    pub(crate) fn load(
        &mut self,
        name: &str,
        bytes: &[u8],
        command_line: &str,
    ) -> Result<Entry, Failure> {
        let clock = loader::Clock::default();
        let guest = Guest { kind: Kind::Auto, name, bytes, command_line, modules: &[], clock };
        let loaded = loader::load(&guest, self).map_err(|error| error.to_string())?;
        Ok(loaded.entry)
    }

    fn range(&self, start: Gpa, bytes: usize) -> Result<*mut u8, OutsideRam> {
        let first = usize::try_from(start.as_u64()).unwrap_or(usize::MAX);
        match first.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(self.start.as_ptr().wrapping_add(first)),
            _ => Err(OutsideRam { at: start }),
        }
    }
}

/// Anonymous memory that is backed at once, so that no fault of the host's falls into a
/// measurement.
fn mapping(length: usize) -> Result<NonNull<u8>, Failure> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    // SAFETY: a new mapping without a wanted address touches nothing that exists.
    let start = unsafe {
        libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    if start == libc::MAP_FAILED {
        return Err(
            format!("{length} bytes of guest memory: {}", io::Error::last_os_error()).into()
        );
    }
    NonNull::new(start.cast()).ok_or_else(|| "guest memory at address 0".into())
}

fn map(bytes: u64) -> [MemoryRange; 3] {
    let range = |start: u64, end: u64, kind| MemoryRange {
        start: Gpa::new(start),
        bytes: end.saturating_sub(start),
        kind,
    };
    [
        range(0, LOW_RAM, RangeKind::Ram),
        range(LOW_RAM, HIGH_RAM, RangeKind::Reserved),
        range(HIGH_RAM, bytes, RangeKind::Ram),
    ]
}

impl GuestRam for Memory {
    fn memory_map(&self) -> &[MemoryRange] {
        &self.map
    }

    fn write(&mut self, start: Gpa, bytes: &[u8]) -> Result<(), OutsideRam> {
        let to = self.range(start, bytes.len())?;
        // SAFETY: `range` checked that the bytes lie in the mapping, which nothing else
        // refers to: no guest runs while one is being loaded.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn zero(&mut self, start: Gpa, bytes: u64) -> Result<(), OutsideRam> {
        let length = usize::try_from(bytes).map_err(|_| OutsideRam { at: start })?;
        let to = self.range(start, length)?;
        // SAFETY: as for `write`.
        unsafe { ptr::write_bytes(to, 0, length) };
        Ok(())
    }
}
