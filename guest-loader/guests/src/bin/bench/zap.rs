//! Zap-all and the rebuild after it, by the number of shadowed tables.

use anchorite_guests::abi::bench::Command;
use anchorite_guests::timing::command;

use crate::section::{Bench, SAMPLES, print};
use crate::tables::{AD, PW, Shape, TEST, touch};

const SHAPES: [Shape; 6] = [
    Shape::new(64, 1),
    Shape::new(1024, 1),
    Shape::new(4096, 1),
    Shape::new(16384, 1),
    Shape::new(4096, 16),
    Shape::new(256, 512),
];
/// Under KVM a zap of these takes seconds of an emulator's time at most.
const QUICK: [Shape; 4] =
    [Shape::new(64, 1), Shape::new(1024, 1), Shape::new(1024, 16), Shape::new(32, 512)];

pub(crate) fn run(bench: &mut Bench) {
    let shapes: &[Shape] = if bench.quick { &QUICK } else { &SHAPES };
    for &shape in shapes {
        if bench.wants(shape) {
            bench.renew();
            zap_and_rebuild(bench, shape);
        }
    }
}

/// The zap as the guest sees it ends with the instruction behind it, its own code's
/// tables built again. The rebuild touches every page in order.
fn zap_and_rebuild(bench: &mut Bench, shape: Shape) {
    let space = bench.space;
    space.map_shape(&mut bench.frames, TEST, shape, PW | AD);
    touch(TEST, shape);
    let (mut zaps, mut rebuilds) = ([0; SAMPLES], [0; SAMPLES]);
    for (zap, rebuild) in zaps.iter_mut().zip(&mut rebuilds) {
        *zap = bench.time(|| command(Command::ZapAll { timed: true }));
        *rebuild = bench.time(|| touch(TEST, shape));
    }
    print("zap_guest", shape, 1, &zaps);
    print("rebuild", shape, shape.pages(), &rebuilds);
}
