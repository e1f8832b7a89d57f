//! The fuzzer's corpus, replayed and mutated with a plain `cargo test`.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::{AnyMmu, PolicyKind};
use std::fs;
use std::path::Path;
use support::machine::Machine;
use support::reference::Mode;
use support::rng::Rng;
use support::run::Script;

/// Mutants of each file.
const MUTATIONS: u64 = 40;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/operations");
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: std::path::PathBuf| {
        let bytes = fs::read(&path).expect("a readable file");
        (path.display().to_string(), bytes)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn the_corpus_covers_every_mode_and_policy_and_agrees_with_the_reference() {
    let mut seen = Vec::new();
    for (name, bytes) in corpus() {
        let script = Script::from_bytes(&bytes).expect("more than four bytes");
        assert!(!script.ops.is_empty(), "{name} holds no operation");
        script.check::<AnyMmu<Machine>>(&name);
        seen.push((script.setup.mode, script.setup.policy));
    }
    for mode in [Mode::Off, Mode::Bits32, Mode::Pae, Mode::Level4, Mode::Level5] {
        for policy in PolicyKind::ALL {
            assert!(seen.contains(&(mode, policy)), "nothing for {mode:?} under {policy:?}");
        }
    }
}

#[test]
fn mutants_of_the_corpus_agree_with_the_reference() {
    let mut rng = Rng::new(0x5eed_0002);
    let files = corpus();
    for (name, bytes) in &files {
        for round in 0..MUTATIONS {
            let other = &files[rng.below(files.len() as u64) as usize].1;
            let mutant = mutate(bytes, other, &mut rng);
            if let Some(script) = Script::from_bytes(&mutant) {
                script.check::<AnyMmu<Machine>>(&format!("mutant {round} of {name}"));
            }
        }
    }
}

/// Up to eight changes to whole operations: one replaced, one doubled, one dropped, a tail from
/// another file.
fn mutate(bytes: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut mutant = bytes.to_vec();
    for _ in 0..=rng.below(7) {
        let operations = (mutant.len() as u64).saturating_sub(4) / 4;
        let at = 4 + 4 * rng.below(operations.max(1)) as usize;
        if at + 4 > mutant.len() {
            break;
        }
        match rng.below(5) {
            0 | 1 => mutant[at..at + 4].copy_from_slice(&(rng.next() as u32).to_le_bytes()),
            2 => mutant.extend_from_within(at..at + 4),
            3 => drop(mutant.drain(at..at + 4)),
            _ => {
                mutant.truncate(at);
                mutant.extend_from_slice(other.get(at..).unwrap_or_default());
            }
        }
    }
    mutant
}
