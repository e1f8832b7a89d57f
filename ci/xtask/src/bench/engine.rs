//! `bench engine`: the shadow engine alone, on the host, its instructions counted by callgrind.
//!
//! The program that is counted, `hypervisor/shadow/benches/instructions`, says on standard
//! output what each of callgrind's dumps is. It is built by the image's compiler, so that the
//! baselines do not depend on the Rust that a machine happens to have.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::baseline::Baseline;
use super::callgrind::{Counted, Program};
use super::results::{self, Common, Measured};
use crate::cli::BenchArgs;
use crate::error::{Error, Result};
use crate::process;
use crate::setup::{self, Need};
use crate::toolchain::Compiler;
use crate::workspace::Workspace;

/// The argument of `bench` that means the engine's operations.
pub(super) const ENGINE: &str = "engine";
/// Every zap policy of the engine.
pub(super) const ALL: [&str; 6] = ["walk", "batch", "quota", "reuse", "background", "tagged"];
/// By how much lookups may differ, however many of the directory's entries are stale (H11).
const LOOKUP_GATE: f64 = 0.05;
/// The benchmark target of `anchorite-shadow` that is counted.
const PROGRAM: &str = "instructions";
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// How much is counted.
#[derive(Clone, Copy, Debug)]
enum Extent {
    /// What the gate holds in every test run.
    Quick,
    /// Zap-alls whose pages take minutes to make under callgrind.
    Large,
}

impl Extent {
    /// The program's word for it.
    fn word(self) -> &'static str {
        match self {
            Self::Quick => "operations",
            Self::Large => "largest",
        }
    }

    /// The name of its baseline.
    fn file(self, policy: &str) -> String {
        match self {
            Self::Quick => format!("shadow-{policy}"),
            Self::Large => format!("shadow-{policy}-large"),
        }
    }
}

/// Counts the engine's operations and holds them against their baselines.
pub(super) fn bench(workspace: &Workspace, args: &BenchArgs, from: &Path) -> Result<()> {
    let engine = Engine::build(workspace)?;
    let extent = if args.large { Extent::Large } else { Extent::Quick };
    let all = engine.measure(&policies(args)?, extent)?;
    if let Some(file) = &args.json {
        for (_, measured) in &all {
            let results = results::Results { measured: measured.clone(), ..Default::default() };
            super::append(&from.join(file), &results)?;
        }
    }
    engine.judge(&all, extent, args.accept.then_some(args.reason.as_deref()).flatten())
}

/// What every test run counts: the operations under every policy, within a minute or two.
pub(super) fn gate(workspace: &Workspace, accept: Option<&str>) -> Result<()> {
    let engine = Engine::build(workspace)?;
    let all = engine.measure(&ALL, Extent::Quick)?;
    engine.judge(&all, Extent::Quick, accept)
}

/// Whether a comparison ended badly, rather than the tooling.
fn worse(outcome: Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(false),
        Err(Error::Checks { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The policies asked for.
pub(super) fn policies(args: &BenchArgs) -> Result<Vec<&'static str>> {
    let Some(wanted) = &args.zap else { return Ok(ALL.to_vec()) };
    match ALL.into_iter().find(|policy| policy == wanted) {
        Some(policy) => Ok(vec![policy]),
        None => Err(Error::refused(
            format!("policy {wanted}"),
            format!("the engine's benchmarks know {}", ALL.join(", ")),
        )),
    }
}

/// The program that measures the engine, built.
#[derive(Debug)]
pub(super) struct Engine {
    executable: PathBuf,
    /// What it was compiled by.
    compiler: String,
}

impl Engine {
    /// Builds it for the host, optimized, without notes of source lines: they would make the
    /// dumps four times as long.
    pub(super) fn build(workspace: &Workspace) -> Result<Self> {
        Self::build_with(workspace, "none")
    }

    /// … with notes of source lines; the code is the same.
    pub(super) fn build_with_lines(workspace: &Workspace) -> Result<Self> {
        Self::build_with(workspace, "line-tables-only")
    }

    fn build_with(workspace: &Workspace, debug: &str) -> Result<Self> {
        setup::ensure(workspace, &[Need::Compiler, Need::Valgrind])?;
        let compiler = Compiler::find(workspace)?;
        let mut cargo = compiler.cargo("build");
        cargo
            .env("CARGO_PROFILE_BENCH_DEBUG", debug)
            .args(["--package", "anchorite-shadow", "--bench", PROGRAM, "--profile", "bench"])
            .args(["--message-format", "json-render-diagnostics", "--target-dir"])
            .arg(workspace.target_dir("engine"));
        let messages = process::capture(&mut cargo, BUILD_LIMIT)?;
        let artifacts =
            messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let executable = artifacts
            .filter(|message| message["target"]["name"] == PROGRAM)
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .ok_or_else(|| Error::malformed("cargo's messages", "no program was built"))?;
        Ok(Self { executable, compiler: compiler.version()? })
    }

    pub(super) fn program(&self) -> Program<'_> {
        Program { executable: &self.executable, name: PROGRAM }
    }

    /// Counts the operations under each policy, as many at a time as there are processors.
    fn measure(
        &self,
        policies: &[&'static str],
        extent: Extent,
    ) -> Result<Vec<(&'static str, Vec<Measured>)>> {
        in_parallel(policies, |policy| {
            eprintln!("callgrind: the engine's {} under policy {policy}", extent.word());
            let (said, dumps) = self.program().count(&[policy, extent.word()])?;
            let common = Common {
                policy: policy.into(),
                cpu: "host".into(),
                mmu: ENGINE.into(),
                commit: Workspace::commit(),
            };
            Ok((policy, results::parse(&result_lines(&said, &dumps)?, &common)?))
        })
    }

    /// Compares with the baselines; or, with the reason for it, makes the results the baselines.
    fn judge(
        &self,
        all: &[(&str, Vec<Measured>)],
        extent: Extent,
        accept: Option<&str>,
    ) -> Result<()> {
        let mut failed = 0;
        for (policy, measured) in all {
            let baseline = Baseline::of_engine(&extent.file(policy), &self.compiler);
            match accept {
                Some(reason) => baseline.accept(measured, reason)?,
                None => failed += usize::from(worse(baseline.compare(measured))?),
            }
            failed += usize::from(!lookups_are_even(measured));
        }
        match failed {
            0 => Ok(()),
            failed => Err(Error::Checks { failed, what: "comparisons of the engine's figures" }),
        }
    }
}

/// Does `work` for each policy, on all processors; the results in the order of the policies.
pub(super) fn in_parallel<T: Send>(
    policies: &[&'static str],
    work: impl Fn(&'static str) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut results = Vec::with_capacity(policies.len());
    for group in policies.chunks(jobs) {
        thread::scope(|scope| {
            let started: Vec<_> = group.iter().map(|policy| scope.spawn(|| work(policy))).collect();
            results.extend(started.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }));
        });
    }
    results.into_iter().collect()
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
pub(super) struct Section<'a> {
    kind: &'a str,
    pub(super) name: &'a str,
    /// Tables, leaves and count.
    shape: &'a str,
}

/// Every dump with what it is. The last one is that of the program's end.
pub(super) fn sections<'a>(
    said: &'a str,
    dumps: &[Counted],
) -> Result<Vec<(Section<'a>, Counted)>> {
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
}
