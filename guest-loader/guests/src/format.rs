//! The forms of page tables, and what differs between them.
//!
//! Source: SDM vol. 3, 4.1.1 "Four Paging Modes", 4.3 "32-Bit Paging", 4.4 "PAE Paging",
//! 4.5 "4-Level Paging and 5-Level Paging".

use crate::boot::BootInfo;
use crate::control::Features;
use crate::memory::{read, write};
use crate::paging::{PAGE, bits};
use crate::report::Report;

/// The form of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Two levels of 4-byte entries.
    TwoLevel,
    /// Three levels; the four topmost entries are registers.
    Pae,
    /// Four levels.
    Four,
    /// Five levels.
    Five,
}

impl Format {
    /// All of them, narrowest first.
    pub const ALL: [Self; 4] = [Self::TwoLevel, Self::Pae, Self::Four, Self::Five];

    /// What the command line calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwoLevel => "two-level",
            Self::Pae => "pae",
            Self::Four => "four-level",
            Self::Five => "five-level",
        }
    }

    /// Those that the word `mode=NAME,NAME` of the command line names, all without one. What
    /// this processor does not have is reported as skipped.
    ///
    /// # Panics
    /// Where a name is not known.
    pub fn wanted(boot: &BootInfo, report: &mut Report) -> impl Iterator<Item = Self> + use<> {
        let names = boot.argument("mode");
        let has = |format: &Self, names: &str| names.split(',').any(|name| name == format.name());
        let known = |name| Self::ALL.iter().any(|format| has(format, name));
        if let Some(unknown) = names.and_then(|all| all.split(',').find(|name| !known(name))) {
            panic!("mode={unknown} is not known; take two-level, pae, four-level or five-level");
        }
        let wanted = Self::ALL.map(|format| names.is_none_or(|names| has(&format, names)));
        let shown = Self::ALL.map(Self::is_shown);
        for (index, format) in Self::ALL.iter().enumerate() {
            if wanted[index] && !shown[index] {
                report.skip(format.name(), "CPUID does not show it");
            }
        }
        (0..Self::ALL.len())
            .filter(move |&index| wanted[index] && shown[index])
            .map(|index| Self::ALL[index])
    }

    /// Whether this processor shows that it has it.
    pub fn is_shown(self) -> bool {
        self != Self::Five || Features::read().la57
    }

    /// Whether it is one of 64-bit mode; the others are of 32-bit protected mode.
    pub const fn is_long(self) -> bool {
        matches!(self, Self::Four | Self::Five)
    }

    /// Levels of tables.
    pub const fn levels(self) -> u32 {
        match self {
            Self::TwoLevel => 2,
            Self::Pae => 3,
            Self::Four => 4,
            Self::Five => 5,
        }
    }

    /// Bytes of an entry.
    pub const fn entry_bytes(self) -> u64 {
        if matches!(self, Self::TwoLevel) { 4 } else { 8 }
    }

    /// Entries of a table of `level`.
    pub const fn entries(self, level: u32) -> u64 {
        match (self, level) {
            (Self::Pae, 3) => 4,
            _ => PAGE / self.entry_bytes(),
        }
    }

    /// Bytes that an entry of `level` maps.
    pub const fn span(self, level: u32) -> u64 {
        let bits = if matches!(self, Self::TwoLevel) { 10 } else { 9 };
        PAGE << (bits * (level - 1))
    }

    /// The index of `address` in a table of `level`.
    pub const fn index(self, address: u64, level: u32) -> u64 {
        address / self.span(level) % self.entries(level)
    }

    /// Reads an entry.
    pub fn read(self, at: u64) -> u64 {
        if self == Self::TwoLevel { read::<u32>(at).into() } else { read(at) }
    }

    /// Writes an entry; of two levels the upper half is dropped.
    pub fn write(self, at: u64, value: u64) {
        if self == Self::TwoLevel { write(at, value as u32) } else { write(at, value) }
    }

    /// The bits of an entry of `level` that leads to a table and grants everything.
    pub const fn table(self, level: u32) -> u64 {
        // The registers of PAE have no other bits: those are reserved.
        if matches!((self, level), (Self::Pae, 3)) { bits::P } else { bits::TABLE }
    }
}
