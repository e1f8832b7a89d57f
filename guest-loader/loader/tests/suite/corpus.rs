//! The fuzzers' corpus, replayed and mutated with a plain `cargo test`.

use crate::files;
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_loader::{Format, Kind};
use oorandom::Rand64;
use std::fs;
use std::path::{Path, PathBuf};

/// Random mutations of each file of the corpus.
const MUTATIONS: u64 = 300;

/// The fuzz targets and what each takes its input for.
const TARGETS: [(&str, Kind); 9] = [
    ("auto", Kind::Auto),
    ("elf", Kind::Is(Format::Elf)),
    ("pvh", Kind::Is(Format::Pvh)),
    ("hermit", Kind::Is(Format::Hermit)),
    ("multiboot", Kind::Is(Format::Multiboot)),
    ("multiboot2", Kind::Is(Format::Multiboot2)),
    ("gzip", Kind::Auto),
    ("linux", Kind::Is(Format::Linux)),
    ("linux64", Kind::Is(Format::Linux64)),
];

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder(target);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read(path).expect("a readable file"));
    paths.into_iter().map(read).collect()
}

#[test]
fn the_corpus_of_every_target_loads_at_least_once_and_never_panics() {
    for (target, kind) in TARGETS {
        let files = corpus(target);
        let good = |file: &&(PathBuf, Vec<u8>)| {
            load_checked(&bare(kind, &file.1), &mut FakeRam::pc(8)).is_ok()
        };
        let count = files.iter().filter(good).count();
        assert!(count > 0, "{target}: none of {} files loads", files.len());
    }
}

#[test]
fn mutations_of_the_corpus_never_panic() {
    let mut random = Rand64::new(0x5eed_0001);
    for (target, kind) in TARGETS {
        for (_, file) in corpus(target) {
            for _ in 0..MUTATIONS {
                let mutant = mutate(&file, &mut random);
                let _ = load_checked(&bare(kind, &mutant), &mut FakeRam::pc(8));
            }
        }
    }
}

/// Up to eight changes: a bit, a byte, an extreme word, a cut, a doubled stretch.
fn mutate(file: &[u8], random: &mut Rand64) -> Vec<u8> {
    let mut mutant = file.to_vec();
    for _ in 0..=random.rand_range(0..7) {
        if mutant.is_empty() {
            break;
        }
        let at = random.rand_range(0..mutant.len() as u64) as usize;
        match random.rand_range(0..6) {
            0 | 1 => mutant[at] ^= 1 << random.rand_range(0..8),
            2 => mutant[at] = random.rand_range(0..256) as u8,
            3 => {
                let word =
                    [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX][random.rand_range(0..5) as usize];
                mutant
                    .iter_mut()
                    .skip(at)
                    .zip(word.to_le_bytes())
                    .for_each(|(to, from)| *to = from);
            }
            4 => mutant.truncate(at),
            _ => mutant.extend_from_within(at..(at + 16).min(mutant.len())),
        }
    }
    mutant
}

#[test]
#[ignore = "writes the seeds of the corpus; run it after a format gains a file"]
fn write_the_seeds() {
    let mut files = files::all();
    let with_entry = files::Linux { xload_flags: 1, ..files::RECENT_LINUX };
    let mut linux64 = files::linux(&with_entry);
    linux64[0x1f4] = 0x21;
    linux64.resize(linux64.len() + 0x1f0, 0x90);
    files.push(("linux64", linux64));
    for (name, file) in files {
        for (target, _) in TARGETS {
            // The name says the format: all before a `_` and the digits of ELF's word size.
            let format =
                name.split('_').next().unwrap_or(name).trim_end_matches(['3', '2', '4', '6']);
            let fits = name.starts_with(target)
                && name.trim_start_matches(target).starts_with(['_', '3', '6']);
            if target == "auto" || name == target || fits || (target, format) == ("elf", "plain") {
                fs::create_dir_all(folder(target)).expect("a folder");
                fs::write(folder(target).join(format!("seed-{name}")), &file).expect("writes");
            }
        }
    }
}
