//! What an entry has to see to before it enters.
//!
//! Most exits leave nothing; a flush, by far the most frequent of the rest, must not cost
//! what an event or another state of the VMCB does.

use bitflags::bitflags;

bitflags! {
    /// What has changed since the last entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Attention: u8 {
        /// Translations must go, or the field that made them go must be reset.
        const FLUSH = 1 << 0;
        /// An event or a window was asked for, or the last one must be cleared away.
        const EVENT = 1 << 1;
        /// The VMCB's fields, or whose registers the CPU holds.
        const STATE = 1 << 2;
        /// The guest's CR2 alone.
        const CR2 = 1 << 3;
    }
}
