//! Counting checks and saying how they went.

use core::fmt::{Debug, Display, LowerHex};

use crate::{Status, println};

/// Collects the results of a guest's checks; its last line is the guest's verdict.
#[derive(Debug)]
pub struct Report {
    guest: &'static str,
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Report {
    /// Failures that are printed; the rest is only counted.
    const PRINTED: u32 = 40;

    /// A report of the guest `guest`, which names itself on the console.
    pub fn new(guest: &'static str) -> Self {
        Self { guest, passed: 0, failed: 0, skipped: 0 }
    }

    /// Counts a check; prints it where it failed.
    pub fn check(&mut self, what: impl Display, holds: bool) {
        if holds {
            self.passed += 1;
        } else {
            self.failed += 1;
            match self.failed {
                ..=Self::PRINTED => println!("{}: FAILED: {what}", self.guest),
                n if n == Self::PRINTED + 1 => println!("{}: more failures follow", self.guest),
                _ => {}
            }
        }
    }

    /// Counts a comparison; prints both sides where they differ.
    pub fn equal<T: Copy + PartialEq + LowerHex>(&mut self, what: impl Display, got: T, want: T) {
        self.check(format_args!("{what}: got {got:#x}, want {want:#x}"), got == want);
    }

    /// Counts a comparison of values that print as `Debug`.
    pub fn same<T: Copy + PartialEq + Debug>(&mut self, what: impl Display, got: T, want: T) {
        self.check(format_args!("{what}: got {got:?}, want {want:?}"), got == want);
    }

    /// Counts checks that cannot be made here, and says why.
    pub fn skip(&mut self, what: impl Display, why: impl Display) {
        self.skipped += 1;
        println!("{}: skipped: {what}: {why}", self.guest);
    }

    /// Checks that failed so far.
    pub fn failures(&self) -> u32 {
        self.failed
    }

    /// Prints the last line and gives the exit status. A guest that checked nothing
    /// and skipped nothing has failed.
    pub fn finish(self) -> Status {
        let Self { guest, passed, failed, skipped } = self;
        let good = failed == 0 && passed + skipped > 0;
        let word = if good { "pass" } else { "fail" };
        println!("{guest}: {word} ({passed} passed, {failed} failed, {skipped} skipped)");
        if good { Status::PASS } else { Status::FAIL }
    }
}
