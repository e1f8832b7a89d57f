//! Tables that map themselves.

use anchorite_guests::Report;
use anchorite_guests::format::Format;
use anchorite_guests::paging::bits::{D, FULL, P};
use anchorite_guests::paging::{Frames, PAGE};
use anchorite_guests::plan::Plan;
use anchorite_guests::probe::Kind;

use crate::Checks;

impl Checks<'_> {
    /// A topmost entry leads to its own table, so that all entries are seen in a window; with
    /// PAE the third directory's last entries lead to the four directories.
    pub(crate) fn recursive(&self, report: &mut Report, frames: &mut Frames) {
        let format = self.space.format;
        let [one, two, three, _] = self.pages;
        let address = self.space.region(1) + 21 * PAGE;
        let table = self.space.make(frames, address, 1) & !(PAGE - 1);
        let directory = self.space.make(frames, address, 2);
        let window = self.window(frames);
        let entry = self.through(window, address);
        let at = self.space.slot(table, address, 1);
        let mut plan = Plan::new(self.runner);
        plan.root(self.space.root);
        plan.fault(Kind::Read, address, 0).write(entry, one | FULL).read(address, 1);
        plan.read(at, one | FULL).write(entry, two | FULL).flush(address).read(address, 2);
        plan.entry(at, three | FULL).flush(address).read(entry, three | FULL).read(address, 3);
        plan.write(entry, three | FULL & !P).flush(address).fault(Kind::Read, address, 0);
        // One level up, by the window of the window.
        let level2 = self.through(window, entry) & !(format.entry_bytes() - 1);
        // As a page of the window it was written to.
        let whole = format.read(directory) | D;
        plan.read(level2, whole).write(entry, one | FULL).read(address, 1);
        plan.write(level2, 0).flush(address).flush(entry);
        plan.fault(Kind::Read, address, 0).fault(Kind::Read, entry, 0);
        plan.read(directory, 0).write(level2, whole);
        plan.read(address, 1).read(entry, one | FULL);
        plan.run(report, "a table that maps itself as topmost");
    }

    /// Where the window begins in which entries of level 1 are seen.
    fn window(&self, frames: &mut Frames) -> u64 {
        let format = self.space.format;
        if format == Format::Pae {
            let base = 0xff80_0000;
            for quarter in 0..4u64 {
                // A directory for each quarter, made by asking for an entry of it.
                let at = self.space.make(frames, quarter << 30, 2);
                let entry = (at & !(PAGE - 1)) | FULL;
                format.write(self.space.make(frames, base + (quarter << 21), 2), entry);
            }
            return base;
        }
        let top = self.space.levels();
        let base = self.space.region(9);
        format.write(self.space.make(frames, base, top), self.space.root | FULL);
        base
    }

    /// The address bits below the window's own.
    fn low_bits(&self) -> u64 {
        match self.space.format {
            Format::Pae => (1 << 23) - 1,
            format => format.span(format.levels()) - 1,
        }
    }

    /// Where the window shows the entry of level 1 for `address`.
    fn through(&self, window: u64, address: u64) -> u64 {
        window | (address / PAGE * self.space.format.entry_bytes()) & self.low_bits()
    }

    /// A page table that maps itself, changes itself by that, and takes itself away.
    pub(crate) fn own_page(&self, report: &mut Report, frames: &mut Frames) {
        let format = self.space.format;
        let [one, two, ..] = self.pages;
        let base = self.space.region(2);
        let table = self.space.make(frames, base, 1) & !(PAGE - 1);
        let own = base + 3 * PAGE;
        let slot = |index: u64| own + index * format.entry_bytes();
        let at = |index: u64| table + index * format.entry_bytes();
        format.write(at(3), table | FULL);
        let mut plan = Plan::new(self.runner);
        for _ in 0..3 {
            plan.read(slot(3), table | FULL).write(slot(7), one | FULL).read(base + 7 * PAGE, 1);
            plan.write(slot(7), two | FULL).flush(base + 7 * PAGE).read(base + 7 * PAGE, 2);
            plan.write(slot(7), 0).flush(base + 7 * PAGE).fault(Kind::Read, base + 7 * PAGE, 0);
            // It takes its own entry away, and another mapping gives it back.
            plan.write(slot(3), 0).flush(own).fault(Kind::Write, slot(7), 2);
            plan.read(at(3), 0).entry(at(3), table | FULL);
            plan.write(slot(8), one | FULL).read(base + 8 * PAGE, 1);
            // It puts another page in its own place.
            plan.write(slot(3), two | FULL).flush(own).read(own, 2);
            plan.entry(at(3), table | FULL).flush(own).write(slot(8), 0).flush(base + 8 * PAGE);
        }
        plan.run(report, "a page table that maps itself");
    }

    /// The topmost table is a page like any other, and is written as that.
    pub(crate) fn root_as_data(&self, report: &mut Report, frames: &mut Frames) {
        let format = self.space.format;
        let alias = self.space.region(3);
        let far = self.space.region(8);
        self.space.map(frames, alias, self.space.root, FULL, 1);
        self.space.map(frames, far, self.pages[0], FULL, 1);
        let at = self.space.make(frames, far, self.space.levels());
        let (offset, whole) = (at & (PAGE - 1), format.read(at));
        let mut plan = Plan::new(self.runner);
        for _ in 0..3 {
            plan.root(self.space.root).read(far, 1).write(alias + offset, 0);
            plan.root(self.space.root).fault(Kind::Read, far, 0);
            plan.write(alias + offset, whole).root(self.space.root).read(far, 1);
        }
        plan.run(report, "the topmost table as data");
    }
}
