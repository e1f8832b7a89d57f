//! `bench engine` and `bench policies`: the shadow engine alone, on the host, its instructions
//! counted by callgrind.
//!
//! The program that is counted, `hypervisor/shadow/benches/instructions`, says on standard
//! output what each of callgrind's dumps is. It is built by the image's compiler, so that the
//! baselines do not depend on the Rust that a machine happens to have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::baseline::Baseline;
use super::callgrind::{self, Counted};
use super::results::{self, Common, Measured};
use crate::cli::BenchArgs;
use crate::error::{Error, Result};
use crate::process;
use crate::setup::{self, Need};
use crate::toolchain::Compiler;
use crate::workspace::{OUT, Workspace};

/// The argument of `bench` that means the engine's operations.
pub(super) const ENGINE: &str = "engine";
/// … and what a zap-all costs afterwards, under each policy.
pub(super) const POLICIES: &str = "policies";

/// Every zap policy of the engine.
const ALL: [&str; 6] = ["walk", "batch", "quota", "reuse", "background", "tagged"];
/// By how much lookups may differ, however many of the directory's entries are stale (H11).
const LOOKUP_GATE: f64 = 0.05;
/// Callgrind is fifty times slower than the machine, and the largest guest is built in it.
const LIMIT: Duration = Duration::from_secs(3600);
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// Sizes of `bench policies`: tables, and the quota as a share of what they need.
const REBUILDS: [(u64, Room); 3] =
    [(1 << 14, Room::Tight), (1 << 14, Room::Double), (1 << 17, Room::Tight)];

/// How many shadow pages there may be.
#[derive(Clone, Copy, Debug)]
enum Room {
    /// Those of the guest, and 256 more.
    Tight,
    /// Twice those: a policy that takes free frames first never has to reuse any.
    Double,
}

impl Room {
    fn pages(self, tables: u64) -> u64 {
        let needed = tables + tables / 512 + 256;
        match self {
            Self::Tight => needed,
            Self::Double => 2 * needed,
        }
    }
}

/// Counts the engine's operations and holds them against `ci/baselines/shadow-POLICY.json`.
pub(super) fn bench(workspace: &Workspace, args: &BenchArgs, from: &Path) -> Result<()> {
    let program = build(workspace)?;
    let mut failed = 0;
    for policy in policies(args)? {
        let measured = measure(&program, policy)?;
        if let Some(file) = &args.json {
            let results = results::Results { measured: measured.clone(), ..Default::default() };
            super::append(&from.join(file), &results)?;
        }
        let baseline = Baseline::of_engine(policy);
        match &args.reason {
            Some(reason) if args.accept => baseline.accept(&measured, reason)?,
            _ => failed += usize::from(worse(baseline.compare(&measured))?),
        }
        failed += usize::from(!lookups_are_even(&measured));
    }
    match failed {
        0 => Ok(()),
        failed => Err(Error::Checks { failed, what: "comparisons of the engine's figures" }),
    }
}

