//! What INVLPG and loads of CR3 must make the processor forget, what needs neither, and what
//! they must leave alone; in every paging mode.
//!
//! Source: SDM vol. 3, 4.10.4 "Invalidation of TLBs and Paging-Structure Caches".
//! `mode=NAME,NAME` takes some of the modes, `rounds=N` repeats the random part.
#![no_std]
#![no_main]

mod marks;

use anchorite_guests::control::Features;
use anchorite_guests::format::Format;
use anchorite_guests::memory::write;
use anchorite_guests::oracle::{Controls, code};
use anchorite_guests::paging::bits::{FULL, NX, P, U, W};
use anchorite_guests::paging::{Frames, PAGE};
use anchorite_guests::plan::{Plan, Want};
use anchorite_guests::probe::{Access, END_CODE, Kind};
use anchorite_guests::random::Random;
use anchorite_guests::script::{Runner, Step};
use anchorite_guests::{BootInfo, Report, Status, entry, paging::Space, println};

entry!(run);

/// Pages that are mapped about.
const PAGES: usize = 8;
/// Places of the random part.
const PLACES: u64 = 16;

fn run(boot: &BootInfo) -> Status {
    let mut report = Report::new("invlpg");
    let mut frames = Frames::new(boot);
    let rounds = boot.argument("rounds").and_then(|text| text.parse().ok()).unwrap_or(12);
    let pages = core::array::from_fn(|_| frames.take());
    for (page, mark) in pages.into_iter().zip(1u64..) {
        write(page, mark);
        write(page + 8, END_CODE);
    }
    for format in Format::wanted(boot, &mut report) {
        let nxe = Features::read().no_execute && format != Format::TwoLevel;
        Controls { wp: true, pse: true, nxe, ..Controls::default() }.apply();
        let runner = Runner::new(Space::of(format, &mut frames));
        let checks = Checks { space: runner.space(), runner: &runner, pages };
        checks.pages(&mut report, &mut frames);
        checks.tables(&mut report, &mut frames);
        checks.rights(&mut report, &mut frames, nxe);
        checks.marks(&mut report, &mut frames);
        checks.aliases(&mut report, &mut frames);
        checks.at_random(&mut report, &mut frames, rounds);
        println!("invlpg: {}", format.name());
    }
    Controls::default().apply();
    report.finish()
}

/// One mode's checks.
struct Checks<'a> {
    runner: &'a Runner,
    space: Space,
    /// Page n holds n + 1, and at byte 8 code that ends a fetch.
    pages: [u64; PAGES],
}

