//! `experiment`: does recycling stale shadow pages pay? Runs the cells that [`cell`] lists under
//! every zap policy, and writes JSON lines, a report with the verdict, and figures.
//!
//! | step | module |
//! |---|---|
//! | what is run | [`cell`] |
//! | one boot becomes a line | [`record`] |
//! | lines kept, a broken experiment goes on | [`store`] |
//! | what must hold anyway | [`checks`] |
//! | intervals over seeds | [`stats`] |
//! | the rule | [`rule`] |
//! | text and pictures | [`report`], [`figures`], [`plots`] |

mod cell;
mod checks;
mod figures;
mod plots;
mod record;
mod report;
mod rule;
mod stats;
mod store;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser as _;
use indicatif::ProgressBar;

use crate::cli::{Cli, ExperimentArgs, RunArgs, Verb};
use crate::emulator::{self, Cpu, On};
use crate::error::{Error, Result};
use crate::freestanding;
use crate::guest::Guest;
use crate::matrix::Matrix;
use crate::progress;
use crate::run;
use crate::setup::{self, Need};
use crate::verdict::Verdict;
use crate::workspace::{OUT, Workspace};
use cell::{Design, Part, Policy, Run};
use record::Record;
use report::Facts;
use store::Store;

const GUEST: &str = "experiment";
/// A run's limit by the image's clock: as many times a thousand million instructions.
const TIMEOUT_S: u32 = 120;

/// Measures what is not measured yet, then writes everything.
pub(crate) fn experiment(workspace: &Workspace, args: &ExperimentArgs, from: &Path) -> Result<()> {
    let policies = policies(args)?;
    let design = if args.quick { Design::quick() } else { Design::full() };
    setup::ensure(workspace, &[Need::Compiler, Need::Qemu, Need::Fonts])?;
    freestanding::build_guests(workspace)?;
    freestanding::build_image(workspace)?;
    if !args.quick {
        freestanding::build_profiled_image(workspace)?;
    }

    let commit = Workspace::commit();
    let mut store = Store::open(&folder(&commit)?)?;
    if let Some(file) = &args.resume {
        let resumed = store.resume(&from.join(file), &commit)?;
        println!("experiment: {resumed} runs taken from {}", file.display());
    }
    let runs: Vec<Run<'_>> = design.runs(&policies).collect();
    let deadline = args.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let store = measure(&runs, store, (jobs(args), deadline), &commit)?;
    repeat(&runs, &store, &commit)?;
    let records: Vec<&Record> = runs.iter().filter_map(|run| store.get(&run.key())).collect();
    let out = args.out.as_ref().map_or_else(|| Path::new(OUT).join(GUEST), |out| from.join(out));
    write(&records, &design, &commit, &out)?;
    judge(&records)
}

fn policies(args: &ExperimentArgs) -> Result<Vec<Policy>> {
    if args.policy.is_empty() {
        return Ok(Policy::ALL.to_vec());
    }
    args.policy.iter().map(|name| Policy::named(name)).collect()
}

/// An emulator keeps one processor busy.
fn jobs(args: &ExperimentArgs) -> usize {
    let cores = || thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
    args.jobs.map_or_else(cores, usize::from)
}

/// Where the runs of what is built now are kept.
fn folder(commit: &str) -> Result<PathBuf> {
    let files = [freestanding::image_path(), freestanding::guest_path(GUEST)];
    Ok(Path::new(OUT).join(GUEST).join(store::fingerprint(commit, &files)?))
}

