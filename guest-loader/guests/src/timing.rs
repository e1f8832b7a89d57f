//! Measuring with the time-stamp counter, in the format of the benchmark tools.

use anchorite_abi::bench::Command;
use anchorite_abi::port::BENCH_COMMAND;

use crate::instructions::{outl, rdtsc};
use crate::println;

/// Repeats of one measurement; the least of them is the figure.
pub const REPEATS: usize = 7;

/// TSC differences of [`REPEATS`] runs of one section.
#[derive(Clone, Copy, Debug)]
pub struct Samples {
    /// Operations in a section.
    pub count: u32,
    /// TSC difference of each run of the section.
    pub ticks: [u64; REPEATS],
}

impl Samples {
    /// Measures `count` calls of `operation`, [`REPEATS`] times. The host is told of
    /// the begin and the end outside the measured window; `id` names the section there.
    #[inline]
    pub fn measure(id: u32, count: u32, mut operation: impl FnMut()) -> Self {
        let mut ticks = [0; REPEATS];
        command(Command::Begin(id));
        for sample in &mut ticks {
            let start = rdtsc();
            for _ in 0..count {
                operation();
            }
            *sample = rdtsc().wrapping_sub(start);
        }
        command(Command::End(id));
        Self { count, ticks }
    }

    /// The least of the samples.
    pub fn least(&self) -> u64 {
        self.ticks.iter().copied().min().unwrap_or(0)
    }

    /// Ticks of one operation, with `overhead` ticks of the empty loop taken off the
    /// whole section; rounded to nearest.
    pub fn per_operation(&self, overhead: u64) -> u64 {
        let count = u64::from(self.count);
        (self.least().saturating_sub(overhead) + count / 2) / count
    }

    /// Prints the result line `R name a k count v0 v1 …`; a and k are parameters of
    /// the measurement, 0 where it has none.
    pub fn print(&self, name: &str, a: u64, k: u64) {
        crate::print!("R {name} {a} {k} {}", self.count);
        self.ticks.iter().for_each(|ticks| crate::print!(" {ticks}"));
        println!();
    }
}

/// Sends a benchmark command; a machine that knows none ignores it.
pub fn command(command: Command) {
    outl(BENCH_COMMAND, command.encode());
}
