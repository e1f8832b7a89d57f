//! Changes of page tables, with the flush each needs.

use anchorite_guests::instructions::invlpg;

use crate::frames::{PAGE, load, store};
use crate::section::Bench;
use crate::tables::{AD, IGNORED, PW, Shape, TEST, load_root, touch};

const COUNT: u64 = 64;
const MAPS: u64 = 128;

pub(crate) fn run(bench: &mut Bench) {
    for leaves in [1, 512] {
        write_and_reload(bench, leaves);
    }
    bench.renew();
    unmap_and_map(bench);
    bench.renew();
    swap(bench);
}

/// A write to a PT entry that changes nothing the processor looks at, then a CR3 reload.
fn write_and_reload(bench: &mut Bench, leaves: u64) {
    bench.renew();
    let shape = Shape::new(1, leaves);
    let space = bench.space;
    space.map_shape(&mut bench.frames, TEST, shape, PW | AD);
    touch(TEST, shape);
    let entry = space.entry(&mut bench.frames, TEST, PW);
    let page = load(entry);
    bench.section(
        ("pte_cr3", shape, COUNT),
        |_| touch(TEST, shape),
        || {
            let mut value = page;
            for _ in 0..COUNT {
                value ^= IGNORED;
                store(entry, value);
                load_root(space.root);
            }
        },
    );
}

fn unmap_and_map(bench: &mut Bench) {
    let shape = Shape::new(1, MAPS);
    let space = bench.space;
    space.map_shape(&mut bench.frames, TEST, shape, PW | AD);
    let entries = space.entry(&mut bench.frames, TEST, PW);
    let data = bench.frames.data(0);
    let map = move |flags| {
        for page in 0..MAPS {
            store(entries + page * 8, data + page * PAGE | flags);
            load(TEST + page * PAGE);
        }
    };
    let unmap = move || {
        for page in 0..MAPS {
            store(entries + page * 8, 0);
            invlpg(TEST + page * PAGE);
        }
    };
    bench.section(("unmap", shape, MAPS), |_| map(PW | AD), unmap);
    bench.section(("map_touch", shape, MAPS), |_| unmap(), || map(PW));
}

/// One PD entry points at two PT pages in turn.
fn swap(bench: &mut Bench) {
    let space = bench.space;
    let shape = Shape::new(2, 1);
    space.map_shape(&mut bench.frames, TEST, shape, PW | AD);
    touch(TEST, shape);
    let slot = space.slot(&mut bench.frames, TEST, PW, 2);
    let tables = [load(slot), load(slot + 8)];
    bench.section(
        ("pde_swap", shape, COUNT),
        |_| (),
        || {
            for round in 0..COUNT as usize {
                store(slot, tables[(round + 1) % 2]);
                invlpg(TEST);
                load(TEST);
            }
        },
    );
    store(slot, tables[0]);
    invlpg(TEST);
}
