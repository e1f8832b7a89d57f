//! Callgrind: how a program is run under it, and what it writes: for each dump, how many
//! instructions, and how many of them cleared shadow tables, which is counted apart.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process;
use crate::workspace::OUT;

/// Part of the (mangled) name of the function that clears a line of a shadow table.
const CLEARING: &str = "clear_shadow_line";
/// Callgrind is fifty times slower than the machine, and the largest guest is built in it.
const LIMIT: Duration = Duration::from_secs(3600);

/// A program of which callgrind collects what runs inside its function `counted`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program<'a> {
    pub(super) executable: &'a Path,
    /// The crate that the function is in.
    pub(super) name: &'a str,
}

/// A source line: its file, and the number.
pub(super) type SourceLine = (String, u32);

impl Program<'_> {
    /// Runs it; what it printed, and the dumps that it asked for by calling its function `dump`.
    pub(super) fn count(self, words: &[&str]) -> Result<(String, Vec<Counted>)> {
        let mut valgrind = self.callgrind();
        valgrind.arg(format!("--dump-before=*{}4dump17h*", self.mangled()));
        let (said, mut file) = self.run(valgrind, words)?;
        Ok((said, dumps(file.lines())?))
    }

    /// Runs it; the source lines below `folder` (a part of a path) that ran.
    pub(super) fn lines(self, folder: &str, words: &[&str]) -> Result<BTreeSet<SourceLine>> {
        let mut valgrind = self.callgrind();
        valgrind.args(["--compress-strings=no", "--compress-pos=no"]);
        let (_, mut file) = self.run(valgrind, words)?;
        lines_below(folder, file.lines())
    }

    /// Counts must not depend on the processor: the C library is told to use the instructions
    /// that every one of this architecture has.
    fn callgrind(self) -> Command {
        let mut valgrind = Command::new("valgrind");
        valgrind
            .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX,-ERMS,-FSRM")
            .args(["--quiet", "--tool=callgrind", "--demangle=no", "--combine-dumps=yes"])
            .args(["--collect-atstart=no"])
            .arg(format!("--toggle-collect=*{}7counted17h*", self.mangled()));
        valgrind
    }

    /// The crate's name as it stands in mangled ones.
    fn mangled(self) -> String {
        format!("{}{}", self.name.len(), self.name)
    }

    fn run(self, mut valgrind: Command, words: &[&str]) -> Result<(String, Output)> {
        fs::create_dir_all(OUT).map_err(Error::io(OUT))?;
        let path = Path::new(OUT).join(format!("callgrind-{}.out", words.join("-")));
        // What an earlier run left would be taken for this one's.
        if path.exists() {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
        valgrind.arg(format!("--callgrind-out-file={}", path.display()));
        valgrind.arg(self.executable).args(words);
        let said = process::capture(&mut valgrind, LIMIT)?;
        Ok((said, Output::open(path)?))
    }
}

/// A file that callgrind wrote; half a gigabyte where each fault of many has its dump, so it is
/// read line by line, and removed when it has been read.
struct Output {
    path: PathBuf,
    reader: BufReader<File>,
}

impl Output {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(Error::io(&path))?;
        Ok(Self { path, reader: BufReader::new(file) })
    }

    fn lines(&mut self) -> impl Iterator<Item = Result<String>> + '_ {
        let path = &self.path;
        self.reader.by_ref().lines().map(move |line| line.map_err(Error::io(path)))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // It is below `out`, where leftovers are nobody's loss.
        let _ = fs::remove_file(&self.path);
    }
}

/// The instructions of one dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// All but those that cleared tables.
    pub(super) instructions: u64,
    /// Those that cleared tables.
    pub(super) clearing: u64,
}

/// Every dump in what callgrind wrote with `--combine-dumps=yes`, in order. (Valgrind manual,
/// "Callgrind Format Specification".)
fn dumps(mut lines: impl Iterator<Item = Result<String>>) -> Result<Vec<Counted>> {
    let mut reader = Reader::default();
    lines.try_fold(Vec::new(), |mut dumps, line| {
        dumps.extend(reader.line(&line?)?);
        Ok(dumps)
    })
}

