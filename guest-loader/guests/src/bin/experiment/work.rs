//! A round: zap, then touch.

use anchorite_guests::abi::bench::Command;
use anchorite_guests::instructions::rdtsc;
use anchorite_guests::timing::command;
use anchorite_guests::{Report, memory, println};

use crate::aperture::Aperture;
use crate::fork::Forks;
use crate::plan::{Order, Plan, Workload};
use crate::random::Random;
use crate::samples::Samples;
use crate::sleep;
use crate::space::{self, DATA, FAULTS, ORDER, PAGE, Pool, Space, ZAPS};

/// A touch that took at least so many ticks left the guest: the loop around an untroubled
/// one has a tenth of that.
const FAULT_TICKS: u64 = 150;

/// The guest at work.
#[derive(Debug)]
pub(crate) struct Work {
    plan: Plan,
    space: Space,
    forks: Option<Forks>,
    aperture: Option<Aperture>,
    random: Random,
    pub(crate) meter: Meter,
}

/// What is measured.
#[derive(Debug)]
pub(crate) struct Meter {
    zaps: Samples,
    faults: Samples,
    /// Ticks of all rounds' work.
    total: u64,
    touches: u64,
    checksum: u64,
    /// Touches between two samples of the frames in use, and until the next; 0 for none.
    sample: u64,
    until_sample: u64,
}

impl Work {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let mut pool = Pool::new();
        let space = Space::at(pool.take());
        let places = Places::new(plan.pages(), &mut random);
        space.build(
            plan.tables,
            || pool.take(),
            |table, frame| {
                for leaf in 0..plan.leaves {
                    let number = table * plan.leaves + leaf;
                    space::map(frame, leaf, places.of(number));
                    memory::write(DATA + places.of(number) * PAGE, tag(number));
                }
            },
        );
        if plan.workload == Workload::Idle {
            sleep::prepare();
        }
        let fork = plan.workload == Workload::Fork;
        let forks = fork.then(|| Forks::new(&plan, &places, &mut pool));
        let remap = plan.workload == Workload::Remap;
        let aperture = remap.then(|| Aperture::new(space, || pool.take()));
        space.load();
        if let Some(aperture) = &aperture {
            aperture.fill();
        }
        let meter = Meter {
            zaps: Samples::new(ZAPS, FAULTS - ZAPS),
            faults: Samples::new(FAULTS, DATA - FAULTS),
            total: 0,
            touches: 0,
            checksum: 0,
            sample: plan.sample,
            until_sample: plan.sample,
        };
        Self { plan, space, forks, aperture, random, meter }
    }

    /// Forgets what the rounds so far have measured.
    pub(crate) fn begin(&mut self) {
        self.meter.zaps.clear();
        self.meter.faults.clear();
        (self.meter.total, self.meter.touches, self.meter.checksum) = (0, 0, 0);
    }

    pub(crate) fn round(&mut self) {
        match self.plan.workload {
            Workload::Rebuild | Workload::Idle | Workload::Remap => self.rebuild(),
            Workload::Loop => self.at_random(),
            Workload::Reader => self.again_and_again(),
            Workload::Fork => self.fork(),
        }
    }

    fn rebuild(&mut self) {
        self.choose_order();
        self.zap();
        if self.plan.workload == Workload::Idle {
            sleep::sleep(self.plan.idle);
        }
        let meter = &mut self.meter;
        let start = rdtsc();
        if let Some(aperture) = &self.aperture {
            aperture.addresses().for_each(|address| meter.timed(address));
        }
        for place in 0..self.plan.pages() {
            meter.timed(self.plan.address(ordered(place)));
        }
        meter.total += rdtsc() - start;
    }

    fn at_random(&mut self) {
        self.zap();
        let (plan, meter, random) = (&self.plan, &mut self.meter, &mut self.random);
        let window = plan.tables.min(plan.every);
        let start = rdtsc();
        for _ in 0..window {
            meter.timed(plan.address(random.below(plan.pages())));
        }
        for _ in window..plan.every {
            meter.untimed(plan.address(random.below(plan.pages())));
        }
        meter.total += rdtsc() - start;
    }

    fn again_and_again(&mut self) {
        self.choose_order();
        self.zap();
        let (plan, meter) = (&self.plan, &mut self.meter);
        let pages = plan.pages();
        let start = rdtsc();
        for place in 0..pages {
            meter.timed(plan.address(ordered(place)));
        }
        let mut left = plan.every.saturating_sub(pages);
        while left > 0 {
            let pass = left.min(pages);
            for place in 0..pass {
                meter.untimed(plan.address(ordered(place)));
            }
            left -= pass;
        }
        meter.total += rdtsc() - start;
    }

    fn fork(&mut self) {
        self.zap();
        let Some(forks) = &mut self.forks else { return };
        for _ in 0..self.plan.every {
            let first = self.random.below(self.plan.pages());
            let start = rdtsc();
            forks.next().load();
            for place in 0..self.plan.pages() {
                let number = if first + place < self.plan.pages() {
                    first + place
                } else {
                    first + place - self.plan.pages()
                };
                self.meter.timed(self.plan.address(number));
            }
            self.space.load();
            self.meter.total += rdtsc() - start;
        }
    }

    fn zap(&mut self) {
        let start = rdtsc();
        match &mut self.aperture {
            Some(aperture) => aperture.go(),
            None => command(Command::ZapAll { timed: true }),
        }
        let ticks = rdtsc() - start;
        self.meter.zaps.push(ticks);
        self.meter.total += ticks;
    }

    /// Writes down the order of the next round, outside all that is measured.
    fn choose_order(&mut self) {
        let pages = self.plan.pages();
        let first = self.random.below(pages);
        for place in 0..pages {
            set_ordered(place, (first + place) % pages);
        }
        if self.plan.order == Order::Random {
            for place in (1..pages).rev() {
                let other = self.random.below(place + 1);
                let (a, b) = (ordered(place), ordered(other));
                set_ordered(place, b);
                set_ordered(other, a);
            }
        }
    }

    /// Reads every page and compares it with its number. Returns how many there are.
    pub(crate) fn verify(&self, report: &mut Report) -> u64 {
        let pages = self.plan.pages();
        let wrong = (0..pages)
            .filter(|number| space::read(self.plan.address(*number)) != tag(*number))
            .count();
        report.check(format_args!("{wrong} of {pages} pages hold what is not theirs"), wrong == 0);
        let lost = self.meter.faults.lost() + self.meter.zaps.lost();
        report.check(format_args!("{lost} figures did not fit"), lost == 0);
        pages
    }

    pub(crate) fn print(&mut self) {
        let meter = &mut self.meter;
        println!("E total {} {}", meter.total, meter.touches);
        meter.zaps.print("zaps");
        meter.faults.print("faults");
        println!("E checksum {:016x}", meter.checksum);
    }
}

