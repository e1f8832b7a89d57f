//! `RawBootInfo`, which tells a Hermit kernel where it is and how it was started.
//!
//! The crate that defines it keeps its fields to itself and has no way to its bytes, so they are
//! written by hand; a test compares them with what that crate makes.
//!
//! Source: hermit-entry 0.10, `boot_info::RawBootInfo`, with the layout of `repr(C)`.

use core::ops::Range;

use crate::Clock;
use crate::bytes::Builder;

/// The variant `Uhyve` of `RawPlatformInfo` on x86-64.
const PLATFORM_UHYVE: u32 = 1;
/// The port of uhyve's serial line. The kernel insists on one, and prints by a hypercall.
const SERIAL_PORT: u16 = 0x800;
const CPUS: u64 = 1;
/// Bytes of the whole: hardware 32, load 48, platform 48.
const BYTES: usize = 128;

/// Image of thread-local storage; sizes and alignment in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tls {
    pub(super) start: u64,
    pub(super) file_bytes: u64,
    pub(super) memory_bytes: u64,
    pub(super) align: u64,
}

/// What a kernel is told.
#[derive(Clone, Debug)]
pub(super) struct BootInfo {
    /// The address behind the last byte of RAM.
    pub(super) ram_end: u64,
    /// The device tree's address.
    pub(super) device_tree: u64,
    /// Where the kernel lies.
    pub(super) kernel: Range<u64>,
    pub(super) tls: Option<Tls>,
    pub(super) clock: Clock,
}

impl BootInfo {
    /// The structure as it lies in memory.
    pub(super) fn to_bytes(&self) -> Builder {
        let tls = self.tls.unwrap_or(Tls { start: 0, file_bytes: 0, memory_bytes: 0, align: 0 });
        let nanoseconds = i128::from(self.clock.unix_time) * 1_000_000_000;
        let mut info = Builder::default();
        info.u64(0).u64(self.ram_end).u64(SERIAL_PORT.into()).u64(self.device_tree);
        info.u64(self.kernel.start).u64(self.kernel.end);
        info.u64(tls.start).u64(tls.file_bytes).u64(tls.memory_bytes).u64(tls.align);
        // The variant's number, then its fields: `has_pci` is one byte, the CPUs follow aligned.
        info.u64(PLATFORM_UHYVE.into()).u64(0).u64(CPUS).u64(self.clock.tsc_khz.into());
        info.u64(nanoseconds as u64).u64((nanoseconds >> 64) as u64);
        debug_assert_eq!(info.as_bytes().len(), BYTES, "the size of the structure");
        info
    }
}
