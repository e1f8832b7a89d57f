//! Short-lived address spaces, as a kernel makes and drops them when it forks.

use anchorite_guests::memory;

use crate::plan::Plan;
use crate::space::{self, Pool, Space};
use crate::work::Places;

/// A ring of address spaces: the oldest one's frames are cleared and built up again for the
/// next, as a kernel's allocator would hand them out again.
#[derive(Debug)]
pub(crate) struct Forks {
    plan: Plan,
    places: Places,
    /// Frames of the first; those of the others follow, in one piece.
    start: u64,
    next: u64,
    /// What a root's first entry is.
    kernel: u64,
}

impl Forks {
    pub(crate) fn new(plan: &Plan, places: &Places, pool: &mut Pool) -> Self {
        let start = pool.take();
        let kernel = memory::read(Space::at(start).root);
        (1..plan.ring * frames(plan)).for_each(|_| {
            pool.take();
        });
        Self { plan: *plan, places: *places, start, next: 0, kernel }
    }

    /// Drops the oldest address space and makes a new one in its frames: the same pages
    /// behind the same addresses.
    pub(crate) fn next(&mut self) -> Space {
        let frames = frames(&self.plan);
        let first = self.start + self.next * frames * space::PAGE;
        self.next = (self.next + 1) % self.plan.ring;
        (0..frames).for_each(|frame| space::clear(first + frame * space::PAGE));
        memory::write(first, self.kernel);
        let mut free = first;
        let (plan, places) = (self.plan, self.places);
        let made = Space { root: first };
        made.build(
            plan.tables,
            || {
                free += space::PAGE;
                free
            },
            |table, frame| {
                for leaf in 0..plan.leaves {
                    space::map(frame, leaf, places.of(table * plan.leaves + leaf));
                }
            },
        );
        made
    }
}

/// Frames of one address space: root, PDPT, page directories, page tables.
const fn frames(plan: &Plan) -> u64 {
    2 + plan.tables.div_ceil(512) + plan.tables
}