/// Runs what `store` does not have, `jobs` at a time, until the deadline. The first failure stops
/// it, with all that is done kept.
fn measure(
    runs: &[Run<'_>],
    store: Store,
    (jobs, deadline): (usize, Option<Instant>),
    commit: &str,
) -> Result<Store> {
    let in_time = || deadline.is_none_or(|deadline| Instant::now() < deadline);
    let left: Vec<&Run<'_>> = runs.iter().filter(|run| store.get(&run.key()).is_none()).collect();
    println!("experiment: {} runs, {} of them done", runs.len(), runs.len() - left.len());
    let bar = progress::bar(left.len());
    let next = AtomicUsize::new(0);
    let store = Mutex::new(store);
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(run) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !in_time() {
                        break;
                    }
                    if let Err(error) = one(run, &store, &bar, commit) {
                        next.store(left.len(), Ordering::Relaxed);
                        if let Ok(mut failure) = failure.lock() {
                            failure.get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    match failure.into_inner().ok().flatten() {
        Some(error) => Err(error),
        None => store.into_inner().map_err(|_| Error::malformed("experiment", "a worker panicked")),
    }
}

fn one(run: &Run<'_>, store: &Mutex<Store>, bar: &ProgressBar, commit: &str) -> Result<()> {
    bar.set_message(run.key());
    let record = boot(run, commit)?;
    let poisoned = |_| Error::malformed("experiment", "a worker panicked");
    let result = store.lock().map_err(poisoned)?.add(run.key(), record);
    bar.inc(1);
    result
}

/// Boots the image with one policy and one seed.
fn boot(run: &Run<'_>, commit: &str) -> Result<Record> {
    let here = Path::new("");
    let guest = Guest::find(GUEST, &Matrix::read()?, here)?;
    let mut machine = run::machine(&arguments(run)?, &guest, (Cpu::Amd, On::Qemu), here)?;
    if run.cell.part == Part::Split {
        machine.image.path = freestanding::profiled_image_path().to_string_lossy().into_owned();
    }
    let outcome = emulator::run(&machine, |_| (), |_| ())?;
    run::tidy(&machine.scratch);
    if outcome.verdict != Verdict::Pass {
        let tail: Vec<&str> = outcome.text.lines().rev().take(12).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        eprintln!("{}", tail.join("\n"));
        return Err(Error::malformed(format!("the run {}", run.key()), outcome.verdict));
    }
    let json: Vec<String> = outcome.json.into_iter().map(|marked| marked.line).collect();
    Record::read(run, &outcome.text, &json, commit)
}

/// What one would type to run this alone.
fn arguments(run: &Run<'_>) -> Result<RunArgs> {
    let Run { cell, policy, seed } = run;
    let (memory, quota) = (cell.memory_mib().to_string(), cell.quota.to_string());
    let (policy, words) = (policy.to_string(), cell.words(*seed));
    let timeout = TIMEOUT_S.to_string();
    let line = [
        ["--cpu", "amd"],
        ["--mmu", "shadow"],
        ["--mem", &memory],
        ["--shadow-pages", &quota],
        ["--zap", &policy],
        ["--append", &words],
        ["--timeout", &timeout],
        // Only whether, not where: the lines are read from the console.
        ["--json", "-"],
    ];
    let words = ["xtask", "run", GUEST, "--icount"].into_iter().chain(line.into_iter().flatten());
    match Cli::try_parse_from(words).map(|cli| cli.verb) {
        Ok(Verb::Run(args)) => Ok(args),
        Ok(_) => Err(Error::malformed("xtask's command line", "`run` is no run")),
        Err(error) => Err(Error::malformed("xtask's command line", error)),
    }
}

/// Boots the first run again: it must repeat to the instruction.
fn repeat(runs: &[Run<'_>], store: &Store, commit: &str) -> Result<()> {
    let Some(run) = runs.first() else { return Ok(()) };
    let again = boot(run, commit)?;
    if store.get(&run.key()).is_some_and(|record| !record.is_repeated_by(&again)) {
        println!("experiment: the run {} does not repeat", run.key());
        return Err(Error::Checks { failed: 1, what: "repetitions" });
    }
    Ok(())
}

/// Writes the records, the figures and the report into `out`.
fn write(records: &[&Record], design: &Design, commit: &str, out: &Path) -> Result<()> {
    fs::create_dir_all(out).map_err(Error::io(out))?;
    let mut figures = Vec::new();
    for (name, figure) in figures::all(records) {
        figure.write(out, name)?;
        figures.push(name);
    }
    let facts = Facts {
        // Of what was measured, which may be older than the text that tells of it.
        commit: records.first().map_or(commit, |record| record.commit.as_str()).into(),
        seeds: design.seeds,
        quick: design.quick,
        done: [records.len(), design.runs(&Policy::ALL).count()],
        figures,
    };
    let report = out.join("report.md");
    fs::write(&report, report::report(records, &facts)).map_err(Error::io(&report))?;
    let lines: String = records
        .iter()
        .map(|record| serde_json::to_string(record).unwrap_or_default() + "\n")
        .collect();
    let file = out.join("records.jsonl");
    fs::write(&file, lines).map_err(Error::io(&file))?;
    println!("experiment: report {}", report.display());
    Ok(())
}

/// Prints the verdict; fails where something is wrong that no verdict may rest on.
fn judge(records: &[&Record]) -> Result<()> {
    let reuse = rule::Verdict::of(records, Policy::Reuse, Policy::Quota);
    let tagged = rule::Verdict::of(records, Policy::Tagged, Policy::Reuse);
    for sentence in report::sentences(records, &reuse, &tagged) {
        println!("{sentence}");
    }
    let faults = checks::faults(records);
    for fault in &faults {
        println!("experiment: FAILED: {fault}");
    }
    match faults.len() {
        0 => Ok(()),
        failed => Err(Error::Checks { failed, what: "checks of the experiment" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_is_a_command_line_that_xtask_takes() {
        for design in [Design::full(), Design::quick()] {
            for run in design.runs(&Policy::ALL) {
                let args = arguments(&run).unwrap();
                assert!(args.icount && args.guest.zap == Some(run.policy.to_string()));
                assert_eq!(u64::from(args.guest.shadow_pages), run.cell.quota);
            }
        }
    }
}
