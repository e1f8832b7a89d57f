//! `test --status FILE`: what came of each run of the matrix, as a table that is kept from call to
//! call: the runs of this call replace their lines, and the others stay with the commit at which
//! they were last seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

const HEAD: &str = "\
# Which guest runs where

Written by `cargo xtask test --matrix FILTER --all --status FILE`, one line for each run of
`ci/matrix.toml` that has been tried; never edited by hand. A run that is not listed has not been
tried. `as expected` is `no` where the verdict is another than the matrix asks for, or the console
lacks what it must show. Exits are counted by the image. Its own instructions can be told only
where instructions are counted (`icount` in the matrix, QEMU); the guest's come on top, and those
alone are what the guest takes on plain QEMU.

| run | devices | verdict | as expected | exits | the image's own instructions | seconds | commit |
|---|---|---|---|---:|---:|---:|---|
";

/// One run's line.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Guest, label, vendor, emulator and translation.
    pub(crate) name: String,
    pub(crate) devices: &'static str,
    pub(crate) verdict: String,
    pub(crate) as_expected: bool,
    /// Exits, and the clock's ticks in them.
    pub(crate) sums: Option<(u64, u64)>,
    /// The clock counts instructions.
    pub(crate) counted: bool,
    pub(crate) seconds: f64,
}

/// Puts `rows` into the table in `file`.
pub(crate) fn write(file: &Path, rows: &[Row], commit: &str) -> Result<()> {
    let before = fs::read_to_string(file).unwrap_or_default();
    fs::write(file, merged(&before, rows, commit)).map_err(Error::io(file))
}

/// The sum of all exits in what a run printed: the line `all` of its counters.
pub(crate) fn sums(console: &str) -> Option<(u64, u64)> {
    let line = console.lines().rev().find(|line| line.starts_with("all "))?;
    let mut words = line.split_whitespace().skip(1).map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

fn merged(before: &str, rows: &[Row], commit: &str) -> String {
    let kept = before.lines().filter_map(|line| Some((key(line)?, line.to_owned())));
    let mut lines: BTreeMap<String, String> = kept.collect();
    lines.extend(rows.iter().map(|row| (row.name.clone(), row.line(commit))));
    let mut text = HEAD.to_owned();
    for line in lines.values() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// The name of the run that a line of the table is about.
fn key(line: &str) -> Option<String> {
    let name = line.strip_prefix("| `")?.split_once('`')?.0;
    Some(name.to_owned())
}

impl Row {
    fn line(&self, commit: &str) -> String {
        let Self { name, devices, verdict, seconds, .. } = self;
        let verdict = verdict.trim_start_matches("verdict: ").replace('|', "/");
        let expected = if self.as_expected { "yes" } else { "**no**" };
        let (exits, ticks) = match self.sums {
            Some((exits, ticks)) if self.counted => (exits.to_string(), ticks.to_string()),
            Some((exits, _)) => (exits.to_string(), String::new()),
            None => Default::default(),
        };
        format!(
            "| `{name}` | {devices} | {verdict} | {expected} | {exits} | {ticks} | {seconds:.1} | {commit} |"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, as_expected: bool) -> Row {
        Row {
            name: name.into(),
            devices: "l3",
            verdict: "verdict: pass".into(),
            as_expected,
            sums: Some((7, 99)),
            counted: true,
            seconds: 1.25,
        }
    }

    #[test]
    fn a_run_replaces_its_own_line_and_leaves_the_others() {
        let first = merged("", &[row("b amd", true), row("a amd", true)], "1111111");
        let second = merged(&first, &[row("b amd", false)], "2222222");
        let lines: Vec<&str> = second.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(
            lines,
            [
                "| `a amd` | l3 | pass | yes | 7 | 99 | 1.2 | 1111111 |",
                "| `b amd` | l3 | pass | **no** | 7 | 99 | 1.2 | 2222222 |",
            ]
        );
        assert_eq!(second.matches("Which guest runs where").count(), 1);
    }

    #[test]
    fn exits_are_read_from_the_last_table_of_counters() {
        let text = "all the guest said\nall   1 2 3\nx\nall        111155  386594806      3477\n";
        assert_eq!(sums(text), Some((111_155, 386_594_806)));
        assert_eq!(sums("nothing"), None);
    }
}
