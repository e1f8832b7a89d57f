//! Combinations across the levels, drawn at random.

use anchorite_guests::instructions::{invlpg, reload_cr3};
use anchorite_guests::memory::write;
use anchorite_guests::paging::bits::{A, D, NX, P, PS, U, W};
use anchorite_guests::paging::{Frames, index, span};
use anchorite_guests::println;
use anchorite_guests::random::Random;

use crate::Matrix;
use crate::combinations::{accesses, all_controls};

/// The topmost entry that leads to these tables.
const TOP_INDEX: u64 = 9;
/// Cases between two changes of the control bits.
const CASES_A_CONTROL: u64 = 50;

/// Checks `count` random cases from `seed` on.
pub(crate) fn run(matrix: &mut Matrix, frames: &mut Frames, count: u64, seed: Option<u64>) {
    let seed = seed.unwrap_or(1);
    println!("permissions: {count} random cases from seed={seed}");
    let mut random = Random::new(seed);
    let tables = Path::new(matrix, frames);
    for case in 0..count {
        if case % CASES_A_CONTROL == 0 {
            let mut possible = all_controls(matrix.features, true);
            let chosen = random.below(all_controls(matrix.features, true).count() as u64);
            let controls = possible.nth(chosen as usize);
            matrix.set(controls.expect("one of them"));
        }
        tables.draw(matrix, &mut random);
        if random.below(4) == 0 {
            reload_cr3();
        } else {
            invlpg(tables.address);
        }
        let mut kinds = accesses(matrix.model.controls);
        let chosen = random.below(accesses(matrix.model.controls).count() as u64) as usize;
        let access = kinds.nth(chosen).expect("one of them");
        let access = matrix.target.access(access, tables.address);
        matrix.case(&access);
        // A second access by what the first has left in entries and TLB.
        matrix.case(&access);
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
        let top = matrix.space.levels;
        let low = matrix.target.page & (span(top) - 1);
        let address = TOP_INDEX << (12 + 9 * (top - 1)) | low;
        let mut entries = [0; 6];
        for level in (1..=top).rev() {
            entries[level as usize] = matrix.space.make(frames, address, level);
        }
        Self { address, entries }
    }

    /// Gives all entries random bits.
    fn draw(&self, matrix: &Matrix, random: &mut Random) {
        let page = matrix.target.page;
        for level in 1..=matrix.space.levels {
            let large = matches!(level, 2 | 3) && random.below(12) == 0;
            let address = match level {
                1 => page,
                _ if large => page & !(span(level) - 1),
                _ => self.entries[level as usize - 1] & !0xfff,
            };
            let mut value = address;
            let mut add =
                |bit, of: u64, all: u64| value |= if random.below(all) < of { bit } else { 0 };
            add(P, 31, 32);
            add(W, 3, 4);
            add(U, 3, 4);
            add(A, 1, 2);
            add(D, 1, 2);
            add(NX, 1, 8);
            add(1 << 51, u64::from(matrix.model.physical_bits < 52), 40);
            add(PS, u64::from(level == 1 || level > 3), 24);
            let value = if large { value | PS } else { value };
            debug_assert_eq!(self.entries[level as usize] & 0xfff, 8 * index(self.address, level));
            write(self.entries[level as usize], value);
        }
    }
}
