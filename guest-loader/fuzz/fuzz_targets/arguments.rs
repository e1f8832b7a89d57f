//! Loads a good file of a format, with command line, modules and memory taken from the
//! input: the first byte chooses the file, the next sixteen the memory's ranges in
//! pages, the next four the sizes of modules; the rest is the command line.
#![no_main]

use anchorite_loader::{Guest, Kind, Module};
use libfuzzer_sys::fuzz_target;

#[expect(dead_code, reason = "shared with the loader's tests, which use all of it")]
#[path = "../../loader/tests/suite/files.rs"]
mod files;
#[expect(dead_code, reason = "shared with the loader's tests, which use all of it")]
#[path = "../../loader/tests/suite/ram.rs"]
mod ram;

const CONTENTS: [u8; 0xff * 300] = [0xa5; 0xff * 300];

fuzz_target!(|input: &[u8]| {
    let Some((head, rest)) = input.split_at_checked(21) else { return };
    let Ok(text) = core::str::from_utf8(rest) else { return };
    let all = files::all();
    let file = &all[usize::from(head[0]) % all.len()].1;
    let modules: Vec<Module> = head[17..]
        .iter()
        .filter(|&&size| size > 0)
        .map(|&size| Module {
            name: "m",
            bytes: &CONTENTS[..300 * usize::from(size)],
            command_line: text,
        })
        .collect();
    let guest = Guest { command_line: text, modules: &modules, ..ram::bare(Kind::Auto, file) };
    let _ = ram::load_checked(&guest, &mut ram::FakeRam::new(&ranges(&head[1..17])));
});

/// Alternately so many pages of RAM and so many of nothing.
fn ranges(sizes: &[u8]) -> Vec<(u64, u64)> {
    let mut at = 0;
    let mut ranges = Vec::new();
    for pair in sizes.chunks(2) {
        let (ram, hole) = (u64::from(pair[0]) * 4096, u64::from(pair[1]) * 4096);
        if ram > 0 {
            ranges.push((at, ram));
        }
        at += ram + hole;
    }
    ranges
}
