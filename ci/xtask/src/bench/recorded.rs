//! Figures of another hypervisor that are kept in the checkout, because taking them takes long.
//!
//! A file of JSON lines in `ci/peer`: first which kernel they were taken with and how, then the
//! figures.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::results::Measured;
use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// Recorded figures, with what they were taken from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    /// The kernel's version.
    pub(crate) kernel: String,
    pub(crate) measured: Vec<Measured>,
}

/// Where the figures of Linux KVM are kept, by how it translates.
fn path(mmu: &str) -> PathBuf {
    Path::new("ci/peer").join(format!("kvm-{mmu}.json"))
}

impl Recorded {
    /// What is kept of KVM; nothing where no file is.
    pub(crate) fn kvm(mmu: &str) -> Result<Self> {
        let path = path(mmu);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|error| Error::malformed(&path, error)),
            Err(_) => Ok(Self::default()),
        }
    }

    fn parse(text: &str) -> std::result::Result<Self, serde_json::Error> {
        let mut lines = text.lines();
        let head: Value = serde_json::from_str(lines.next().unwrap_or("{}"))?;
        let measured = lines.map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
        Ok(Self { kernel: head["kernel"].as_str().unwrap_or("unknown").to_owned(), measured })
    }

    /// Keeps these figures in place of what was kept before.
    pub(crate) fn keep(&self, mmu: &str, source: &str) -> Result<PathBuf> {
        let path = path(mmu);
        let commit = Workspace::commit();
        let head = json!({"schema": 1, "kernel": self.kernel, "source": source, "commit": commit});
        let figures = self.measured.iter().map(Measured::line);
        let lines: Vec<String> = std::iter::once(head.to_string()).chain(figures).collect();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        fs::write(&path, lines.join("\n") + "\n").map_err(Error::io(&path))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::parse;
    use super::super::results::tests::common;
    use super::*;

    #[test]
    fn kept_figures_name_their_kernel() {
        let line = parse("R invlpg 0 0 10 33120", &common()).unwrap().remove(0).line();
        let kept = Recorded::parse(&format!("{{\"kernel\":\"6.1.1\"}}\n{line}\n")).unwrap();
        assert_eq!((kept.kernel.as_str(), kept.measured[0].median), ("6.1.1", 3312.0));
        assert!(Recorded::parse("{\"kernel\":\"6.1.1\"}\nnonsense\n").is_err());
    }
}
