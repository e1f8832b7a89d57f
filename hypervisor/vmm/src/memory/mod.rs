//! Guest memory: slots of guest-physical addresses over host memory.
//!
//! [`Memslots`] says which guest frames exist and which host frames back them;
//! [`GuestMemory`] reads and writes through them. Everything that writes guest
//! memory from outside the guest (loader, devices, emulator, debugger) does so
//! through [`GuestMemory`], and each write leaves a note in its [`WriteLog`], which
//! the run loop hands to the translation before the guest runs again.

mod guest;
mod host;
mod slots;
mod walk;
mod writes;

pub use guest::{AccessError, GuestMemory};
pub use host::{HostMemory, OutsideHostMemory};
pub use slots::{MAX_SLOTS, Memslot, Memslots, SlotChange, SlotError, SlotId};
pub(crate) use walk::{LONGEST, Step};
pub use walk::{Walk, WalkError};
pub use writes::{GuestWrite, WriteLog};
