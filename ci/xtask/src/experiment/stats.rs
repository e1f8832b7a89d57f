//! The statistics of the experiment: percentiles of a distribution, and the interval of a
//! paired comparison.
//!
//! The machine is deterministic: the same seed gives the same counts to the instruction. What
//! varies is the workload's own chance: the order of touches, which data page lies behind
//! which address, the phase between zap and access. Each seed draws these anew, from a boot
//! of its own, and all policies run the same draws. So the unit of observation is the seed,
//! and a comparison is paired by it: for each seed the logarithm of the ratio of two policies'
//! figures, their mean, and Student's t interval of that mean. Touches within one run are
//! *not* observations of their own; they would make any interval as narrow as one likes.

/// A distribution as `(value, how often)`, sorted by value.
pub(super) type Counts = Vec<(u64, u64)>;

/// The least value that at least a share of `share` of all values do not exceed (the nearest
/// rank, without interpolation); 0 where there are none.
pub(super) fn quantile(counts: &Counts, share: f64) -> u64 {
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let rank = rank(total, share);
    let mut seen = 0;
    for (value, count) in counts {
        seen += count;
        if seen >= rank {
            return *value;
        }
    }
    counts.last().map_or(0, |(value, _)| *value)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts stay far below 2^52, shares are not negative"
)]
fn rank(total: u64, share: f64) -> u64 {
    ((total as f64 * share).ceil() as u64).max(1)
}

/// An estimate with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) mean: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Interval {
    /// Whether it lies on one side of 0.
    pub(super) fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// By how much `ours` is below `theirs`, as a share of `theirs`: 0.2 means a fifth less. The
/// two are figures of the same seeds in the same order. `None` without at least two pairs of
/// positive figures.
pub(super) fn reduction(ours: &[f64], theirs: &[f64]) -> Option<Interval> {
    let interval = log_ratio(ours, theirs)?;
    let share = |log: f64| 1.0 - log.exp();
    Some(Interval {
        mean: share(interval.mean),
        low: share(interval.high),
        high: share(interval.low),
    })
}

/// By how much more is done in a unit of work, from the work (lower is better) that the same
/// thing took: 0.05 means 5 % more throughput.
pub(super) fn gain(ours: &[f64], theirs: &[f64]) -> Option<Interval> {
    let interval = log_ratio(theirs, ours)?;
    let share = |log: f64| log.exp() - 1.0;
    Some(Interval {
        mean: share(interval.mean),
        low: share(interval.low),
        high: share(interval.high),
    })
}

/// The mean of ln(a/b) over pairs, with Student's t interval.
fn log_ratio(a: &[f64], b: &[f64]) -> Option<Interval> {
    if a.len() != b.len() || a.iter().chain(b).any(|figure| *figure <= 0.0) {
        return None;
    }
    let logs: Vec<f64> = a.iter().zip(b).map(|(a, b)| (a / b).ln()).collect();
    t_interval(&logs)
}

/// The mean of `values` and its 95 % interval by Student's t; `None` below two values.
pub(super) fn t_interval(values: &[f64]) -> Option<Interval> {
    let count = values.len();
    if count < 2 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful of seeds")]
    let n = count as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let half = t_quantile(count - 1) * (squares / (n - 1.0) / n).sqrt();
    Some(Interval { mean, low: mean - half, high: mean + half })
}

/// The 97.5 % quantile of Student's t distribution (any statistics handbook's table).
fn t_quantile(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    // Beyond 30 degrees the last entry is a little too wide, never too narrow.
    TABLE[freedom.clamp(1, TABLE.len()) - 1]
}

/// The least-squares slope of y over x; 0 where all x are equal.
pub(super) fn slope(points: &[(f64, f64)]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a handful of points")]
    let n = points.len().max(1) as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (x, y) = (x / n, y / n);
    let (above, below) = points.iter().fold((0.0, 0.0), |(above, below), point| {
        (above + (point.0 - x) * (point.1 - y), below + (point.0 - x).powi(2))
    });
    if below == 0.0 { 0.0 } else { above / below }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-3
    }

    #[test]
    fn a_quantile_is_the_nearest_rank_of_known_data() {
        // NIST's handbook example of percentiles, ranks of 1 to 100.
        let hundred: Counts = (1..=100).map(|value| (value, 1)).collect();
        assert_eq!([0.01, 0.5, 0.99, 1.0].map(|share| quantile(&hundred, share)), [1, 50, 99, 100]);
        let two = vec![(7, 999), (9000, 1)];
        assert_eq!([0.5, 0.999, 0.9991].map(|share| quantile(&two, share)), [7, 7, 9000]);
        assert_eq!(quantile(&Vec::new(), 0.5), 0);
    }

    #[test]
    fn the_t_interval_of_known_data_is_the_textbooks() {
        // Student's own sleep data (1908): extra hours of drug 2 over drug 1, ten patients.
        let extra = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4];
        let interval = t_interval(&extra).unwrap();
        assert!(close(interval.mean, 1.58), "{interval:?}");
        assert!(close(interval.low, 0.7001) && close(interval.high, 2.4599), "{interval:?}");
        assert!(interval.excludes_zero());
    }

    #[test]
    fn a_reduction_of_a_fifth_is_a_fifth_whatever_the_scale_of_the_seeds() {
        let theirs = [100.0, 1000.0, 10.0];
        let ours = [80.0, 800.0, 8.0];
        let interval = reduction(&ours, &theirs).unwrap();
        assert!(close(interval.mean, 0.2) && close(interval.low, 0.2) && close(interval.high, 0.2));
        let gain = gain(&ours, &theirs).unwrap();
        assert!(close(gain.mean, 0.25), "{gain:?}");
    }

    #[test]
    fn seeds_that_disagree_leave_zero_in_the_interval() {
        let interval = reduction(&[90.0, 112.0, 100.0], &[100.0; 3]).unwrap();
        assert!(interval.low < 0.0 && interval.high > 0.0 && !interval.excludes_zero());
    }

    #[test]
    fn too_few_or_unpaired_or_impossible_figures_give_no_interval() {
        assert_eq!(reduction(&[1.0], &[2.0]), None);
        assert_eq!(reduction(&[1.0, 2.0], &[2.0]), None);
        assert_eq!(gain(&[1.0, 0.0], &[2.0, 3.0]), None);
    }

    #[test]
    fn the_slope_of_a_line_is_its_own() {
        assert!(close(slope(&[(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)]), 2.0));
        assert!(close(slope(&[(1.0, 5.0), (100.0, 5.0)]), 0.0));
        assert!(close(slope(&[(1.0, 5.0)]), 0.0));
    }
}
