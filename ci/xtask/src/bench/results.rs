//! What a benchmark guest prints, and the JSON that becomes of it.
//!
//! A result line is `R name a k count v0 v1 …`: each v is the difference of the time-stamp
//! counter over a whole section of `count` operations, with `a` tables of `k` leaves where the
//! benchmark has such.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One line of JSON: a benchmark's figures, in instructions an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    schema: u32,
    pub(super) bench: String,
    policy: String,
    cpu: String,
    mmu: String,
    tables: u64,
    leaves: u64,
    unit: String,
    /// Operations in a section.
    count: u64,
    min: f64,
    pub(super) median: f64,
    max: f64,
    commit: String,
}

/// What all results of a run have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) policy: String,
    pub(super) cpu: String,
    pub(super) mmu: String,
    pub(super) commit: String,
}

impl Measured {
    /// Its line of JSON.
    pub(super) fn line(&self) -> String {
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
}

/// All results on a console.
pub(super) fn parse(text: &str, common: &Common) -> Result<Vec<Measured>> {
    let lines = text.lines().filter(|line| line.starts_with("R "));
    let measured: Vec<Measured> = lines
        .map(|line| {
            let what = || Error::malformed("the console", format!("no result line: {line:?}"));
            parse_line(line, common).ok_or_else(what)
        })
        .collect::<Result<_>>()?;
    if measured.is_empty() {
        return Err(Error::malformed("the console", "not one line of results (`R name …`)"));
    }
    Ok(measured)
}

fn parse_line(line: &str, common: &Common) -> Option<Measured> {
    let mut words = line.split_whitespace().skip(1);
    let bench = words.next()?.to_owned();
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let (tables, leaves, count) = (number()?, number()?, number()?);
    let sections: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
    let mut sections = sections?;
    sections.sort_unstable();
    let (min, max) = (*sections.first()?, *sections.last()?);
    if count == 0 {
        return None;
    }
    Some(Measured {
        schema: 1,
        bench,
        policy: common.policy.clone(),
        cpu: common.cpu.clone(),
        mmu: common.mmu.clone(),
        tables,
        leaves,
        unit: "instructions".into(),
        count,
        min: each(min, count),
        median: each(sections[sections.len() / 2], count),
        max: each(max, count),
        commit: common.commit.clone(),
    })
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
}
