//! The one line that every run ends with.

use std::fmt;
use std::time::Duration;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) kind: Kind,
    /// The guest's exit status, where there was one.
    pub(crate) exit: Option<u64>,
    /// What follows the kind on the line.
    pub(crate) details: String,
}

/// The four words a verdict can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The guest ended with status 0.
    Pass,
    /// The guest ended with another status, or was stopped for what it did.
    Fail,
    /// The image or xtask stopped it at its time limit.
    Timeout,
    /// There was no guest to judge: the image, the emulator or the boot failed.
    Error,
}

impl Verdict {
    const PREFIX: &str = "verdict: ";

    /// Reads a line of the console; `None` if it is no well-formed verdict.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let text = line.strip_prefix(Self::PREFIX)?.trim_end();
        let (word, details) = text.split_once(' ').unwrap_or((text, ""));
        let kind = match word {
            "pass" => Kind::Pass,
            "fail" => Kind::Fail,
            "timeout" => Kind::Timeout,
            "error" => Kind::Error,
            _ => return None,
        };
        let exit = details.split_whitespace().find_map(|word| word.strip_prefix("exit="));
        Some(Self { kind, exit: exit.and_then(number), details: details.trim().to_owned() })
    }

    /// xtask's own: no guest was judged, and why.
    pub(crate) fn error(why: impl fmt::Display) -> Self {
        Self { kind: Kind::Error, exit: None, details: why.to_string() }
    }

    /// xtask's own: the emulator outlived `limit` and was killed.
    pub(crate) fn timeout(limit: Duration) -> Self {
        Self {
            kind: Kind::Timeout,
            exit: None,
            details: format!("the emulator was killed after {} s", limit.as_secs()),
        }
    }

    /// xtask's exit status: 0 for a pass, the guest's own for a failure (1 where that is absent
    /// or would read as 0), 124 for a timeout like timeout(1), 70 for an error (EX_SOFTWARE).
    pub(crate) fn exit_status(&self) -> u8 {
        match self.kind {
            Kind::Pass => 0,
            Kind::Fail => match self.exit.unwrap_or(1).to_le_bytes()[0] {
                0 => 1,
                status => status,
            },
            Kind::Timeout => 124,
            Kind::Error => 70,
        }
    }

    /// Is this what `expected` asks for? `expected` is a verdict without its prefix, like `pass`
    /// or `fail exit=3`: the kind must be the same, and each of its words must occur.
    pub(crate) fn matches(&self, expected: &str) -> bool {
        let Some(expected) = Self::parse(&format!("{}{expected}", Self::PREFIX)) else {
            return false;
        };
        let mut words = expected.details.split_whitespace();
        let occurs = |word| self.details.split_whitespace().any(|own| own == word);
        self.kind == expected.kind && words.all(occurs)
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.kind {
            Kind::Pass => "pass",
            Kind::Fail => "fail",
            Kind::Timeout => "timeout",
            Kind::Error => "error",
        };
        let blank = if self.details.is_empty() { "" } else { " " };
        write!(f, "{}{word}{blank}{}", Self::PREFIX, self.details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(line: &str) -> u8 {
        Verdict::parse(line).unwrap().exit_status()
    }

    #[test]
    fn a_verdict_survives_printing_and_parsing() {
        for line in ["verdict: pass exit=0", "verdict: timeout", "verdict: error no guest given"] {
            assert_eq!(Verdict::parse(line).unwrap().to_string(), line);
        }
    }

    #[test]
    fn words_that_are_no_verdict_are_refused() {
        for line in ["verdict: passed", "verdict:pass", "verdict: ", "x verdict: pass", "verdict"] {
            assert_eq!(Verdict::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_exit_status_of_a_failure_is_the_guests_and_never_0() {
        assert_eq!(status("verdict: pass exit=0"), 0);
        assert_eq!(status("verdict: fail exit=3"), 3);
        assert_eq!(status("verdict: fail exit=0x2a"), 42);
        assert_eq!(status("verdict: fail exit=256"), 1);
        assert_eq!(status("verdict: fail triple fault"), 1);
        assert_eq!(status("verdict: timeout"), 124);
        assert_eq!(status("verdict: error"), 70);
    }

    #[test]
    fn an_expected_verdict_needs_the_same_kind_and_all_its_words() {
        let fail = Verdict::parse("verdict: fail exit=3 rip=0x10").unwrap();
        assert!(fail.matches("fail"));
        assert!(fail.matches("fail exit=3"));
        assert!(!fail.matches("fail exit=30"));
        assert!(!fail.matches("pass"));
        assert!(!fail.matches("nonsense"));
    }
}
