//! Floods of page-table writes, loops of tables, more tables than anyone has room for.

use anchorite_guests::instructions::{invlpg, reload_cr3};
use anchorite_guests::memory::{read, write};
use anchorite_guests::paging::bits::{FULL, P, U};
use anchorite_guests::paging::{Frames, PAGE, Space};
use anchorite_guests::probe::{Access, Kind, Outcome};
use anchorite_guests::random::Random;
use anchorite_guests::{Report, println};

const LOOPS: u64 = 40 << 39;
const FLOOD: u64 = 50 << 39;
const MANY: u64 = 51 << 39;

/// Pages that the flood maps about.
const PAGES: u64 = 16;
/// Places it maps them at, each with a page table of its own.
const PLACES: u64 = 24;
/// Writes of one round.
const WRITES: u64 = 3000;
/// Page tables of one round that looks for the quota.
const TABLES: u64 = 400;

pub(crate) fn check(report: &mut Report, frames: &mut Frames, space: Space, rounds: u64) {
    loops(report, frames, space);
    let mut flood = Flood::new(frames, space);
    for round in 0..rounds {
        flood.round(report, round);
    }
    println!("hostile: {} page-table writes", rounds * WRITES);
    for round in 0..rounds {
        many_tables(report, frames, space, round);
    }
    println!("hostile: {} page tables, {rounds} times", TABLES);
}

fn load(address: u64) -> Outcome {
    Access::kernel(Kind::Read, address).run()
}

/// Tables that lead back to themselves: such addresses read the tables.
fn loops(report: &mut Report, frames: &mut Frames, space: Space) {
    for level in 1..space.levels() {
        let address = LOOPS + (PAGE << (9 * level)) * 5;
        let at = space.make(frames, address, level);
        let table = at & !0xfff;
        // Every level below leads to this table again; the page is the table itself.
        for slot in 0..512 {
            write(table + 8 * slot, table | FULL);
        }
        reload_cr3();
        let seen = load(address);
        let want = read::<u64>(table);
        report.check(format_args!("a loop at level {level}: {seen:x?}"), seen.is_done());
        report.equal(format_args!("a loop at level {level} reads itself"), seen.value, want);
        // Through the loop the table loses the entry that the address goes through.
        let slot = at & 0xfff;
        let through = address & !0xfff | slot;
        let wrote = Access::kernel(Kind::Write, through).with(0).run();
        report
            .check(format_args!("a write through a loop at {level}: {wrote:x?}"), wrote.is_done());
        report.equal("the entry it wrote", read::<u64>(at), 0);
        invlpg(address);
        let gone = load(address).page_fault_at(address);
        report.same(format_args!("the loop at level {level} is gone"), gone, Some(0));
    }
}

/// Pages mapped at random, remembered, checked.
struct Flood {
    space: Space,
    random: Random,
    pages: [u64; PAGES as usize],
    /// The entry of each place, by level 1 to 3.
    entries: [[u64; 4]; PLACES as usize],
    /// What the entry of level 2 holds when it is whole.
    whole: [[u64; 4]; PLACES as usize],
}

impl Flood {
    fn new(frames: &mut Frames, space: Space) -> Self {
        let pages = core::array::from_fn(|_| frames.take());
        for (page, mark) in pages.into_iter().zip(1u64..) {
            write(page, mark);
        }
        let mut flood = Self {
            space,
            random: Random::new(7),
            pages,
            entries: [[0; 4]; PLACES as usize],
            whole: [[0; 4]; PLACES as usize],
        };
        for place in 0..PLACES {
            for level in (1..=3).rev() {
                let at = space.make(frames, Self::address(place), level);
                flood.entries[place as usize][level as usize] = at;
            }
            for level in 2..=3 {
                flood.whole[place as usize][level] = read(flood.entries[place as usize][level]);
            }
        }
        flood
    }

    /// Four places share a page directory.
    const fn address(place: u64) -> u64 {
        FLOOD + (place / 4) * (PAGE << 18) + (place % 4) * (PAGE << 9) + place * PAGE
    }

    fn round(&mut self, report: &mut Report, round: u64) {
        for _ in 0..WRITES {
            let place = self.random.below(PLACES);
            let level = if self.random.one_in(4) { 2 + self.random.below(2) } else { 1 };
            let at = self.entries[place as usize][level as usize];
            let value = match level {
                1 => self.pages[self.random.below(PAGES) as usize] | FULL,
                _ => self.whole[place as usize][level as usize],
            };
            let value = if self.random.one_in(5) { value & !P } else { value };
            let value = if self.random.one_in(7) { value & !U } else { value };
            write(at, value);
            if self.random.one_in(3) {
                invlpg(Self::address(place));
                self.look(report, round, place);
            }
        }
        reload_cr3();
        (0..PLACES).for_each(|place| self.look(report, round, place));
    }

    fn look(&self, report: &mut Report, round: u64, place: u64) {
        let address = Self::address(place);
        let entries = self.entries[place as usize];
        let present = (1..=3).all(|level| read::<u64>(entries[level]) & P != 0);
        let want = self.space.entry(address, 1).filter(|_| present);
        let want = want.map(|at| read::<u64>(read::<u64>(at) & !(FULL | 0xfff)));
        // Another place may share the directory, and with it what was not flushed for this one.
        invlpg(address);
        let seen = load(address);
        let got = seen.is_done().then_some(seen.value);
        report.check(
            format_args!("round {round}, place {place}: got {seen:x?}, want {want:x?}"),
            got == want && (got.is_some() || seen.page_fault_at(address) == Some(0)),
        );
    }
}

/// More page tables in use than a small quota has room for.
fn many_tables(report: &mut Report, frames: &mut Frames, space: Space, round: u64) {
    let address = |table: u64| MANY + table * (PAGE << 9) + (table % 512) * PAGE;
    if round == 0 {
        for table in 0..TABLES {
            let page = frames.take();
            write(page, table);
            space.map(frames, address(table), page, FULL, 1);
        }
    }
    let stride = [1, 7, 61][round as usize % 3];
    for step in 0..TABLES {
        let table = step * stride % TABLES;
        let seen = load(address(table));
        report.equal(format_args!("page of table {table}"), seen.value, table);
        let wrote = Access::kernel(Kind::Write, address(table) + 8).with(round).run();
        report.check(format_args!("a write to page of table {table}"), wrote.is_done());
    }
}
