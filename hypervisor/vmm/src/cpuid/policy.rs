//! What CPUID shows besides feature bits, and which CR4 bits go with which feature.
//!
//! A register that neither [`RULES`] nor [`FEATURES`](super::features::FEATURES) names
//! reads as zero.

use anchorite_vcpu::Cr4;

/// A register that CPUID fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// What becomes of one register that is no set of feature bits.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The leaf, all its subleaves.
    pub leaf: u32,
    /// The register.
    pub register: Register,
    /// Bits that keep the physical CPU's value.
    pub keep: u32,
    /// Bits that are one.
    pub set: u32,
    /// What it is and why.
    pub reason: &'static str,
}

/// The last basic leaf that the guest is shown.
pub const LAST_BASIC: u32 = 0xd;
/// The last extended leaf that the guest is shown.
pub const LAST_EXTENDED: u32 = 0x8000_0008;

use Register::{Eax, Ebx, Ecx, Edx};

/// The rules, in the order of leaves.
pub const RULES: &[Rule] = &[
    keep(0, Eax, !0, "the last leaf, at most 0xd"),
    keep(0, Ebx, !0, VENDOR),
    keep(0, Ecx, !0, VENDOR),
    keep(0, Edx, !0, VENDOR),
    keep(1, Eax, !0, "family, model, stepping"),
    Rule {
        leaf: 1,
        register: Ebx,
        keep: 0x0000_ff00,
        set: 0x0001_0000,
        reason: "the CLFLUSH size; APIC identifier 0, one logical processor",
    },
    keep(2, Eax, !0, CACHES),
    keep(2, Ebx, !0, CACHES),
    keep(2, Ecx, !0, CACHES),
    keep(2, Edx, !0, CACHES),
    keep(4, Eax, 0x0000_3fff, "one cache a subleaf; one core and thread share it"),
    keep(4, Ebx, !0, CACHES),
    keep(4, Ecx, !0, CACHES),
    keep(4, Edx, !0, CACHES),
    keep(0x8000_0000, Eax, !0, "the last leaf, at most 0x80000008"),
    keep(0x8000_0000, Ebx, !0, VENDOR),
    keep(0x8000_0000, Ecx, !0, VENDOR),
    keep(0x8000_0000, Edx, !0, VENDOR),
    keep(0x8000_0001, Eax, !0, "family, model, stepping"),
    keep(0x8000_0001, Ebx, 0xf000_0000, "the package"),
    keep(0x8000_0002, Eax, !0, NAME),
    keep(0x8000_0002, Ebx, !0, NAME),
    keep(0x8000_0002, Ecx, !0, NAME),
    keep(0x8000_0002, Edx, !0, NAME),
    keep(0x8000_0003, Eax, !0, NAME),
    keep(0x8000_0003, Ebx, !0, NAME),
    keep(0x8000_0003, Ecx, !0, NAME),
    keep(0x8000_0003, Edx, !0, NAME),
    keep(0x8000_0004, Eax, !0, NAME),
    keep(0x8000_0004, Ebx, !0, NAME),
    keep(0x8000_0004, Ecx, !0, NAME),
    keep(0x8000_0004, Edx, !0, NAME),
    keep(0x8000_0005, Eax, !0, CACHES),
    keep(0x8000_0005, Ebx, !0, CACHES),
    keep(0x8000_0005, Ecx, !0, CACHES),
    keep(0x8000_0005, Edx, !0, CACHES),
    keep(0x8000_0006, Eax, !0, CACHES),
    keep(0x8000_0006, Ebx, !0, CACHES),
    keep(0x8000_0006, Ecx, !0, CACHES),
    keep(0x8000_0006, Edx, !0, CACHES),
    keep(0x8000_0008, Eax, 0x0000_ffff, "widths of addresses; 48 linear bits where LA57 is hidden"),
];

const VENDOR: &str = "the vendor's name";
const NAME: &str = "the processor's name";
const CACHES: &str = "caches and TLBs: the CPU's own";

/// Which CPUID bit permits which bits of CR4.
///
/// A bit without an entry (VMXE, SMXE, …) cannot be set.
pub const CR4_BITS: &[(Cr4, u32, Register, u32)] = &[
    (Cr4::VME.union(Cr4::PVI), 1, Edx, 1),
    (Cr4::DE, 1, Edx, 2),
    (Cr4::PSE, 1, Edx, 3),
    (Cr4::TSD, 1, Edx, 4),
    (Cr4::PAE, 1, Edx, 6),
    (Cr4::MCE, 1, Edx, 7),
    (Cr4::PGE, 1, Edx, 13),
    // Any CPU since the Pentium MMX has the bit, shown by no feature of its own.
    (Cr4::PCE, 1, Edx, 4),
    (Cr4::OSFXSR, 1, Edx, 24),
    (Cr4::OSXMMEXCPT, 1, Edx, 25),
    (Cr4::UMIP, 7, Ecx, 2),
    (Cr4::LA57, 7, Ecx, 16),
    (Cr4::FSGSBASE, 7, Ebx, 0),
    (Cr4::PCIDE, 1, Ecx, 17),
    (Cr4::OSXSAVE, 1, Ecx, 26),
    (Cr4::SMEP, 7, Ebx, 7),
    (Cr4::SMAP, 7, Ebx, 20),
    (Cr4::PKE, 7, Ecx, 3),
];

const fn keep(leaf: u32, register: Register, keep: u32, reason: &'static str) -> Rule {
    Rule { leaf, register, keep, set: 0, reason }
}
