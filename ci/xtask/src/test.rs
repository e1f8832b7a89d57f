//! `test`: the host's tests, then the guests of the matrix, then the benchmarks against their
//! baselines.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;

use crate::bench;
use crate::cli::{GuestArgs, RunArgs, TestArgs};
use crate::cpuid;
use crate::emulator::{self, Machine, On, Outcome};
use crate::error::{Error, Result};
use crate::freestanding;
use crate::guest::Guest;
use crate::matrix::{Cell, Matrix, Run};
use crate::process::{self, on_path};
use crate::progress;
use crate::run;
use crate::setup::{self, Need};
use crate::status::{self, Row};
use crate::workspace::{FREESTANDING, Workspace, cargo};

const HOST_LIMIT: Duration = Duration::from_secs(45 * 60);

/// Lines of the console that are shown of a run that failed.
const TAIL: usize = 25;

/// Runs what `args` ask for; without arguments, all but the slow guests.
pub(crate) fn test(workspace: &Workspace, args: &TestArgs, from: &Path) -> Result<()> {
    if args.matrix.is_none() {
        host_tests()?;
    }
    if args.host {
        return Ok(());
    }
    let matrix = Matrix::read()?;
    let filter = args.matrix.as_deref().unwrap_or_default();
    let cells = matrix.cells(filter, args.all)?;
    if cells.is_empty() {
        return Err(Error::refused(filter, "no run of ci/matrix.toml has this in its name"));
    }
    prepare(workspace, &cells)?;
    let jobs = args.jobs.map_or_else(default_jobs, usize::from);
    let finished = run_all(&cells, &matrix, jobs);
    if let Some(file) = &args.status {
        let rows: Vec<Row> = finished.iter().map(|cell| cell.row.clone()).collect();
        status::write(&from.join(file), &rows, &Workspace::commit())?;
    }
    let guests = report(&finished);
    if args.matrix.is_some() {
        return guests;
    }
    println!("\nbenchmarks:");
    let benchmarks = bench::gate(workspace, None);
    guests.and(benchmarks)
}

/// The options that choose all packages of the host.
pub(crate) fn host_packages() -> impl Iterator<Item = OsString> {
    let excluded = FREESTANDING.iter().flat_map(|name| ["--exclude".into(), OsString::from(name)]);
    std::iter::once("--workspace".into()).chain(excluded)
}

/// With nextest where it is installed; it does not run examples in documentation, cargo does.
fn host_tests() -> Result<()> {
    if !on_path("cargo-nextest") {
        return process::run(cargo_test().args(host_packages()), HOST_LIMIT);
    }
    let mut nextest = Command::new(cargo());
    nextest.args(["nextest", "run", "--no-fail-fast"]).args(host_packages());
    let nextest = process::run(&mut nextest, HOST_LIMIT);
    let examples = process::run(cargo_test().arg("--doc").args(host_packages()), HOST_LIMIT);
    nextest.and(examples)
}

fn cargo_test() -> Command {
    let mut command = Command::new(cargo());
    command.arg("test");
    command
}

/// Installs and builds everything that the cells need.
fn prepare(workspace: &Workspace, cells: &[Cell]) -> Result<()> {
    let mut needs = vec![Need::Compiler];
    for cell in cells {
        needs.extend(run::needs(cell.on, cell.run.boot));
    }
    needs.sort();
    needs.dedup();
    setup::ensure(workspace, &needs)?;
    freestanding::build_image(workspace)?;
    freestanding::build_guests(workspace)?;
    freestanding::build_hermit_guests(workspace)
}

/// An emulator keeps one processor busy.
fn default_jobs() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(2))
}

/// What came of one cell.
struct Finished {
    name: String,
    verdict: String,
    elapsed: Duration,
    /// Why it failed.
    fault: Option<String>,
    /// Its line for the table of the status.
    row: Row,
}

