//! What one boot yields: a line of JSON, made from what the guest and the image printed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cell::{Cell, Policy, Run};
use super::stats::{Counts, quantile};
use crate::error::{Error, Result};

/// The shares of faults that [`Record::quantiles`] gives.
pub(super) const SHARES: [f64; 11] =
    [0.01, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.995, 0.999, 1.0];
/// Where the 99th percentile stands among them.
const P99: usize = 7;

/// Counters of the image that are kept, by the names that `kvm_stat` has.
const COUNTERS: [&str; 10] = [
    "exits",
    "pf_fixed",
    "pf_emulate",
    "mmu_shadow_zapped",
    "mmu_recycled",
    "mmu_revived",
    "mmu_evicted",
    "mmu_unsync",
    "mmu_flooded",
    "tlb_flush",
];

/// One boot's figures, in instructions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    schema: u32,
    bench: String,
    pub(super) policy: String,
    cpu: String,
    mmu: String,
    unit: String,
    pub(super) commit: String,
    pub(super) seed: u64,
    #[serde(flatten)]
    pub(super) cell: Cell,
    /// Post-zap faults, and their distribution at [`SHARES`].
    pub(super) count: u64,
    pub(super) min: u64,
    pub(super) median: u64,
    pub(super) max: u64,
    pub(super) quantiles: Vec<u64>,
    /// All rounds' work, zaps included, idle time and choosing left out.
    pub(super) total: u64,
    pub(super) touches: u64,
    /// A zap as the guest sees it: least, median, most.
    pub(super) zap_guest: [u64; 3],
    /// … and as the host does, from the decoded exit to the entry; all 0 where the zap is
    /// not the timed command.
    pub(super) zap_host: [u64; 3],
    /// Most shadow pages in use at once, the reserve of a fault included.
    pub(super) peak_frames: u64,
    /// Of everything that the guest read.
    pub(super) checksum: String,
    /// Over the whole run, warm rounds included.
    pub(super) counters: serde_json::Map<String, Value>,
    /// Instructions of recycles: pages, lists, directory, unlinking, clearing; only in a
    /// build with clocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) split: Option<[u64; 5]>,
    /// Samples of the frames: tick, current, stale, waiting for a flush, free.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) frames: Vec<[u64; 5]>,
}

impl Record {
    /// Reads the console of a run that passed.
    pub(super) fn read(run: &Run<'_>, text: &str, json: &[String], commit: &str) -> Result<Self> {
        let json: Vec<Value> =
            json.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let counters = of_kind(&json, "counters").next();
        let counters = counters.ok_or_else(|| malformed("no record of counters"))?;
        let guest = Guest::read(text)?;
        let number = |name: &str| counters[name].as_u64();
        let peak = number("pages_peak").ok_or_else(|| malformed("no pages_peak"))?;
        let kept = COUNTERS.into_iter().filter_map(|name| {
            let value = number(name).filter(|value| *value > 0)?;
            Some((name.to_owned(), Value::from(value)))
        });
        Ok(Self {
            schema: 1,
            bench: "experiment".into(),
            policy: run.policy.to_string(),
            cpu: "amd".into(),
            mmu: "shadow".into(),
            unit: "instructions".into(),
            commit: commit.into(),
            seed: run.seed,
            cell: run.cell.clone(),
            count: guest.faults.iter().map(|(_, count)| count).sum(),
            min: quantile(&guest.faults, 0.0),
            median: quantile(&guest.faults, 0.5),
            max: quantile(&guest.faults, 1.0),
            quantiles: SHARES.map(|share| quantile(&guest.faults, share)).to_vec(),
            total: guest.total,
            touches: guest.touches,
            zap_guest: spread(&guest.zaps),
            zap_host: spread(&host_zaps(&json, counters, run.cell.rounds)),
            peak_frames: peak,
            checksum: guest.checksum,
            counters: kept.collect(),
            split: split(counters),
            frames: frames(&json),
        })
    }

    pub(super) fn key(&self) -> Option<String> {
        Some(self.cell.key(self.policy()?, self.seed))
    }

    pub(super) fn policy(&self) -> Option<Policy> {
        Policy::named(&self.policy).ok()
    }

    /// Whether another boot gave the very same figures.
    pub(super) fn is_repeated_by(&self, other: &Self) -> bool {
        Self { commit: other.commit.clone(), ..self.clone() } == *other
    }

    pub(super) fn p99(&self) -> u64 {
        self.quantiles.get(P99).copied().unwrap_or_default()
    }
}

/// What the guest said.
#[derive(Debug, Default)]
struct Guest {
    total: u64,
    touches: u64,
    zaps: Counts,
    faults: Counts,
    checksum: String,
}

impl Guest {
    /// Reads its lines `E name …`; see `guest-loader/guests/src/bin/experiment`.
    fn read(text: &str) -> Result<Self> {
        let mut guest = Self::default();
        for line in text.lines().filter_map(|line| line.strip_prefix("E ")) {
            guest.line(line).ok_or_else(|| malformed(format!("the guest's line {line:?}")))?;
        }
        let verified = text.lines().any(|line| line.starts_with("VERIFY OK "));
        let whole = guest.total > 0 && !guest.checksum.is_empty() && verified;
        if whole { Ok(guest) } else { Err(malformed("not all of the guest's lines are there")) }
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        match name {
            "total" => {
                let (total, touches) = rest.split_once(' ')?;
                (self.total, self.touches) = (total.parse().ok()?, touches.parse().ok()?);
            }
            "zaps" => self.zaps.extend(counts(rest)?),
            "faults" => self.faults.extend(counts(rest)?),
            "checksum" => rest.clone_into(&mut self.checksum),
            _ => return None,
        }
        Some(())
    }
}

