//! The report: the verdict in three sentences, then the tables behind it.

use std::fmt::Write as _;

use super::cell::{Part, Policy};
use super::figures::{cells, median, split_of};
use super::record::Record;
use super::rule::{Comparison, Verdict};
use super::stats::{Interval, slope};

/// What the report is about besides its records.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) commit: String,
    pub(super) seeds: u64,
    pub(super) quick: bool,
    /// Runs done, of how many.
    pub(super) done: [usize; 2],
    /// Names of the figures' files.
    pub(super) figures: Vec<&'static str>,
}

/// The whole report, in Markdown.
pub(super) fn report(records: &[&Record], facts: &Facts) -> String {
    let reuse = Verdict::of(records, Policy::Reuse, Policy::Quota);
    let tagged = Verdict::of(records, Policy::Tagged, Policy::Reuse);
    let direct = Verdict::of(records, Policy::Tagged, Policy::Quota);
    let mut text = String::new();
    head(&mut text, facts);
    text.push_str("## Verdict\n\n");
    for sentence in sentences(records, &reuse, &tagged) {
        let _ = writeln!(text, "{sentence}");
    }
    text.push_str("\n## The comparisons of the rule\n\n");
    text.push_str(RULE);
    for verdict in [&reuse, &tagged, &direct] {
        comparisons(&mut text, verdict);
    }
    text.push_str(MEANING);
    zaps(&mut text, records);
    workloads(&mut text, records);
    over_quota(&mut text, records, Part::Ratio, "Working set over quota", "working set / quota");
    over_quota(&mut text, records, Part::Rate, "Zap rates", "touches a zap / working set");
    splits(&mut text, records);
    figures(&mut text, facts);
    text.push_str(LIMITS);
    text
}

fn head(text: &mut String, facts: &Facts) {
    let Facts { commit, seeds, quick, done: [done, all], .. } = facts;
    let size = if *quick { "quick: small sizes, for a look and for CI" } else { "full" };
    let _ = writeln!(
        text,
        "# Does recycling stale shadow pages pay?\n\n\
         Measured at commit {commit} ({size}), {seeds} seeds a comparison, \
         {done} of {all} runs. QEMU TCG, AMD, `--mmu \
         shadow`, one vCPU; the unit is **instructions executed** (`-icount shift=0`). Not in it: \
         cache and TLB misses; VMRUN counts as one. A run repeats to the byte.\n"
    );
}

const RULE: &str = "\
Fixed beforehand: a policy is a demonstrable win over another if, at equal peak frames, it gives at \
least 5 % throughput or at least 20 % lower post-zap p99 fault latency, with the 95 % interval \
excluding 0, in at least two workloads. Throughput is touches over all work of a run, zaps and the \
guest's own instructions included. p99 is that of the faults in the window after a zap (as many \
touches as there are tables, or one pass). Every workload here has a quota that its working set \
fills, the same for both policies.\n\n";

const MEANING: &str = "\
**What the intervals mean.** The machine is deterministic: one seed gives one figure, to the \
instruction. What varies is the workload's own chance: order of touches, which data page lies behind \
which address, where in the region a pass begins. Each seed draws these anew for a boot of its own, and \
all policies run the same draws. The interval is Student's t over seeds, of the mean logarithm of the \
ratio of two policies with the same seed, turned back into per cent. It says how far another draw of \
the *same* workload would move the figure; it says nothing of other workloads, other machines, caches \
or TLBs. Touches within a run are not counted as observations. An interval of no width means that \
nothing the seed decides reaches the figure.\n\n";

const LIMITS: &str = "\
## What this does not show\n\n\
- One vCPU: lock breaks (`batch`) and the shared lock cost what they cost without anybody waiting.\n\
- Instructions, not time: a recycled page is in the cache or it is not; that is not in these figures.\n\
- `background` works only while the guest halts. Only the workload with idle time gives it any.\n\
- `walk`, `batch`, `quota`, `reuse` and `background` share one compiled engine that looks up its \
policy where they differ, a few instructions an allocation; `tagged` is compiled on its own.\n";

// ---- the verdict ---------------------------------------------------------

/// The verdict in three sentences.
pub(super) fn sentences(records: &[&Record], reuse: &Verdict, tagged: &Verdict) -> Vec<String> {
    if reuse.comparisons.is_empty() || tagged.comparisons.is_empty() {
        return vec![
            "Not computed: it takes quota, reuse and tagged, with two seeds at least.".into(),
        ];
    }
    vec![sentence(reuse), sentence(tagged), clearing(records)]
}

