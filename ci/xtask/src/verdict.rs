//! The one line that every run ends with, kept beyond the console it was read from.

use std::fmt;

use anchorite_abi::Verdict as Line;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Fail { status: u32 },
    Timeout { seconds: u32 },
    Error { reason: String },
}

impl Verdict {
    /// Reads a line of the console; `None` if it is no well-formed verdict.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        Some(match Line::parse(line.trim_end().strip_prefix(Line::PREFIX)?)? {
            Line::Pass => Self::Pass,
            Line::Fail { status } => Self::Fail { status },
            Line::Timeout { seconds } => Self::Timeout { seconds },
            Line::Error { reason } => Self::error(reason),
        })
    }

    /// No guest was judged, and why.
    pub(crate) fn error(reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        Self::Error { reason }
    }

    fn line(&self) -> Line<'_> {
        match *self {
            Self::Pass => Line::Pass,
            Self::Fail { status } => Line::Fail { status },
            Self::Timeout { seconds } => Line::Timeout { seconds },
            Self::Error { ref reason } => Line::Error { reason },
        }
    }

    /// The first word after the prefix.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail { .. } => "fail",
            Self::Timeout { .. } => "timeout",
            Self::Error { .. } => "error",
        }
    }

    /// xtask's exit status, as the guest protocol defines it.
    pub(crate) fn exit_status(&self) -> u8 {
        self.line().exit_status()
    }

    /// Is this what `expected` asks for? `expected` is a verdict without its prefix or the first
    /// words of one: `pass`, `fail`, `fail status=3`, `error triple fault`.
    pub(crate) fn matches(&self, expected: &str) -> bool {
        let line = self.line().to_string();
        line.strip_prefix(expected).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }
}

/// Could a verdict ever match this?
pub(crate) fn may_be_expected(expected: &str) -> bool {
    let (kind, rest) = expected.split_once(' ').unwrap_or((expected, ""));
    match kind {
        "pass" => rest.is_empty(),
        "fail" => rest.is_empty() || Line::parse(expected).is_some(),
        "timeout" | "error" => true,
        _ => false,
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Line::PREFIX, self.line())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_survives_printing_and_parsing() {
        for line in [
            "verdict: pass",
            "verdict: fail status=3",
            "verdict: timeout after 20 s",
            "verdict: error no guest given",
        ] {
            assert_eq!(Verdict::parse(line).unwrap().to_string(), line);
        }
    }

    #[test]
    fn lines_that_are_no_verdict_are_refused() {
        for line in ["verdict: passed", "verdict:pass", "verdict: ", "x verdict: pass", "pass"] {
            assert_eq!(Verdict::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_first_words_of_a_verdict_are_enough_to_expect_it() {
        let fail = Verdict::Fail { status: 3 };
        assert!(fail.matches("fail") && fail.matches("fail status=3"));
        assert!(
            !fail.matches("fail status=30")
                && !fail.matches("fail status")
                && !fail.matches("pass")
        );
        assert!(Verdict::error("triple fault at 0x10").matches("error triple fault"));
        assert!(!Verdict::error("triple faults").matches("error triple fault"));
    }

    #[test]
    fn what_could_never_match_may_not_be_expected() {
        for good in ["pass", "fail", "fail status=3", "timeout", "error triple fault"] {
            assert!(may_be_expected(good), "{good}");
        }
        for bad in ["", "passed", "pass exit=0", "fail 3", "fail status=x"] {
            assert!(!may_be_expected(bad), "{bad}");
        }
    }
}
