//! What is run: cells, each a workload with its sizes, under each policy, with each seed.
//!
//! A cell is fixed before anything is measured. Its quota is either *tight*, what the live
//! pages need and a little, so that every policy ends up with the same number of frames in
//! use; or *loose*, where a policy that takes free frames first uses more of them. Only tight
//! cells take part in the verdict, which is to be found at equal peak frames.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A policy of the shadow engine, with the batch size where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Policy {
    Walk,
    Batch(u16),
    Quota,
    Reuse,
    Background,
    Tagged,
}

impl Policy {
    /// The six policies of the engine; `batch` with the size that Linux has.
    pub(super) const SIX: [Self; 6] =
        [Self::Walk, Self::Batch(10), Self::Quota, Self::Reuse, Self::Background, Self::Tagged];
    /// … and `batch` with the other sizes.
    pub(super) const ALL: [Self; 9] = [
        Self::Walk,
        Self::Batch(1),
        Self::Batch(10),
        Self::Batch(64),
        Self::Batch(256),
        Self::Quota,
        Self::Reuse,
        Self::Background,
        Self::Tagged,
    ];

    /// The policy called `name`; `batch` alone is that of Linux.
    pub(super) fn named(name: &str) -> Result<Self> {
        let name = if name == "batch" { "batch:10" } else { name };
        Self::ALL.into_iter().find(|policy| policy.to_string() == name).ok_or_else(|| {
            let known = Self::ALL.map(|policy| policy.to_string()).join(", ");
            Error::refused(format!("policy {name}"), format!("the experiment knows {known}"))
        })
    }
}

/// As `zap=` of the image takes it.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Walk => f.write_str("walk"),
            Self::Batch(size) => write!(f, "batch:{size}"),
            Self::Quota => f.write_str("quota"),
            Self::Reuse => f.write_str("reuse"),
            Self::Background => f.write_str("background"),
            Self::Tagged => f.write_str("tagged"),
        }
    }
}

/// What a cell is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Part {
    /// One of the workloads that the verdict is about.
    Verdict,
    /// Zap latency over the number of live pages.
    Live,
    /// The working set as a share of the quota.
    Ratio,
    /// Touches from one zap to the next.
    Rate,
    /// Frames in use over time.
    Frames,
    /// Where the instructions of a recycle go, in a build with clocks.
    Split,
}

/// A workload with its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) part: Part,
    /// The name in tables; one of a kind within its part.
    pub(super) name: String,
    /// Words of the guest's command line.
    pub(super) workload: String,
    pub(super) order: String,
    pub(super) tables: u64,
    pub(super) leaves: u64,
    pub(super) every: u64,
    pub(super) ring: u64,
    pub(super) rounds: u64,
    /// Rounds before the measured ones.
    pub(super) warm: u64,
    /// Most shadow pages.
    pub(super) quota: u64,
    /// Touches between two samples; 0 for none.
    pub(super) sample: u64,
}

/// Shadow pages besides those of the test region's page tables and directories: two roots,
/// those of the guest's own code and data, and the five that a fault reserves.
const OVERHEAD: u64 = 10;
/// … and where a memory slot moves, those that show it: PDPT, page directory, a page table for
/// each of its two places.
const APERTURE: u64 = 4;
/// Frames whose number is a little unequal are still called equal: by this share.
pub(super) const EQUAL_PEAKS: f64 = 0.02;

/// What `tables` page tables need.
const fn needed(tables: u64) -> u64 {
    tables + tables.div_ceil(512) + OVERHEAD
}

impl Cell {
    /// Rebuilds `tables` tables of `leaves` entries after each zap, at a tight quota.
    fn rebuild(part: Part, name: &str, order: &str, tables: u64, leaves: u64) -> Self {
        Self {
            part,
            name: name.into(),
            workload: "rebuild".into(),
            order: order.into(),
            tables,
            leaves,
            every: tables * leaves,
            ring: 1,
            rounds: 8,
            warm: 3,
            quota: needed(tables),
            sample: 0,
        }
    }

    fn workload(self, workload: &str, every: u64) -> Self {
        Self { workload: workload.into(), every, ..self }
    }

    /// With another quota, and as many rounds before the measured ones as it takes until a
    /// policy that never takes stale pages apart before it must has filled the quota.
    fn within(self, quota: u64) -> Self {
        let warm = quota / self.tables.max(1) + 3;
        Self { warm, quota, ..self }
    }

    fn rounds(self, rounds: u64) -> Self {
        Self { rounds, ..self }
    }

    /// The guest's memory.
    pub(super) fn memory_mib(&self) -> u32 {
        let data = (self.tables * self.leaves).next_power_of_two() * 4096;
        u32::try_from(128 + data.div_ceil(1 << 20) + 2).unwrap_or(u32::MAX)
    }

