//! What the command line asks for.

use core::fmt;

use anchorite_guests::BootInfo;

/// What a round does after its zap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Touches every page once.
    Rebuild,
    /// Touches `every` pages at random; those of the first `tables` touches are timed.
    Loop,
    /// Touches every page again and again, `every` touches in all; the first pass is timed.
    Reader,
    /// Builds `every` address spaces one after the other, works in each, and drops it.
    Fork,
    /// Sleeps for `idle` microseconds, then touches every page once.
    Idle,
    /// Moves a memory slot in place of the zap, reads it where it lies now, then touches every
    /// page once.
    Remap,
}

/// The order in which pages are touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// By address, from a page that the seed chooses on.
    Sequential,
    /// Another permutation each round.
    Random,
}

/// The words of the command line: `workload=rebuild order=random tables=1024 …`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) workload: Workload,
    pub(crate) order: Order,
    /// Page tables with entries, in one address space.
    pub(crate) tables: u64,
    /// Entries of each.
    pub(crate) leaves: u64,
    /// Rounds before anything is measured.
    pub(crate) warm: u64,
    /// Rounds measured.
    pub(crate) rounds: u64,
    /// Touches (or address spaces) from one zap to the next.
    pub(crate) every: u64,
    /// Address spaces that exist at once, workload `fork`.
    pub(crate) ring: u64,
    /// Microseconds of sleep, workload `idle`.
    pub(crate) idle: u64,
    /// Touches between two samples of the frames in use; 0 for none.
    pub(crate) sample: u64,
    /// Chooses orders, places and phases.
    pub(crate) seed: u64,
}

/// A word that cannot be obeyed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wrong {
    /// Not a number, or out of range.
    Number { name: &'static str, least: u64, most: u64 },
    /// None of the words that are known.
    Word { name: &'static str },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { name, least, most } => {
                write!(f, "{name}= on the command line is no number from {least} to {most}")
            }
            Self::Word { name } => write!(f, "{name}= on the command line is unknown"),
        }
    }
}

impl Plan {
    /// Most tables: what the pool of frames for tables holds.
    const MOST_TABLES: u64 = 20_800;
    /// Most pages: what the table of their order holds.
    const MOST_PAGES: u64 = 1 << 18;

    pub(crate) fn read(boot: &BootInfo) -> Result<Self, Wrong> {
        let number = |name, default, least, most| {
            let Some(text) = boot.argument(name) else { return Ok(default) };
            let number = text.parse().ok().filter(|number| (least..=most).contains(number));
            number.ok_or(Wrong::Number { name, least, most })
        };
        let tables = number("tables", 64, 1, Self::MOST_TABLES)?;
        let leaves = number("leaves", 1, 1, 512)?;
        if tables * leaves > Self::MOST_PAGES {
            return Err(Wrong::Number {
                name: "tables × leaves",
                least: 1,
                most: Self::MOST_PAGES,
            });
        }
        Ok(Self {
            workload: workload(boot.argument("workload").unwrap_or("rebuild"))?,
            order: order(boot.argument("order").unwrap_or("random"))?,
            tables,
            leaves,
            warm: number("warm", 1, 0, 1 << 20)?,
            rounds: number("rounds", 4, 1, 1 << 16)?,
            every: number("every", tables * leaves, 1, 1 << 24)?,
            ring: number("ring", 16, 1, 1024)?,
            idle: number("idle", 1000, 1, 50_000)?,
            sample: number("sample", 0, 0, 1 << 24)?,
            seed: number("seed", 1, 0, u64::from(u32::MAX))?,
        })
    }

    /// Pages that the test region maps.
    pub(crate) const fn pages(&self) -> u64 {
        self.tables * self.leaves
    }
}

fn workload(name: &str) -> Result<Workload, Wrong> {
    Ok(match name {
        "rebuild" => Workload::Rebuild,
        "loop" => Workload::Loop,
        "reader" => Workload::Reader,
        "fork" => Workload::Fork,
        "idle" => Workload::Idle,
        "remap" => Workload::Remap,
        _ => return Err(Wrong::Word { name: "workload" }),
    })
}

fn order(name: &str) -> Result<Order, Wrong> {
    match name {
        "seq" => Ok(Order::Sequential),
        "random" => Ok(Order::Random),
        _ => Err(Wrong::Word { name: "order" }),
    }
}
