//! Large pages that become tables of small ones and back, under the same addresses: 4 MiB,
//! 2 MiB and 1 GiB, in every paging mode that has them. What is read and written by one
//! mapping is checked by another.
//!
//! `mode=NAME,NAME` takes some of the modes, `rounds=N` repeats.
#![no_std]
#![no_main]

use anchorite_guests::control::Features;
use anchorite_guests::format::Format;
use anchorite_guests::memory::{read, write};
use anchorite_guests::oracle::{Controls, code};
use anchorite_guests::paging::bits::{A, D, FULL, PS, W};
use anchorite_guests::paging::{Frames, PAGE, Space};
use anchorite_guests::plan::{Plan, Want};
use anchorite_guests::probe::Kind;
use anchorite_guests::random::Random;
use anchorite_guests::script::{Runner, Step};
use anchorite_guests::{BootInfo, Report, Status, entry, println};

entry!(run);

/// Large pages' bytes of the RAM that is flipped about: two of the largest but 1 GiB ones.
const LARGEST: u64 = 4 << 20;
/// Small pages of a large one that are looked at.
const LOOKED_AT: [u64; 4] = [0, 1, 77, 511];
/// Small pages of the other half are mapped in this one's place.
const SWAPPED: u64 = 77;

fn run(boot: &BootInfo) -> Status {
    let mut report = Report::new("flips");
    let mut frames = Frames::new(boot);
    let ram = frames.take_aligned(2 * LARGEST, LARGEST);
    for page in 0..2 * LARGEST / PAGE {
        write(ram + page * PAGE, mark(ram + page * PAGE));
    }
    let rounds = boot.argument("rounds").and_then(|text| text.parse().ok()).unwrap_or(6);
    let gigabyte = Features::read().gigabyte_pages;
    for format in Format::wanted(boot, &mut report) {
        Controls { wp: true, pse: true, ..Controls::default() }.apply();
        let runner = Runner::new(Space::of(format, &mut frames));
        let levels = if format.is_long() && gigabyte { 2..=3 } else { 2..=2 };
        for level in levels {
            let mut flips = Flips::new(&runner, &mut frames, ram, level);
            flips.split(&mut report);
            flips.rights(&mut report);
            flips.marks(&mut report);
            flips.at_random(&mut report, rounds);
        }
        println!("flips: {}", format.name());
    }
    Controls::default().apply();
    report.finish()
}

/// What the first word of the page at a physical address holds.
const fn mark(gpa: u64) -> u64 {
    gpa | 0x5a
}

/// A place that is a large page of `level`, or a table.
struct Flips<'a> {
    runner: &'a Runner,
    level: u32,
    /// The place's address, and its entry's.
    address: u64,
    entry: u64,
    /// Another address of the same pages, by small ones alone.
    alias: u64,
    /// The two large pages' physical addresses: the same one for 1 GiB.
    pages: [u64; 2],
    /// The table that shows the first as small pages, except for [`SWAPPED`], and the
    /// entries of level 1 in it by small page of [`LOOKED_AT`].
    table: u64,
    small: [u64; LOOKED_AT.len()],
    /// Bytes from the large page's start to the RAM in it.
    offset: u64,
}

impl<'a> Flips<'a> {
    fn new(runner: &'a Runner, frames: &mut Frames, ram: u64, level: u32) -> Self {
        let space = runner.space();
        let format = space.format;
        let number = 2 * u64::from(level);
        let (address, alias) = (space.region(number), space.region(number + 1));
        let pages = if level == 3 { [0, 0] } else { [ram, ram + LARGEST] };
        let offset = ram - pages[0];
        let entry = space.make(frames, address, level);
        // The table is made in place, and kept when the entry becomes something else.
        format.write(entry, 0);
        let small = LOOKED_AT.map(|page| {
            let target = ram + page * PAGE + if page == SWAPPED { LARGEST } else { 0 };
            space.map(frames, address + offset + page * PAGE, target, FULL, 1)
        });
        let table = format.read(entry);
        for page in LOOKED_AT {
            space.map(frames, alias + page * PAGE, ram + page * PAGE, FULL, 1);
        }
        Self { runner, level, address, entry, alias, pages, table, small, offset }
    }

    fn large(&self, which: usize) -> u64 {
        self.pages[which] | FULL | PS
    }

    /// Where small page `page` is seen.
    fn at(&self, page: u64) -> u64 {
        self.address + self.offset + page * PAGE
    }

    /// Adds loads of all small pages that are looked at.
    fn look(&self, plan: &mut Plan, which: Option<usize>) {
        for page in LOOKED_AT {
            let base = self.offset + self.pages[which.unwrap_or(0)];
            let swapped = which.is_none() && page == SWAPPED;
            let gpa = base + page * PAGE + if swapped { LARGEST } else { 0 };
            plan.read(self.at(page), mark(gpa));
        }
    }

