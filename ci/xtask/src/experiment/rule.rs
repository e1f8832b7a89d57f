//! The verdict, by the rule that was fixed before anything was measured:
//!
//! > reuse is a demonstrable win if, at equal peak frames, it gives at least 5 % throughput or
//! > at least 20 % lower post-zap p99 fault latency than `quota`, with the 95 % confidence
//! > interval excluding 0, in at least two workloads; if end-to-end throughput differs by less
//! > than 2 %, Gleb was right on throughput and the gain is latency only. The same comparison
//! > is made for `tagged` against `reuse`.
//!
//! "Workloads" are the cells of [`Part::Verdict`]. Throughput is touches (or their equal)
//! over all the work of a run, zaps included; "end-to-end throughput differs" is judged by the
//! geometric mean over those workloads. Peaks are equal within [`EQUAL_PEAKS`].

use super::cell::{EQUAL_PEAKS, Part, Policy};
use super::record::Record;
use super::stats::{Interval, gain, reduction};

const LEAST_THROUGHPUT: f64 = 0.05;
const LEAST_LATENCY: f64 = 0.20;
const WORKLOADS: usize = 2;
/// Throughput that differs by less is the same.
const SAME_THROUGHPUT: f64 = 0.02;

/// One policy against another under one workload.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    pub(super) workload: String,
    /// By how much more is done.
    pub(super) throughput: Interval,
    /// By how much lower the 99th percentile of faults after a zap is.
    pub(super) latency: Interval,
    /// Peak frames: ours, theirs.
    pub(super) peaks: [u64; 2],
}

impl Comparison {
    /// Compares the records of two policies under one cell, paired by seed. `None` where there
    /// are fewer than two pairs.
    pub(super) fn of(records: &[&Record], ours: Policy, theirs: Policy) -> Option<Self> {
        let mut pairs: Vec<(&Record, &Record)> = Vec::new();
        for one in records.iter().filter(|one| one.policy() == Some(ours)) {
            let other = records
                .iter()
                .find(|other| other.policy() == Some(theirs) && other.seed == one.seed)?;
            pairs.push((one, other));
        }
        pairs.sort_by_key(|(one, _)| one.seed);
        let figures = |of: fn(&Record) -> f64| -> (Vec<f64>, Vec<f64>) {
            pairs.iter().map(|(one, other)| (of(one), of(other))).unzip()
        };
        let (work, their_work) = figures(work);
        let (tail, their_tail) = figures(p99);
        let peak = |of: fn(&(&Record, &Record)) -> u64| pairs.iter().map(of).max().unwrap_or(0);
        Some(Self {
            workload: pairs.first()?.0.cell.name.clone(),
            throughput: gain(&work, &their_work)?,
            latency: reduction(&tail, &their_tail)?,
            peaks: [peak(|pair| pair.0.peak_frames), peak(|pair| pair.1.peak_frames)],
        })
    }

    /// Whether both used as many frames at the most.
    #[expect(clippy::cast_precision_loss, reason = "numbers of pages")]
    pub(super) fn at_equal_peaks(&self) -> bool {
        let [ours, theirs] = self.peaks.map(|peak| peak as f64);
        (ours - theirs).abs() <= EQUAL_PEAKS * ours.max(theirs)
    }

    /// At equal peaks, or with fewer frames than the other: more of them can only help it.
    fn is_fair(&self) -> bool {
        self.at_equal_peaks() || self.peaks[0] < self.peaks[1]
    }

    pub(super) fn wins_throughput(&self) -> bool {
        self.is_fair()
            && self.throughput.mean >= LEAST_THROUGHPUT
            && self.throughput.excludes_zero()
    }

    pub(super) fn wins_latency(&self) -> bool {
        self.is_fair() && self.latency.mean >= LEAST_LATENCY && self.latency.excludes_zero()
    }

    pub(super) fn wins(&self) -> bool {
        self.wins_throughput() || self.wins_latency()
    }
}

#[expect(clippy::cast_precision_loss, reason = "below 2^52 instructions")]
fn work(record: &Record) -> f64 {
    record.total as f64
}

#[expect(clippy::cast_precision_loss, reason = "below 2^52 instructions")]
fn p99(record: &Record) -> f64 {
    record.p99() as f64
}

