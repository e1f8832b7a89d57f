//! The guest's model-specific registers.
//!
//! [`policy`] says for each index what a read gives and a write does; this file
//! keeps the values that nothing but the guest cares for, and counts the accesses
//! to registers that do not exist.

pub mod policy;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use policy::{Behaviour, Rule, TABLE, Valid};

/// How many distinct unknown MSRs are told apart.
pub const TRACKED_MSRS: usize = 32;

/// How often an unknown MSR was read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsrCount {
    /// The MSR's index.
    pub index: u32,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Values of MSRs that are plain storage, and counts of unknown ones.
#[derive(Clone, Debug, Default)]
pub struct Msrs {
    stored: BTreeMap<u32, u64>,
    unknown: Vec<MsrCount>,
    /// Accesses to unknown MSRs for which the table had no room.
    pub others: u64,
}

impl Msrs {
    /// The rule for `index`, or `None` for an MSR that does not exist.
    pub fn rule(index: u32) -> Option<&'static Rule> {
        let after = TABLE.partition_point(|rule| rule.first <= index);
        let rule = TABLE.get(after.checked_sub(1)?)?;
        (index <= rule.last).then_some(rule)
    }

    /// The stored value of `index`, or `initial` before the first write.
    pub fn load(&self, index: u32, initial: u64) -> u64 {
        self.stored.get(&index).copied().unwrap_or(initial)
    }

    /// Stores a checked value. The table bounds how many there can be.
    pub fn store(&mut self, index: u32, value: u64) {
        self.stored.insert(index, value);
    }

    /// Counts an access to an MSR that does not exist.
    #[cold]
    pub fn count_unknown(&mut self, index: u32, write: bool) {
        let known = self.unknown.iter().position(|count| count.index == index);
        let position = known.unwrap_or(self.unknown.len());
        if known.is_none() && position < TRACKED_MSRS {
            self.unknown.push(MsrCount { index, ..MsrCount::default() });
        }
        match self.unknown.get_mut(position) {
            Some(count) if write => count.writes += 1,
            Some(count) => count.reads += 1,
            None => self.others += 1,
        }
    }

    /// The unknown MSRs told apart, in the order of their first access.
    pub fn unknown(&self) -> &[MsrCount] {
        &self.unknown
    }

    /// Whether the guest may access `index` without an exit.
    pub fn passes(rule: &Rule) -> bool {
        matches!(rule.behaviour, Behaviour::Vcpu { pass: true, .. })
    }
}

impl Valid {
    /// Whether the register says of which type memory is (an MTRR).
    pub const fn is_memory_type(self) -> bool {
        matches!(self, Self::RangeTypes | Self::RangeBase | Self::RangeMask | Self::RangeDefault)
    }

    /// Whether a register of this kind takes `value`, where canonical addresses have
    /// `linear_bits` bits.
    pub fn accepts(self, value: u64, linear_bits: u32) -> bool {
        match self {
            Self::Any => true,
            Self::Canonical => value.wrapping_add(1 << (linear_bits - 1)) >> linear_bits == 0,
            Self::Low(bits) => value & !bits == 0,
            Self::MemoryTypes => {
                value.to_le_bytes().iter().all(|memory_type| matches!(memory_type, 0 | 1 | 4..=7))
            }
            Self::RangeTypes => {
                value.to_le_bytes().iter().all(|memory_type| matches!(memory_type, 0 | 1 | 4..=6))
            }
            Self::RangeBase => matches!(value & 0xff, 0 | 1 | 4..=6) && value & 0xf00 == 0,
            Self::RangeMask => value % 0x800 == 0,
            Self::RangeDefault => matches!(value & 0xff, 0 | 1 | 4..=6) && value & !0xcff == 0,
        }
    }
}

#[cfg(test)]
mod tests;
