//! What stands at the root of the guest's address translation.
//!
//! [`Nested`] lets the hardware walk the guest's own tables and adds one map from
//! guest-physical to host-physical memory. [`Shadow`] has the shadow engine do without.
//! [`Combined`] is either, or both by turns. The run loop drives it without knowing which.

mod combined;
mod nested;
mod shadow;

pub use combined::Combined;
pub use nested::{Nested, NestedStats, TableFrames};
pub use shadow::Shadow;

use crate::memory::{GuestWrite, Memslots, SlotChange, SlotId};
use alloc::string::String;
use alloc::vec::Vec;
use anchorite_addr::{Gfn, Gpa, Gva};
use anchorite_shadow::{Access, Invpcid, PageFault, RegisterFault, Registers, Usage};
use anchorite_vcpu::exit::NestedFault;
use anchorite_vcpu::{ControlRegister, FlushScope, Root};
use core::fmt;

/// A way to translate one vCPU's addresses.
pub trait Translation {
    /// Has `vcpu` load and forget what it must before it enters. Called before every
    /// entry: cheap where nothing changed.
    fn enter(&mut self, vcpu: &mut impl Entering) -> Result<(), OutOfTables>;

    /// Whether [`Self::enter`] would have nothing to say.
    fn is_settled(&self) -> bool {
        false
    }

    /// The nested tables did not permit an access.
    fn nested_fault(&mut self, slots: &Memslots, fault: &NestedFault) -> FaultOutcome;

    /// The hardware took a #PF at `gva` that the hypervisor intercepts.
    fn page_fault(&mut self, slots: &Memslots, gva: Gva, access: Access) -> FaultOutcome;

    /// A slot was added, deleted, moved or got other rights; `slots` has it already.
    fn slot_changed(&mut self, slots: &Memslots, change: &SlotChange);

    /// Guest memory was written from outside the guest.
    fn guest_wrote(&mut self, write: GuestWrite);

    /// The guest writes `register` (`None`: all were set from outside); `registers` are
    /// the values that will hold. An error must become #GP, and the write must not
    /// take effect.
    fn registers_changed(
        &mut self,
        register: Option<ControlRegister>,
        registers: Registers,
    ) -> Result<(), RegisterFault>;

    /// As [`Self::registers_changed`] for a load of CR3 in long mode, where nothing but its
    /// value matters: kernels do this all the time.
    fn root_changed(&mut self, cr3: u64) -> Result<(), RegisterFault>;

    /// The guest executed INVLPG for `gva`.
    fn invalidate(&mut self, gva: Gva);

    /// The guest executed INVPCID, and it exited.
    fn invpcid(&mut self, kind: Invpcid);

    /// Forgets every shadow page; nothing where there are none.
    fn zap_all(&mut self);

    /// The guest is idle: works for a bounded time on what was put off for such a time.
    /// Returns whether anything was done, so that there may be more.
    fn idle_slice(&mut self) -> bool;

    /// Limits the number of shadow pages; nothing where there are none.
    fn limit(&mut self, pages: u32);

    /// Starts to log which frames of the slot named `id` are written to; `false` where no
    /// log is kept.
    fn start_dirty_log(&mut self, id: SlotId) -> bool;

    /// Ends the log of the slot named `id`.
    fn stop_dirty_log(&mut self, id: SlotId) -> bool;

    /// Tells `dirty` of each frame written to since the last harvest, in order. Frames
    /// written to from now on are in the next one.
    fn harvest_dirty(&mut self, id: SlotId, dirty: &mut dyn FnMut(Gfn)) -> bool;

    /// Lets the guest write to the page at `gpa` itself although page tables lie there: an
    /// instruction that nobody can carry out in its place is to do it. The tables are
    /// looked at afresh when they are next used. Nothing where nothing is in its way.
    fn unprotect(&mut self, gpa: Gpa);

    /// Whether another root stands for a guest whose paging is off, so that the machine
    /// must hear of every change of CR0.PG.
    fn follows_paging(&self) -> bool {
        false
    }

    /// What it did and holds, by the names that `kvm_stat` uses where it has one. None
    /// that the machine counts itself.
    fn counters(&self) -> Vec<(&'static str, u64)>;

    /// Checks every invariant of the tables and that no frame was lost; says which is
    /// broken. Slow: reads everything.
    fn audit(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Shadow pages in service; 0 where there are none.
    fn shadow_pages(&self) -> u32 {
        self.usage().map_or(0, |usage| usage.active)
    }

    /// The shadow pages by state, where there are any.
    fn usage(&self) -> Option<Usage>;
}

/// A vCPU about to enter.
pub trait Entering {
    /// Loads another root.
    fn load(&mut self, root: Root);

    /// Forgets translations.
    fn forget(&mut self, scope: FlushScope);
}

/// What a vCPU does before it enters, noted down. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the guest may use old translations until the flush is done"]
pub struct Entry {
    /// The root to load, where it is not the one loaded.
    pub root: Option<Root>,
    /// The translations to forget.
    pub flush: Option<FlushScope>,
}

impl Entering for Entry {
    fn load(&mut self, root: Root) {
        self.root = Some(root);
    }

    fn forget(&mut self, scope: FlushScope) {
        self.flush = Some(scope);
    }
}

/// What to do about a fault that the hypervisor took in the guest's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum FaultOutcome {
    /// The access is permitted now: enter again.
    Resolved,
    /// The access was permitted already: enter again.
    Spurious,
    /// The guest's own tables forbid it, as our walk of them found.
    Guest(PageFault),
    /// The guest's own tables forbid it, as the hardware reported.
    Reflect,
    /// The guest may do it and no table can express that: emulate the instruction.
    Emulate {
        /// The byte accessed.
        gpa: Gpa,
    },
    /// No slot lies there: a device's, or nobody's.
    Mmio {
        /// The byte accessed.
        gpa: Gpa,
    },
    /// A write to a read-only slot.
    ReadOnly {
        /// The byte written.
        gpa: Gpa,
    },
    /// There is no memory for another table.
    OutOfTables,
}

/// There is no memory for another page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfTables;

impl fmt::Display for OutOfTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no memory is left for page tables; give the hypervisor more or the guest less")
    }
}
