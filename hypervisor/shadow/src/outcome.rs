//! What the engine answers.

use anchorite_addr::{Gpa, Hpa};

use crate::access::PageFault;
use crate::flush::{FlushPromise, TlbFlush};
use crate::registers::RootFormat;

/// What to do about a page fault that hardware took in the guest.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum FaultOutcome {
    /// The mapping was missing and now exists. Enter the guest again.
    Fixed,
    /// The shadow permitted the access already (another vCPU was quicker, or the TLB
    /// was stale). Enter the guest again.
    Spurious,
    /// The guest's own tables forbid it: inject #PF.
    Guest(PageFault),
    /// A write to a page table that the engine shadows. Emulate the instruction, then
    /// report the bytes through `guest_wrote`; or call `unshadow` and enter again.
    EmulateWrite {
        /// The byte written.
        gpa: Gpa,
    },
    /// The guest permits the access, no shadow entry can express it: emulate the
    /// instruction (`translate` says where it lands). Happens where CR0.WP = 0 lets the
    /// supervisor write a user page that is read-only (while SMAP or protection keys are
    /// on) or whose key denies writes.
    Emulate {
        /// The byte accessed.
        gpa: Gpa,
    },
    /// No slot lies at this address: a device's, or nobody's.
    Mmio {
        /// The byte accessed.
        gpa: Gpa,
    },
    /// A write to a read-only slot.
    ReadOnly {
        /// The byte written.
        gpa: Gpa,
    },
    /// Other vCPUs may hold translations that must go first. Discharge the promise,
    /// then enter the guest (it faults again) or report the fault again.
    Retry(FlushPromise),
    /// No frame could be had even by eviction. Nothing is half done: stop the guest, or
    /// free memory and enter again.
    OutOfMemory,
}

/// How to enter the guest now. Obey `flush` before the entry instruction.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Entry {
    /// What hardware must walk.
    pub root: Root,
    /// What this CPU must forget before it enters.
    pub flush: TlbFlush,
}

/// A root for hardware to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// What CR3 must hold (no PCID bits).
    pub table: Hpa,
    /// How hardware must be set up to walk it.
    pub format: RootFormat,
}

/// Why the guest cannot be entered.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum EnterError {
    /// Frames for the root are waiting for other vCPUs: discharge, then enter again.
    Retry(FlushPromise),
    /// No frame could be had even by eviction.
    OutOfMemory,
}

/// The kinds of INVPCID. Intel SDM vol. 2, "INVPCID".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invpcid {
    /// Type 0: one address in one context.
    Address {
        /// The context.
        pcid: u16,
        /// The address.
        gva: anchorite_addr::Gva,
    },
    /// Type 1: one context, global translations kept.
    Context {
        /// The context.
        pcid: u16,
    },
    /// Type 2: everything, global translations too.
    AllWithGlobal,
    /// Type 3: everything but global translations.
    All,
}
