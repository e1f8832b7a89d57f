//! Timing a section and telling its figures.

use anchorite_guests::abi::bench::Command;
use anchorite_guests::instructions::rdtsc;
use anchorite_guests::timing::command;
use anchorite_guests::{BootInfo, print, println};

use crate::frames::Frames;
use crate::tables::{Shape, Space};

/// Samples of a section.
pub(crate) const SAMPLES: usize = 3;

/// Ticks of each sample.
pub(crate) type Ticks = [u64; SAMPLES];

/// What the sections share.
pub(crate) struct Bench {
    pub(crate) frames: Frames,
    pub(crate) space: Space,
    /// Where the tables below the test region begin.
    floor: u64,
    pub(crate) quick: bool,
    /// Shapes of more tables are left out.
    most_tables: u64,
    /// The only row wanted, of those that are measured apart.
    row: Option<&'static str>,
    /// The next section's number, for the host.
    next: u32,
}

impl Bench {
    pub(crate) fn new(mut frames: Frames, boot: &BootInfo) -> Self {
        let most = boot.argument("max").and_then(|text| text.parse().ok());
        let space = Space::new(&mut frames);
        space.enter();
        let floor = frames.mark();
        Self {
            frames,
            space,
            floor,
            quick: boot.has_flag("quick"),
            most_tables: most.unwrap_or(u64::MAX),
            row: boot.argument("row"),
            next: 1,
        }
    }

    /// Empties the test region and takes its tables back; what the host shadowed goes too,
    /// so that clearing a table is not a write to one.
    pub(crate) fn renew(&mut self) {
        self.space.empty_test_region();
        self.space.enter();
        command(Command::ZapAll { timed: false });
        self.frames.rewind(self.floor);
    }

    /// Whether a shape is wanted.
    pub(crate) fn wants(&self, shape: Shape) -> bool {
        shape.tables <= self.most_tables
    }

    /// Takes samples of a section. `prepare` runs before each, untimed.
    pub(crate) fn section(
        &mut self,
        (name, shape, count): (&str, Shape, u64),
        mut prepare: impl FnMut(&mut Self),
        mut operation: impl FnMut(),
    ) {
        if self.row.is_some_and(|row| row != name) {
            return;
        }
        let mut ticks = Ticks::default();
        for sample in &mut ticks {
            prepare(self);
            *sample = self.time(&mut operation);
        }
        print(name, shape, count, &ticks);
    }

    /// One timed window. Begin and end lie outside of it.
    #[inline(always)]
    pub(crate) fn time(&mut self, operation: impl FnOnce()) -> u64 {
        let id = self.next;
        self.next += 1;
        command(Command::Begin(id));
        let start = rdtsc();
        operation();
        let ticks = rdtsc().wrapping_sub(start);
        command(Command::End(id));
        ticks
    }
}

/// The result line `R name a k count v0 v1 …`.
pub(crate) fn print(name: &str, shape: Shape, count: u64, ticks: &[u64]) {
    print!("R {name} {} {} {count}", shape.tables, shape.leaves);
    ticks.iter().for_each(|ticks| print!(" {ticks}"));
    println!();
}
