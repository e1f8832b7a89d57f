//! What the bundled Hermit applications share.
//!
//! Each is one folder in `src/bin` with a `main.rs`, linked with the Hermit kernel as library OS
//! into a kernel of its own, which the loader starts as uhyve does. Files in a folder's `modules`
//! are the guest's modules, which it reads below `/root`.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! anchorite_hermit_guests::entry!(run);
//!
//! fn run() -> bool {
//!     println!("hello");
//!     true
//! }
//! ```
#![no_std]
// On the host there is no kernel to link with, and nothing here.
#![cfg(target_os = "none")]

extern crate alloc;

pub mod file;
pub mod task;
pub mod text;

// Only its features matter here, see the manifest of the workspace.
use log as _;

pub use hermit;

/// Makes `$run`, a `fn() -> bool`, the application: `true` ends it with status 0, `false` with 1.
#[macro_export]
macro_rules! entry {
    ($run:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main(
            _count: i32,
            _arguments: *const *const u8,
            _environment: *const *const u8,
        ) -> i32 {
            $crate::hermit::syscalls::sys_exit(i32::from(!$run()))
        }
    };
}

/// Says `what` if `holds` is false; gives `holds`.
pub fn check(what: &str, holds: bool) -> bool {
    if !holds {
        println!("FAILED: {what}");
    }
    holds
}
