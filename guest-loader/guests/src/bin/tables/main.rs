//! Page tables in odd places, in every paging mode: that map themselves and are changed by
//! that, that lie in a large page's middle, in the last frame of RAM or below 1 MiB, in one
//! another's reach, or at two levels at once.
//!
//! `mode=NAME,NAME` takes some of the modes.
#![no_std]
#![no_main]

mod places;
mod recursive;

use anchorite_guests::format::Format;
use anchorite_guests::memory::write;
use anchorite_guests::oracle::Controls;
use anchorite_guests::paging::{Frames, PAGE, Space};
use anchorite_guests::script::Runner;
use anchorite_guests::{BootInfo, Report, Status, entry, println};

entry!(run);

const PAGES: usize = 4;

fn run(boot: &BootInfo) -> Status {
    let mut report = Report::new("tables");
    let mut frames = Frames::new(boot);
    let pages = core::array::from_fn(|_| frames.take());
    for (page, mark) in pages.into_iter().zip(1u64..) {
        write(page, mark);
    }
    let last = frames.take_last();
    for format in Format::wanted(boot, &mut report) {
        Controls { wp: true, pse: true, ..Controls::default() }.apply();
        let space = Space::of(format, &mut frames);
        let runner = Runner::new(space);
        let checks = Checks { runner: &runner, space, pages, last };
        checks.recursive(&mut report, &mut frames);
        checks.own_page(&mut report, &mut frames);
        checks.root_as_data(&mut report, &mut frames);
        checks.in_a_large_page(&mut report, &mut frames);
        checks.at_the_edges(&mut report, &mut frames);
        if format != Format::TwoLevel {
            checks.two_levels_at_once(&mut report, &mut frames);
        }
        checks.under_two_roots(&mut report, &mut frames);
        println!("tables: {}", format.name());
    }
    Controls::default().apply();
    report.finish()
}

/// One mode's checks.
struct Checks<'a> {
    runner: &'a Runner,
    space: Space,
    /// Page n holds n + 1.
    pages: [u64; PAGES],
    /// The last frame of RAM.
    last: u64,
}

impl Checks<'_> {
    /// Makes everything of `frame` zero.
    fn clear(frame: u64) {
        (0..PAGE).step_by(8).for_each(|offset| write(frame + offset, 0u64));
    }
}
