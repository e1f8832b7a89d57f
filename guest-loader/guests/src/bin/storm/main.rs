//! A storm of page tables: frames become tables, are used, dropped, become data and tables
//! again; in every paging mode. While a frame is data, nobody may set A or D bits in it; while
//! it is a table, what is written to it by any mapping counts.
//!
//! `mode=NAME,NAME` takes some of the modes, `rounds=N` repeats.
#![no_std]
#![no_main]

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

const FRAMES: usize = 40;
/// Places where a table may hang, each with a table above it.
const PLACES: usize = 12;
/// Entries of a table that are used, and the word of a frame that holds its mark: an entry
/// of the table, too, that nobody uses.
const USED: [u64; 3] = [40, 41, 300];
const MARK: u64 = 0x10;

fn run(boot: &BootInfo) -> Status {
    let mut report = Report::new("storm");
    let mut frames = Frames::new(boot);
    let rounds = boot.argument("rounds").and_then(|text| text.parse().ok()).unwrap_or(40);
    for format in Format::wanted(boot, &mut report) {
        Controls { wp: true, pse: true, ..Controls::default() }.apply();
        let runner = Runner::new(Space::of(format, &mut frames));
        let mut storm = Storm::new(&runner, &mut frames);
        (0..rounds).for_each(|round| storm.round(&mut report, round));
        let Storm { made, edited, .. } = storm;
        println!("storm: {}: {made} tables made, {edited} edits by an alias", format.name());
    }
    Controls::default().apply();
    report.finish()
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Data, mapped or not.
    Data,
    /// The table at this place; there is also one above it, where it has two levels.
    Table,
}

/// What hangs at a place.
#[derive(Clone, Copy)]
struct Hung {
    /// The table of level 1, by number of frame.
    table: usize,
    /// The table of level 2 above it, where the place is an entry of level 3.
    above: Option<usize>,
    /// The frames that [`USED`] lead to.
    pages: [usize; USED.len()],
}

struct Storm<'a> {
    runner: &'a Runner,
    space: Space,
    random: Random,
    frames: [u64; FRAMES],
    roles: [Role; FRAMES],
    /// What each frame's marked word holds.
    marks: [u64; FRAMES],
    /// The places' addresses, entries and levels of these.
    places: [(u64, u64, u32); PLACES],
    hung: [Option<Hung>; PLACES],
    made: u64,
    edited: u64,
}

impl<'a> Storm<'a> {
    fn new(runner: &'a Runner, frames: &mut Frames) -> Self {
        let space = runner.space();
        let numbers = core::array::from_fn(|_| frames.take());
        let places = core::array::from_fn(|number| {
            // Where there are tables of level 2 to be made, half of the places take them.
            let level = if space.format.is_long() && number % 2 == 1 { 3 } else { 2 };
            let far = space.region(u64::from(level));
            let address = far + number as u64 * space.format.span(level);
            (address, space.make(frames, address, level), level)
        });
        let mut marks = [0; FRAMES];
        for (number, mark) in marks.iter_mut().enumerate() {
            *mark = 0xabc_0001 | (number as u64) << 12;
            write(numbers[number] + MARK, *mark);
        }
        Self {
            runner,
            space,
            random: Random::new(13),
            frames: numbers,
            roles: [Role::Data; FRAMES],
            marks,
            places,
            hung: [None; PLACES],
            made: 0,
            edited: 0,
        }
    }

    fn round(&mut self, report: &mut Report, round: u64) {
        let mut plan = Plan::new(self.runner);
        while plan.room() > 40 {
            let place = self.random.below(PLACES as u64) as usize;
            match self.hung[place] {
                None => self.hang(&mut plan, place),
                Some(hung) if self.random.one_in(3) => self.edit(&mut plan, place, hung),
                Some(hung) => self.drop(&mut plan, place, hung),
            }
            let other = self.random.below(PLACES as u64) as usize;
            self.look(&mut plan, other);
        }
        plan.run(report, format_args!("round {round}"));
    }

    fn any(&mut self, role: Role) -> usize {
        loop {
            let number = self.random.below(FRAMES as u64) as usize;
            if self.roles[number] == role {
                return number;
            }
        }
    }

