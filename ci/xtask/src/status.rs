//! `test --status FILE`: what came of each run of the matrix, as a table that is kept from call to
//! call: the runs of this call replace their lines, and the others stay with the commit at which
//! they were last seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

const HEAD: &str = "\
# Which guest runs where

Written by `cargo xtask test --matrix FILTER --all --status FILE`, one line for each run of
`ci/matrix.toml` that has been tried; never edited by hand. A run that is not listed has not been
tried. `as expected` is `no` where the verdict is another than the matrix asks for, or the console
lacks what it must show. Exits are counted by the image. Instructions can be told only where they
are counted (`icount` in the matrix, QEMU): the image's own, and those of the whole run from reset
to the end of Linux's `init`, without the time in which the kernel was idle (to 10 million). The
last are set against the same guest's run on plain QEMU, without the image.

| run | devices | verdict | as expected | exits | the image's own instructions | all instructions | against plain QEMU | seconds | commit |
|---|---|---|---|---:|---:|---:|---:|---:|---|
";
const COLUMNS: usize = 10;
/// The column of all instructions; the next is what they come to against plain QEMU.
const ALL: usize = 6;

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
    /// Ticks of the clock from reset to the guest's end, idle ones apart.
    pub(crate) ticks: Option<u64>,
    pub(crate) seconds: f64,
}

/// Puts `rows` into the table in `file`, which is made where it is not there. Calls that run side by
/// side wait for each other, so that none loses another's rows.
pub(crate) fn write(file: &Path, rows: &[Row], commit: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut table = options.open(file).map_err(Error::io(file))?;
    // Held until the file is closed.
    flock(&table, FlockOperation::LockExclusive)
        .map_err(|errno| Error::io(file)(io::Error::from(errno)))?;
    let mut before = String::new();
    table.read_to_string(&mut before).map_err(Error::io(file))?;
    let text = merged(&before, rows, commit);
    table.rewind().map_err(Error::io(file))?;
    table.set_len(0).map_err(Error::io(file))?;
    table.write_all(text.as_bytes()).map_err(Error::io(file))
}

