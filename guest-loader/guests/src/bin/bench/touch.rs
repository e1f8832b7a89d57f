//! First touches of pages whose A bit is clear, by what of the path is shadowed already.

use crate::frames::{PAGE, load};
use crate::section::Bench;
use crate::tables::{PD_SPAN, PT_SPAN, PW, Shape, TEST};

pub(crate) fn run(bench: &mut Bench) {
    leaves(bench);
    bench.renew();
    spread(bench, "touch_pt", 64, PT_SPAN);
    bench.renew();
    spread(bench, "touch_pd", 32, PD_SPAN);
}

/// The table is shadowed; each sample takes a table of its own.
fn leaves(bench: &mut Bench) {
    const COUNT: u64 = 256;
    let space = bench.space;
    let mut next = TEST;
    let shape = Shape::new(1, COUNT + 1);
    let mut samples = [0; crate::section::SAMPLES];
    for sample in &mut samples {
        space.map_shape(&mut bench.frames, next, shape, PW);
        load(next);
        let first = next + PAGE;
        *sample = bench.time(|| walk(first, COUNT, PAGE));
        next += PT_SPAN;
    }
    crate::section::print("touch_leaf", Shape::new(1, COUNT), COUNT, &samples);
}

/// One page in each of `count` tables, `step` apart: tables below the deepest common one
/// are new to each touch.
fn spread(bench: &mut Bench, name: &str, count: u64, step: u64) {
    let space = bench.space;
    let mut next = TEST;
    let mut samples = [0; crate::section::SAMPLES];
    for sample in &mut samples {
        for number in 0..=count {
            let page = bench.frames.data(number);
            space.map(&mut bench.frames, next + number * step, page, PW);
        }
        load(next);
        let first = next + step;
        *sample = bench.time(|| walk(first, count, step));
        next += (count + 1) * step;
    }
    crate::section::print(name, Shape::new(count, 1), count, &samples);
}

#[inline(never)]
fn walk(first: u64, count: u64, step: u64) {
    let mut address = first;
    for _ in 0..count {
        load(address);
        address += step;
    }
}
