//! CR3 churn: many address spaces that are entered, left and changed meanwhile; in every
//! paging mode. Each has pages of its own and one that all share.
//!
//! `mode=NAME,NAME` takes some of the modes, `rounds=N` repeats, `deviations=` see the runtime.
#![no_std]
#![no_main]

mod registers;

use anchorite_guests::deviations::Deviations;
use anchorite_guests::format::Format;
use anchorite_guests::memory::write;
use anchorite_guests::oracle::Controls;
use anchorite_guests::paging::bits::FULL;
use anchorite_guests::paging::{Frames, PAGE, Space};
use anchorite_guests::plan::Plan;
use anchorite_guests::probe::Kind;
use anchorite_guests::random::Random;
use anchorite_guests::script::Runner;
use anchorite_guests::{BootInfo, Report, Status, entry, println};

entry!(run);

const ROOTS: usize = 20;
/// Places of each space, and the pages that may be mapped there.
const PLACES: usize = 3;
const PAGES: u64 = 64;
/// Bits of CR3 that may have any value: PWT and PCD.
const CACHING: u64 = 0x18;

fn run(boot: &BootInfo) -> Status {
    let mut report = Report::new("churn");
    let mut deviations = Deviations::new(boot);
    let mut frames = Frames::new(boot);
    let rounds = boot.argument("rounds").and_then(|text| text.parse().ok()).unwrap_or(30);
    let pages = frames.take_aligned(PAGES * PAGE, PAGE);
    (0..PAGES).for_each(|page| write(pages + page * PAGE, 1 + page));
    for format in Format::wanted(boot, &mut report) {
        Controls { wp: true, pse: true, ..Controls::default() }.apply();
        let runner = Runner::new(Space::of(format, &mut frames));
        let mut churn = Churn::new(&runner, &mut frames, pages);
        (0..rounds).for_each(|round| churn.round(&mut report, round));
        if format == Format::Pae {
            registers::check(&mut report, &mut deviations, &runner, &mut frames, pages);
        }
        println!("churn: {}", format.name());
    }
    Controls::default().apply();
    deviations.finish(&mut report);
    report.finish()
}

/// A space: its root, its entries, and what they lead to.
#[derive(Clone, Copy)]
struct One {
    root: u64,
    entries: [u64; PLACES],
    /// The topmost entry that leads to the last place, and what it holds when it is there.
    top: (u64, u64),
    pages: [Option<u64>; PLACES],
    is_whole: bool,
}

struct Churn<'a> {
    runner: &'a Runner,
    random: Random,
    first_page: u64,
    /// The page that is the same in all spaces, and what was last written to it.
    shared: u64,
    written: u64,
    spaces: [One; ROOTS],
    current: usize,
}

/// Where place `place` lies.
fn place(space: Space, place: usize) -> u64 {
    space.region([1, 1, 8][place]) + [0, 9, 3][place] * PAGE
}

impl<'a> Churn<'a> {
    fn new(runner: &'a Runner, frames: &mut Frames, first_page: u64) -> Self {
        let shared = frames.take();
        let spaces = core::array::from_fn(|_| {
            let space = runner.space().sibling(frames);
            space.map(frames, space.region(4), shared, FULL, 1);
            let entries = core::array::from_fn(|at| space.make(frames, place(space, at), 1));
            let top = space.make(frames, place(space, 2), space.levels());
            let top = (top, space.format.read(top));
            One { root: space.root, entries, top, pages: [None; PLACES], is_whole: true }
        });
        Self { runner, random: Random::new(9), first_page, shared, written: 0, spaces, current: 0 }
    }

    fn round(&mut self, report: &mut Report, round: u64) {
        let mut plan = Plan::new(self.runner);
        self.enter(&mut plan);
        while plan.room() > 24 {
            match self.random.below(4) {
                0 => self.change(&mut plan),
                1 => self.take_or_give(&mut plan),
                _ => {}
            }
            self.enter(&mut plan);
            self.look(&mut plan);
            self.share(&mut plan);
        }
        plan.run(report, format_args!("round {round}"));
    }

    /// Loads CR3 with any root, often the same again.
    fn enter(&mut self, plan: &mut Plan) {
        if !self.random.one_in(4) {
            self.current = self.random.below(ROOTS as u64) as usize;
        }
        let caching = if self.random.one_in(3) { CACHING & self.random.next_u64() } else { 0 };
        plan.root(self.spaces[self.current].root | caching);
    }

    /// Maps another page in any space, the one in use or not; a load of CR3 follows.
    fn change(&mut self, plan: &mut Plan) {
        let space = &mut self.spaces[self.random.below(ROOTS as u64) as usize];
        for _ in 0..=self.random.below(3) {
            let at = self.random.below(PLACES as u64) as usize;
            let page = (!self.random.one_in(5)).then(|| self.random.below(PAGES));
            space.pages[at] = page;
            let value = page.map_or(0, |page| self.first_page + page * PAGE | FULL);
            plan.entry(space.entries[at], value);
        }
    }

    /// A topmost entry is taken away from a space, or given back.
    fn take_or_give(&mut self, plan: &mut Plan) {
        let space = &mut self.spaces[self.random.below(ROOTS as u64) as usize];
        space.is_whole = !space.is_whole;
        plan.entry(space.top.0, if space.is_whole { space.top.1 } else { 0 });
    }

    fn look(&self, plan: &mut Plan) {
        let (space, one) = (self.runner.space(), &self.spaces[self.current]);
        for at in 0..PLACES {
            let page = one.pages[at].filter(|_| at != 2 || one.is_whole);
            match page {
                Some(page) => plan.read(place(space, at), 1 + page),
                None => plan.fault(Kind::Read, place(space, at), 0),
            };
        }
    }

    /// The shared page holds what the last space wrote.
    fn share(&mut self, plan: &mut Plan) {
        let address = self.runner.space().region(4);
        plan.read(address, self.written);
        self.written += 1;
        plan.write(address, self.written).read(self.shared, self.written);
    }
}
