//! Whether the test mapping and the identity mapping show the same memory, across a zap.

use anchorite_guests::abi::bench::Command;
use anchorite_guests::println;
use anchorite_guests::timing::command;

use crate::frames::{load, store};
use crate::give_up;
use crate::section::Bench;
use crate::tables::{PT_SPAN, PW, Shape, TEST};

/// Writes through one mapping, reads through the other, zaps, and the other way round.
pub(crate) fn run(bench: &mut Bench) {
    let shape = Shape::new(64, 32.min(bench.frames.data_pages() / 64));
    bench.space.map_shape(&mut bench.frames, TEST, shape, PW);
    let pages = shape.pages();
    let test = |page: u64| TEST + page / shape.leaves * PT_SPAN + page % shape.leaves * 4096;
    let identity = |page: u64| bench.frames.data(page);
    let mut right = 0;
    (0..pages).for_each(|page| store(test(page) + 8, page ^ 0x5a5a));
    right += (0..pages).filter(|&page| load(identity(page) + 8) == page ^ 0x5a5a).count();
    command(Command::ZapAll { timed: false });
    (0..pages).for_each(|page| store(identity(page) + 16, page ^ 0xa5a5));
    right += (0..pages).filter(|&page| load(test(page) + 16) == page ^ 0xa5a5).count();
    if right as u64 != 2 * pages {
        give_up("two mappings of one page differ", 2);
    }
    println!("VERIFY OK {pages}");
}