/// Whether a comparison ended badly, rather than the tooling.
fn worse(outcome: Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(false),
        Err(Error::Checks { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

fn policies(args: &BenchArgs) -> Result<Vec<&'static str>> {
    let Some(wanted) = &args.zap else { return Ok(ALL.to_vec()) };
    match ALL.into_iter().find(|policy| policy == wanted) {
        Some(policy) => Ok(vec![policy]),
        None => Err(Error::refused(
            format!("policy {wanted}"),
            format!("the engine's benchmarks know {}", ALL.join(", ")),
        )),
    }
}

/// Builds the program for the host.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    setup::ensure(workspace, &[Need::Compiler, Need::Valgrind])?;
    let mut cargo = Compiler::find(workspace)?.cargo("build");
    cargo
        .args(["--package", "anchorite-shadow", "--bench", "instructions", "--profile", "bench"])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        .arg(workspace.target_dir("engine"));
    let messages = process::capture(&mut cargo, BUILD_LIMIT)?;
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable = artifacts
        .filter(|message| message["target"]["name"] == "instructions")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.ok_or_else(|| Error::malformed("cargo's messages", "no program was built"))
}

fn measure(program: &Path, policy: &str) -> Result<Vec<Measured>> {
    eprintln!("callgrind: the engine's operations under policy {policy}");
    // The zap-all of a million pages (`largest`) is not gated: making them takes a quarter of an
    // hour under callgrind.
    let (said, dumps) = count(program, policy, &[policy, "operations"])?;
    let lines = result_lines(&said, &dumps)?;
    let common = Common {
        policy: policy.into(),
        cpu: "host".into(),
        mmu: ENGINE.into(),
        commit: Workspace::commit(),
    };
    results::parse(&lines, &common)
}

/// Runs the program under callgrind; returns what it printed, and the dumps.
fn count(program: &Path, name: &str, words: &[&str]) -> Result<(String, Vec<Counted>)> {
    let file = Path::new(OUT).join(format!("callgrind-{name}.out"));
    fs::create_dir_all(OUT).map_err(Error::io(OUT))?;
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--quiet", "--tool=callgrind", "--demangle=no", "--collect-atstart=no"])
        .arg("--toggle-collect=*12instructions7counted17h*")
        .arg("--dump-before=*12instructions4dump17h*")
        .args(["--combine-dumps=yes", "--dump-line=no"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(words);
    let said = process::capture(&mut valgrind, LIMIT)?;
    let text = fs::read_to_string(&file).map_err(Error::io(&file))?;
    Ok((said, callgrind::dumps(&text)?))
}

/// The lines of results that `results::parse` reads.
fn result_lines(said: &str, dumps: &[Counted]) -> Result<String> {
    let mut lines = Vec::new();
    let mut before = Counted::default();
    for (section, dump) in sections(said, dumps)? {
        let Section { kind, name, shape } = section;
        let less = if kind == "difference" { before } else { Counted::default() };
        let instructions = dump.instructions.saturating_sub(less.instructions);
        lines.push(format!("R {name} {shape} {instructions}"));
        if dump.clearing > 0 {
            lines.push(format!("R {name}:clearing {shape} {}", dump.clearing));
        }
        before = dump;
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// What the program said about a dump.
struct Section<'a> {
    kind: &'a str,
    name: &'a str,
    /// Tables, leaves and count.
    shape: &'a str,
}

/// Every dump with what it is. The last one is that of the program's end.
fn sections<'a>(said: &'a str, dumps: &[Counted]) -> Result<Vec<(Section<'a>, Counted)>> {
    let section = |line: &'a str| {
        let (kind, rest) = line.split_once(' ')?;
        let (name, shape) = rest.split_once(' ')?;
        let known = kind == "section" || kind == "difference";
        known.then_some(Section { kind, name, shape })
    };
    let named: Vec<_> = said.lines().filter_map(section).collect();
    if named.is_empty() || named.len() + 1 != dumps.len() {
        let what = format!("{} dumps for {} sections", dumps.len(), named.len());
        return Err(Error::malformed("callgrind's output", what));
    }
    Ok(named.into_iter().zip(dumps.iter().copied()).collect())
}

/// Says whether lookups cost the same whatever is stale.
fn lookups_are_even(measured: &[Measured]) -> bool {
    let lookups = measured.iter().filter(|one| one.bench.starts_with("lookup_stale_"));
    let costs: Vec<f64> = lookups.map(|one| one.median).collect();
    let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = costs.iter().copied().fold(0.0, f64::max);
    let even = most <= least * (1.0 + LOOKUP_GATE);
    if !even {
        println!("lookups cost {least} to {most} instructions, depending on what is stale: WORSE");
    }
    even
}

/// Counts, for each policy, a zap-all and every fault that rebuilds what it took; prints a table
/// in the form of `hypervisor/docs/benchmarks.md`.
pub(super) fn compare_policies(workspace: &Workspace, args: &BenchArgs) -> Result<()> {
    let program = build(workspace)?;
    println!("commit {}", Workspace::commit());
    println!(
        "| tables | quota | policy | zap | p50 | p99 | max | rebuild | clearing | peak frames |"
    );
    println!("|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|");
    for (tables, room) in REBUILDS {
        for policy in policies(args)? {
            let pages = room.pages(tables);
            let (tables_word, pages_word) = (tables.to_string(), pages.to_string());
            let words = [policy, "distribution", &tables_word, &pages_word];
            let (said, dumps) = count(&program, policy, &words)?;
            println!("| {tables} | {pages} | `{policy}` | {} |", row(&said, &dumps)?);
        }
    }
    Ok(())
}

/// The figures of one policy.
fn row(said: &str, dumps: &[Counted]) -> Result<String> {
    let peak = said.lines().find_map(|line| line.strip_prefix("peak "));
    let peak = peak.ok_or_else(|| Error::malformed("the benchmark's output", "no peak"))?;
    let sections = sections(said, dumps)?;
    let of = |name: &'static str| {
        sections.iter().filter(move |(section, _)| section.name == name).map(|(_, dump)| *dump)
    };
    let zap: u64 = of("zap_all").map(|dump| dump.instructions).sum();
    let mut faults: Vec<u64> = of("fault").map(|dump| dump.instructions).collect();
    let clearing: u64 = of("fault").map(|dump| dump.clearing).sum();
    faults.sort_unstable();
    let at = |share: usize| faults[(faults.len() - 1) * share / 100];
    let total: u64 = faults.iter().sum();
    Ok(format!("{zap} | {} | {} | {} | {total} | {clearing} | {peak}", at(50), at(99), at(100)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "section a 0 0 10\ndifference b 4 1 10\n";

    fn counted(instructions: u64, clearing: u64) -> Counted {
        Counted { instructions, clearing }
    }

    #[test]
    fn a_difference_is_what_a_section_cost_more_than_the_one_before() {
        let dumps = [counted(1000, 0), counted(1500, 90), counted(0, 0)];
        let lines = result_lines(SAID, &dumps).unwrap();
        assert_eq!(lines, "R a 0 0 10 1000\nR b 4 1 10 500\nR b:clearing 4 1 10 90\n");
    }

    #[test]
    fn dumps_that_are_not_the_programs_sections_are_an_error() {
        assert!(result_lines(SAID, &[counted(1, 0), counted(1, 0)]).is_err());
        assert!(result_lines("", &[counted(1, 0)]).is_err());
    }

    #[test]
    fn lookups_may_differ_by_five_percent() {
        let common =
            Common { policy: "p".into(), cpu: "c".into(), mmu: "m".into(), commit: "0".into() };
        let even = |worst: u64| {
            let text = format!("R lookup_stale_0 0 0 1 100\nR lookup_stale_90 0 0 1 {worst}");
            lookups_are_even(&results::parse(&text, &common).unwrap())
        };
        assert!(even(105));
        assert!(!even(106));
    }

    #[test]
    fn a_row_tells_the_percentiles() {
        let said = "section zap_all 2 1 1\nsection fault 2 1 1\nsection fault 2 1 1\npeak 64\n";
        let dumps = [counted(9, 0), counted(30, 5), counted(20, 5), counted(0, 0)];
        assert_eq!(row(said, &dumps).unwrap(), "9 | 20 | 20 | 30 | 50 | 10 | 64");
    }
}