    /// From one to the other by INVLPG of an address anywhere inside, or by CR3.
    fn split(&mut self, report: &mut Report) {
        let mut plan = Plan::new(self.runner);
        let root = self.runner.space().root;
        for inside in [0, 0x123, 77 * PAGE + 8, 511 * PAGE] {
            plan.entry(self.entry, self.large(0)).flush(self.at(0) + inside);
            self.look(&mut plan, Some(0));
            // Only the addresses that are flushed must change: the others were flushed first.
            plan.entry(self.entry, self.table).flush(self.at(0) + inside);
            self.look(&mut plan, None);
            plan.entry(self.entry, self.large(1)).root(root);
            self.look(&mut plan, Some(1));
            plan.entry(self.entry, 0).flush(self.at(1));
            plan.fault(Kind::Read, self.at(1), 0);
            plan.run(report, format_args!("split at level {}", self.level));
        }
    }

    /// A write to the large page is seen by the alias and by the small page, and the other
    /// way about; a small page that may not be written faults alone.
    fn rights(&self, report: &mut Report) {
        let mut plan = Plan::new(self.runner);
        let [first, second, ..] = LOOKED_AT;
        let word = 0x40;
        plan.entry(self.entry, self.large(0)).flush(self.at(0));
        plan.write(self.at(first) + word, 11).read(self.alias + first * PAGE + word, 11);
        plan.entry(self.small[1], self.runner.space().format.read(self.small[1]) & !W);
        plan.entry(self.entry, self.table).flush(self.at(first)).flush(self.at(second));
        plan.read(self.at(first) + word, 11);
        plan.fault(Kind::Write, self.at(second) + word, code::P | code::W);
        plan.write(self.at(first) + word, 12).read(self.alias + first * PAGE + word, 12);
        plan.entry(self.entry, self.large(0) & !W).flush(self.at(first)).flush(self.at(second));
        plan.read(self.at(first) + word, 12);
        plan.fault(Kind::Write, self.at(first) + word, code::P | code::W);
        plan.entry(self.entry, self.large(0)).flush(self.at(first)).flush(self.at(second));
        plan.write(self.at(second) + word, 13).read(self.alias + second * PAGE + word, 13);
        plan.entry(self.small[1], self.runner.space().format.read(self.small[1]));
        plan.run(report, format_args!("rights at level {}", self.level));
    }

    /// A and D are set in what is used: the large page's entry, or the small one's.
    fn marks(&self, report: &mut Report) {
        let mut plan = Plan::new(self.runner);
        let format = self.runner.space().format;
        let clean = self.large(0) & !(A | D);
        let small = format.read(self.small[0]) & !(A | D);
        plan.entry(self.entry, clean).flush(self.at(0)).read(self.entry, clean);
        plan.read(self.at(0), mark(self.pages[0] + self.offset)).read(self.entry, clean | A);
        plan.write(self.at(0) + 8, 0).read(self.entry, clean | A | D);
        plan.entry(self.small[0], small).entry(self.entry, self.table & !A).flush(self.at(0));
        plan.read(self.at(0), mark(self.pages[0] + self.offset));
        plan.read(self.entry, self.table | A).read(self.small[0], small | A);
        plan.write(self.at(0) + 8, 0).read(self.small[0], small | A | D);
        plan.entry(self.entry, clean).flush(self.at(0)).write(self.at(0) + 8, 0);
        plan.read(self.entry, clean | A | D);
        plan.run(report, format_args!("marks at level {}", self.level));
    }

    /// Random flips; what is read between two of them without a flush may be old or new.
    fn at_random(&self, report: &mut Report, rounds: u64) {
        let mut random = Random::new(u64::from(self.level));
        for round in 0..rounds {
            let mut plan = Plan::new(self.runner);
            let mut before = None;
            while plan.room() > 12 {
                let state = random.below(3) as usize;
                let value = if state == 2 { self.table } else { self.large(state) };
                let page = LOOKED_AT[random.below(4) as usize];
                let now = self.value(state, page);
                plan.entry(self.entry, value);
                if let (Some(old), true) = (before, random.one_in(2)) {
                    let either = Want::Either(self.value(old, page), now);
                    plan.step(Step::read(self.at(page)), either);
                }
                plan.flush(self.at(page)).read(self.at(page), now);
                // The other pages of the place may be stale yet.
                if random.one_in(3) {
                    for page in LOOKED_AT {
                        plan.flush(self.at(page));
                    }
                }
                plan.root(self.runner.space().root);
                before = Some(state);
            }
            plan.run(report, format_args!("flips at level {}, round {round}", self.level));
        }
        let wrong = LOOKED_AT.iter().filter(|&&page| {
            let gpa = self.pages[0] + self.offset + page * PAGE;
            read::<u64>(gpa) != mark(gpa)
        });
        report.equal("pages that lost their mark", wrong.count(), 0);
    }

    /// What small page `page` shows where the entry is the first or second large page, or
    /// the table (2).
    fn value(&self, state: usize, page: u64) -> u64 {
        let swapped = state == 2 && page == SWAPPED;
        let base = if state == 1 { self.pages[1] } else { self.pages[0] };
        mark(base + self.offset + page * PAGE + if swapped { LARGEST } else { 0 })
    }
}
