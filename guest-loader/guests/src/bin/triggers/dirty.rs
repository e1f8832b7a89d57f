//! Rounds of the dirty log.

use anchorite_guests::abi::hypercall::{DIRTY_HARVEST, DIRTY_START, DIRTY_STOP, REFUSED};
use anchorite_guests::machine::hypercall;
use anchorite_guests::memory::{read, write};
use anchorite_guests::paging::bits::{FULL, TABLE};
use anchorite_guests::paging::{Frames, PAGE, Space, index};
use anchorite_guests::probe::{Access, Kind};
use anchorite_guests::random::Random;
use anchorite_guests::{Report, println};

use crate::toucher::Toucher;
use crate::window::Window;

const ROUNDS: u64 = 12;
const VIA: u64 = 6 << 39;
/// The word of a frame that these rounds write.
const WORD: u64 = 16;

pub(crate) fn check(
    report: &mut Report,
    window: &mut Window,
    frames: &mut Frames,
    space: Space,
    toucher: &Toucher,
) {
    let map = frames.take();
    report.equal("a harvest of no log", hypercall(DIRTY_HARVEST, map, 0), REFUSED);
    if hypercall(DIRTY_START, 0, 0) != 0 {
        return report.skip("the dirty log", "nested paging keeps none");
    }
    let log = Log { map, frames: window.frames };
    log.harvest(report, "an untouched log", |_| false);
    let mut random = Random::new(11);
    for round in 0..ROUNDS {
        let picked = random.next_u64() | 1 << (round % 64);
        let written = |frame: u64| frame % 16 == 3 && picked >> (frame / 16 % 64) & 1 == 1;
        for frame in (0..window.frames).filter(|&frame| written(frame)) {
            write(window.base + frame * PAGE + WORD, round);
            write(window.base + frame * PAGE + WORD + 8, round);
        }
        window.look(report, "while it is logged");
        toucher.touch(report, round);
        log.harvest(report, "a round", written);
    }
    marks(report, window, frames, space, &log);
    report.equal("the log's end", hypercall(DIRTY_STOP, 0, 0), 0);
    report.equal("a harvest after the end", hypercall(DIRTY_HARVEST, map, 0), REFUSED);
    println!("triggers: {ROUNDS} rounds of the dirty log");
}

/// The A and D bits that the processor sets in tables of the window are writes too.
fn marks(report: &mut Report, window: &Window, frames: &mut Frames, space: Space, log: &Log) {
    let page = frames.take();
    let table = 9u64;
    let at = window.base + table * PAGE;
    let saved: u64 = read(at);
    write(at + 8 * index(VIA, 1), page | FULL & !0x60);
    write(space.make(frames, VIA, 2), at | TABLE);
    log.harvest(report, "a table's entry", |frame| frame == table);
    let seen = Access::kernel(Kind::Write, VIA).with(1).run();
    report.check(format_args!("a write by a table in the window: {seen:x?}"), seen.is_done());
    report.equal("A and D", read::<u64>(at + 8 * index(VIA, 1)) & 0x60, 0x60);
    log.harvest(report, "A and D bits", |frame| frame == table);
    write(space.make(frames, VIA, 2), 0u64);
    anchorite_guests::instructions::reload_cr3();
    write(at, saved);
    log.harvest(report, "the table put back", |frame| frame == table);
}

struct Log {
    map: u64,
    frames: u64,
}

impl Log {
    /// Harvests; exactly the frames that `written` names must be in it.
    fn harvest(&self, report: &mut Report, what: &str, written: impl Fn(u64) -> bool) {
        let count = hypercall(DIRTY_HARVEST, self.map, 0);
        let want = (0..self.frames).filter(|&frame| written(frame)).count() as u32;
        report.equal(format_args!("{what}: frames in the log"), count, want);
        for frame in 0..self.frames {
            let bit = read::<u8>(self.map + frame / 8) >> (frame % 8) & 1 == 1;
            report.check(format_args!("{what}: frame {frame}"), bit == written(frame));
        }
    }
}
