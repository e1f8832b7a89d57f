//! The remap window.

use anchorite_guests::abi::hypercall::{
    REFUSED, WINDOW_ADD, WINDOW_DELETE, WINDOW_FRAMES, WINDOW_MOVE, WINDOW_READ_ONLY,
};
use anchorite_guests::instructions::{invlpg, reload_cr3};
use anchorite_guests::machine::hypercall;
use anchorite_guests::memory::{read, write};
use anchorite_guests::paging::bits::{FULL, TABLE};
use anchorite_guests::paging::{Frames, PAGE, Space, index};
use anchorite_guests::probe::{Access, Kind};
use anchorite_guests::random::Random;
use anchorite_guests::{Report, println};

use crate::toucher::Toucher;

/// Where the window lies by turns: on a large page's edge and off it, next to each other.
const PLACES: [u64; 6] =
    [0xd000_0000, 0xd040_0000, 0xd000_1000, 0xe123_4000, 0xd03f_f000, 0xd7ff_f000];
const VIA: u64 = 5 << 39;
/// Offsets in a frame.
const STAMP: u64 = 0;
const SCRATCH: u64 = 8;

/// The window: where it lies, and what is in it.
pub(crate) struct Window {
    pub(crate) base: u64,
    pub(crate) frames: u64,
    /// Last value written to frame n's scratch word is n plus this.
    written: u64,
}

impl Window {
    pub(crate) fn new(report: &mut Report) -> Self {
        let frames = hypercall(WINDOW_FRAMES, 0, 0);
        report
            .check(format_args!("the window has {frames} frames"), (1..REFUSED).contains(&frames));
        Self { base: 0, frames: frames.into(), written: 0 }
    }

    #[expect(clippy::unused_self, reason = "what is done to the window, whatever its state")]
    fn call(&self, report: &mut Report, what: &str, number: u32, argument: u64) {
        report.equal(format_args!("{what} {argument:#x}"), hypercall(number, argument, 0), 0);
    }

    /// Added, filled, deleted, added elsewhere, moved, made read-only: its bytes stay.
    pub(crate) fn lifecycle(&mut self, report: &mut Report, toucher: &Toucher) {
        report.equal("a deletion of nothing", hypercall(WINDOW_DELETE, 0, 0), REFUSED);
        report.equal("a move of nothing", hypercall(WINDOW_MOVE, PLACES[0], 0), REFUSED);
        report.equal("onto RAM", hypercall(WINDOW_ADD, 0x10_0000, 0), REFUSED);
        report.equal("off the page", hypercall(WINDOW_ADD, PLACES[0] + 8, 0), REFUSED);
        self.absent(report, PLACES[0]);
        self.add(report, PLACES[0]);
        (0..self.frames).for_each(|frame| write(self.base + frame * PAGE + STAMP, stamp(frame)));
        self.look(report, "when filled");
        report.equal("a second one", hypercall(WINDOW_ADD, PLACES[3], 0), REFUSED);
        self.delete(report);
        toucher.look(report, "after a deletion");
        self.add(report, PLACES[3]);
        self.look(report, "when added again");
        report.equal("a move onto RAM", hypercall(WINDOW_MOVE, 0x10_0000, 0), REFUSED);
        for place in PLACES {
            self.go(report, place);
            self.look(report, "after a move");
            toucher.touch(report, place >> 12);
        }
        self.as_rom(report);
        println!("triggers: the window was added, moved, read-only and deleted");
    }

    fn add(&mut self, report: &mut Report, place: u64) {
        self.call(report, "adds", WINDOW_ADD, place);
        self.base = place;
    }

    fn delete(&mut self, report: &mut Report) {
        self.call(report, "deletes", WINDOW_DELETE, 0);
        self.absent(report, self.base);
        self.base = 0;
    }

    pub(crate) fn go(&mut self, report: &mut Report, place: u64) {
        let old = self.base;
        self.call(report, "moves to", WINDOW_MOVE, place);
        self.base = place;
        let end = place + self.frames * PAGE;
        for at in [old, old + (self.frames - 1) * PAGE] {
            if !(place..end).contains(&at) {
                self.absent_at(report, at);
            }
        }
    }

    /// Nothing lies there: all ones, and writes are lost.
    fn absent(&self, report: &mut Report, place: u64) {
        for frame in [0, 1, self.frames / 2, self.frames - 1] {
            self.absent_at(report, place + frame * PAGE);
        }
    }