fn counts(text: &str) -> Option<Counts> {
    let pair = |word: &str| {
        let (value, count) = word.split_once('*')?;
        Some((value.parse().ok()?, count.parse().ok()?))
    };
    text.split_whitespace().map(pair).collect()
}

fn of_kind<'a>(json: &'a [Value], kind: &'static str) -> impl Iterator<Item = &'a Value> {
    json.iter().filter(move |value| value["record"] == kind)
}

/// Ticks of the zaps of the measured rounds: the last so many that were noted. An image that
/// notes none leaves their mean.
fn host_zaps(json: &[Value], counters: &Value, rounds: u64) -> Counts {
    let mut zaps: Vec<u64> = of_kind(json, "bench_zap")
        .filter_map(|record| record["ticks"].as_array())
        .flat_map(|ticks| ticks.iter().filter_map(Value::as_u64))
        .collect();
    if zaps.is_empty() {
        let all = &counters["reasons"]["bench_zap_all"];
        let (count, ticks) = (all["count"].as_u64(), all["ticks"].as_u64());
        return match (count, ticks) {
            (Some(count), Some(ticks)) if count > 0 => vec![(ticks / count, 1)],
            _ => Vec::new(),
        };
    }
    let measured = usize::try_from(rounds).unwrap_or(usize::MAX);
    let mut measured = zaps.split_off(zaps.len().saturating_sub(measured));
    measured.sort_unstable();
    measured.into_iter().map(|zap| (zap, 1)).collect()
}

fn spread(counts: &Counts) -> [u64; 3] {
    [0.0, 0.5, 1.0].map(|share| quantile(counts, share))
}

fn split(counters: &Value) -> Option<[u64; 5]> {
    let names = ["pages", "lists", "directory", "unlinking", "clearing"];
    let mut split = [0; 5];
    for (part, name) in split.iter_mut().zip(names) {
        *part = counters[format!("recycle_{name}")].as_u64()?;
    }
    (split[0] > 0).then_some(split)
}

fn frames(json: &[Value]) -> Vec<[u64; 5]> {
    let samples = of_kind(json, "frames").filter_map(|record| record["samples"].as_array());
    samples.flatten().filter_map(|sample| serde_json::from_value(sample.clone()).ok()).collect()
}

fn malformed(what: impl std::fmt::Display) -> Error {
    Error::malformed("the console of the experiment's guest", what)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::cell::Design;
    use super::*;

    const TEXT: &str = "anchorite 0.1.0\nE total 5000 12\nE zaps 30*1 40*3\nE faults 5*98 9*1\n\
                        E faults 100*1\nE checksum 00ff\nVERIFY OK 12\n";
    const COUNTED: &str = r#"{"schema":1,"record":"counters","exits":7,"pages_peak":99,"reasons":{"bench_zap_all":{"count":2,"ticks":800,"longest":500}}}"#;

    fn read(text: &str, json: &[&str]) -> Result<Record> {
        let design = Design::full();
        let run = Run { cell: &design.cells[0], policy: Policy::Quota, seed: 3 };
        let json: Vec<String> = json.iter().map(|line| (*line).to_owned()).collect();
        Record::read(&run, text, &json, "abc")
    }

    #[test]
    fn a_console_becomes_a_record_that_survives_its_line() {
        let record = read(TEXT, &[COUNTED]).unwrap();
        assert_eq!((record.count, record.min, record.median, record.max), (100, 5, 5, 100));
        assert_eq!((record.p99(), record.zap_guest), (9, [30, 40, 40]));
        assert_eq!((record.total, record.touches, record.peak_frames), (5000, 12, 99));
        assert_eq!(record.zap_host, [400; 3], "the mean, where single zaps are not noted");
        let line = serde_json::to_string(&record).unwrap();
        assert!(
            line.starts_with(r#"{"schema":1,"bench":"experiment","policy":"quota","cpu":"amd""#)
        );
        let again: Record = serde_json::from_str(&line).unwrap();
        assert_eq!(again, record);
        assert_eq!(again.key().unwrap(), Design::full().cells[0].key(Policy::Quota, 3));
    }

    #[test]
    fn only_the_zaps_of_measured_rounds_count() {
        let zaps = r#"{"record":"bench_zap","ticks":[9,9,9,1,2,3,4,5,6,7,8]}"#;
        let record = read(TEXT, &[zaps, COUNTED]).unwrap();
        assert_eq!(record.zap_host, [1, 4, 8], "eight rounds");
    }

    #[test]
    fn a_console_that_lacks_something_is_an_error() {
        assert!(read(TEXT, &[]).is_err());
        assert!(read(&TEXT.replace("VERIFY OK", "VERIFY NO"), &[COUNTED]).is_err());
        assert!(read(&TEXT.replace("5*98", "5x98"), &[COUNTED]).is_err());
        assert!(read(TEXT, &[&COUNTED.replace("pages_peak", "x")]).is_err());
    }
}
