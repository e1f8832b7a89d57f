//! The runtime that all bundled guests share.
//!
//! A guest is one folder in `src/bin` with a `main.rs`:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! anchorite_guests::entry!(run);
//!
//! /// Checks that one and one make two.
//! fn run(_boot: &BootInfo) -> Status {
//!     let mut report = Report::new("sum");
//!     report.equal("one and one", 1 + 1, 2);
//!     report.finish()
//! }
//! ```
//!
//! The same file boots by multiboot 1 (QEMU `-kernel`, GRUB, our loader) and by PVH.
//! It is entered in 32-bit protected mode, switches to long mode with the first 4 GiB
//! mapped one to one, and runs without floating point (the target is soft-float).
//! It also runs on a machine without our hypervisor: [`machine::is_anchorite`] tells.
#![no_std]
#![allow(clippy::missing_panics_doc, reason = "a panic fails the guest and says why")]

pub mod boot;
pub mod console;
pub mod control;
pub mod deviations;
pub mod exit;
pub mod format;
pub mod instructions;
pub mod machine;
pub mod memory;
mod multiboot;
pub mod oracle;
pub mod paging;
pub mod plan;
pub mod probe;
mod pvh;
pub mod random;
pub mod report;
pub mod script;
pub mod segments;
pub mod timing;
pub mod trap;

pub use anchorite_abi as abi;
pub use boot::BootInfo;
pub use exit::Status;
pub use report::Report;

use core::panic::PanicInfo;

/// Names the function the runtime calls: `fn(&BootInfo) -> Status`.
#[macro_export]
macro_rules! entry {
    ($run:path) => {
        #[expect(unsafe_code, reason = "the runtime finds the guest by this symbol's name")]
        // SAFETY: the name is declared, with this signature, only in the runtime.
        #[unsafe(no_mangle)]
        extern "Rust" fn guest_main(boot: &$crate::BootInfo) -> $crate::Status {
            let run: fn(&$crate::BootInfo) -> $crate::Status = $run;
            run(boot)
        }
    };
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    println!("panic: {info}");
    exit::exit(Status::PANIC)
}
