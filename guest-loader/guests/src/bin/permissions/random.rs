//! Combinations across the levels, drawn at random.

use anchorite_guests::format::Format;
use anchorite_guests::instructions::{invlpg, reload_cr3};
use anchorite_guests::paging::Frames;
use anchorite_guests::paging::bits::{A, D, NX, P, PS, U, W};
use anchorite_guests::println;
use anchorite_guests::random::Random;

use crate::combinations::{accesses, all_controls};
use crate::matrix::Matrix;
use crate::target::Target;

/// The topmost entry that leads to these tables, and the address in 32-bit formats.
const TOP_INDEX: u64 = 9;
const ADDRESS32: u64 = 0xd000_0000;
/// Cases between two changes of the control bits.
const CASES_A_CONTROL: u64 = 50;

/// Checks as many random cases as the command line asks for.
pub(crate) fn run(matrix: &mut Matrix, frames: &mut Frames) {
    let (features, format) = (matrix.checks.features, matrix.model.format);
    // Each goes through paging off in 32-bit formats, which is dear.
    let share = if format.is_long() { 1 } else { 4 };
    let (count, seed) = (matrix.checks.random / share, matrix.checks.seed);
    println!("permissions: {}: {count} random cases from seed={seed}", format.name());
    let mut random = Random::new(seed);
    let path = Path::new(matrix, frames);
    let all = || all_controls(features, format, true);
    for case in 0..count {
        if case % CASES_A_CONTROL == 0 {
            let controls = all().nth(random.below(all().count() as u64) as usize);
            matrix.set(controls.expect("one of them"));
        }
        path.draw(matrix, &mut random);
        if random.below(4) == 0 {
            reload_cr3();
        } else {
            invlpg(path.address);
        }
        let kinds = || accesses(matrix.model.controls);
        let access = kinds().nth(random.below(kinds().count() as u64) as usize);
        let access = Target::access(access.expect("one of them"), path.address);
        // A second access by what the first has left in entries and TLB.
        matrix.batch(&[access; 2]);
    }
}

/// The entries on one way to the target.
struct Path {
    address: u64,
    /// The address of the entry, by level.
    entries: [u64; 6],
}

impl Path {
    fn new(matrix: &Matrix, frames: &mut Frames) -> Self {
        let (space, page) = (matrix.runner.space(), matrix.target.page);
        let (format, top) = (space.format, space.levels());
        let address = if format.is_long() {
            TOP_INDEX * format.span(top) | page & (format.span(top) - 1)
        } else {
            ADDRESS32 | page & (format.span(2) - 1)
        };
        let mut entries = [0; 6];
        for level in (1..=top).rev() {
            entries[level as usize] = space.make(frames, address, level);
        }
        Self { address, entries }
    }

    /// Gives all entries random bits.
    fn draw(&self, matrix: &Matrix, random: &mut Random) {
        let format = matrix.model.format;
        for level in 1..=format.levels() {
            let value = self.value(matrix, random, level);
            format.write(self.entries[level as usize], value);
        }
    }

    fn value(&self, matrix: &Matrix, random: &mut Random, level: u32) -> u64 {
        let (format, page) = (matrix.model.format, matrix.target.page);
        let possible = match format {
            Format::TwoLevel => level == 2 && matrix.model.controls.pse,
            Format::Pae => level == 2,
            Format::Four | Format::Five => matches!(level, 2 | 3),
        };
        let large = possible && random.one_in(12);
        let mut value = match level {
            1 => page,
            _ if large => page & !(format.span(level) - 1) | PS,
            _ => self.entries[level as usize - 1] & !0xfff,
        };
        let mut add =
            |bit, of: u64, all: u64| value |= if random.below(all) < of { bit } else { 0 };
        add(P, 31, 32);
        if (format, level) == (Format::Pae, 3) {
            return value;
        }
        add(W, 3, 4);
        add(U, 3, 4);
        add(A, 1, 2);
        add(D, 1, 2);
        if format != Format::TwoLevel {
            add(NX, 1, 8);
            add(1 << 51, u64::from(matrix.model.physical_bits < 52), 40);
        }
        add(PS, u64::from(level == 1 || level > 3), 24);
        value
    }
}
