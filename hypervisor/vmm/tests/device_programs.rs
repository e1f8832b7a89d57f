//! The corpus of the devices' fuzz target, replayed and mutated.

#[path = "device_support/mod.rs"]
mod device_support;

use anchorite_abi::DeviceSet;
use device_support::{STEP_BYTES, run, set_number};
use oorandom::Rand64;
use std::fs;
use std::path::{Path, PathBuf};

/// Random mutations of each program.
const MUTATIONS: u64 = 200;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/devices")
}

/// By name.
fn corpus() -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder()).expect("the corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a readable file")).collect()
}

#[test]
fn programs_of_the_corpus_and_their_mutants_break_nothing() {
    let programs = corpus();
    for number in 0..DeviceSet::ALL.len() {
        let of_set = |program: &Vec<u8>| set_number(program) == Some(number);
        assert!(programs.iter().any(of_set), "no program for set {number}");
    }
    let mut random = Rand64::new(0x5eed_0002);
    for program in programs {
        run(&program);
        for _ in 0..MUTATIONS {
            let mut mutant = program.clone();
            for _ in 0..=random.rand_range(0..16) {
                let at = random.rand_range(0..mutant.len() as u64) as usize;
                match random.rand_range(0..3) {
                    0 => mutant[at] = random.rand_range(0..256) as u8,
                    1 => mutant[at] ^= 1 << random.rand_range(0..8),
                    _ => mutant.extend_from_within(at..(at + STEP_BYTES).min(mutant.len())),
                }
            }
            run(&mutant);
        }
    }
}

/// Ports that are worth a step, of every device.
const PORTS: [u16; 40] = [
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71,
    0x80, 0x92, 0xcf9, 0xcf8, 0xcfc, 0x3c2, 0x3d4, 0x3d5, 0x3da, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc,
    0x3fe, 0x510, 0x511, 0x514, 0x518, 0x540, 0x5aa, 0x600, 0x604, 0x608, 0x880,
];

#[test]
#[ignore = "writes the seeds of the corpus; run it after a device gains a port"]
fn write_the_seeds() {
    fs::create_dir_all(folder()).expect("a folder");
    let mut random = Rand64::new(0x5eed_0003);
    for set in [0u8, 1, 2, 3, 4, 0x84] {
        let mut program = vec![set];
        for _ in 0..400 {
            let port = PORTS[random.rand_range(0..PORTS.len() as u64) as usize].to_le_bytes();
            let mut step = [0; STEP_BYTES].map(|_| random.rand_range(0..256) as u8);
            step[1..3].copy_from_slice(&port);
            program.extend(step);
        }
        fs::write(folder().join(format!("seed-{set:02x}")), program).expect("writes");
    }
}