/// The lines below `folder` with a cost of their own, where names and positions are written in
/// full.
fn lines_below(
    folder: &str,
    lines: impl Iterator<Item = Result<String>>,
) -> Result<BTreeSet<SourceLine>> {
    let mut found = BTreeSet::new();
    let mut file = None;
    let mut is_call = false;
    for line in lines {
        let line = line?;
        let named = ["fl=", "fi=", "fe="].iter().find_map(|kind| line.strip_prefix(kind));
        if let Some(path) = named {
            file = path.find(folder).map(|at| path[at..].to_owned());
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit()) && !std::mem::take(&mut is_call) {
            let number = line.split(' ').next().and_then(|word| word.parse().ok());
            let number: u32 = number.ok_or_else(|| malformed(&line))?;
            // Line 0 is what the compiler could attribute to none.
            found.extend(file.clone().filter(|_| number != 0).map(|file| (file, number)));
        }
    }
    Ok(found)
}

/// Where a reader of the format is.
#[derive(Debug, Default)]
struct Reader {
    /// The compressed names, `(12)`, of the functions that clear.
    clearing: Vec<String>,
    /// The line belongs to one of them.
    in_clearing: bool,
    /// The next line of costs is a call's, counted where it was made.
    is_call: bool,
    cleared: u64,
}

impl Reader {
    /// Takes a line in; a dump's counts at its end.
    fn line(&mut self, line: &str) -> Result<Option<Counted>> {
        if let Some(name) = line.strip_prefix("fn=") {
            self.in_clearing = self.clears(name);
        } else if let Some(name) = line.strip_prefix("cfn=") {
            // The first mention of a name defines its number.
            self.clears(name);
        } else if line.starts_with("calls=") {
            self.is_call = true;
        } else if let Some(total) = line.strip_prefix("totals: ") {
            return self.end(total).map(Some);
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            self.cost(line)?;
        }
        Ok(None)
    }

    fn clears(&mut self, name: &str) -> bool {
        let number = name.split(' ').next().unwrap_or_default();
        if name.contains(CLEARING) && !self.clearing.iter().any(|known| known == number) {
            self.clearing.push(number.to_owned());
        }
        self.clearing.iter().any(|known| known == number)
    }

    fn cost(&mut self, line: &str) -> Result<()> {
        if std::mem::take(&mut self.is_call) || !self.in_clearing {
            return Ok(());
        }
        let cost = line.split(' ').nth(1).and_then(|word| word.parse::<u64>().ok());
        self.cleared += cost.ok_or_else(|| malformed(line))?;
        Ok(())
    }

    fn end(&mut self, total: &str) -> Result<Counted> {
        let clearing = std::mem::take(&mut self.cleared);
        self.in_clearing = false;
        let total: u64 = total.trim().parse().map_err(|_| malformed(total))?;
        let instructions = total.checked_sub(clearing).ok_or_else(|| malformed(total))?;
        Ok(Counted { instructions, clearing })
    }
}

fn malformed(what: impl std::fmt::Display) -> Error {
    Error::malformed("callgrind's output", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_DUMPS: &str = "\
part: 1
events: Ir
summary: 130
fn=(7) _ZN6engine5fault17h0E
3 100
cfn=(9) _ZN7machine17clear_shadow_line17h1E
calls=2 47
* 20
fn=(9)
47 20
fi=(3)
+2 10
totals: 130

part: 2
summary: 5
fn=(7)
* 5
totals: 5
";

    fn lines(text: &str) -> impl Iterator<Item = Result<String>> + '_ {
        text.lines().map(|line| Ok(line.to_owned()))
    }

    #[test]
    fn clearing_is_told_from_the_rest_and_calls_are_not_counted_twice() {
        let [first, second] = dumps(lines(TWO_DUMPS)).unwrap()[..] else { panic!("two dumps") };
        assert_eq!(first, Counted { instructions: 100, clearing: 30 });
        assert_eq!(second, Counted { instructions: 5, clearing: 0 });
    }

    #[test]
    fn garbled_counts_are_an_error() {
        assert!(dumps(lines("totals: many")).is_err());
        assert!(dumps(lines("fn=(9) clear_shadow_line\n3 few\ntotals: 3")).is_err());
        assert!(dumps(lines("fn=(9) clear_shadow_line\n3 9\ntotals: 3")).is_err());
    }

    #[test]
    fn lines_of_a_folder_that_ran_are_told_once_and_calls_are_none() {
        let text = "fl=/a/engine/src/zap.rs\nfn=zap\n10 3\n0 1\nfi=/rustc/vec.rs\n12 1\n\
            fe=/a/engine/src/zap.rs\n10 1\n11 2\ncfn=other\ncalls=1 50\n13 90\ntotals: 8\n";
        let found = lines_below("engine/src/", lines(text)).unwrap();
        let zap = |number| ("engine/src/zap.rs".to_owned(), number);
        assert_eq!(found, [zap(10), zap(11)].into());
        assert!(lines_below("e", lines("fl=e\n1x 3\n")).is_err());
    }
}
