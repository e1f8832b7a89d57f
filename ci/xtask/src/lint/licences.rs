//! Every dependency has a licence that goes with ours and comes from the crates registry or
//! from the checkout.
//!
//! Known vulnerabilities are not checked here: their list cannot be had offline.

use super::verdict;
use crate::error::Result;
use crate::workspace::{Package, Workspace};

/// SPDX identifiers of what may be linked into a work under MIT OR Apache-2.0.
const ALLOWED: [&str; 13] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "Unicode-3.0",
    // Asks only for changes to its own files, and we make none.
    "MPL-2.0",
    "Unicode-DFS-2016",
];

/// All packages of the lock file count, also those of other targets.
pub(super) fn check() -> Result<()> {
    let everything = Workspace::metadata(true)?;
    let faults: Vec<String> = everything.packages().filter_map(fault).collect();
    println!("  {} packages", everything.packages().count());
    verdict(&faults)
}

fn fault(package: Package<'_>) -> Option<String> {
    let named = || format!("{} {}", package.name(), package.version());
    if package.source().is_some_and(|source| !source.starts_with("registry+")) {
        return Some(format!("{}: from {:?}", named(), package.source()));
    }
    match package.license() {
        None => Some(format!("{}: names no licence", named())),
        Some(expression) if allows(expression) => None,
        Some(expression) => Some(format!("{}: {expression} is not on the list", named())),
    }
}

/// Can the terms of this SPDX expression be met with allowed licences alone? `/` is the old way
/// to write `OR`.
fn allows(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    any(&mut words) == Some(true) && words.is_empty()
}

/// `a OR b`; the words are in reverse, so the next one is the last. `None` if they make no sense.
fn any(words: &mut Vec<&str>) -> Option<bool> {
    let mut allowed = all(words)?;
    while words.last() == Some(&"OR") {
        words.pop();
        allowed |= all(words)?;
    }
    Some(allowed)
}

/// `a AND b`, which binds tighter.
fn all(words: &mut Vec<&str>) -> Option<bool> {
    let mut allowed = one(words)?;
    while words.last() == Some(&"AND") {
        words.pop();
        allowed &= one(words)?;
    }
    Some(allowed)
}

/// One licence, or an expression in parentheses.
fn one(words: &mut Vec<&str>) -> Option<bool> {
    let licence = words.pop()?;
    if licence == "(" {
        let allowed = any(words)?;
        return (words.pop()? == ")").then_some(allowed);
    }
    if words.last() != Some(&"WITH") {
        return Some(ALLOWED.contains(&licence));
    }
    words.pop();
    let exception = words.pop()?;
    Some(ALLOWED.contains(&format!("{licence} WITH {exception}").as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_choice_is_enough_but_all_joint_terms_must_be_allowed() {
        assert!(allows("MIT OR Apache-2.0"));
        assert!(allows("MIT/GPL-3.0"));
        assert!(allows("GPL-3.0-only OR (MIT AND Zlib)"));
        assert!(allows("Apache-2.0 WITH LLVM-exception OR MIT"));
        assert!(!allows("MIT AND GPL-3.0-only"));
        assert!(!allows("(MIT OR Apache-2.0) AND LGPL-3.0-only"));
        assert!(!allows("GPL-2.0-only WITH Classpath-exception-2.0"));
    }

    #[test]
    fn an_expression_that_cannot_be_read_is_not_allowed() {
        for broken in ["", "MIT OR", "(MIT", "MIT)", "MIT MIT"] {
            assert!(!allows(broken), "{broken:?}");
        }
    }
}
