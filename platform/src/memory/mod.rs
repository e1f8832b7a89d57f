//! The machine's memory outside Hermit's window.

#[cfg(target_os = "none")]
pub(crate) mod direct_map;
#[cfg(target_os = "none")]
mod frames;
#[cfg(target_os = "none")]
mod guest_ram;
#[cfg(target_os = "none")]
mod modules;
mod split;

#[cfg(target_os = "none")]
pub use frames::Frames;
#[cfg(target_os = "none")]
pub use guest_ram::GuestRam;
#[cfg(target_os = "none")]
pub use modules::{Module, modules};
pub use split::{NoRoom, guest_range};

/// Where physical address 0 is mapped; see [`crate::boot`].
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Physical memory within reach of the direct map; RAM above stays unused.
pub const DIRECT_MAP_BYTES: u64 = 64 << 30;

/// The machine's memory, divided between the guest and the hypervisor.
#[cfg(target_os = "none")]
pub struct Memory {
    /// The guest's RAM.
    pub guest: GuestRam,
    /// Everything else.
    pub frames: Frames,
}

#[cfg(target_os = "none")]
impl Memory {
    /// Divides what `layout` left free. Call once.
    pub fn divide(layout: &crate::boot::layout::Layout, guest_bytes: u64) -> Result<Self, NoRoom> {
        let guest = guest_range(layout.free(), guest_bytes)?;
        let rest = layout.free().flat_map(|free| {
            let below = free.start..free.end.min(guest.start.max(free.start));
            let above = free.start.max(guest.end.min(free.end))..free.end;
            [below, above].into_iter().filter(|part| !part.is_empty())
        });
        let frames = Frames::new(rest);
        Ok(Self { guest: GuestRam::new(guest), frames })
    }
}
