//! The runs that are done, kept in a file so that a broken experiment goes on where it was.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::record::Record;
use crate::error::{Error, Result};

/// The records of one commit, in a file of one JSON object a line.
#[derive(Debug)]
pub(super) struct Store {
    file: PathBuf,
    done: HashMap<String, Record>,
}

impl Store {
    /// Opens the file in `folder` and reads what is there. A last line that was cut off when
    /// an experiment was killed is dropped; any other that cannot be read is an error.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let mut store = Self { file: folder.join("records.jsonl"), done: HashMap::new() };
        if store.file.exists() {
            let file = store.file.clone();
            let text = store.take(&file)?;
            if !text.is_empty() && !text.ends_with('\n') {
                store.rewrite()?;
            }
        }
        Ok(store)
    }

    /// Adds the records of another file, made at `commit`.
    pub(super) fn resume(&mut self, file: &Path, commit: &str) -> Result<usize> {
        let before = self.done.len();
        self.take(file)?;
        if let Some(other) = self.done.values().find(|record| record.commit != commit) {
            return Err(Error::refused(
                file.display(),
                format!(
                    "it was measured at commit {}, this is {commit}; check that out or leave --resume away",
                    other.commit
                ),
            ));
        }
        self.rewrite()?;
        Ok(self.done.len() - before)
    }

    fn take(&mut self, file: &Path) -> Result<String> {
        let text = fs::read_to_string(file).map_err(Error::io(file))?;
        let whole = text.ends_with('\n');
        let lines: Vec<&str> = text.lines().collect();
        for (position, line) in lines.iter().enumerate() {
            let record = serde_json::from_str::<Record>(line).map_err(|error| {
                let line = position + 1;
                Error::malformed(
                    file,
                    format!("line {line}: {error}; remove it to measure that run again"),
                )
            });
            match record {
                Err(_) if position + 1 == lines.len() && !whole => {}
                record => {
                    let record = record?;
                    if let Some(key) = record.key() {
                        self.done.insert(key, record);
                    }
                }
            }
        }
        Ok(text)
    }

    fn rewrite(&self) -> Result<()> {
        let mut lines: Vec<String> = self.done.values().map(line).collect();
        lines.sort_unstable();
        fs::write(&self.file, lines.concat()).map_err(Error::io(&self.file))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Record> {
        self.done.get(key)
    }

    /// Keeps a record, on the disk at once.
    pub(super) fn add(&mut self, key: String, record: Record) -> Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.file)
            .map_err(Error::io(&self.file))?;
        file.write_all(line(&record).as_bytes()).map_err(Error::io(&self.file))?;
        self.done.insert(key, record);
        Ok(())
    }
}

fn line(record: &Record) -> String {
    serde_json::to_string(record).unwrap_or_default() + "\n"
}

/// What the counts depend on besides the cell: the commit, and the very files, for a commit
/// with changes names nothing.
pub(super) fn fingerprint(commit: &str, files: &[PathBuf]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        fs::read(file).map_err(Error::io(file))?.hash(&mut hasher);
    }
    let commit: String = commit.chars().filter(|c| *c != '+').collect();
    Ok(format!("{commit}-{:08x}", hasher.finish() >> 32))
}

#[cfg(test)]
mod tests {
    use super::super::cell::{Design, Policy, Run};
    use super::*;

    fn record(seed: u64) -> Record {
        let design = Design::full();
        let run = Run { cell: &design.cells[0], policy: Policy::Quota, seed };
        let text = "E total 5 1\nE zaps 3*1\nE faults 5*1\nE checksum ff\nVERIFY OK 1\n";
        let counters = r#"{"record":"counters","pages_peak":1}"#.to_owned();
        Record::read(&run, text, &[counters], "abc").unwrap()
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("anchorite-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn what_was_measured_is_there_after_a_break_and_half_a_line_is_not() {
        let folder = folder("store-break");
        let mut store = Store::open(&folder).unwrap();
        for seed in 1..=2 {
            store.add(record(seed).key().unwrap(), record(seed)).unwrap();
        }
        let file = folder.join("records.jsonl");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() - 20]).unwrap();

        let mut store = Store::open(&folder).unwrap();
        assert_eq!(store.get(&record(1).key().unwrap()), Some(&record(1)));
        assert_eq!(store.get(&record(2).key().unwrap()), None);
        store.add(record(2).key().unwrap(), record(2)).unwrap();
        let store = Store::open(&folder).unwrap();
        assert_eq!(store.get(&record(2).key().unwrap()), Some(&record(2)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_is_spoilt_in_the_middle_names_the_line() {
        let folder = folder("store-spoilt");
        let mut store = Store::open(&folder).unwrap();
        store.add(record(1).key().unwrap(), record(1)).unwrap();
        let file = folder.join("records.jsonl");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("garbage\n{text}")).unwrap();
        let error = Store::open(&folder).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn another_commits_figures_are_refused_with_both_names() {
        let folder = folder("store-commit");
        let mut old = Store::open(&folder.join("old")).unwrap();
        old.add(record(1).key().unwrap(), record(1)).unwrap();
        let file = folder.join("old/records.jsonl");
        let mut new = Store::open(&folder.join("new")).unwrap();
        let error = new.resume(&file, "def").unwrap_err().to_string();
        assert!(error.contains("abc") && error.contains("def"), "{error}");
        let mut new = Store::open(&folder.join("same")).unwrap();
        assert_eq!(new.resume(&file, "abc").unwrap(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}
