//! The table of what CPUID hides, and why.
//!
//! A leaf that is neither in [`PASSED`] nor named by a rule reads as zeroes. A
//! feature is opened by deleting its rule, once there is a test for it.
//!
//! Source: SDM vol. 2, "CPUID"; APM vol. 3, appendix E "Obtaining Processor
//! Information Via the CPUID Instruction".

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

/// What becomes of one register of one leaf.
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
    /// Why.
    pub reason: &'static str,
}

/// The last basic leaf that the guest is shown.
pub const LAST_BASIC: u32 = 0xd;
/// The last extended leaf that the guest is shown.
pub const LAST_EXTENDED: u32 = 0x8000_0008;

/// Leaves that start from what the physical CPU says.
pub const PASSED: &[u32] = &[
    0,
    1,
    2,
    4,
    7,
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
];

use Register::{Eax, Ebx, Ecx, Edx};

/// The rules, in the order of leaves; all that match are applied.
pub const TABLE: &[Rule] = &[
    only(1, Ebx, 0x0000_ff00, "APIC identifier 0; the CLFLUSH size stays"),
    set(1, Ebx, 0x0001_0000, "one logical processor"),
    hide(1, Ecx, bits(&[2, 4, 7, 8, 10, 11, 14, 15]), "power, debug store, PMU: not virtualized"),
    hide(1, Ecx, bits(&[3]), "MONITOR and MWAIT: would idle the physical CPU"),
    hide(1, Ecx, bits(&[5, 6]), "VMX, SMX: no nesting"),
    hide(1, Ecx, bits(&[12, 26, 27, 28, 29]), "XSAVE and what needs it: XCR0 is not switched yet"),
    hide(1, Ecx, bits(&[17]), "PCID: not opened yet"),
    hide(1, Ecx, bits(&[21, 24]), "x2APIC, TSC deadline: there is no APIC"),
    set(1, Ecx, bits(&[31]), "a hypervisor is present"),
    hide(1, Edx, bits(&[7, 14]), "machine checks are the host's"),
    hide(1, Edx, bits(&[9]), "APIC: not there yet"),
    hide(1, Edx, bits(&[18, 21, 22, 28, 29, 31]), "serial, debug store, thermal, threads: no"),
    only(4, Eax, 0x0000_3fff, "one core, one thread share each cache"),
    only(7, Eax, 0, "no further subleaves"),
    hide(7, Ebx, bits(&[1, 2, 4, 11]), "TSC_ADJUST, SGX, HLE, RTM: not virtualized"),
    hide(7, Ebx, bits(&[5, 14, 16, 17, 21, 26, 27, 28, 30, 31]), "AVX2, AVX-512, MPX need XSAVE"),
    hide(7, Ebx, bits(&[7, 20]), "SMEP, SMAP: not opened yet"),
    hide(7, Ebx, bits(&[10]), "INVPCID: goes with PCID"),
    hide(7, Ebx, bits(&[12, 15, 22, 25]), "resource monitoring, processor trace: the host's"),
    only(7, Ecx, 0, "PKU, UMIP, LA57, RDPID and the rest: not opened yet"),
    only(7, Edx, 0, "speculation controls: their MSRs are not virtualized"),
    only(0x8000_0001, Ecx, bits(&[0, 4, 5, 6, 7, 8]), "LAHF, CR8, LZCNT, SSE4A; not SVM, OSVW, …"),
    hide(0x8000_0001, Edx, bits(&[7, 14]), "machine checks are the host's"),
    hide(0x8000_0001, Edx, bits(&[9]), "APIC: not there yet"),
    hide(0x8000_0001, Edx, bits(&[25]), "FFXSR: an EFER bit that is not virtualized"),
    hide(0x8000_0001, Edx, bits(&[26]), "1 GiB pages: not opened yet"),
    hide(0x8000_0001, Edx, bits(&[27]), "RDTSCP: cannot be intercepted everywhere"),
    only(0x8000_0007, Eax, 0, "RAS: the host's"),
    only(0x8000_0007, Ebx, 0, "RAS: the host's"),
    only(0x8000_0007, Ecx, 0, "power reporting: the host's"),
    only(0x8000_0007, Edx, bits(&[8]), "of power management only: the TSC is invariant"),
    only(0x8000_0008, Ebx, 0, "speculation controls and others: not virtualized"),
    only(0x8000_0008, Ecx, 0, "one core"),
    only(0x8000_0008, Edx, 0, "RDPRU: not virtualized"),
];

/// Which CPUID bit permits which bits of CR4.
///
/// A bit without an entry (VMXE, PCIDE, OSXSAVE, …) cannot be set.
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
    (Cr4::FSGSBASE, 7, Ebx, 0),
    (Cr4::SMEP, 7, Ebx, 7),
    (Cr4::SMAP, 7, Ebx, 20),
];

const fn hide(leaf: u32, register: Register, bits: u32, reason: &'static str) -> Rule {
    Rule { leaf, register, keep: !bits, set: 0, reason }
}

const fn only(leaf: u32, register: Register, bits: u32, reason: &'static str) -> Rule {
    Rule { leaf, register, keep: bits, set: 0, reason }
}

const fn set(leaf: u32, register: Register, bits: u32, reason: &'static str) -> Rule {
    Rule { leaf, register, keep: !0, set: bits, reason }
}

const fn bits(numbers: &[u32]) -> u32 {
    let mut mask = 0;
    let mut index = 0;
    while index < numbers.len() {
        mask |= 1 << numbers[index];
        index += 1;
    }
    mask
}
