//! More tables in use than the hypervisor may shadow.

use anchorite_guests::abi::bench::Command;
use anchorite_guests::timing::command;

use crate::section::{Bench, SAMPLES, print};
use crate::tables::{AD, PW, Shape, TEST, touch};

const TABLES: u64 = 2048;
const LIMITS: [u32; 2] = [64, 1024];

/// Every table is touched once a round, in order: none is still there when its turn comes.
pub(crate) fn run(bench: &mut Bench) {
    let shape = Shape::new(if bench.quick { TABLES / 4 } else { TABLES }, 1);
    bench.space.map_shape(&mut bench.frames, TEST, shape, PW | AD);
    for limit in LIMITS {
        if u64::from(limit) >= shape.tables || !bench.wants(shape) {
            continue;
        }
        command(Command::Limit(limit));
        touch(TEST, shape);
        let mut ticks = [0; SAMPLES];
        for sample in &mut ticks {
            *sample = bench.time(|| touch(TEST, shape));
        }
        command(Command::Limit(0));
        let name = if limit == 64 { "limit_64" } else { "limit_1024" };
        print(name, shape, shape.pages(), &ticks);
    }
}
