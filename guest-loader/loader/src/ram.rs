//! The guest's memory as a loader needs it.

use anchorite_addr::Gpa;

/// The kind of a range of the memory map, numbered as in an E820 map.
///
/// Source: ACPI Specification 6.5, table 15.4 "Address Range Types".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Free for the guest.
    Ram,
    /// Not to be touched.
    Reserved,
    /// ACPI tables; free once the guest has read them.
    AcpiReclaimable,
    /// To be kept for ACPI.
    AcpiNvs,
}

impl RangeKind {
    /// The number in an E820, multiboot or PVH map.
    pub const fn e820_type(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
            Self::AcpiReclaimable => 3,
            Self::AcpiNvs => 4,
        }
    }
}

/// A range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub start: Gpa,
    /// Number of bytes.
    pub bytes: u64,
    /// What it is.
    pub kind: RangeKind,
}

/// A write that does not lie wholly in memory; nothing, or some of it, was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideRam {
    /// The first byte that has no memory.
    pub at: Gpa,
}

/// What the loader asks of guest memory. It writes only to ranges of kind
/// [`RangeKind::Ram`]; implementations check all the same.
pub trait GuestRam {
    /// The memory map that the guest will be told: in order of address, without
    /// overlaps. Gaps are not memory.
    fn memory_map(&self) -> &[MemoryRange];

    /// Stores `bytes` at `start`.
    fn write(&mut self, start: Gpa, bytes: &[u8]) -> Result<(), OutsideRam>;

    /// Stores `bytes` zeroes at `start`.
    fn zero(&mut self, start: Gpa, bytes: u64) -> Result<(), OutsideRam>;
}

/// So that the loader is compiled once, in its own crate, where it runs once and is built
/// for size.
impl GuestRam for &mut dyn GuestRam {
    fn memory_map(&self) -> &[MemoryRange] {
        (**self).memory_map()
    }

    fn write(&mut self, start: Gpa, bytes: &[u8]) -> Result<(), OutsideRam> {
        (**self).write(start, bytes)
    }

    fn zero(&mut self, start: Gpa, bytes: u64) -> Result<(), OutsideRam> {
        (**self).zero(start, bytes)
    }
}