    /// The guest's command line.
    pub(super) fn words(&self, seed: u64) -> String {
        let Self { workload, order, tables, leaves, every, ring, rounds, warm, sample, .. } = self;
        format!(
            "console=e9 workload={workload} order={order} tables={tables} leaves={leaves} \
             every={every} ring={ring} rounds={rounds} warm={warm} sample={sample} seed={seed}"
        )
    }

    /// What tells its runs from those of any other cell: everything that decides them.
    pub(super) fn key(&self, policy: Policy, seed: u64) -> String {
        format!("{:?}/{} {} quota={} {policy}", self.part, self.name, self.words(seed), self.quota)
    }

    /// The working set in shadow pages as a share of the quota.
    #[cfg(test)]
    #[expect(clippy::cast_precision_loss, reason = "numbers of pages")]
    fn share(&self) -> f64 {
        self.tables as f64 / self.quota as f64
    }
}

/// What a whole experiment runs.
#[derive(Clone, Debug)]
pub(super) struct Design {
    pub(super) cells: Vec<Cell>,
    /// Seeds of each cell.
    pub(super) seeds: u64,
    pub(super) quick: bool,
}

/// The workloads of the verdict: names, and what they stand for.
fn workloads(scale: u64) -> Vec<Cell> {
    let tables = 1024 / scale;
    let part = Part::Verdict;
    vec![
        Cell::rebuild(part, "rebuild, in order, 16 leaves", "seq", tables, 16),
        Cell::rebuild(part, "rebuild, at random, 1 leaf", "random", tables, 1),
        Cell::rebuild(part, "rebuild, at random, 512 leaves", "random", 128 / scale, 512).rounds(4),
        Cell::rebuild(part, "working set, zap each 1×", "random", tables, 4)
            .workload("loop", tables),
        Cell::rebuild(part, "reader, zap each 64×", "random", tables, 1)
            .workload("reader", 64 * tables)
            .rounds(4),
        remap(part, "slot moved beside a toucher", tables),
        forks(part, "fork storm, zap each 8", scale),
        Cell::rebuild(part, "idle before rebuild", "random", tables, 1).workload("idle", tables),
    ]
}

/// A memory slot moves in place of the zap; a working set of tables of 4 leaves is touched beside it.
fn remap(part: Part, name: &str, tables: u64) -> Cell {
    let cell = Cell::rebuild(part, name, "random", tables, 4).workload("remap", 4 * tables);
    Cell { quota: cell.quota + APERTURE, ..cell }
}

/// Address spaces of 8 tables with 16 leaves, one after the other in the frames of 32, at a
/// quota that holds the shadows of half of them.
fn forks(part: Part, name: &str, scale: u64) -> Cell {
    let ring = 32 / scale;
    let spaces = ring * (8 + 3);
    let cell = Cell::rebuild(part, name, "seq", 8, 16).workload("fork", 8);
    Cell { ring, quota: spaces / 2 + 24, warm: 12, rounds: 16, ..cell }
}

/// Zap latency over live pages, at a quota that holds the most of them: `most` fills it.
fn live(numbers: &[u64], most: u64) -> Vec<Cell> {
    let sized = |tables: u64, name: &str| {
        let rounds = (8192 / tables).clamp(2, 32);
        Cell::rebuild(Part::Live, name, "random", tables, 1).within(needed(most)).rounds(rounds)
    };
    let mut cells: Vec<Cell> =
        numbers.iter().map(|tables| sized(*tables, &tables.to_string())).collect();
    cells.push(sized(most, "quota"));
    cells
}

/// A working set of half, all, twice and eight times the quota, of which `tables` is what fits.
fn ratios(tables: u64) -> Vec<Cell> {
    let quota = needed(tables);
    let cell = |name: &str, set: u64| {
        Cell::rebuild(Part::Ratio, name, "random", set, 4)
            .workload("loop", 2 * tables)
            .within(quota)
            .rounds(6)
    };
    vec![cell("½", tables / 2), cell("1", tables), cell("2", 2 * tables), cell("8", 8 * tables)]
}

/// The same working set with a zap each so many touches.
fn rates(tables: u64) -> Vec<Cell> {
    let cell = |name: &str, every: u64, rounds: u64| {
        let cell = Cell::rebuild(Part::Rate, name, "random", tables, 4);
        Cell {
            warm: 3 + 4 * tables / every.min(tables),
            ..cell.workload("loop", every).rounds(rounds)
        }
    };
    vec![
        cell("¼", tables / 4, 16),
        cell("1", tables, 8),
        cell("4", 4 * tables, 4),
        cell("16", 16 * tables, 2),
    ]
}

/// Frames in use from the first round on, at a quota that is twice the working set and one
/// that is just enough.
fn frames(tables: u64) -> Vec<Cell> {
    let cell = |name: &str, quota: u64| Cell {
        warm: 0,
        rounds: 6,
        quota,
        sample: tables / 32,
        ..Cell::rebuild(Part::Frames, name, "random", tables, 1)
    };
    vec![cell("loose", needed(2 * tables + tables / 2)), cell("tight", needed(tables))]
}

