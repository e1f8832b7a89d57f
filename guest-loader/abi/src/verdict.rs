//! How a run ended.

use core::fmt;

/// How a run ended, as the last line on the console says.
///
/// The line is `verdict: ` and this value's `Display`; tools read it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The guest ended with status 0.
    Pass,
    /// The guest ended with another status.
    Fail {
        /// The status it wrote to an exit port.
        status: u32,
    },
    /// The time limit ran out.
    Timeout {
        /// The limit in seconds.
        seconds: u32,
    },
    /// The guest did something that no machine could go on from, or the hypervisor
    /// could not start it.
    Error {
        /// What happened, in one line.
        reason: &'a str,
    },
}

impl Verdict<'_> {
    /// What stands before a verdict on the console's last line.
    pub const PREFIX: &'static str = "verdict: ";

    /// The exit status of the tool that ran the guest: 0 for pass, the guest's own
    /// status (1 where that does not fit into 1–119) for fail, 124 for a timeout,
    /// 120 for an error.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail { status } if *status >= 1 && *status < 120 => *status as u8,
            Self::Fail { .. } => 1,
            Self::Timeout { .. } => 124,
            Self::Error { .. } => 120,
        }
    }

    /// Reads what `Display` wrote, without the prefix.
    pub fn parse(line: &str) -> Option<Verdict<'_>> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "pass" if rest.is_empty() => Some(Verdict::Pass),
            "fail" => Some(Verdict::Fail { status: rest.strip_prefix("status=")?.parse().ok()? }),
            "timeout" => {
                let seconds = rest.strip_prefix("after ")?.strip_suffix(" s")?.parse().ok()?;
                Some(Verdict::Timeout { seconds })
            }
            "error" => Some(Verdict::Error { reason: rest }),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Fail { status } => write!(f, "fail status={status}"),
            Self::Timeout { seconds } => write!(f, "timeout after {seconds} s"),
            Self::Error { reason } => write!(f, "error {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_printed_verdict_reads_back_as_itself() {
        let verdicts = [
            Verdict::Pass,
            Verdict::Fail { status: 3 },
            Verdict::Timeout { seconds: 20 },
            Verdict::Error { reason: "triple fault at rip 0x1000" },
        ];
        for verdict in verdicts {
            assert_eq!(Verdict::parse(&verdict.to_string()), Some(verdict));
        }
    }

    #[test]
    fn a_failing_run_never_has_exit_status_zero() {
        for status in [1, 2, 119, 120, 255, 256, u32::MAX] {
            assert_ne!(Verdict::Fail { status }.exit_status(), 0, "status {status}");
        }
        assert_eq!(Verdict::Pass.exit_status(), 0);
    }

    #[test]
    fn garbled_verdicts_are_refused() {
        for line in ["", "pas", "pass maybe", "fail", "fail status=x", "timeout", "verdict: pass"] {
            assert_eq!(Verdict::parse(line), None, "{line:?}");
        }
    }
}