    /// The address of entry `index` of the frame, as a table.
    fn entry(&self, number: usize, index: u64) -> u64 {
        self.frames[number] + index * self.space.format.entry_bytes()
    }

    /// Where a place's page of entry `index` is seen.
    fn address(&self, place: usize, index: u64) -> u64 {
        let (address, _, level) = self.places[place];
        // Of level 3, the second table hangs in the first's entry of that number.
        let above = if level == 3 { USED[0] * self.space.format.span(2) } else { 0 };
        address + above + index * PAGE
    }

    /// Frames of data become tables at a place where nothing was: without INVLPG.
    fn hang(&mut self, plan: &mut Plan, place: usize) {
        let table = self.any(Role::Data);
        self.roles[table] = Role::Table;
        let (_, at, level) = self.places[place];
        let above = (level == 3).then(|| self.any(Role::Data));
        if let Some(above) = above {
            self.roles[above] = Role::Table;
        }
        let pages = core::array::from_fn(|_| self.any(Role::Data));
        for (index, page) in USED.into_iter().zip(pages) {
            plan.entry(self.entry(table, index), self.frames[page] | FULL);
        }
        let bits = self.space.format.table(2);
        let mut top = self.frames[table] | bits;
        if let Some(above) = above {
            plan.entry(self.entry(above, USED[0]), top);
            top = self.frames[above] | bits;
        }
        plan.entry(at, top);
        self.hung[place] = Some(Hung { table, above, pages });
        self.made += 1 + u64::from(above.is_some());
        self.look(plan, place);
    }

    /// Reads the place's pages by it, and changes one.
    fn look(&mut self, plan: &mut Plan, place: usize) {
        let Some(hung) = self.hung[place] else {
            plan.fault(Kind::Read, self.address(place, USED[0]), 0);
            return;
        };
        for (index, page) in USED.into_iter().zip(hung.pages) {
            plan.read(self.address(place, index) + MARK, self.marks[page]);
        }
        // A frame that has become a table since keeps its mark.
        let written = hung.pages[0];
        if self.roles[written] == Role::Data {
            self.marks[written] ^= 0x30_0000;
            plan.write(self.address(place, USED[0]) + MARK, self.marks[written]);
            plan.read(self.frames[written] + MARK, self.marks[written]);
        }
    }

    /// An entry is changed by a mapping of the table as data.
    fn edit(&mut self, plan: &mut Plan, place: usize, hung: Hung) {
        let alias = (place + 1 + self.random.below(PLACES as u64 - 1) as usize) % PLACES;
        let Some(mut other) = self.hung[alias] else { return };
        let [.., last] = USED;
        let page = self.any(Role::Data);
        // The other place's last entry maps this place's table.
        let seen = self.address(alias, last);
        plan.entry(self.entry(other.table, last), self.frames[hung.table] | FULL).flush(seen);
        other.pages[2] = hung.table;
        self.hung[alias] = Some(other);
        plan.read(seen + MARK, self.marks[hung.table]);
        let at = self.entry(hung.table, USED[1]) & (PAGE - 1);
        plan.write(seen + at, self.frames[page] | FULL).flush(self.address(place, USED[1]));
        let mut changed = hung;
        changed.pages[1] = page;
        self.hung[place] = Some(changed);
        self.edited += 1;
        self.look(plan, place);
    }

    /// Takes a place's tables away; they are data again.
    fn drop(&mut self, plan: &mut Plan, place: usize, hung: Hung) {
        plan.entry(self.places[place].1, 0);
        for index in USED {
            plan.flush(self.address(place, index));
        }
        self.hung[place] = None;
        for number in [Some(hung.table), hung.above].into_iter().flatten() {
            self.roles[number] = Role::Data;
            plan.read(self.frames[number] + MARK, self.marks[number]);
            let kept = self.entry(number, USED[0]);
            // Nobody marks what was an entry as accessed now that it is not.
            plan.write(kept, 0x7000_0001).read(kept, 0x7000_0001);
            plan.write(self.entry(number, USED[1]), 0).write(self.entry(number, USED[2]), 0);
        }
        self.look(plan, place);
    }
}