impl Meter {
    /// A touch in the window after a zap.
    #[inline]
    fn timed(&mut self, address: u64) {
        let start = rdtsc();
        let value = space::read(address);
        let ticks = rdtsc() - start;
        if ticks >= FAULT_TICKS {
            self.faults.push(ticks);
        }
        self.count(value);
    }

    #[inline]
    fn untimed(&mut self, address: u64) {
        let value = space::read(address);
        self.count(value);
    }

    #[inline]
    fn count(&mut self, value: u64) {
        self.touches += 1;
        self.checksum = self.checksum.rotate_left(5) ^ value;
        if self.until_sample > 0 {
            self.until_sample -= 1;
            if self.until_sample == 0 {
                self.until_sample = self.sample;
                command(Command::Sample);
            }
        }
    }
}

impl Plan {
    /// The address of page `number` of the test region.
    #[inline]
    fn address(&self, number: u64) -> u64 {
        if self.leaves == 1 {
            return space::address(number, 0);
        }
        space::address(number / self.leaves, number % self.leaves)
    }
}

/// Which data page stands behind each page of the test region: a permutation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    factor: u64,
    offset: u64,
    mask: u64,
}

impl Places {
    fn new(pages: u64, random: &mut Random) -> Self {
        let mask = pages.next_power_of_two() - 1;
        Self { factor: random.next() | 1, offset: random.next(), mask }
    }

    /// The data page behind page `number`: an odd factor permutes the residues of a power of two.
    pub(crate) fn of(&self, number: u64) -> u64 {
        number.wrapping_mul(self.factor).wrapping_add(self.offset) & self.mask
    }
}

/// What the data page behind page `number` of the test region holds.
const fn tag(number: u64) -> u64 {
    (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[inline]
fn ordered(place: u64) -> u64 {
    memory::read::<u32>(ORDER + 4 * place).into()
}

fn set_ordered(place: u64, number: u64) {
    memory::write(ORDER + 4 * place, number as u32);
}
