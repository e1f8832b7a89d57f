//! Why the hardware refused to enter the guest.

use core::fmt;

/// A refused entry, with the checks that a software review found violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryFailure {
    /// The raw code: VM-instruction error or basic exit reason on VMX, exit code on SVM.
    pub code: u64,
    /// The vendor's words for it.
    pub reason: &'static str,
    /// The violated checks found, in order; `None` beyond the last.
    pub fields: [Option<FieldViolation>; Self::MAX_FIELDS],
}

impl EntryFailure {
    /// How many violations one report holds.
    pub const MAX_FIELDS: usize = 8;
}

/// A field whose value violates a check on entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's name in the manual.
    pub field: &'static str,
    /// Its value.
    pub value: u64,
    /// The rule it breaks.
    pub rule: &'static str,
}

impl fmt::Display for EntryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the CPU refused to enter the guest: {} ({:#x})", self.reason, self.code)?;
        for violation in self.fields.iter().flatten() {
            write!(f, "\n  {} = {:#x}: {}", violation.field, violation.value, violation.rule)?;
        }
        Ok(())
    }
}
