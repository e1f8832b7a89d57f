//! The shadow-paging engine.
//!
//! A guest keeps page tables that map guest-virtual to guest-physical addresses. Hardware
//! without nested paging (or told not to use it) needs tables that map guest-virtual to
//! host-physical ones. This crate builds those *shadow* tables lazily from page faults,
//! keeps them in step with what the guest writes, and can throw all of them away in a
//! number of instructions that does not depend on how many there are.
//!
//! It is pure: memory, frames and the machine lie behind the traits in [`memory`]; no
//! vendor, instruction, static or log line is named here.
//!
//! # Glossary
//! | word | meaning |
//! |---|---|
//! | gva, gpa, hpa | guest-virtual, guest-physical, host-physical address |
//! | gfn, hfn | guest and host frame number (address >> 12) |
//! | gpte | an entry of one of the guest's page tables |
//! | spte | an entry of a shadow table, in the hardware's 64-bit format |
//! | shadow page | a shadow table, its links and its metadata; shadows one guest table |
//! | direct page | a shadow page without a guest table: splits a large guest page, or paging is off |
//! | role | what else, besides its gfn, decides a shadow page's contents |
//! | root | the shadow page(s) hardware's CR3 points at |
//! | slot, memslot | guest memory contiguous in guest and host |
//! | rmap | all sptes that map a gfn |
//! | head | a 64-bit word per gfn (or large range): generation tag and value |
//! | tracked | a gfn is tracked while a shadow page is in step with it: nobody may map it writable |
//! | unsync | a leaf table the guest may write; its shadow is brought in step at the next flush |
//! | zap | to take a shadow page out of service |
//! | stale, obsolete | of an older generation: never looked up, only reused |
//! | limbo | retired one by one and waiting for a flush epoch |
//! | epoch | a step of the flush clock |
//! | slab | 64 shadow pages, as the frame source hands them out |
//!
//! # The picture
//! ```text
//!  guest's tables            shadow pages                          slots
//!  PML4 ──► PDPT ──► PD ──► PT      directory: (gfn, role) → page
//!   │        │       │      │
//!   ▼        ▼       ▼      ▼         ┌───────────────┐
//!  [root]─►[page]─►[page]─►[page]     │ table  4 KiB  │◄── hardware walks this
//!     ▲      │parents │      │ spte ──┼─► hfn         │
//!     │      └────────┘      │        ├───────────────┤
//!   vCPU                     └─ rmap ─┤ links  4 KiB  │ (next, prev) of each entry
//!                               ▲     └───────────────┘
//!   gfn's head: (tag, node) ────┘      64 bytes of metadata in one array
//! ```
//!
//! # How a machine drives it
//! 1. Make an engine, add slots, add vCPUs.
//! 2. [`ShadowMmu::reenter`], or where it declines [`ShadowMmu::enter`]: obey
//!    [`Entry::flush`], load [`Entry::root`] in [`Root::format`], run the guest with CR0.WP = 1 and EFER.NXE = 1 whatever the guest
//!    set, with the guest's own CR4.SMEP, SMAP and (long mode) PKE while guest paging is
//!    on and without them while it is off, and with the guest's PKRU.
//! 3. [`ShadowMmu::leave`] after every exit.
//! 4. Every #PF the guest takes goes to [`ShadowMmu::page_fault`]; act on the
//!    [`FaultOutcome`].
//! 5. MOV to CR0/CR3/CR4, WRMSR to EFER, INVLPG and INVPCID are intercepted and reported.
//! 6. Whatever writes guest memory other than the guest's instructions reports it
//!    through [`ShadowMmu::guest_wrote`], the one door.
//! 7. A [`FlushPromise`] is discharged before its holder relies on it: `discharge` names
//!    the vCPUs to kick; they leave, and their next `enter` makes them flush. On a machine
//!    with one vCPU it is always kept at once, because that vCPU is outside the guest.
//!
//! What must be flushed when: nothing but what [`Entry::flush`] and [`FlushPromise`] say.
//! A translation that hardware still holds after an spte changed is either one that the
//! architecture lets the guest see until *it* flushes, or covered by one of the two.
//!
//! The shadow never relies on A/D bits that hardware sets, and never sets G.
//!
//! # Invariants
//! [`ShadowMmu::audit`] checks them by number.
//! - I1 a present shadow entry maps only what the guest's walk permits at that role.
//! - I2 a write-protected gfn has no writable entry.
//! - I3 every current leaf entry has exactly one rmap node, and every current rmap node a
//!   leaf entry.
//! - I4 a root in use is pinned and is not recycled.
//! - I5 no lookup returns a stale page.
//! - I6 a current page references no stale one.
//! - I7 the active list is in order of generation and age; stale pages are on the stale
//!   list or pinned.
//! - I8 a frame is in exactly one state; the totals are conserved.
//! - I9 a stale frame is handed out only after a flush epoch later than its retirement was
//!   acknowledged by every vCPU.
//! - I10 after `zap_all` no vCPU enters on a stale root.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod access;
mod api;
mod audit;
mod config;
mod directory;
mod dirty;
mod engine;
mod fault;
mod flush;
#[cfg(test)]
mod flush_tests;
mod generation;
mod heads;
mod install;
mod leaf;
pub mod memory;
mod mmio;
mod mmu;
mod outcome;
mod page;
mod paging;
mod path;
pub mod policy;
mod pool;
mod profile;
mod registers;
mod resync;
mod rmap;
mod role;
mod roots;
mod slot;
mod slots;
mod stats;
mod sync;
mod track;
mod unsync;
mod walk;
mod zap;

pub use access::{Access, AccessKind, ErrorCode, PageFault, Translation};
pub use api::{AddVcpuError, ShadowMmu, Usage};
pub use audit::Violation;
pub use config::{Config, ConfigError, MAX_PAGES};
pub use flush::{FlushClock, FlushPromise, TlbFlush, VcpuId};
pub use memory::{Arena, FrameSource, GuestMemory, Machine, Slab, TableMemory};
pub use mmu::Mmu;
pub use outcome::{EnterError, Entry, FaultOutcome, Invpcid, Root};
pub use policy::{AnyMmu, PolicyKind};
pub use profile::Recycles;
pub use registers::{Cr0, Cr4, Efer, PagingMode, RegisterFault, Registers, RootFormat};
pub use slots::{SlotError, SlotId, SlotSpec};
pub use stats::Stats;
