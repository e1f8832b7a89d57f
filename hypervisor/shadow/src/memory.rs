//! What the engine asks of the machine around it: three kinds of memory.
//!
//! The engine names host-physical addresses only; how they are reached (a direct
//! map, a simulated array) is the implementor's affair.

use anchorite_addr::Hpa;

/// Bytes a shadow page occupies in the arena: a 4 KiB table that hardware walks and,
/// right after it, a 4 KiB frame of links that only the engine reads.
pub const PAGE_BYTES: u64 = 8192;
/// Shadow pages in a slab.
pub const SLAB_PAGES: u32 = 64;
/// Bytes in a slab, contiguous in host-physical memory.
pub const SLAB_BYTES: u64 = PAGE_BYTES * SLAB_PAGES as u64;

/// The engine's own frames: shadow tables, their links, PAE root tables.
///
/// Addresses are 8-aligned and lie in a slab or low frame that the [`FrameSource`]
/// handed out. A shadow table is walked by other CPUs while it is written, so a
/// write must be one 64-bit store, visible to them no later than the store that
/// follows it (x86 store order; `Release` on an `AtomicU64`).
pub trait TableMemory {
    /// The entry at `at`, in the hardware's 64-bit format.
    fn read_entry(&self, at: Hpa) -> u64;

    /// The eight entries from `at`, a multiple of 64.
    #[inline]
    fn read_eight_entries(&self, at: Hpa) -> [u64; 8] {
        core::array::from_fn(|n| self.read_entry(at.wrapping_add(n as u64 * 8)))
    }

    /// Which of the eight entries from `at`, a multiple of 64, hold anything: bit n for the n-th.
    #[inline]
    fn used_entries(&self, at: Hpa) -> u32 {
        let entries = self.read_eight_entries(at);
        let bit = |(n, entry): (usize, &u64)| u32::from(*entry != 0) << n;
        entries.iter().enumerate().map(bit).fold(0, |used, bit| used | bit)
    }

    /// Stores `value` at `at` in one piece.
    fn write_entry(&mut self, at: Hpa, value: u64);

    /// Zeroes lines of the table at `table`: the 64 bytes at 64·n where bit n of `lines` is
    /// set.
    #[inline]
    fn clear_lines(&mut self, table: Hpa, mut lines: u64) {
        if lines == u64::MAX {
            // All of it, as most often: two lines a turn.
            for pair in 0..32 {
                clear_words::<Self, 16>(self, table.wrapping_add(pair * 128));
            }
            return;
        }
        while lines != 0 {
            let line = table.wrapping_add(u64::from(lines.trailing_zeros()) * 64);
            clear_words::<Self, 8>(self, line);
            lines &= lines - 1;
        }
    }

    /// Which lines of the table at `table` hold anything: bit n, as in [`Self::clear_lines`].
    /// For the audit, which reads every table after every step of a test.
    fn used_lines(&self, table: Hpa) -> u64 {
        let word = |at: u64| self.read_entry(table.wrapping_add(at * 8));
        let used = |line: &u64| (line * 8..line * 8 + 8).any(|at| word(at) != 0);
        (0..64).filter(used).fold(0, |lines, line| lines | 1 << line)
    }

    /// A clock, for the feature `profile` alone; one that stands still will do otherwise.
    #[inline]
    fn ticks(&self) -> u64 {
        0
    }
}

/// Zeroes `COUNT` words.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a constant count, to be unrolled")]
fn clear_words<M: TableMemory + ?Sized, const COUNT: u64>(memory: &mut M, at: Hpa) {
    for word in 0..COUNT {
        memory.write_entry(at.wrapping_add(word * 8), 0);
    }
}

/// Guest memory, where the guest's own page tables lie.
///
/// Addresses are naturally aligned and lie inside the host range of a slot. Reads
/// are single loads: another vCPU may write at the same time.
pub trait GuestMemory {
    /// The 4-byte guest entry at `at`.
    fn read_u32(&self, at: Hpa) -> u32;

    /// The 8-byte guest entry at `at`.
    fn read_u64(&self, at: Hpa) -> u64;

    /// Shows `look` eight 4-byte guest entries from `at`, a multiple of 32, each with its
    /// number and read once.
    #[inline]
    fn each_of_eight_u32(&self, at: Hpa, mut look: impl FnMut(u64, u32)) {
        (0..8).for_each(|n| look(n, self.read_u32(at.wrapping_add(n * 4))));
    }

    /// Shows `look` eight 8-byte guest entries from `at`, a multiple of 64, each with its
    /// number and read once.
    #[inline]
    fn each_of_eight_u64(&self, at: Hpa, mut look: impl FnMut(u64, u64)) {
        (0..8).for_each(|n| look(n, self.read_u64(at.wrapping_add(n * 8))));
    }

    /// Stores `new` at `at` if it holds `old`, atomically. Returns whether it did.
    fn compare_exchange_u32(&mut self, at: Hpa, old: u32, new: u32) -> bool;

    /// Stores `new` at `at` if it holds `old`, atomically. Returns whether it did.
    fn compare_exchange_u64(&mut self, at: Hpa, old: u64, new: u64) -> bool;
}

/// The range of host-physical memory that all slabs come from.
///
/// A shadow page's number is its offset from `base`, so that finding the page of a
/// table address takes a subtraction and a shift. The engine keeps 64 bytes for each
/// of `pages` from the start, used or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    /// First byte; a multiple of 4096.
    pub base: Hpa,
    /// Room for this many shadow pages of [`PAGE_BYTES`] each.
    pub pages: u32,
}

/// A slab of [`SLAB_BYTES`] that belongs to whoever holds this value.
///
/// Linear: it can be given back once and is never copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Slab {
    base: Hpa,
}

impl Slab {
    /// The slab at `base`: inside the arena, and a multiple of [`PAGE_BYTES`] above
    /// the arena's base. Its contents do not matter.
    pub const fn new(base: Hpa) -> Self {
        Self { base }
    }

    /// The slab's first byte.
    pub const fn base(&self) -> Hpa {
        self.base
    }
}

/// Where frames come from. May fail at any call; the engine then reports it as an
/// outcome and stays consistent.
pub trait FrameSource {
    /// The range that every slab lies in. Constant while the engine lives.
    fn arena(&self) -> Arena;

    /// A slab, or `None` where memory has run out.
    fn take_slab(&mut self) -> Option<Slab>;

    /// Takes back a slab none of whose frames is referenced any more.
    fn give_slab(&mut self, slab: Slab);

    /// A 4 KiB frame below 4 GiB for one vCPU: it holds the four PAE root entries, as outside
    /// long mode CR3 has 32 bits, and is an empty root now and then. Its contents do not
    /// matter. `None` where there is none.
    fn take_low_frame(&mut self) -> Option<Hpa>;

    /// Takes back a frame that [`Self::take_low_frame`] returned.
    fn give_low_frame(&mut self, frame: Hpa);
}

/// All that the engine needs; implemented for everything that has the three parts.
pub trait Machine: TableMemory + GuestMemory + FrameSource {}

impl<T: TableMemory + GuestMemory + FrameSource> Machine for T {}