    #[expect(clippy::unused_self, reason = "what is true of the window, whatever its state")]
    fn absent_at(&self, report: &mut Report, at: u64) {
        write(at, 0u64);
        report.equal(format_args!("no memory at {at:#x}"), read::<u64>(at), u64::MAX);
    }

    pub(crate) fn move_about(&mut self, report: &mut Report, random: &mut Random) {
        let place = PLACES[random.below(PLACES.len() as u64) as usize];
        self.go(report, place);
    }

    pub(crate) fn take_away_and_back(&mut self, report: &mut Report, random: &mut Random) {
        self.delete(report);
        let place = PLACES[random.below(PLACES.len() as u64) as usize];
        self.add(report, place);
    }

    /// Read-only: reads work, writes are lost. Then writable again.
    pub(crate) fn as_rom(&mut self, report: &mut Report) {
        self.call(report, "read-only", WINDOW_READ_ONLY, 1);
        for frame in [0, 3, self.frames - 1] {
            let at = self.base + frame * PAGE;
            let scratch: u64 = read(at + SCRATCH);
            write(at + STAMP, 0u64);
            write(at + SCRATCH, !scratch);
            report.equal("a ROM's word", read::<u64>(at + STAMP), stamp(frame));
            report.equal("a ROM's other word", read::<u64>(at + SCRATCH), scratch);
        }
        self.call(report, "writable", WINDOW_READ_ONLY, 0);
        self.touch(report, self.written + 1);
    }

    /// Some frames are read and written.
    pub(crate) fn touch(&mut self, report: &mut Report, round: u64) {
        for step in 0..5 {
            let frame = (round * 37 + step * 211) % self.frames;
            let at = self.base + frame * PAGE;
            report.equal(format_args!("frame {frame}"), read::<u64>(at + STAMP), stamp(frame));
            write(at + SCRATCH, frame + round);
            report.equal("its other word", read::<u64>(at + SCRATCH), frame + round);
        }
        self.written = round;
    }

    /// All frames are looked at.
    pub(crate) fn look(&self, report: &mut Report, when: &str) {
        for frame in 0..self.frames {
            let got: u64 = read(self.base + frame * PAGE + STAMP);
            report.equal(format_args!("frame {frame} {when}"), got, stamp(frame));
        }
    }

    /// Page tables in the window: moved under the processor's feet, and in a ROM.
    pub(crate) fn tables(
        &mut self,
        report: &mut Report,
        frames: &mut Frames,
        space: Space,
        rom: bool,
    ) {
        let page = frames.take();
        write(page, 55u64);
        let (leaf, upper) = (7 * PAGE, 8 * PAGE);
        let saved = [leaf, upper].map(|offset| read::<u64>(self.base + offset));
        let top = space.make(frames, VIA, 3);
        let read_by_it = || Access::kernel(Kind::Read, VIA).run();
        for (round, place) in PLACES.into_iter().enumerate() {
            self.go(report, place);
            write(self.base + leaf + 8 * index(VIA, 1), page | FULL);
            write(self.base + upper + 8 * index(VIA, 2), self.base + leaf | TABLE);
            write(top, self.base + upper | TABLE);
            if round % 2 == 0 {
                invlpg(VIA);
            } else {
                reload_cr3();
            }
            let seen = read_by_it();
            report.check(format_args!("tables at {place:#x}: {seen:x?}"), seen.value == 55);
        }
        if rom {
            self.call(report, "read-only", WINDOW_READ_ONLY, 1);
            let seen = read_by_it();
            report.check(format_args!("tables in a ROM: {seen:x?}"), seen.value == 55);
            let wrote = Access::kernel(Kind::Write, VIA).with(56).run();
            report.check(format_args!("a write by tables in a ROM: {wrote:x?}"), wrote.is_done());
            report.equal("what it wrote", read::<u64>(page), 56);
            self.call(report, "writable", WINDOW_READ_ONLY, 0);
        } else {
            report.skip("page tables in a ROM", "the command line does not say rom-tables");
        }
        write(top, 0u64);
        reload_cr3();
        write(self.base + leaf, saved[0]);
        write(self.base + upper, saved[1]);
        println!("triggers: page tables in the window");
    }
}

fn stamp(frame: u64) -> u64 {
    frame.wrapping_mul(0x0123_4567_89ab_cdef) | 1
}
