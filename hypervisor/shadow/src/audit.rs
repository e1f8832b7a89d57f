//! The invariant checker.

/// A broken invariant, as `audit` found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the crate's docs: 3 is I3.
    pub invariant: u8,
    /// What is wrong.
    pub what: &'static str,
    /// The shadow page concerned, by number; 0 where none is.
    pub page: u32,
    /// The entry concerned, or another number that helps.
    pub detail: u64,
}
