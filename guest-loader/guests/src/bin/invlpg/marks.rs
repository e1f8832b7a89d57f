//! A and D bits that are cleared and flushed are set again.

use anchorite_guests::Report;
use anchorite_guests::format::Format;
use anchorite_guests::paging::bits::{A, D, FULL};
use anchorite_guests::paging::{Frames, PAGE};
use anchorite_guests::plan::Plan;

use crate::Checks;

impl Checks<'_> {
    pub(crate) fn marks(&self, report: &mut Report, frames: &mut Frames) {
        let format = self.space.format;
        let page = self.pages[3];
        let address = self.space.region(6) + 11 * PAGE;
        let at = self.space.map(frames, address, page, FULL, 1);
        let clean = page | FULL & !(A | D);
        let mut plan = Plan::new(self.runner);
        for _ in 0..2 {
            plan.entry(at, clean).flush(address).read(at, clean);
            plan.read(address, 4).read(at, clean | A);
            plan.write(address + 16, 1).read(at, clean | A | D);
            plan.entry(at, clean | A).flush(address).read(address, 4).read(at, clean | A);
            plan.write(address + 16, 2).read(at, clean | A | D);
            plan.entry(at, clean | D).flush(address).write(address + 16, 3);
            plan.read(at, clean | A | D);
        }
        plan.run(report, "marks of a page");
        for level in 2..=self.space.levels() {
            if (format, level) == (Format::Pae, 3) {
                continue;
            }
            let above = self.space.make(frames, address, level);
            let whole = format.read(above);
            plan.read(address, 4);
            for _ in 0..3 {
                plan.entry(above, whole & !A).flush(address).read(above, whole & !A);
                plan.read(address, 4).read(above, whole | A);
            }
            plan.run(report, format_args!("marks of level {level}"));
        }
    }
}
