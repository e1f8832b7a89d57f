//! `bench policies`: what a zap-all costs under each policy, then and afterwards, counted by
//! callgrind on the host; a table in the form of `hypervisor/docs/benchmarks.md`.

use std::collections::BTreeSet;

use super::callgrind::{Counted, SourceLine};
use super::engine::{ALL, Engine, in_parallel, policies, sections};
use crate::cli::BenchArgs;
use crate::error::{Error, Result};
use crate::workspace::Workspace;

/// The argument of `bench` that means this.
pub(super) const POLICIES: &str = "policies";

/// Tables, and the quota as a share of what they need.
const REBUILDS: [(u64, Room); 3] =
    [(1 << 14, Room::Tight), (1 << 14, Room::Double), (1 << 17, Room::Tight)];

/// Tables of the run whose source lines are counted: enough for everything to happen.
const LINES_OF: u64 = 1 << 10;
/// Where the engine's sources are.
const ENGINE_SOURCES: &str = "hypervisor/shadow/src/";

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

/// Counts, for each policy, a zap-all and every fault that rebuilds what it took; prints the
/// table.
pub(super) fn compare(workspace: &Workspace, args: &BenchArgs) -> Result<()> {
    let wanted = policies(args)?;
    let code = code_lines(workspace)?;
    let engine = Engine::build(workspace)?;
    println!("commit {}", Workspace::commit());
    println!(
        "| tables | quota | policy | zap | p50 | p99 | max | rebuild | clearing | peak frames | \
         code lines |"
    );
    println!("|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (tables, room) in REBUILDS {
        let pages = room.pages(tables);
        let rows = in_parallel(&wanted, |policy| {
            eprintln!("callgrind: {tables} tables under policy {policy}");
            let (said, dumps) = engine.program().count(&words(policy, tables, pages).each())?;
            row(&said, &dumps)
        })?;
        for (policy, row) in wanted.iter().zip(rows) {
            let code = code.iter().find(|(name, _)| name == policy);
            let code = code.map(|(_, text)| text.as_str()).unwrap_or_default();
            println!("| {tables} | {pages} | `{policy}` | {row} | {code} |");
        }
    }
    Ok(())
}

/// What the program is told.
struct Words(&'static str, String, String);

impl Words {
    fn each(&self) -> [&str; 4] {
        [self.0, "distribution", &self.1, &self.2]
    }
}

fn words(policy: &'static str, tables: u64, pages: u64) -> Words {
    Words(policy, tables.to_string(), pages.to_string())
}

/// How many of the engine's source lines run in a zap-all and the faults after it under each
/// policy, and how many of these do not run under every one.
fn code_lines(workspace: &Workspace) -> Result<Vec<(&'static str, String)>> {
    let engine = Engine::build_with_lines(workspace)?;
    let pages = Room::Tight.pages(LINES_OF);
    let ran = in_parallel(&ALL, |policy| {
        engine.program().lines(ENGINE_SOURCES, &words(policy, LINES_OF, pages).each())
    })?;
    let common = common(&ran);
    let texts = ran.iter().map(|lines| format!("{} ({})", lines.len(), lines.len() - common));
    Ok(ALL.into_iter().zip(texts).collect())
}

/// How many lines are in all sets.
fn common(sets: &[BTreeSet<SourceLine>]) -> usize {
    let Some((first, rest)) = sets.split_first() else { return 0 };
    first.iter().filter(|line| rest.iter().all(|set| set.contains(*line))).count()
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

    fn counted(instructions: u64, clearing: u64) -> Counted {
        Counted { instructions, clearing }
    }

    #[test]
    fn a_row_tells_the_percentiles() {
        let said = "section zap_all 2 1 1\nsection fault 2 1 1\nsection fault 2 1 1\npeak 64\n";
        let dumps = [counted(9, 0), counted(30, 5), counted(20, 5), counted(0, 0)];
        assert_eq!(row(said, &dumps).unwrap(), "9 | 20 | 20 | 30 | 50 | 10 | 64");
    }

    #[test]
    fn only_lines_of_every_policy_are_common() {
        let set = |lines: &[u32]| lines.iter().map(|line| ("f".to_owned(), *line)).collect();
        assert_eq!(common(&[set(&[1, 2, 3]), set(&[2, 3]), set(&[3, 2, 4])]), 2);
    }
}
