//! A shadow page's number, its metadata, and the nodes that name its entries.

use crate::role::Role;

/// Entries in a shadow table.
pub(crate) const ENTRIES: u32 = 512;
const ENTRY_SHIFT: u32 = 9;
/// From an entry to its links: they lie in the frame after the table's.
pub(crate) const LINKS: u64 = 4096;

/// The number of a shadow page: an index into the pool's metadata. The first few numbers
/// are the sentinels of the lists, so 0 is never a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct PageNo(pub(crate) u32);

impl PageNo {
    /// No page.
    pub(crate) const NONE: Self = Self(0);

    #[inline]
    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One entry of one shadow page, in 31 bits: an rmap or parent-list node. 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node(pub(crate) u32);

impl Node {
    #[inline]
    pub(crate) fn new(page: PageNo, entry: usize) -> Self {
        Self(page.0 << ENTRY_SHIFT | entry as u32 & (ENTRIES - 1))
    }

    #[inline]
    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(crate) fn page(self) -> PageNo {
        PageNo(self.0 >> ENTRY_SHIFT)
    }

    #[inline]
    pub(crate) fn entry(self) -> usize {
        (self.0 & (ENTRIES - 1)) as usize
    }
}

/// A node's links: who follows, and who precedes or which head points here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) next: Node,
    /// A node, or with bit 31 a head: an rmap head's reference, a child's page number.
    pub(crate) prev: u32,
}

impl Link {
    const HEAD: u32 = 1 << 31;

    /// First in the list of head `reference` (31 bits).
    #[inline]
    pub(crate) fn first(reference: u32, next: Node) -> Self {
        let prev = reference | Self::HEAD;
        Self { next, prev }
    }

    /// The head's reference where this node is the first of its list.
    #[inline]
    pub(crate) fn head(self) -> Option<u32> {
        if self.prev & Self::HEAD != 0 { Some(self.prev & !Self::HEAD) } else { None }
    }

    #[inline]
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.prev) << 32 | u64::from(self.next.0)
    }

    #[inline]
    pub(crate) fn unpack(word: u64) -> Self {
        Self { next: Node(word as u32), prev: (word >> 32) as u32 }
    }
}

/// The state a frame is in (I8). Active and stale share one: the generation tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub(crate) enum State {
    /// Not ours: its slab was not taken.
    #[default]
    Absent,
    /// On the free list; zeroed when it is taken.
    Free,
    /// Held ready for the next fault, its table zero.
    Reserved,
    /// Shadows something, or did in an older generation.
    Shadow,
    /// Retired one by one, its table zero, waiting for its epoch.
    Limbo,
}

/// Metadata of one shadow page: 56 bytes, filled up to a cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(crate) struct Meta {
    /// The guest table shadowed, or the first frame a direct page maps.
    pub(crate) gfn: u64,
    pub(crate) generation: u64,
    /// In limbo: the epoch to be acknowledged before the frame is used again. In service:
    /// the epoch to be acknowledged before the guest's table may be read, 0 for none.
    pub(crate) epoch: u64,
    /// Bit n: one of the entries 8n to 8n+7 may be set. A cache line a bit, so that a
    /// sparse table is cleared and scanned in a few lines rather than 512 entries.
    pub(crate) lines: u64,
    pub(crate) role: Role,
    /// First of the entries that point here, 0 for none.
    pub(crate) parents: u32,
    /// Neighbours on one of the pool's lists.
    pub(crate) prev: PageNo,
    pub(crate) next: PageNo,
    /// The slab the frame belongs to.
    pub(crate) slab: u16,
    /// vCPUs that have it loaded as a root.
    pub(crate) pins: u16,
    /// Upper levels: writes to the guest table since a fault last came through here. Unsync
    /// leaf tables: lines compared in vain since the table last changed or got an entry.
    pub(crate) writes: u8,
    pub(crate) state: State,
    /// A leaf table that the guest may write without our knowing.
    pub(crate) unsync: bool,
    /// Whether the gfn's tracked count includes this page.
    pub(crate) tracked: bool,
}

const _: () = assert!(core::mem::size_of::<Meta>() == 64);

/// The bit of [`Meta::lines`] for `entry`.
#[inline]
pub(crate) fn line_of(entry: usize) -> u64 {
    1 << (entry >> 3 & 63)
}
