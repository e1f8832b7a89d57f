//! From the boot loader to Hermit.
//!
//! `boot.S` enters 64-bit mode, `boot_main` reads what the loader tells
//! ([`information`]), splits the RAM ([`layout`]), builds the address space that
//! Hermit expects and jumps to its `_start` (`handover`). Hermit calls `main`
//! when it is up; see [`entry!`](crate::entry).

#[cfg(any(test, target_os = "none"))]
mod device_tree;
#[cfg(target_os = "none")]
mod handover;
pub mod information;
pub mod layout;
#[cfg(target_os = "none")]
mod loaders;
#[cfg(target_os = "none")]
mod tables;

#[cfg(target_os = "none")]
pub use handover::{Boot, boot};
