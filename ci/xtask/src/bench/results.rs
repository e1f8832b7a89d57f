//! What a benchmark guest prints and the image notes, and the JSON that becomes of it.
//!
//! A result line is `R name a k count v0 v1 …`: each v is the difference of the time-stamp
//! counter over a whole section of `count` operations, with `a` tables of `k` leaves where the
//! benchmark has such. Zaps are timed by the host, in records beside the text; they belong to
//! the shape of the next result line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::emulator::Marked;
use crate::error::{Error, Result};

/// The name of host-timed zaps among the results.
pub(super) const ZAP_ALL: &str = "zap_all";
/// … and of what it takes to make a machine, up to the guest's first instruction.
pub(super) const CREATE: &str = "create";

/// One line of JSON: a benchmark's figures, in instructions an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    schema: u32,
    pub(super) bench: String,
    policy: String,
    cpu: String,
    pub(super) mmu: String,
    pub(super) tables: u64,
    pub(super) leaves: u64,
    unit: String,
    /// Operations in a section.
    count: u64,
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
    commit: String,
}

/// What all results of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) policy: String,
    pub(crate) cpu: String,
    pub(crate) mmu: String,
    pub(crate) commit: String,
}

/// Everything a run has told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) measured: Vec<Measured>,
    /// The counters of each section, named after its result line.
    pub(crate) sections: Vec<Value>,
}

impl Measured {
    /// Its line of JSON.
    pub(crate) fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What identifies it among the results of one baseline. (Without tables, `leaves` only
    /// numbers the sections.)
    pub(super) fn key(&self) -> String {
        let shape = match self.tables {
            0 => String::new(),
            tables => format!(" {tables}×{}", self.leaves),
        };
        match self.policy.as_str() {
            "none" => format!("{}{shape}", self.bench),
            policy => format!("{}{shape} {policy}", self.bench),
        }
    }

    fn new(name: &Name, count: u64, mut sections: Vec<u64>, common: &Common) -> Option<Self> {
        sections.sort_unstable();
        let (min, max) = (*sections.first()?, *sections.last()?);
        (count != 0).then(|| Self {
            schema: 1,
            bench: name.bench.clone(),
            policy: common.policy.clone(),
            cpu: common.cpu.clone(),
            mmu: common.mmu.clone(),
            tables: name.tables,
            leaves: name.leaves,
            unit: "instructions".into(),
            count,
            min: each(min, count),
            median: each(sections[sections.len() / 2], count),
            max: each(max, count),
            commit: common.commit.clone(),
        })
    }
}

/// What a result line is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    bench: String,
    tables: u64,
    leaves: u64,
}

/// The result lines of a text; an error where one is garbled or where there is none.
pub(super) fn parse(text: &str, common: &Common) -> Result<Vec<Measured>> {
    let results = collect(text, &[], common);
    let lines = text.lines().filter(|line| line.starts_with("R "));
    if let Some(line) = lines.clone().find(|line| parse_line(line).is_none()) {
        return Err(Error::malformed("the console", format!("no result line: {line:?}")));
    }
    if results.measured.is_empty() {
        return Err(Error::malformed("the console", "not one line of results (`R name …`)"));
    }
    Ok(results.measured)
}

/// Everything that a console's text and the image's records tell; lines that are no results
/// are left out.
pub(crate) fn collect(text: &str, records: &[Marked], common: &Common) -> Results {
    let lines = result_lines(text);
    let mut results = Results::default();
    for (_, (name, count, sections)) in &lines {
        results.measured.extend(Measured::new(name, *count, sections.clone(), common));
    }
    let mut zaps: BTreeMap<Name, Vec<u64>> = BTreeMap::new();
    for Marked { line, at } in records {
        let Ok(mut record) = serde_json::from_str::<Value>(line) else { continue };
        let next = lines.iter().find(|(start, _)| start >= at).map(|(_, (name, ..))| name);
        match record["record"].as_str() {
            Some("bench_zap") => {
                zaps.entry(zap_name(next, &record)).or_default().extend(ticks(&record));
            }
            Some("bench_create") => {
                let name = Name { bench: CREATE.into(), tables: 0, leaves: 0 };
                let ticks = record["ticks"].as_u64().into_iter().collect();
                results.measured.extend(Measured::new(&name, 1, ticks, common));
            }
            Some("bench_section") => {
                if let Some(name) = next {
                    record["bench"] = name.bench.clone().into();
                    record["tables"] = name.tables.into();
                    record["leaves"] = name.leaves.into();
                }
                record["commit"] = common.commit.clone().into();
                results.sections.push(record);
            }
            _ => {}
        }
    }
    for (name, ticks) in zaps {
        results.measured.extend(Measured::new(&name, 1, ticks, common));
    }
    results
}

