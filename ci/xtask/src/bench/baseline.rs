//! `ci/baselines`: the figures that a change is measured against.
//!
//! A file of JSON lines: first why and at which commit its figures were accepted, then the
//! figures. A result may exceed its baseline by 2 %.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::results::Measured;
use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// The share by which a result may exceed its baseline.
const GATE: f64 = 0.02;

/// One file of figures.
#[derive(Debug)]
pub(super) struct Baseline {
    path: PathBuf,
    /// What compiled the code that was counted, where that is not the same on every machine.
    compiler: Option<String>,
}

/// How a result stands to its baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    New,
    Kept,
    Better,
    Worse,
}

impl Baseline {
    /// The baseline of a guest with one kind of translation.
    pub(super) fn of(guest: &str, mmu: &str) -> Self {
        Self::named(&format!("{guest}-amd-{mmu}"), None)
    }

    /// A baseline of the shadow engine on the host. Counts depend on the compiler: the file
    /// says which one it was.
    pub(super) fn of_engine(name: &str, compiler: &str) -> Self {
        Self::named(name, Some(compiler.to_owned()))
    }

    fn named(name: &str, compiler: Option<String>) -> Self {
        Self { path: Path::new("ci/baselines").join(format!("{name}.json")), compiler }
    }

    /// Makes the results the baseline.
    pub(super) fn accept(&self, measured: &[Measured], reason: &str) -> Result<()> {
        let mut head = json!({"schema": 1, "reason": reason, "commit": Workspace::commit()});
        if let Some(compiler) = &self.compiler {
            head["compiler"] = compiler.as_str().into();
        }
        let mut text = format!("{head}\n");
        for one in measured {
            text += &one.line();
            text += "\n";
        }
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        fs::write(&self.path, text).map_err(Error::io(&self.path))?;
        println!("{} results accepted into {}", measured.len(), self.path.display());
        Ok(())
    }

    /// Prints how each result stands; an error if one is worse, or if one of the baseline's was
    /// not measured.
    pub(super) fn compare(&self, measured: &[Measured]) -> Result<()> {
        let before = self.read()?;
        println!("{:<40} {:>12} {:>12}", "instructions an operation", "baseline", "now");
        let mut failed = 0;
        for one in measured {
            let old = before.iter().find(|old| old.key() == one.key());
            let standing = standing(old.map(|old| old.median), one.median);
            print_row(one, old, standing);
            failed += usize::from(standing == Standing::Worse);
        }
        let missing = |old: &&Measured| measured.iter().all(|one| one.key() != old.key());
        for old in before.iter().filter(missing) {
            println!("{:<40} {:>12} not measured any more", old.key(), old.median);
            failed += 1;
        }
        match failed {
            0 => Ok(()),
            failed => Err(Error::Checks { failed, what: "comparisons with the baseline" }),
        }
    }

    /// The accepted figures; none where there is no file yet.
    fn read(&self) -> Result<Vec<Measured>> {
        let Ok(text) = fs::read_to_string(&self.path) else {
            println!("no baseline yet: {}", self.path.display());
            return Ok(Vec::new());
        };
        let mut lines = text.lines();
        let head = lines.next().map(serde_json::from_str::<Value>);
        let head = head.transpose().map_err(|error| Error::malformed(&self.path, error))?;
        if let Some(remark) = self.other_compiler(&head.unwrap_or_default()) {
            println!("{remark}");
        }
        let parsed = lines.map(serde_json::from_str).collect::<Result<_, _>>();
        parsed.map_err(|error| Error::malformed(&self.path, error))
    }
}

impl Baseline {
    /// A remark where the baseline's figures are from code that another compiler made.
    fn other_compiler(&self, head: &Value) -> Option<String> {
        let ours = self.compiler.as_deref()?;
        let theirs = head["compiler"].as_str().unwrap_or("an unknown compiler");
        let path = self.path.display();
        (ours != theirs).then(|| {
            format!("note: {path} is from {theirs}; this is {ours}, which may explain differences")
        })
    }
}

fn standing(before: Option<f64>, now: f64) -> Standing {
    match before {
        None => Standing::New,
        Some(before) if now > before * (1.0 + GATE) => Standing::Worse,
        Some(before) if now < before * (1.0 - GATE) => Standing::Better,
        Some(_) => Standing::Kept,
    }
}

fn print_row(one: &Measured, old: Option<&Measured>, standing: Standing) {
    let before = old.map_or_else(|| "-".to_owned(), |old| old.median.to_string());
    let remark = match standing {
        Standing::New => "new",
        Standing::Kept => "",
        Standing::Better => "better (accept it with --accept --reason)",
        Standing::Worse => "WORSE",
    };
    println!("{:<40} {before:>12} {:>12} {remark}", one.key(), one.median);
}

#[cfg(test)]
mod tests {
    use super::super::results::parse;
    use super::super::results::tests::common;
    use super::*;

    fn baseline(name: &str) -> Baseline {
        let file = format!("xtask-baseline-{name}-{}.json", std::process::id());
        Baseline { path: std::env::temp_dir().join(file), compiler: None }
    }

    #[test]
    fn two_percent_are_within_the_gate_and_more_is_not() {
        assert_eq!(standing(Some(100.0), 102.0), Standing::Kept);
        assert_eq!(standing(Some(100.0), 102.1), Standing::Worse);
        assert_eq!(standing(Some(100.0), 97.9), Standing::Better);
        assert_eq!(standing(None, 1.0), Standing::New);
    }

    #[test]
    fn accepted_results_are_the_next_comparison() {
        let file = baseline("accepted");
        let before = parse("R a 0 0 1 100\nR b 0 0 1 100", &common()).unwrap();
        file.accept(&before, "first figures").unwrap();

        assert!(file.compare(&before).is_ok());
        let slower = parse("R a 0 0 1 103\nR b 0 0 1 100", &common()).unwrap();
        assert!(file.compare(&slower).is_err());
        assert!(file.compare(&before[..1]).is_err(), "b is missing");
        fs::remove_file(&file.path).unwrap();
    }

    #[test]
    fn figures_of_another_compiler_are_compared_with_a_remark() {
        let mut file = baseline("compiler");
        file.compiler = Some("rustc 1".into());
        assert_eq!(file.other_compiler(&json!({"compiler": "rustc 1"})), None);
        assert!(file.other_compiler(&json!({"compiler": "rustc 2"})).is_some());
        assert!(file.other_compiler(&json!({})).is_some());
        file.compiler = None;
        assert_eq!(file.other_compiler(&json!({})), None);
    }
}