fn sentence(verdict: &Verdict) -> String {
    let Verdict { ours, theirs, comparisons } = verdict;
    let is = if verdict.is_win() { "is" } else { "is not" };
    let (mean, low, high) = verdict.throughput();
    let tails = comparisons.iter().map(|one| one.latency.mean);
    let (worst, best) = tails.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), tail| {
        (low.min(tail), high.max(tail))
    });
    let mut text = format!(
        "**`{ours}` {is} a demonstrable win over `{theirs}`**: it reaches the thresholds in {} of {} \
         workloads, with {} throughput on average ({} to {}) and a p99 of the faults after a zap \
         from {} to {}",
        verdict.winners(),
        comparisons.len(),
        signed(mean),
        signed(low),
        signed(high),
        lower(worst),
        lower(best),
    );
    if verdict.ours == Policy::Reuse && verdict.same_throughput() {
        text.push_str(if verdict.is_win() {
            "; end-to-end throughput differs by less than 2 %, so Gleb was right on throughput and \
             the gain is latency only"
        } else {
            "; end-to-end throughput differs by less than 2 %, so Gleb was right"
        });
    } else if verdict.same_throughput() {
        text.push_str(
            "; end-to-end throughput differs by less than 2 %, so the gain is latency only",
        );
    }
    text.push('.');
    text
}

/// The third sentence: zap latency, and what every policy pays.
fn clearing(records: &[&Record]) -> String {
    let zap = |policy: Policy| {
        let live = live(records, policy);
        let most = live.iter().map(|record| record.cell.tables).max()?;
        let own: Vec<&Record> =
            live.into_iter().filter(|record| record.cell.tables == most).collect();
        Some((most, median(&own, |record| record.zap_host[1])))
    };
    let mut parts = Vec::new();
    if let Some((most, tagged)) = zap(Policy::Tagged) {
        let batch = zap(Policy::Batch(10)).map(|(_, batch)| format!(", {batch} under `batch:10`"));
        parts.push(format!(
            "A zap-all of {most} live tables takes {tagged} instructions under `tagged`{}",
            batch.unwrap_or_default()
        ));
    }
    let split = |policy: Policy, leaves: u64| {
        let record = records.iter().find(|record| {
            record.cell.part == Part::Split
                && record.cell.leaves == leaves
                && record.policy() == Some(policy)
        })?;
        split_of(record)
    };
    if let (Some(reuse), Some(tagged)) = (split(Policy::Reuse, 512), split(Policy::Tagged, 512)) {
        let clearing = if parts.is_empty() { "Clearing" } else { "clearing" };
        parts.push(format!(
            "{clearing}, which every policy pays, is {:.0} of the {:.0} instructions that `tagged` spends \
             on a recycled page of 512 entries, where `reuse` spends {:.0}, {:.0} of them on unlinking \
             (which clears as it goes)",
            tagged[3],
            tagged.iter().sum::<f64>(),
            reuse.iter().sum::<f64>(),
            reuse[2],
        ));
    }
    if parts.is_empty() {
        return "Zap latency and recycles were not measured.".into();
    }
    parts.join("; ") + "."
}

fn live<'a>(records: &[&'a Record], policy: Policy) -> Vec<&'a Record> {
    let live = records.iter().copied().filter(|record| record.cell.part == Part::Live);
    live.filter(|record| record.policy() == Some(policy)).collect()
}

// ---- tables --------------------------------------------------------------

fn comparisons(text: &mut String, verdict: &Verdict) {
    let Verdict { ours, theirs, comparisons } = verdict;
    let _ = writeln!(
        text,
        "### `{ours}` against `{theirs}`\n\n\
         | workload | throughput | p99 lower by | peak frames | wins |\n|---|---:|---:|---:|---|"
    );
    for one in comparisons {
        let Comparison { workload, throughput, latency, peaks: [mine, their], .. } = one;
        let equal = if one.at_equal_peaks() { "" } else { " (unequal)" };
        let wins = match (one.wins_throughput(), one.wins_latency()) {
            (true, true) => "both",
            (true, false) => "throughput",
            (false, true) => "latency",
            (false, false) => "–",
        };
        let _ = writeln!(
            text,
            "| {workload} | {} | {} | {mine} / {their}{equal} | {wins} |",
            interval(throughput),
            interval(latency)
        );
    }
    let (mean, low, high) = verdict.throughput();
    let _ = writeln!(
        text,
        "\n{} of {} workloads reach the thresholds; throughput {} (geometric mean; {} to {}).\n",
        verdict.winners(),
        comparisons.len(),
        signed(mean),
        signed(low),
        signed(high)
    );
}

#[expect(clippy::cast_precision_loss, reason = "below 2^52 instructions")]
fn zaps(text: &mut String, records: &[&Record]) {
    let live_cells: Vec<&Record> =
        records.iter().copied().filter(|record| record.cell.part == Part::Live).collect();
    let columns = cells(&live_cells);
    if columns.is_empty() {
        return;
    }
    text.push_str(
        "## Zap latency\n\nInstructions from the decoded exit to the next entry (in \
                   brackets: as the guest sees it), median, over live page tables; the last column \
                   fills the quota.\n\n| policy |",
    );
    for cell in &columns {
        let _ = write!(text, " {} |", cell.tables);
    }
    text.push_str(" slope a table |\n|---|");
    text.push_str(&"---:|".repeat(columns.len() + 1));
    text.push('\n');
    for policy in Policy::ALL {
        let own = live(records, policy);
        if own.is_empty() {
            continue;
        }
        let _ = write!(text, "| `{policy}` |");
        let mut points = Vec::new();
        for cell in &columns {
            let own: Vec<&Record> =
                own.iter().copied().filter(|record| record.cell == **cell).collect();
            let host = median(&own, |record| record.zap_host[1]);
            let guest = median(&own, |record| record.zap_guest[1]);
            points.push((cell.tables as f64, host as f64));
            let _ = write!(text, " {host} ({guest}) |");
        }
        let _ = writeln!(text, " {:.2} |", slope(&points));
    }
    text.push('\n');
}

