//! What can go wrong in the tooling, said so that the reader knows what to do next.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// The tooling's result.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way in which a verb of xtask can fail.
#[derive(Debug)]
pub(crate) enum Error {
    /// A file or folder could not be read or written.
    Io { path: PathBuf, source: io::Error },
    /// A program could not be started.
    Spawn { program: String, source: io::Error },
    /// A program ran and failed.
    Failed { program: String, status: ExitStatus },
    /// A program was killed because it outlived its limit.
    TimedOut { program: String, limit: Duration },
    /// A package is missing and may not or cannot be installed.
    Package { names: Vec<String>, why: String },
    /// A file is there but does not say what it should.
    Malformed { file: PathBuf, what: String },
    /// A value on the command line cannot be used; `why` names the remedy.
    Refused { what: String, why: String },
    /// Checks ran and some of them failed; they have been printed.
    Checks { failed: usize, what: &'static str },
}

impl Error {
    /// Wraps an I/O error with the path it is about; for `map_err`.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }

    /// A file that does not say what it should.
    pub(crate) fn malformed(file: impl AsRef<Path>, what: impl fmt::Display) -> Self {
        Self::Malformed { file: file.as_ref().to_owned(), what: what.to_string() }
    }

    /// A value that cannot be used, and why.
    pub(crate) fn refused(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Refused { what: what.to_string(), why: why.to_string() }
    }

    /// The exit status of xtask: 69 where a package is missing, 2 where the command line is at
    /// fault, 1 for failed checks, 70 for the rest (the numbers of `sysexits.h` where they fit).
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Package { .. } => 69,
            Self::Refused { .. } => 2,
            Self::Checks { .. } => 1,
            _ => 70,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Spawn { program, source } => write!(f, "cannot start {program}: {source}"),
            Self::Failed { program, status } => write!(f, "{program} failed: {status}"),
            Self::TimedOut { program, limit } => {
                write!(f, "{program} did not end within {} s", limit.as_secs())
            }
            Self::Package { names, why } => {
                write!(f, "needs the Debian package {}: {why}", names.join(", "))
            }
            Self::Malformed { file, what } => write!(f, "{}: {what}", file.display()),
            Self::Refused { what, why } => write!(f, "{what}: {why}"),
            Self::Checks { failed, what } => write!(f, "{failed} {what} failed"),
        }
    }
}

impl std::error::Error for Error {}
