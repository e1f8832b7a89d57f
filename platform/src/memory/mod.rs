//! The machine's memory outside Hermit's window.

#[cfg(target_os = "none")]
pub(crate) mod direct_map;
#[cfg(target_os = "none")]
mod frames;
#[cfg(target_os = "none")]
mod guest_ram;
#[cfg(any(test, target_os = "none"))]
mod lines;
#[cfg(target_os = "none")]
mod modules;
#[cfg(target_os = "none")]
mod shadow;
mod split;

#[cfg(target_os = "none")]
pub use frames::Frames;
#[cfg(target_os = "none")]
pub use guest_ram::GuestRam;
#[cfg(target_os = "none")]
pub use modules::{Module, modules};
#[cfg(target_os = "none")]
pub use shadow::ShadowMachine;
pub use split::{NoRoom, take, take_low};

#[cfg(target_os = "none")]
use anchorite_abi::hypercall::WINDOW_BYTES;

/// Where physical address 0 is mapped; see [`crate::boot`].
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Physical memory within reach of the direct map; RAM above stays unused.
pub const DIRECT_MAP_BYTES: u64 = 64 << 30;

/// Memory for the roots of shadow paging outside long mode, with what its pool takes.
#[cfg(target_os = "none")]
const LOW_BYTES: u64 = 1 << 20;

/// The machine's memory, divided between the guest and the hypervisor.
#[cfg(target_os = "none")]
pub struct Memory {
    /// The guest's RAM.
    pub guest: GuestRam,
    /// Memory for shadow pages, where any were asked for.
    pub shadow: Option<ShadowMachine>,
    /// Everything else.
    pub frames: Frames,
}

#[cfg(target_os = "none")]
impl Memory {
    /// Divides what `layout` left free, as `options` ask for it. Call once.
    pub fn divide(
        layout: &crate::boot::layout::Layout,
        options: &anchorite_abi::Options<'_>,
    ) -> Result<Self, NoRoom> {
        let mut free = layout.free().collect();
        let bytes = options.guest_bytes() + WINDOW_BYTES;
        let guest = GuestRam::new(take(&mut free, bytes)?, WINDOW_BYTES);
        let region = match options.shadow_pool_bytes() {
            0 => None,
            bytes => Some(take(&mut free, bytes)?),
        };
        let low = take_low(&mut free, LOW_BYTES)?;
        let frames = Frames::new(free.into_iter());
        let shadow = region.map(|region| {
            ShadowMachine::new(region, guest.clone(), Frames::new(core::iter::once(low)))
        });
        Ok(Self { guest, shadow, frames })
    }
}