/// Runs the cells, `jobs` at a time, each announced as it ends.
fn run_all(cells: &[Cell], matrix: &Matrix, jobs: usize) -> Vec<Finished> {
    let bar = progress::bar(cells.len());
    let next = AtomicUsize::new(0);
    let finished = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run_cell(cell, matrix, &bar);
                    if let Ok(mut finished) = finished.lock() {
                        finished.push(result);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut finished = finished.into_inner().unwrap_or_default();
    finished.sort_by(|a, b| a.name.cmp(&b.name));
    finished
}

fn run_cell(cell: &Cell, matrix: &Matrix, bar: &ProgressBar) -> Finished {
    bar.set_message(cell.to_string());
    let (fault, outcome) = match attempt(cell, matrix) {
        Ok(outcome) => {
            let fault = judged(cell, &outcome);
            (fault.or_else(|| undeclared(cell, matrix, &outcome)), Some(outcome))
        }
        Err(error) => (Some(error.to_string()), None),
    };
    let row = row(cell, outcome.as_ref(), fault.is_none());
    let finished = Finished {
        row,
        name: cell.to_string(),
        verdict: outcome.as_ref().map_or_else(String::new, |outcome| outcome.verdict.to_string()),
        elapsed: outcome.as_ref().map_or(Duration::ZERO, |outcome| outcome.elapsed),
        fault,
    };
    bar.inc(1);
    bar.suspend(|| announce(&finished, outcome.as_ref()));
    finished
}

fn row(cell: &Cell, outcome: Option<&Outcome>, as_expected: bool) -> Row {
    Row {
        name: cell.to_string(),
        devices: cell.run.devices.of_image().name(),
        verdict: outcome.map_or_else(|| "not run".into(), |outcome| outcome.verdict.to_string()),
        as_expected,
        sums: outcome.and_then(|outcome| status::sums(&outcome.text)),
        counted: cell.run.icount,
        ticks: outcome.and_then(|outcome| status::busy_ticks(&outcome.text)),
        seconds: outcome.map_or(0.0, |outcome| outcome.elapsed.as_secs_f64()),
    }
}

fn attempt(cell: &Cell, matrix: &Matrix) -> Result<Outcome> {
    let here = Path::new("");
    let guest = Guest::find(&cell.run.guest, matrix, here)?;
    let machine = run::machine(&arguments(cell), &guest, (cell.cpu, cell.on), here)?;
    let machine = Machine { typed: cell.run.typed.clone(), ..machine };
    let outcome = emulator::run(&machine, |_| (), |_| ());
    run::tidy(&machine.scratch);
    outcome
}

/// What one would type to run this cell alone.
fn arguments(cell: &Cell) -> RunArgs {
    let run = &cell.run;
    RunArgs {
        guest: GuestArgs {
            guest: run.guest.clone(),
            mmu: cell.mmu,
            mem: run.mem,
            append: run.append.clone(),
            kind: run.kind.clone(),
            devices: Some(run.devices),
            until: run.until.clone(),
            reset_is: run.reset_is,
            triple_fault_is: run.triple_fault_is,
            module: Vec::new(),
            fw_cfg: run.fw_cfg.clone(),
            hide: run.hide.clone(),
            zap: cell.zap.clone(),
            shadow_pages: run.shadow_pages,
            zap_rate: cell.zap_rate,
            // Every run of the matrix: an invariant that nobody checks is none.
            audit: true,
        },
        cpu: Some(cell.cpu),
        on: Some(cell.on),
        boot: cell.run.boot,
        machine_mem: None,
        icount: run.icount && cell.on == On::Qemu,
        cpu_flags: run.cpu_flags.clone().filter(|_| cell.on == On::Qemu),
        timeout: Some(run.timeout),
        json: None,
        gdb: false,
        interactive: !run.typed.is_empty(),
        bare: run.bare,
    }
}

/// What is wrong with the outcome, if anything is.
fn judged(cell: &Cell, outcome: &Outcome) -> Option<String> {
    if !outcome.verdict.matches(&cell.run.verdict) {
        return Some(format!("expected {:?}", cell.run.verdict));
    }
    let lacking = |wanted: &[String], text: &str| {
        wanted.iter().find(|wanted| !text.contains(wanted.as_str())).cloned()
    };
    if let Some(missing) = lacking(&cell.run.console, &outcome.text) {
        return Some(format!("the console lacks {missing:?}"));
    }
    let missing = lacking(&cell.run.screen, screen(&outcome.text))?;
    Some(format!("the screen's dump lacks {missing:?}"))
}

/// The dump of the screen that the image prints when a run ends; empty where there is none.
fn screen(console: &str) -> &str {
    let Some((_, dump)) = console.rsplit_once("+ screen") else { return "" };
    dump.split_once("\n+-").map_or("", |(rows, _)| rows)
}

/// How CPUID differs from the bare machine's without being declared to, where that is asked for.
fn undeclared(cell: &Cell, matrix: &Matrix, outcome: &Outcome) -> Option<String> {
    if !cell.run.cpuid_declared {
        return None;
    }
    let run = Run { bare: true, ..cell.run.clone() };
    let bare = attempt(&Cell { run, ..cell.clone() }, matrix);
    let compared =
        bare.and_then(|bare| cpuid::undeclared(&bare.text, &outcome.text, cell.run.devices));
    match compared {
        Ok(faults) if faults.is_empty() => None,
        Ok(faults) => Some(faults.join("; ")),
        Err(error) => Some(error.to_string()),
    }
}

fn announce(finished: &Finished, outcome: Option<&Outcome>) {
    println!("{finished}");
    if finished.fault.is_none() {
        return;
    }
    let text = outcome.map_or("", |outcome| outcome.text.as_str());
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        println!("    | {line}");
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.fault.is_some() { "FAIL" } else { "ok" };
        let seconds = self.elapsed.as_secs_f64();
        write!(f, "{word:<4} {:<40} {seconds:>6.1} s  {}", self.name, self.verdict)?;
        match &self.fault {
            Some(fault) => write!(f, " ({fault})"),
            None => Ok(()),
        }
    }
}

