//! The protocol between a guest and the hypervisor: ports, commands, verdicts.
//!
//! A guest needs nothing of this to run. One that wants to report a result writes
//! it to a port; each port also means something sensible to QEMU without us, so
//! that the same binary runs bare.
#![no_std]
#![forbid(unsafe_code)]

pub mod bench;
pub mod hypercall;
pub mod mmio;
pub mod options;
pub mod port;
pub mod sizing;
pub mod text;
pub mod verdict;

pub use options::{DeviceSet, Mmu, OptionError, Options};
pub use verdict::Verdict;

/// EAX of a hypercall (VMCALL or VMMCALL) that does nothing but return.
pub const HYPERCALL_NOP: u32 = hypercall::NOP;
/// EAX of the hypercall that zaps all shadow pages. Returns 0 in EAX.
pub const HYPERCALL_ZAP_ALL: u32 = hypercall::ZAP_ALL;
/// EAX returned for a hypercall number the hypervisor does not know.
pub const HYPERCALL_UNKNOWN: u32 = hypercall::UNKNOWN;
/// CPUID leaf with the hypervisor's signature in EBX, ECX, EDX.
pub const CPUID_SIGNATURE_LEAF: u32 = 0x4000_0000;
/// The signature in CPUID leaf [`CPUID_SIGNATURE_LEAF`].
pub const CPUID_SIGNATURE: [u8; 12] = *b"AnchoriteHV\0";
/// In a guest's command line this stands for the rate of the time stamp counter in kHz, for
/// kernels that have no timer to measure it by.
pub const TSC_KHZ_WORD: &str = "%tsc_khz%";

/// A boot module whose arguments are this and a name is no module of the guest but a file of
/// that name in the configuration device (fw_cfg).
pub const FW_CFG_WORD: &str = "fw_cfg=";
