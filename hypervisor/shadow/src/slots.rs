//! Memory slots: which guest frames exist, and where they lie in the host.

use core::fmt;

use anchorite_addr::{Gfn, Hfn};

/// A slot of one engine; made by `add_slot`. Numbers of deleted slots are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub(crate) u16);

/// Guest memory that is contiguous on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSpec {
    /// First guest frame.
    pub base: Gfn,
    /// Size in 4 KiB frames.
    pub pages: u64,
    /// First host frame. Large shadow entries need the same alignment on both sides.
    pub host: Hfn,
    /// Whether guest writes are refused (`FaultOutcome::ReadOnly`).
    pub read_only: bool,
}

/// Why a slot operation was refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// No slot has this number.
    Unknown(SlotId),
    /// A slot without pages.
    Empty,
    /// Guest or host range passes the physical address width.
    OutOfRange {
        /// The slot asked for.
        spec: SlotSpec,
    },
    /// The range is taken.
    Overlap {
        /// By this slot.
        with: SlotId,
    },
    /// More slots, or more pages in all slots together, than the engine can number.
    TooMany,
    /// The heap has no room for the slot's heads.
    OutOfMemory,
    /// The slot's dirty log is not running.
    NotLogging(SlotId),
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(id) => write!(f, "there is no slot {}", id.0),
            Self::Empty => write!(f, "a slot needs at least one page"),
            Self::OutOfRange { spec } => write!(
                f,
                "slot of {} pages at {:?} (host {:?}) passes the physical address width",
                spec.pages, spec.base, spec.host
            ),
            Self::Overlap { with } => write!(f, "the range overlaps slot {}", with.0),
            Self::TooMany => write!(f, "too many slots or pages; delete a slot first"),
            Self::OutOfMemory => write!(f, "the heap has no room for the slot's heads"),
            Self::NotLogging(id) => {
                write!(f, "slot {} is not logged; start its dirty log first", id.0)
            }
        }
    }
}

impl core::error::Error for SlotError {}