/// The table once more in order, then the sum.
fn report(finished: &[Finished]) -> Result<()> {
    println!("\nguests:");
    for cell in finished {
        println!("{cell}");
    }
    let failed = finished.iter().filter(|cell| cell.fault.is_some()).count();
    println!("\n{} passed, {failed} failed", finished.len() - failed);
    match failed {
        0 => Ok(()),
        failed => Err(Error::Checks { failed, what: "guest runs" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::Mmu;
    use crate::verdict::Verdict;

    fn cell(verdict: &str, console: &[&str]) -> Cell {
        let text = format!(
            "[[run]]\nguest = \"g\"\ncpu = [\"amd\"]\nmmu = [\"nested\"]\nverdict = {verdict:?}\n\
             timeout = 5\nconsole = {console:?}\n"
        );
        let matrix: Matrix = toml::from_str(&text).unwrap();
        matrix.cells("", false).unwrap().remove(0)
    }

    fn outcome(verdict: &str, text: &str) -> Outcome {
        Outcome {
            verdict: Verdict::parse(verdict).unwrap(),
            json: Vec::new(),
            text: text.into(),
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn a_run_passes_only_with_its_verdict_and_all_its_console_text() {
        let cell = cell("fail status=3", &["one", "two"]);
        assert_eq!(judged(&cell, &outcome("verdict: fail status=3", "one\ntwo\n")), None);
        assert!(judged(&cell, &outcome("verdict: fail status=4", "one\ntwo\n")).is_some());
        assert!(judged(&cell, &outcome("verdict: pass", "one\ntwo\n")).is_some());
        let lacking = judged(&cell, &outcome("verdict: fail status=3", "one\n")).unwrap();
        assert_eq!(lacking, "the console lacks \"two\"");
    }

    #[test]
    fn what_must_stand_on_the_screen_is_looked_for_in_its_dump_and_nowhere_else() {
        let mut cell = cell("pass", &[]);
        cell.run.screen = vec!["Errors: 0".into()];
        let judge = |text: &str| judged(&cell, &outcome("verdict: pass", text));
        let dump = |row: &str| format!("begun\n+----+ screen\n|{row}|\n+----+\n");
        assert_eq!(judge(&dump("Errors: 0")), None);
        let lacking = judge("Errors: 0\n").unwrap();
        assert_eq!(lacking, "the screen's dump lacks \"Errors: 0\"");
        assert!(judge(&format!("Errors: 0\n{}Errors: 0\n", dump("Errors: 1"))).is_some());
        assert!(judge("+----+ screen\n|Errors: 0|").is_some(), "the dump is not whole");
    }

    #[test]
    fn a_cell_becomes_the_run_one_would_type() {
        let args = arguments(&cell("pass", &[]));
        assert_eq!((args.guest.mmu, args.guest.mem, args.timeout), (Mmu::Nested, None, Some(5)));
    }
}