/// Every policy under every workload of the verdict.
fn workloads(text: &mut String, records: &[&Record]) {
    let part: Vec<&Record> =
        records.iter().copied().filter(|record| record.cell.part == Part::Verdict).collect();
    text.push_str("## All policies, all workloads\n\nMedians over seeds, instructions: all work for \
                   a touch; faults after a zap at p50, p99 and the dearest; a zap as the guest sees \
                   it; peak frames.\n");
    for cell in cells(&part) {
        let _ = writeln!(
            text,
            "\n**{}** ({} tables × {} leaves, quota {})\n\n\
             | policy | a touch | p50 | p99 | max | zap | peak |\n|---|---:|---:|---:|---:|---:|---:|",
            cell.name, cell.tables, cell.leaves, cell.quota
        );
        for policy in Policy::SIX {
            let own: Vec<&Record> = part
                .iter()
                .copied()
                .filter(|record| record.cell == *cell && record.policy() == Some(policy))
                .collect();
            if !own.is_empty() {
                row(text, policy, &own);
            }
        }
    }
    text.push('\n');
}

fn row(text: &mut String, policy: Policy, own: &[&Record]) {
    let of = |figure: fn(&Record) -> u64| median(own, figure);
    let _ = writeln!(
        text,
        "| `{policy}` | {} | {} | {} | {} | {} | {} |",
        of(|record| record.total / record.touches.max(1)),
        of(|record| record.median),
        of(Record::p99),
        of(|record| record.max),
        of(|record| record.zap_guest[1]),
        of(|record| record.peak_frames)
    );
}

/// Work for a touch under each policy, over the cells of a part.
fn over_quota(text: &mut String, records: &[&Record], part: Part, title: &str, first: &str) {
    let own: Vec<&Record> =
        records.iter().copied().filter(|record| record.cell.part == part).collect();
    let policies: Vec<Policy> = Policy::SIX
        .into_iter()
        .filter(|policy| own.iter().any(|record| record.policy() == Some(*policy)))
        .collect();
    if policies.is_empty() {
        return;
    }
    let _ = write!(
        text,
        "## {title}\n\nInstructions a touch, zaps included; in brackets the p99 of the faults after a \
         zap and the peak frames. Medians over seeds.\n\n| {first} |"
    );
    for policy in &policies {
        let _ = write!(text, " `{policy}` |");
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(policies.len()));
    for cell in cells(&own) {
        let _ = write!(text, "| {} |", cell.name);
        for policy in &policies {
            let these: Vec<&Record> = own
                .iter()
                .copied()
                .filter(|record| record.cell == *cell && record.policy() == Some(*policy))
                .collect();
            let touch = median(&these, |record| record.total / record.touches.max(1));
            let peak = median(&these, |record| record.peak_frames);
            let _ = write!(text, " {touch} ({}, {peak}) |", median(&these, Record::p99));
        }
        text.push('\n');
    }
    text.push('\n');
}

fn splits(text: &mut String, records: &[&Record]) {
    let own: Vec<&Record> =
        records.iter().copied().filter(|record| record.split.is_some()).collect();
    if own.is_empty() {
        return;
    }
    text.push_str("## Where the instructions of a recycle go\n\nFor one stale page taken apart or \
                   reused, in a build of the image that reads the clock between the steps. Clearing \
                   is what `tagged` does in place of unlinking; the others zero each entry as they \
                   unlink it. `walk`, `batch` and `background` do this work elsewhere, but it is the \
                   same work.\n\n\
                   | leaves | policy | pages | lists | directory | unlinking | clearing | all |\n\
                   |---:|---|---:|---:|---:|---:|---:|---:|\n");
    for record in own {
        let [lists, directory, unlinking, clearing] = split_of(record).unwrap_or_default();
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {lists:.0} | {directory:.0} | {unlinking:.0} | {clearing:.0} | {:.0} |",
            record.cell.leaves,
            record.policy,
            record.split.map_or(0, |split| split[0]),
            lists + directory + unlinking + clearing
        );
    }
    text.push('\n');
}

fn figures(text: &mut String, facts: &Facts) {
    if facts.figures.is_empty() {
        return;
    }
    text.push_str("## Figures\n\n");
    for name in &facts.figures {
        let _ = writeln!(text, "![{name}]({name}.svg)\n");
    }
}

fn interval(interval: &Interval) -> String {
    let Interval { mean, low, high } = interval;
    format!("{} [{}, {}]", signed(*mean), signed(*low), signed(*high))
}

fn signed(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

fn lower(share: f64) -> String {
    let word = if share < 0.0 { "higher" } else { "lower" };
    format!("{:.1} % {word}", share.abs() * 100.0)
}