/// The sum of all exits in what a run printed: the line `all` of its counters.
pub(crate) fn sums(console: &str) -> Option<(u64, u64)> {
    let line = console.lines().rev().find(|line| line.starts_with("all "))?;
    let mut words = line.split_whitespace().skip(1).map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// The ticks of the clock that a Linux guest's `init` tells at its end, less those in which the
/// kernel was idle; a tick is a nanosecond where instructions are counted.
pub(crate) fn busy_ticks(console: &str) -> Option<u64> {
    let line = console.lines().rev().find_map(|line| line.split_once("-linux: clock: 0x"))?.1;
    let (ticks, idle) = line.split_once(" ticks, idle ")?;
    let (seconds, hundredths) = idle.split_once(" s")?.0.split_once('.')?;
    let idle = seconds.parse::<u64>().ok()? * 100 + hundredths.parse::<u64>().ok()?;
    u64::from_str_radix(ticks, 16).ok()?.checked_sub(idle * 10_000_000)
}

fn merged(before: &str, rows: &[Row], commit: &str) -> String {
    // A line of an older form lacks what it should tell: that run has to be made again.
    let kept = before.lines().filter_map(cells);
    let fresh = rows.iter().map(|row| (row.name.clone(), row.cells(commit)));
    let mut lines: BTreeMap<String, Cells> = kept.chain(fresh).collect();
    compare(&mut lines);
    let mut text = HEAD.to_owned();
    for cells in lines.values() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

type Cells = [String; COLUMNS];

/// A line of the table, and the name of the run that it is about.
fn cells(line: &str) -> Option<(String, Cells)> {
    let inner = line.strip_prefix("| `")?.strip_suffix('|')?;
    let name = inner.split_once('`')?.0.to_owned();
    let cells: Vec<String> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
    Some((name, cells.get(1..cells.len() - 1)?.to_vec().try_into().ok()?))
}

/// Sets the instructions of each run against those of the guest's run on plain QEMU.
fn compare(lines: &mut BTreeMap<String, Cells>) {
    let all = |cells: &Cells| cells[ALL].parse::<f64>().ok();
    let bare: BTreeMap<String, f64> = lines
        .iter()
        .filter_map(|(name, cells)| Some((name.strip_suffix(BARE)?.to_owned(), all(cells)?)))
        .collect();
    for (name, cells) in lines {
        let guest = name.split([':', ' ']).next().unwrap_or_default();
        let ratio = all(cells).zip(bare.get(guest)).map(|(all, bare)| format!("{:.3}", all / bare));
        cells[ALL + 1] = ratio.unwrap_or_default();
    }
}

/// How the name of a guest's run on plain QEMU ends.
const BARE: &str = " amd qemu bare";

impl Row {
    fn cells(&self, commit: &str) -> Cells {
        let Self { name, devices, verdict, seconds, .. } = self;
        let verdict = verdict.trim_start_matches("verdict: ").replace('|', "/");
        let expected = if self.as_expected { "yes" } else { "**no**" };
        let (exits, ticks) = match self.sums {
            Some((exits, ticks)) if self.counted => (exits.to_string(), ticks.to_string()),
            Some((exits, _)) => (exits.to_string(), String::new()),
            None => Default::default(),
        };
        let all = self.ticks.filter(|_| self.counted).map_or_else(String::new, |n| n.to_string());
        [
            format!("`{name}`"),
            (*devices).to_owned(),
            verdict,
            expected.to_owned(),
            exits,
            ticks,
            all,
            String::new(),
            format!("{seconds:.1}"),
            commit.to_owned(),
        ]
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
            ticks: None,
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
                "| `a amd` | l3 | pass | yes | 7 | 99 |  |  | 1.2 | 1111111 |",
                "| `b amd` | l3 | pass | **no** | 7 | 99 |  |  | 1.2 | 2222222 |",
            ]
        );
        assert_eq!(second.matches("Which guest runs where").count(), 1);
    }

    #[test]
    fn calls_side_by_side_lose_none_of_each_others_rows() {
        let file = std::env::temp_dir().join(format!("anchorite-status-{}", std::process::id()));
        let names: Vec<String> = (0..20).map(|number| format!("g:{number} amd")).collect();
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(|| write(&file, &[row(name, true)], "1111111").unwrap());
            }
        });
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(names.iter().all(|name| text.contains(&format!("| `{name}` |"))), "{text}");
        assert_eq!(text.matches("| 1111111 |").count(), names.len());
    }

    #[test]
    fn a_run_is_set_against_plain_qemus_also_where_that_was_made_before() {
        let counted = |name: &str, ticks| Row { ticks: Some(ticks), ..row(name, true) };
        let bare = merged("", &[counted("g amd qemu bare", 1000)], "1111111");
        let both = merged(&bare, &[counted("g:x amd qemu shadow", 1050)], "2222222");
        assert!(both.contains("| 1050 | 1.050 |") && both.contains("| 1000 | 1.000 |"), "{both}");
        let uncounted = Row { counted: false, ..counted("g amd qemu nested", 9) };
        assert!(merged(&bare, &[uncounted], "1").contains("| 7 |  |  |  |"), "a clock, no counter");
        let other = merged(&bare, &[counted("gg amd qemu shadow", 1050)], "2");
        assert!(other.contains("| 1050 |  |"), "{other}");
    }

    #[test]
    fn lines_of_an_older_form_are_dropped() {
        let before = "| `a` | l3 | pass | yes | 1 |  | 2.0 | 1111111 |\n";
        assert!(!merged(before, &[], "2").contains("`a`"));
    }

    #[test]
    fn idle_time_is_no_work() {
        let line = "[ 3.1] anchorite-linux: clock: 0x0000000077359400 ticks, idle 0.25 s\n";
        assert_eq!(busy_ticks(line), Some(2_000_000_000 - 250_000_000));
        assert_eq!(busy_ticks("anchorite-linux: clock: 0x01 ticks, idle 0.25 s"), None);
        assert_eq!(busy_ticks("nothing"), None);
    }

    #[test]
    fn exits_are_read_from_the_last_table_of_counters() {
        let text = "all the guest said\nall   1 2 3\nx\nall        111155  386594806      3477\n";
        assert_eq!(sums(text), Some((111_155, 386_594_806)));
        assert_eq!(sums("nothing"), None);
    }
}