/// Recycles of tables with few and with many entries.
fn splits() -> Vec<Cell> {
    let cell = |tables, leaves: u64| {
        Cell::rebuild(Part::Split, &leaves.to_string(), "random", tables, leaves).rounds(2)
    };
    vec![cell(1024, 1), cell(512, 16), cell(128, 128), cell(64, 512)]
}

impl Design {
    /// The whole of it.
    pub(super) fn full() -> Self {
        let mut cells = workloads(1);
        cells.append(&mut splits());
        cells.append(&mut frames(1024));
        cells.append(&mut live(&[64, 1024, 4096, 16_384], 20_480));
        cells.append(&mut ratios(1024));
        cells.append(&mut rates(1024));
        Self { cells, seeds: 8, quick: false }
    }

    /// The same questions, smaller.
    pub(super) fn quick() -> Self {
        let mut cells = workloads(4);
        cells.append(&mut ratios(128));
        cells.append(&mut frames(256));
        cells.append(&mut live(&[64, 1024], 2048));
        Self { cells, seeds: 3, quick: true }
    }

    /// Every run, policies innermost, so that a broken experiment has whole pairs.
    pub(super) fn runs<'a>(&'a self, policies: &'a [Policy]) -> impl Iterator<Item = Run<'a>> {
        self.cells.iter().flat_map(move |cell| {
            (1..=self.seeds_of(cell)).flat_map(move |seed| {
                let wanted = policies.iter().filter(move |policy| cell.wants(**policy));
                wanted.map(move |policy| Run { cell, policy: *policy, seed })
            })
        })
    }

    /// Seeds of one cell. Curves and splits are no comparisons: a few draws show their spread,
    /// and one is enough of what no draw changes.
    fn seeds_of(&self, cell: &Cell) -> u64 {
        match cell.part {
            Part::Verdict => self.seeds,
            Part::Ratio | Part::Rate if !self.quick => self.seeds.min(3),
            Part::Live if !self.quick && cell.tables < 10_000 => self.seeds.min(2),
            _ => 1,
        }
    }
}

impl Cell {
    /// Batch sizes other than Linux's differ in nothing but the zap.
    fn wants(&self, policy: Policy) -> bool {
        self.part == Part::Live || Policy::SIX.contains(&policy)
    }
}

/// One boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    pub(super) cell: &'a Cell,
    pub(super) policy: Policy,
    pub(super) seed: u64,
}

impl Run<'_> {
    pub(super) fn key(&self) -> String {
        self.cell.key(self.policy, self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_run_has_a_key_of_its_own() {
        for design in [Design::full(), Design::quick()] {
            let keys: Vec<String> = design.runs(&Policy::ALL).map(|run| run.key()).collect();
            let different: HashSet<&String> = keys.iter().collect();
            assert_eq!(keys.len(), different.len());
        }
    }

    #[test]
    fn the_issues_sizes_are_all_there() {
        let design = Design::full();
        let live: Vec<u64> =
            design.cells.iter().filter(|cell| cell.part == Part::Live).map(|c| c.tables).collect();
        assert_eq!(live, [64, 1024, 4096, 16_384, 20_480]);
        let shares: Vec<f64> =
            design.cells.iter().filter(|cell| cell.part == Part::Ratio).map(Cell::share).collect();
        for (share, wanted) in shares.iter().zip([0.5, 1.0, 2.0, 8.0]) {
            assert!((share / wanted - 1.0).abs() < 0.03, "{share} for {wanted}");
        }
    }

    #[test]
    fn a_cell_of_the_verdict_has_a_quota_that_its_working_set_fills() {
        for cell in Design::full().cells.iter().filter(|cell| cell.part == Part::Verdict) {
            let set = if cell.workload == "fork" { cell.ring * 11 } else { cell.tables };
            let shown = if cell.workload == "remap" { APERTURE } else { 0 };
            assert!(cell.quota <= needed(set) + shown, "{}", cell.name);
        }
    }

    #[test]
    fn policies_are_found_by_the_names_that_the_image_knows() {
        assert_eq!(Policy::named("batch").unwrap(), Policy::Batch(10));
        assert_eq!(Policy::named("batch:256").unwrap(), Policy::Batch(256));
        assert!(Policy::named("batch:7").is_err() && Policy::named("fast").is_err());
    }

    #[test]
    fn memory_holds_the_data_pages_behind_every_table() {
        for cell in Design::full().cells {
            let bytes = u64::from(cell.memory_mib()) << 20;
            assert!((128 << 20) + cell.tables * cell.leaves * 4096 <= bytes, "{}", cell.name);
            assert!(cell.memory_mib() < 800, "{}", cell.name);
        }
    }
}
