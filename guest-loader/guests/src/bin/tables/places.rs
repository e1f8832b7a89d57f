//! Where tables lie, and what else their frames are.

use anchorite_guests::Report;
use anchorite_guests::memory::write;
use anchorite_guests::paging::bits::{FULL, PS};
use anchorite_guests::paging::{Frames, PAGE};
use anchorite_guests::plan::Plan;
use anchorite_guests::probe::Kind;

use crate::Checks;

/// A frame below 1 MiB that is free on a PC.
const LOW: u64 = 0x8000;

impl Checks<'_> {
    /// A table in the middle of a large page is written by way of that.
    pub(crate) fn in_a_large_page(&self, report: &mut Report, frames: &mut Frames) {
        let format = self.space.format;
        let [one, two, ..] = self.pages;
        let bytes = format.span(2);
        let ram = frames.take_aligned(bytes, bytes);
        let table = ram + bytes / 2 + 3 * PAGE;
        let (large, address) = (self.space.region(5), self.space.region(6) + 33 * PAGE);
        self.space.map(frames, large, ram, FULL, 2);
        format.write(self.space.make(frames, address, 2), table | format.table(2));
        let entry = self.space.slot(table, address, 1);
        let seen = large + (entry - ram);
        let mut plan = Plan::new(self.runner);
        plan.root(self.space.root);
        for _ in 0..3 {
            plan.fault(Kind::Read, address, 0).write(seen, one | FULL).read(address, 1);
            plan.write(seen, two | FULL).flush(address).read(address, 2).read(entry, two | FULL);
            plan.write(large + 8, 5).read(ram + 8, 5);
            plan.entry(entry, one | FULL).flush(address).read(seen, one | FULL).read(address, 1);
            plan.write(seen, 0).flush(address);
        }
        // The large page is mapped by the table that lies in it.
        let inside = self.space.slot(table, address + PAGE, 1);
        plan.entry(inside, table | FULL).read(address + PAGE + (entry & (PAGE - 1)), 0);
        plan.write(address + PAGE + (entry & (PAGE - 1)), two | FULL).read(address, 2);
        plan.read(seen, two | FULL).entry(entry, 0).flush(address);
        plan.run(report, "a table in a large page");
    }

    /// Tables in the last frame of RAM and below 1 MiB, of level 1 and of level 2.
    pub(crate) fn at_the_edges(&self, report: &mut Report, frames: &mut Frames) {
        let format = self.space.format;
        let [one, two, ..] = self.pages;
        let address = self.space.region(7) + 2 * PAGE;
        let at = self.space.make(frames, address, 2);
        let mut plan = Plan::new(self.runner);
        for (name, frame) in [("the last frame", self.last), ("a low frame", LOW)] {
            Self::clear(frame);
            let entry = self.space.slot(frame, address, 1);
            let end = frame + PAGE - format.entry_bytes();
            let last = address & !(format.span(2) - 1) | format.span(2) - PAGE;
            plan.entry(entry, one | FULL).entry(at, frame | format.table(2)).root(self.space.root);
            plan.read(address, 1).entry(entry, two | FULL).flush(address).read(address, 2);
            plan.fault(Kind::Read, last, 0).entry(end, two | FULL).read(last, 2);
            plan.write(last + 16, 1).read(end, two | FULL).entry(end, 0).flush(last);
            plan.entry(at, 0).root(self.space.root).fault(Kind::Read, address, 0);
            plan.run(report, format_args!("a table in {name}"));
        }
    }

    /// One frame is a table of level 2 here and of level 1 there: what is a table to the one
    /// is a page to the other.
    pub(crate) fn two_levels_at_once(&self, report: &mut Report, frames: &mut Frames) {
        let format = self.space.format;
        let [one, two, ..] = self.pages;
        let (as_two, as_one) = (self.space.region(4), self.space.region(8));
        let both = self.space.make(frames, as_two, 2) & !(PAGE - 1);
        let table = frames.take();
        format.write(both + 5 * 8, table | FULL);
        let above = self.space.make(frames, as_one, 2) + 8;
        format.write(above, both | format.table(2));
        let (seen_as_two, seen_as_one) =
            (as_two + 5 * format.span(2) + 9 * PAGE, as_one + format.span(2) + 5 * PAGE);
        let mut plan = Plan::new(self.runner);
        plan.root(self.space.root);
        for _ in 0..3 {
            plan.fault(Kind::Read, seen_as_two, 0);
            plan.write(seen_as_one + 9 * 8, one | FULL).read(seen_as_two, 1);
            plan.write(seen_as_one + 9 * 8, two | FULL).flush(seen_as_two).read(seen_as_two, 2);
            plan.read(seen_as_one + 9 * 8, two | FULL).read(both + 5 * 8, table | FULL);
            // Gone for both.
            plan.entry(both + 5 * 8, 0).flush(seen_as_two).flush(seen_as_one);
            plan.fault(Kind::Read, seen_as_two, 0).fault(Kind::Read, seen_as_one, 0);
            plan.entry(both + 5 * 8, table | FULL).read(seen_as_one + 9 * 8, two | FULL);
            plan.write(seen_as_one + 9 * 8, 0).flush(seen_as_two);
        }
        // A large page to the one is, without PAT, the same page's first 4 KiB to the other.
        let large = one & !(format.span(2) - 1) | FULL | PS;
        let offset = one - (large & !0xfff);
        plan.entry(both + 6 * 8, large).read(as_two + 6 * format.span(2) + offset, 1);
        plan.entry(both + 6 * 8, 0).flush(as_two + 6 * format.span(2) + offset);
        plan.run(report, "a table of two levels at once");
    }

    /// A table under two roots, that changes while the one is in use.
    pub(crate) fn under_two_roots(&self, report: &mut Report, frames: &mut Frames) {
        let format = self.space.format;
        let [one, two, three, _] = self.pages;
        let other = self.space.sibling(frames);
        let address = self.space.region(10);
        let elsewhere = other.region(10) + 2 * format.span(2);
        let at = self.space.map(frames, address, one, FULL, 1);
        let directory = format.read(self.space.make(frames, address, 2));
        format.write(other.make(frames, elsewhere, 2), directory);
        let mut plan = Plan::new(self.runner);
        for _ in 0..3 {
            plan.root(self.space.root).read(address, 1);
            plan.root(other.root).fault(Kind::Read, address, 0).read(elsewhere, 1);
            plan.entry(at, two | FULL).flush(elsewhere).read(elsewhere, 2);
            plan.root(self.space.root).read(address, 2).entry(at, three | FULL);
            plan.root(other.root).read(elsewhere, 3).write(elsewhere + 16, 1).entry(at, one | FULL);
        }
        plan.root(self.space.root);
        plan.run(report, "a table under two roots");
        write(one + 16, 0u64);
    }
}
