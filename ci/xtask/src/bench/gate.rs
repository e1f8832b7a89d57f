//! The benchmarks that every test run makes: each guest against its baseline, and one of them
//! twice, because two runs must not differ in a single byte; then the engine alone.

use std::path::Path;

use super::baseline::Baseline;
use super::{BENCH, Bench, engine, results, succeeded};
use crate::cmdline::Mmu;
use crate::emulator::Outcome;
use crate::error::{Error, Result};
use crate::workspace::Workspace;

const SET: [(&str, Mmu); 4] =
    [("exits", Mmu::Nested), ("exits", Mmu::Shadow), (BENCH, Mmu::Nested), (BENCH, Mmu::Shadow)];

/// Runs the set and compares; or, with the reason for it, makes the results the baselines.
pub(crate) fn gate(workspace: &Workspace, accept: Option<&str>) -> Result<()> {
    let mut failed = 0;
    for (guest, mmu) in SET {
        let bench = Bench::bundled(guest, mmu, false);
        let (outcome, common) = bench.run(workspace, Path::new(""), |_| ())?;
        succeeded(&outcome.verdict)?;
        results::parse(&outcome.text, &common)?;
        let results = results::collect(&outcome.text, &outcome.json, &common);
        let baseline = Baseline::of(guest, mmu.name());
        match accept {
            Some(reason) => baseline.accept(&results.measured, reason)?,
            None => failed += usize::from(baseline.compare(&results.measured).is_err()),
        }
        if (guest, mmu) == (BENCH, Mmu::Shadow) {
            let (again, _) = bench.run(workspace, Path::new(""), |_| ())?;
            if let Some(difference) = difference(&outcome, &again) {
                println!("{guest} {}: two runs differ: {difference}", mmu.name());
                failed += 1;
            }
        }
    }
    match engine::gate(workspace, accept) {
        Err(Error::Checks { failed: rows, .. }) => failed += rows,
        outcome => outcome?,
    }
    match failed {
        0 => Ok(()),
        failed => Err(Error::Checks { failed, what: "benchmarks" }),
    }
}

/// The first line in which two runs of one benchmark differ.
fn difference(one: &Outcome, other: &Outcome) -> Option<String> {
    let lines = |outcome: &Outcome| {
        let text = outcome.text.lines().map(str::to_owned).collect::<Vec<_>>();
        let json = outcome.json.iter().map(|marked| marked.line.clone());
        text.into_iter().chain(json).collect::<Vec<_>>()
    };
    let (one, other) = (lines(one), lines(other));
    let length = one.len().max(other.len());
    let line = |lines: &[String], index: usize| {
        lines.get(index).map_or_else(|| "(nothing)".to_owned(), Clone::clone)
    };
    (0..length)
        .map(|index| (line(&one, index), line(&other, index)))
        .find(|(one, other)| one != other)
        .map(|(one, other)| format!("{one:?} and {other:?}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::emulator::Marked;
    use crate::verdict::Verdict;

    fn outcome(text: &str, json: &str) -> Outcome {
        let json = vec![Marked { line: json.into(), at: 0 }];
        Outcome { verdict: Verdict::Pass, json, text: text.into(), elapsed: Duration::ZERO }
    }

    #[test]
    fn runs_that_differ_in_one_figure_are_told_apart_wherever_it_is() {
        let one = outcome("R a 0 0 1 5\n", "{\"exits\":1}");
        assert_eq!(difference(&one, &one), None);
        assert!(difference(&one, &outcome("R a 0 0 1 6\n", "{\"exits\":1}")).is_some());
        assert!(difference(&one, &outcome("R a 0 0 1 5\n", "{\"exits\":2}")).is_some());
        assert!(difference(&one, &outcome("R a 0 0 1 5\nmore\n", "{\"exits\":1}")).is_some());
    }
}
