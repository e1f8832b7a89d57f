//! `fuzz`: libFuzzer on the targets of every `fuzz` folder, for a few seconds each.
//!
//! The targets are programs for cargo-fuzz too, which needs a nightly compiler for its sanitizers.
//! Our code has no unsafe to sanitize, and the instrumentation that libFuzzer steers by is an LLVM
//! pass that every compiler has; so the targets are built here with that pass alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::cli::FuzzArgs;
use crate::error::{Error, Result};
use crate::process;
use crate::progress;
use crate::setup::{self, Need};
use crate::workspace::{OUT, Workspace, cargo};

/// The workspaces of fuzz targets, each apart from ours because the whole of it is instrumented.
const FOLDERS: [&str; 3] = ["guest-loader/fuzz", "hypervisor/shadow/fuzz", "hypervisor/vmm/fuzz"];

/// Named, so that the flags below are not those of build scripts and procedural macros.
const HOST: &str = "x86_64-unknown-linux-gnu";

const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// An input that takes longer is a finding.
const INPUT_LIMIT: Duration = Duration::from_secs(60);

/// Lines that are shown of a finding.
const TAIL: usize = 12;

/// What libFuzzer needs from the compiler (LLVM, "SanitizerCoverage"): counters for edges, their
/// addresses, and the operands of comparisons. One code unit, so that each edge is counted once.
const INSTRUMENTED: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=on",
    "-Ccodegen-units=1",
];

/// One fuzz target.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    folder: &'static str,
    name: String,
}

impl Target {
    /// Those whose name contains `filter`, in order of folder and name.
    fn all(filter: &str) -> Result<Vec<Self>> {
        let mut targets = Vec::new();
        for folder in FOLDERS {
            let programs = Path::new(folder).join("fuzz_targets");
            let entries = fs::read_dir(&programs).map_err(Error::io(&programs))?;
            let names = entries
                .flatten()
                .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()));
            let mut names: Vec<String> = names.filter(|name| name.contains(filter)).collect();
            names.sort();
            targets.extend(names.into_iter().map(|name| Self { folder, name }));
        }
        Ok(targets)
    }

    /// A file or folder of the runs of this target; git ignores it.
    fn path(&self, what: &str) -> PathBuf {
        Path::new(OUT).join("fuzz").join(&self.name).join(what)
    }

    /// Gives it to libFuzzer for so many seconds, and says how many inputs that were. What libFuzzer
    /// adds to the corpus stays, so that a later run goes on from there.
    fn run(&self, built: &Path, seconds: u32) -> Result<String> {
        let (grown, findings, log) = (self.path("corpus"), self.path("findings"), self.path("log"));
        for folder in [&grown, &findings] {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let output = File::create(&log).map_err(Error::io(&log))?;
        let errors = output.try_clone().map_err(Error::io(&log))?;
        let mut program = Command::new(built.join(HOST).join("release").join(&self.name));
        program
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={}", INPUT_LIMIT.as_secs()))
            .arg(format!("-artifact_prefix={}/", findings.display()))
            .arg("-print_final_stats=1")
            .arg(grown)
            .arg(Path::new(self.folder).join("corpus").join(&self.name))
            .stdout(output)
            .stderr(errors);
        let limit = Duration::from_secs(seconds.into()) + 2 * INPUT_LIMIT;
        let outcome = process::run(&mut program, limit);
        let said = fs::read(&log).map_err(Error::io(&log))?;
        let said = String::from_utf8_lossy(&said);
        match outcome {
            Ok(()) => executed(&said)
                .map(|inputs| format!("{inputs} inputs"))
                .ok_or_else(|| Error::malformed(&log, "libFuzzer gave no count of its inputs")),
            Err(error) => Err(Error::malformed(&log, format!("{error}\n{}", finding(&said)))),
        }
    }
}

/// How many inputs libFuzzer's statistics name.
fn executed(said: &str) -> Option<u64> {
    let line =
        said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    line.trim().parse().ok()
}

/// The panic's message, or whatever else ended the run, and where the input is.
fn finding(said: &str) -> String {
    let from = said.find("panicked at").or_else(|| said.find("ERROR: libFuzzer"));
    let lines = said[from.unwrap_or(0)..].lines();
    let told = |line: &&str| line.contains("Test unit written to");
    let input = lines.clone().find(told);
    lines.take(TAIL).chain(input).collect::<Vec<_>>().join("\n")
}

/// Builds the targets and gives each to libFuzzer, as many at a time as there are processors.
pub(crate) fn fuzz(workspace: &Workspace, args: &FuzzArgs) -> Result<()> {
    let targets = Target::all(&args.filter)?;
    if targets.is_empty() {
        return Err(Error::refused(&args.filter, "no fuzz target has this in its name"));
    }
    setup::ensure(workspace, &[Need::Fuzz])?;
    let built = workspace.target_dir("fuzz");
    build(&targets, &built)?;
    let bar = progress::bar(targets.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = target.run(&built, args.seconds);
                    failed.fetch_add(usize::from(outcome.is_err()), Ordering::Relaxed);
                    bar.inc(1);
                    bar.suspend(|| match outcome {
                        Ok(inputs) => println!("ok   fuzz {:12} {inputs}", target.name),
                        Err(error) => println!("FAIL fuzz {:12} {error}", target.name),
                    });
                }
            });
        }
    });
    bar.finish_and_clear();
    match failed.into_inner() {
        0 => Ok(()),
        failed => Err(Error::Checks { failed, what: "fuzz targets" }),
    }
}

fn build(targets: &[Target], built: &Path) -> Result<()> {
    for folder in FOLDERS {
        let names = targets.iter().filter(|target| target.folder == folder);
        let names: Vec<_> = names.flat_map(|target| ["--bin", &target.name]).collect();
        if names.is_empty() {
            continue;
        }
        let mut command = Command::new(cargo());
        command
            .args(["build", "--release", "--locked", "--target", HOST, "--manifest-path"])
            .arg(Path::new(folder).join("Cargo.toml"))
            .args(names)
            .arg("--target-dir")
            .arg(built)
            .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTED.join("\x1f"));
        process::run(&mut command, BUILD_LIMIT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus_to_start_from() {
        std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap();
        let targets = Target::all("").unwrap();
        assert!(targets.len() > FOLDERS.len(), "{targets:?}");
        for target in targets {
            let corpus = Path::new(target.folder).join("corpus").join(&target.name);
            assert!(fs::read_dir(&corpus).unwrap().next().is_some(), "{}", corpus.display());
        }
    }

    #[test]
    fn the_number_of_inputs_is_read_from_the_statistics() {
        let said = "Done 9 runs in 1 second(s)\nstat::number_of_executed_units: 4096\nstat::x: 1\n";
        assert_eq!(executed(said), Some(4096));
        assert_eq!(executed("INFO: Seed: 1"), None);
    }

    #[test]
    fn a_finding_is_told_by_its_panic_and_its_file() {
        let said = "INFO: Seed: 1\nthread panicked at x.rs:1:\nno agreement\n".to_owned()
            + &"stack\n".repeat(40)
            + "artifact_prefix='f/'; Test unit written to f/crash-1\n";
        let told = finding(&said);
        assert!(told.starts_with("panicked at x.rs:1:\nno agreement\n"), "{told}");
        assert!(told.ends_with("written to f/crash-1"), "{told}");
    }
}