/// What the rule says of one policy against another.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) ours: Policy,
    pub(super) theirs: Policy,
    pub(super) comparisons: Vec<Comparison>,
}

impl Verdict {
    /// Judges all workloads of the verdict that both policies ran.
    pub(super) fn of(records: &[&Record], ours: Policy, theirs: Policy) -> Self {
        let judged: Vec<&Record> =
            records.iter().copied().filter(|record| record.cell.part == Part::Verdict).collect();
        let mut names: Vec<&str> = judged.iter().map(|record| record.cell.name.as_str()).collect();
        names.dedup();
        let comparisons = names.iter().filter_map(|name| {
            let records: Vec<&Record> =
                judged.iter().copied().filter(|record| record.cell.name == *name).collect();
            Comparison::of(&records, ours, theirs)
        });
        Self { ours, theirs, comparisons: comparisons.collect() }
    }

    pub(super) fn winners(&self) -> usize {
        self.comparisons.iter().filter(|one| one.wins()).count()
    }

    /// Whether it is a demonstrable win.
    pub(super) fn is_win(&self) -> bool {
        self.winners() >= WORKLOADS
    }

    /// The geometric mean of the throughputs' gains, the least and the most.
    pub(super) fn throughput(&self) -> (f64, f64, f64) {
        let gains = || self.comparisons.iter().map(|one| one.throughput.mean);
        #[expect(clippy::cast_precision_loss, reason = "a handful of workloads")]
        let n = self.comparisons.len().max(1) as f64;
        let mean = (gains().map(f64::ln_1p).sum::<f64>() / n).exp_m1();
        let (low, high) = gains().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), gain| {
            (low.min(gain), high.max(gain))
        });
        (mean, low, high)
    }

    /// Whether the rule calls end-to-end throughput the same.
    pub(super) fn same_throughput(&self) -> bool {
        self.throughput().0.abs() < SAME_THROUGHPUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(mean: f64, half: f64) -> Interval {
        Interval { mean, low: mean - half, high: mean + half }
    }

    fn comparison(throughput: Interval, latency: Interval, peaks: [u64; 2]) -> Comparison {
        Comparison { workload: "w".into(), throughput, latency, peaks }
    }

    fn verdict(comparisons: Vec<Comparison>) -> Verdict {
        Verdict { ours: Policy::Reuse, theirs: Policy::Quota, comparisons }
    }

    #[test]
    fn five_percent_or_a_fifth_wins_and_a_hair_less_does_not() {
        let none = interval(0.0, 0.0);
        let wins = |throughput, latency| comparison(throughput, latency, [100, 100]).wins();
        assert!(wins(interval(0.05, 0.01), none));
        assert!(!wins(interval(0.0499, 0.01), none));
        assert!(wins(none, interval(0.20, 0.05)));
        assert!(!wins(none, interval(0.1999, 0.05)));
    }

    #[test]
    fn an_interval_that_holds_zero_wins_nothing() {
        assert!(!comparison(interval(0.3, 0.31), interval(0.0, 0.0), [9, 9]).wins());
        assert!(comparison(interval(0.3, 0.29), interval(0.0, 0.0), [9, 9]).wins());
    }

    #[test]
    fn more_frames_than_the_other_are_no_equal_peaks() {
        let gain = interval(0.3, 0.01);
        assert!(!comparison(gain, gain, [103, 100]).wins());
        assert!(comparison(gain, gain, [102, 100]).wins());
        assert!(comparison(gain, gain, [50, 100]).wins(), "fewer are a handicap");
    }

    #[test]
    fn one_workload_is_no_win_two_are() {
        let good = comparison(interval(0.1, 0.01), interval(0.0, 0.0), [1, 1]);
        let bad = comparison(interval(0.0, 0.01), interval(0.0, 0.0), [1, 1]);
        assert!(!verdict(vec![good.clone(), bad.clone()]).is_win());
        assert!(verdict(vec![good.clone(), good, bad]).is_win());
    }

    #[test]
    fn throughput_is_the_same_where_its_mean_is_within_two_percent() {
        let one = |mean| comparison(interval(mean, 0.001), interval(0.0, 0.0), [1, 1]);
        assert!(verdict(vec![one(0.03), one(-0.005)]).same_throughput());
        assert!(!verdict(vec![one(0.03), one(0.015)]).same_throughput());
    }
}
