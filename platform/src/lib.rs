//! The machine under the hypervisor, on the unmodified Hermit kernel library.
//!
//! Hermit brings the CPU up and serves as library OS; this crate owns what Hermit
//! does not: the way from the boot loader to Hermit's entry, all RAM outside
//! Hermit's window, exceptions of the hypervisor itself, and the end of the run.
//! It is the only crate that names `hermit` and `talc`.
//!
//! | module | answers |
//! |---|---|
//! | [`boot`] | what the boot loader told, who owns which RAM |
//! | [`memory`] | the direct map, frames from `talc`, the guest's RAM |
//! | [`serial`], [`console`] | text out, key strokes in |
//! | [`host`] | all that a machine asks of its host |
//! | [`clock`], [`tasks`] | time, and the tick that ends a guest's turn (with `timer`: earlier) |
//! | [`exceptions`], [`msr`] | host faults: an error value where one is expected, a report elsewhere |
//! | [`power`] | the end of the run |
//!
//! The pure parts build for the host too, where their tests run.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod boot;
#[cfg(target_os = "none")]
pub mod clock;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod exceptions;
#[cfg(target_os = "none")]
pub mod host;
#[cfg(target_os = "none")]
mod instructions;
pub mod memory;
#[cfg(target_os = "none")]
pub mod msr;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod serial;
#[cfg(target_os = "none")]
pub mod tasks;
#[cfg(target_os = "none")]
mod timer;

/// Makes `$run`, a `fn() -> u8`, the application that Hermit starts.
///
/// Its result is the status that the run ends with; see
/// [`power::end_run`].
#[macro_export]
macro_rules! entry {
    ($run:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main(
            _count: i32,
            _arguments: *const *const u8,
            _environment: *const *const u8,
        ) -> i32 {
            $crate::exceptions::install();
            $crate::power::end_run($run())
        }
    };
}