impl Checks<'_> {
    /// A page's entry changes: to another page, to none, from none.
    fn pages(&self, report: &mut Report, frames: &mut Frames) {
        let [one, two, ..] = self.pages;
        let address = self.space.region(0) + 5 * PAGE;
        let at = self.space.map(frames, address, one, FULL, 1);
        let next = self.space.map(frames, address + PAGE, two, FULL, 1);
        let mut plan = Plan::new(self.runner);
        for inside in [0, 1, 0xfff] {
            plan.read(address, 1).read(address + PAGE, 2);
            plan.entry(at, two | FULL).flush(address + inside).read(address, 2);
            plan.read(address + PAGE, 2);
            plan.entry(at, 0).flush(address + inside).fault(Kind::Read, address, 0);
            plan.fault(Kind::Write, address + inside.min(8), code::W);
            // What is not present is in no cache: it needs no INVLPG.
            plan.entry(at, one | FULL).read(address, 1).write(address + 16, 3);
            // Neither what lies beside it nor what was never mapped matters.
            plan.flush(address + PAGE).flush(address - PAGE).flush(address ^ 1 << 26);
            plan.read(address, 1);
        }
        plan.entry(next, 0).flush(address + PAGE);
        plan.run(report, "a page's entry");
        if self.space.format.is_long() {
            plan.flush(1 << 60).flush(!0).flush(0).read(address, 1);
            plan.run(report, "addresses that are not canonical");
        }
    }

    /// An entry of an upper level leads to another table, to none, and back.
    fn tables(&self, report: &mut Report, frames: &mut Frames) {
        let format = self.space.format;
        let [one, two, ..] = self.pages;
        for level in 2..=self.space.levels() {
            let address = self.space.region(u64::from(level)) + 3 * PAGE;
            self.space.map(frames, address, one, FULL, 1);
            let at = self.space.make(frames, address, level);
            let old = format.read(at);
            format.write(at, 0);
            self.space.map(frames, address, two, FULL, 1);
            let new = format.read(at);
            // The registers of PAE change with CR3 alone.
            let registers = (format, level) == (Format::Pae, 3);
            let mut plan = Plan::new(self.runner);
            for _ in 0..3 {
                for (value, mark) in [(old, 1), (new, 2), (0, 0), (old, 1), (0, 0), (new, 2)] {
                    plan.entry(at, value);
                    if registers {
                        plan.root(self.space.root);
                    } else {
                        plan.flush(address + 4);
                    }
                    match mark {
                        0 => plan.fault(Kind::Read, address, 0),
                        mark => plan.read(address, mark),
                    };
                }
                plan.entry(at, 0).root(self.space.root).fault(Kind::Read, address, 0);
                // From none to some: at once.
                plan.entry(at, old);
                if registers {
                    plan.root(self.space.root);
                }
                plan.read(address, 1);
            }
            plan.run(report, format_args!("an entry of level {level}"));
        }
    }

    /// Rights that are taken are gone after INVLPG, those that are given are there.
    fn rights(&self, report: &mut Report, frames: &mut Frames, nxe: bool) {
        let page = self.pages[2];
        let (code_page, user) = (frames.take(), self.space.region(8));
        self.space.map(frames, user, code_page, FULL, 1);
        self.runner.set_user_code(code_page, user, user + 0xff8);
        let address = self.space.region(7) + 9 * PAGE;
        let at = self.space.map(frames, address, page, FULL, 1);
        let by_user = |kind, address| Step::Access(Access::user(kind, address).with(7));
        let fetch = Step::Access(Access::kernel(Kind::Fetch, address + 8));
        let mut plan = Plan::new(self.runner);
        for _ in 0..3 {
            plan.write(address + 32, 1).step(by_user(Kind::Write, address + 24), Want::Done);
            plan.entry(at, page | FULL & !W).flush(address).read(address, 3);
            plan.fault(Kind::Write, address, code::P | code::W);
            let denied = Want::Fault(code::P | code::W | code::U);
            plan.step(by_user(Kind::Write, address), denied);
            plan.entry(at, page | FULL & !U).flush(address).write(address + 32, 2);
            plan.step(by_user(Kind::Read, address), Want::Fault(code::P | code::U));
            plan.entry(at, page | FULL).flush(address).write(address + 32, 3);
            plan.step(by_user(Kind::Read, address), Want::Value(3)).step(fetch, Want::Done);
            if nxe {
                plan.entry(at, page | FULL | NX).flush(address);
                let denied = Want::Fault(code::P | code::I);
                plan.step(fetch, denied).read(address, 3).step(fetch, denied);
                // The same where the page is cached anew, and by a read.
                plan.entry(at, 0).flush(address).entry(at, page | FULL | NX);
                plan.read(address, 3).step(fetch, denied);
                plan.entry(at, page | FULL).flush(address).step(fetch, Want::Done);
            }
        }
        plan.run(report, "rights");
    }

    /// One table under two entries, one page under two: each address is flushed by itself.
    fn aliases(&self, report: &mut Report, frames: &mut Frames) {
        let format = self.space.format;
        let first = self.space.region(9) + 7 * PAGE;
        let second = first + 3 * format.span(2);
        let [.., six, seven, _] = self.pages;
        let at = self.space.map(frames, first, six, FULL, 1);
        let above = format.read(self.space.make(frames, first, 2));
        format.write(self.space.make(frames, second, 2), above);
        let mut plan = Plan::new(self.runner);
        for _ in 0..4 {
            plan.read(first, 6).read(second, 6).entry(at, seven | FULL).flush(first);
            plan.read(first, 7).step(Step::read(second), Want::Either(6, 7));
            plan.flush(second).read(second, 7).entry(at, six | FULL & !P).flush(second);
            plan.fault(Kind::Read, second, 0).flush(first).fault(Kind::Write, first, code::W);
            plan.entry(at, six | FULL);
        }
        plan.run(report, "a table under two entries");
    }

    /// Many places; each change is flushed in one of the ways.
    fn at_random(&self, report: &mut Report, frames: &mut Frames, rounds: u64) {
        let root = self.space.root;
        let base = self.space.region(10);
        let address = |place: u64| base + (place % 4) * self.space.format.span(2) + place * PAGE;
        let entries: [u64; PLACES as usize] =
            core::array::from_fn(|place| self.space.make(frames, address(place as u64), 1));
        let mut now = [None; PLACES as usize];
        let mut random = Random::new(5);
        for round in 0..rounds {
            let mut plan = Plan::new(self.runner);
            while plan.room() > PLACES as usize + 4 {
                let place = random.below(PLACES);
                let page = (!random.one_in(4)).then(|| random.below(PAGES as u64) as usize);
                now[place as usize] = page;
                plan.entry(entries[place as usize], page.map_or(0, |page| self.pages[page] | FULL));
                if random.one_in(8) {
                    plan.root(root);
                } else {
                    plan.flush(address(place) + random.below(PAGE));
                }
                let seen = random.below(PLACES);
                for place in [place, seen] {
                    match now[place as usize] {
                        Some(page) => plan.read(address(place), 1 + page as u64),
                        None => plan.fault(Kind::Read, address(place), 0),
                    };
                }
            }
            for place in 0..PLACES {
                match now[place as usize] {
                    Some(page) => plan.read(address(place), 1 + page as u64),
                    None => plan.fault(Kind::Read, address(place), 0),
                };
            }
            plan.run(report, format_args!("random, round {round}"));
        }
    }
}