type Line = (Name, u64, Vec<u64>);

/// Each result line, with where it starts in the text.
fn result_lines(text: &str) -> Vec<(usize, Line)> {
    let mut at = 0;
    let mut found = Vec::new();
    for line in text.split_inclusive('\n') {
        found.extend(parse_line(line).map(|parsed| (at, parsed)));
        at += line.len();
    }
    found
}

fn parse_line(line: &str) -> Option<Line> {
    let mut words = line.strip_prefix("R ")?.split_whitespace();
    let bench = words.next()?.to_owned();
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let (tables, leaves, count) = (number()?, number()?, number()?);
    let sections: Vec<u64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    (count != 0 && !sections.is_empty()).then_some((
        Name { bench, tables, leaves },
        count,
        sections,
    ))
}

/// A zap has the shape of the next result line that names one, else as many tables as the
/// image had shadow pages.
fn zap_name(next: Option<&Name>, record: &Value) -> Name {
    let pages = record["pages"].as_u64().unwrap_or(0);
    let (tables, leaves) = match next {
        Some(name) if name.tables != 0 => (name.tables, name.leaves),
        _ => (pages, 0),
    };
    Name { bench: ZAP_ALL.into(), tables, leaves }
}

fn ticks(record: &Value) -> impl Iterator<Item = u64> {
    record["ticks"].as_array().into_iter().flatten().filter_map(Value::as_u64)
}

/// A section's share for each of its operations, to a hundredth.
#[expect(clippy::cast_precision_loss, reason = "sections stay far below 2^53 instructions")]
fn each(section: u64, count: u64) -> f64 {
    (section as f64 / count as f64 * 100.0).round() / 100.0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn common() -> Common {
        Common {
            policy: "tagged".into(),
            cpu: "amd".into(),
            mmu: "nested".into(),
            commit: "0000000".into(),
        }
    }

    #[test]
    fn sections_become_instructions_an_operation() {
        let text = "boot\nR cpuid 0 0 100 35000 35100 40000\nVERIFY OK 3\n";
        let results = parse(text, &common()).unwrap();
        assert_eq!(results.len(), 1);
        let one = &results[0];
        assert_eq!((one.min, one.median, one.max), (350.0, 351.0, 400.0));
        assert_eq!(one.key(), "cpuid tagged");
    }

    #[test]
    fn a_line_has_the_schema_of_the_benchmarks() {
        let one = parse("R zap_all 16384 1 1 400", &common()).unwrap().remove(0);
        assert_eq!(one.key(), "zap_all 16384×1 tagged");
        let line = one.line();
        let expected = r#"{"schema":1,"bench":"zap_all","policy":"tagged","cpu":"amd","mmu":"nested","tables":16384,"leaves":1,"unit":"instructions","count":1,"min":400.0,"median":400.0,"max":400.0,"commit":"0000000"}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn garbled_lines_are_an_error_and_not_left_out() {
        for line in ["R cpuid 0 0 100", "R cpuid 0 0 0 5", "R cpuid 0 0 1 5 x", "R cpuid -1 0 1 5"]
        {
            assert!(parse(line, &common()).is_err(), "{line}");
        }
        assert!(parse("no results at all", &common()).is_err());
    }

    #[test]
    fn zaps_have_the_shape_of_the_result_line_that_follows_them() {
        let text = "R a 64 1 1 5\nR zap_guest 1024 2 1 6\n";
        let zap = |at, ticks: &str| Marked {
            line: format!("{{\"record\":\"bench_zap\",\"pages\":70,\"ticks\":{ticks}}}"),
            at,
        };
        let records = [zap(0, "[9]"), zap(13, "[3,1]"), zap(13, "[2]"), zap(text.len(), "[8]")];
        let results = collect(text, &records, &common());
        let zaps: Vec<_> = results.measured.iter().filter(|one| one.bench == ZAP_ALL).collect();
        let shapes: Vec<_> = zaps.iter().map(|one| (one.tables, one.leaves, one.median)).collect();
        assert_eq!(shapes, [(64, 1, 9.0), (70, 0, 8.0), (1024, 2, 2.0)]);
    }

    #[test]
    fn a_sections_counters_get_the_name_of_its_result_line() {
        let record = Marked { line: r#"{"record":"bench_section","exits":3}"#.into(), at: 0 };
        let results = collect("R invlpg 0 0 1 5\n", &[record], &common());
        assert_eq!(results.sections[0]["bench"], "invlpg");
        assert_eq!(results.sections[0]["exits"], 3);
    }
}
