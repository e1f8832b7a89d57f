//! Clocks between the steps of a recycle.
//!
//! Only a build with the feature `profile` reads them; otherwise all of this is nothing. The
//! figures then hold what reading the clock costs, an instruction or two a step.

use crate::memory::TableMemory;

/// Ticks spent on stale pages that were taken apart, reused or revived, by step. All 0 without
/// the feature `profile`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recycles {
    /// How many pages.
    pub pages: u64,
    /// Taking them off the stale list and, where they wait for a flush, on to the next.
    pub lists: u64,
    /// Taking them out of the directory.
    pub directory: u64,
    /// Removing their entries from rmaps, parents and counts. This empties the entries too.
    pub unlinking: u64,
    /// Emptying the lines that hold entries, where nothing is unlinked.
    pub clearing: u64,
}

/// A step of a recycle, as [`Recycles`] has them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Lists,
    Directory,
    Unlinking,
    Clearing,
}

/// The steps of one page so far, and when the last of them ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lap {
    #[cfg(feature = "profile")]
    since: u64,
    #[cfg(feature = "profile")]
    steps: Recycles,
}

#[cfg(feature = "profile")]
impl Lap {
    #[inline]
    pub(crate) fn start<M: TableMemory>(machine: &M) -> Self {
        Self { since: machine.ticks(), steps: Recycles { pages: 1, ..Recycles::default() } }
    }

    /// A step ends, and the next begins.
    #[inline]
    pub(crate) fn end<M: TableMemory>(&mut self, machine: &M, step: Step) {
        let ticks = machine.ticks().wrapping_sub(self.since);
        let steps = &mut self.steps;
        *match step {
            Step::Lists => &mut steps.lists,
            Step::Directory => &mut steps.directory,
            Step::Unlinking => &mut steps.unlinking,
            Step::Clearing => &mut steps.clearing,
        } += ticks;
        self.since = machine.ticks();
    }

    /// The page is done.
    #[inline]
    pub(crate) fn add_to(self, all: &mut Recycles) {
        all.pages += self.steps.pages;
        all.lists += self.steps.lists;
        all.directory += self.steps.directory;
        all.unlinking += self.steps.unlinking;
        all.clearing += self.steps.clearing;
    }
}

#[cfg(not(feature = "profile"))]
impl Lap {
    #[inline]
    pub(crate) fn start<M: TableMemory>(_: &M) -> Self {
        Self {}
    }

    #[inline]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    pub(crate) fn end<M: TableMemory>(&mut self, _: &M, _: Step) {}

    #[inline]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    pub(crate) fn add_to(self, _: &mut Recycles) {}
}
