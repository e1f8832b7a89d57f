//! Workloads of an established mapping: a reader that never faults, and a window that is
//! remapped beside a toucher.

use anchorite_guests::instructions::invlpg;

use crate::frames::{PAGE, load, store};
use crate::give_up;
use crate::section::Bench;
use crate::tables::{AD, PT_SPAN, PW, Shape, TEST, touch};

/// Reads one word of each of 4,096 pages, far more than any TLB holds, ten rounds. What it
/// costs beyond the bare machine is the hypervisor's.
pub(crate) fn reader(bench: &mut Bench) {
    const ROUNDS: u64 = 10;
    let shape = Shape::new(256, 16);
    bench.space.map_shape(&mut bench.frames, TEST, shape, PW | AD);
    touch(TEST, shape);
    bench.section(
        ("reader", shape, ROUNDS * shape.pages()),
        |_| (),
        || {
            for _ in 0..ROUNDS {
                touch(TEST, shape);
            }
        },
    );
}

/// A window of eight pages is moved to other frames, one page at a time, as a device's
/// aperture or a ROM's is; a toucher reads 32 other pages between any two moves.
pub(crate) fn remap(bench: &mut Bench) {
    const ROUNDS: u64 = 64;
    const WINDOW: u64 = 8;
    let beside = Shape::new(2, 16);
    let space = bench.space;
    let window = TEST + 16 * PT_SPAN;
    space.map_shape(&mut bench.frames, TEST, beside, PW | AD);
    space.map_shape(&mut bench.frames, window, Shape::new(1, WINDOW), PW | AD);
    let entries = space.entry(&mut bench.frames, window, PW);
    let first = bench.frames.data(64);
    for page in 0..2 * WINDOW {
        store(first + page * PAGE, page);
    }
    let mut wrong = 0;
    bench.section(
        ("remap", Shape::new(1, WINDOW), ROUNDS),
        |_| touch(TEST, beside),
        || {
            for round in 0..ROUNDS {
                let (slot, page) = (round % WINDOW, round % (2 * WINDOW));
                store(entries + slot * 8, first + page * PAGE | PW | AD);
                invlpg(window + slot * PAGE);
                wrong += u64::from(load(window + slot * PAGE) != page);
                touch(TEST, beside);
            }
        },
    );
    if wrong != 0 {
        give_up("the remapped window showed an old page", 3);
    }
}
