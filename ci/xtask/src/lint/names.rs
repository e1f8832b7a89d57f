//! The checkout's top level holds a few folders and the usual files, and nothing else.

use std::process::Command;
use std::time::Duration;

use super::verdict;
use crate::error::Result;
use crate::process;

const PERMITTED: [&str; 13] = [
    "hypervisor",
    "guest-loader",
    "platform",
    "ci",
    "scripts",
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "LICENSE-MIT",
    "LICENSE-APACHE",
];

/// Only what git tracks counts.
pub(super) fn check() -> Result<()> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached"]);
    let tracked = process::capture(&mut git, Duration::from_secs(60))?;
    verdict(&strangers(&tracked))
}

fn strangers(tracked: &str) -> Vec<String> {
    let mut names: Vec<&str> = tracked.lines().filter_map(|path| path.split('/').next()).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !PERMITTED.contains(name) && !name.starts_with('.'));
    names.iter().map(|name| format!("{name}: no name for the top level")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_named_once_and_dot_files_are_welcome() {
        let tracked = "Cargo.toml\nci/matrix.toml\n.ci/run\nutils/a.rs\nutils/b.rs\nnotes.txt\n";
        let faults = strangers(tracked);
        assert_eq!(faults.len(), 2);
        assert!(faults[0].starts_with("notes.txt:") && faults[1].starts_with("utils:"));
    }
}
