//! Every feature bit that CPUID can show, and what becomes of it.
//!
//! A bit that no row names is hidden: what is not known is not shown. A row with
//! [`Show::Passed`] or [`Show::With`] is shown where the physical CPU has it, so that
//! nothing is ever shown that is not there; [`Show::Emulated`] is for what the machine has
//! by itself. `hypervisor/docs/cpuid.md` is this table in
//! prose; a test compares them.
//!
//! Source: SDM vol. 2, "CPUID"; APM vol. 3, appendix E "Obtaining Processor
//! Information Via the CPUID Instruction".

use super::policy::Register::{self, Eax, Ebx, Ecx, Edx};
use anchorite_vcpu::Cr4;

/// When a bit is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Where the CPU has it.
    Passed,
    /// Where the CPU has it and all of this holds.
    With(&'static [Condition]),
    /// Where all of this holds, whatever the CPU says: nothing of the CPU's is used.
    Emulated(&'static [Condition]),
    /// Always, whatever the CPU says.
    Set,
    /// As this bit of the guest's CR4 stands, where it can be set at all.
    Mirrors(Cr4),
    /// Never.
    Hidden,
}

/// What else a bit needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Another feature is shown.
    Feature(&'static str),
    /// These bits of XCR0 can be set.
    States(u64),
    /// XCR0 can be switched and confined.
    ExtendedStates,
    /// XSAVEC writes the format that the manual describes.
    Compaction,
    /// The machine has a local APIC.
    LocalApic,
    /// … with its registers as MSRs.
    X2Apic,
}

/// One bit.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// Its number.
    pub bit: u32,
    /// The manual's name in lower case, as `hide=` takes it.
    pub name: &'static str,
    /// When it is shown.
    pub show: Show,
    /// Why.
    pub reason: &'static str,
}

/// The bits of one register of one leaf.
#[derive(Clone, Copy, Debug)]
pub struct FeatureRegister {
    /// The leaf.
    pub leaf: u32,
    /// The subleaf.
    pub subleaf: u32,
    /// The register.
    pub register: Register,
    /// Its bits, in order.
    pub features: &'static [Feature],
}

/// Bits of XCR0 and of XSAVE's component bitmap: x87 and SSE, AVX, AVX-512, PKRU.
pub const STATE_LEGACY: u64 = 3;
/// Upper halves of YMM0 to YMM15.
pub const STATE_AVX: u64 = 1 << 2;
/// Opmask, upper halves of ZMM0 to ZMM15, ZMM16 to ZMM31.
pub const STATE_AVX512: u64 = 7 << 5;
/// PKRU.
pub const STATE_PKRU: u64 = 1 << 9;
/// The states that a guest may be given: those that the backends carry along.
pub const STATES: u64 = STATE_LEGACY | STATE_AVX | STATE_AVX512 | STATE_PKRU;

/// The features that `hide=` takes: those whose use really faults when they are hidden.
///
/// Instructions that no CPU lets a hypervisor intercept are not among them; for
/// `pdpe1gb` that holds under shadow paging, for `rdtscp` and `invpcid` where the CPU
/// intercepts them.
pub const HIDEABLE: &[&str] = &[
    "pge",
    "smep",
    "smap",
    "umip",
    "fsgsbase",
    "xsave",
    "avx",
    "avx512f",
    "pku",
    "pcid",
    "invpcid",
    "pdpe1gb",
    "la57",
    "rdtscp",
    "nx",
    "mtrr",
    "apic",
    "x2apic",
    "tsc-deadline",
];

/// Without the local APIC itself nobody can have it in another mode.
const X2APIC: Show = Show::Emulated(&[Condition::X2Apic, Condition::Feature("apic")]);

const PLAIN: &str = "instructions that work alone";
const WITH_AVX: &str = "works on registers that XCR0 opens";
const HOST: &str = "concerns the physical machine";
const ABSENT: &str = "the MSRs are not virtualized";
const NESTING: &str = "no virtualization inside the guest";

const XSAVE: Show = Show::With(&[Condition::ExtendedStates]);
const AFTER_XSAVE: Show = Show::With(&[Condition::Feature("xsave")]);
const COMPACTS: Show = Show::With(&[Condition::Feature("xsave"), Condition::Compaction]);
const AVX: Show =
    Show::With(&[Condition::Feature("xsave"), Condition::States(STATE_LEGACY | STATE_AVX)]);
const AFTER_AVX: Show = Show::With(&[Condition::Feature("avx")]);
const AVX512: Show = Show::With(&[Condition::Feature("avx"), Condition::States(STATE_AVX512)]);
const AFTER_AVX512: Show = Show::With(&[Condition::Feature("avx512f")]);
/// A guest switches PKRU with the other registers of XSAVE.
const KEYS: Show = Show::With(&[Condition::States(STATE_PKRU)]);
const APIC: Show = Show::With(&[Condition::LocalApic]);
const AFTER_PCID: Show = Show::With(&[Condition::Feature("pcid")]);
const AFTER_RDTSCP: Show = Show::With(&[Condition::Feature("rdtscp")]);

/// Every [`Show::With`] and [`Show::Emulated`] of the rows, each behind those of the features
/// that it names.
pub(super) const CONDITIONAL: [Show; 12] = [
    APIC,
    X2APIC,
    XSAVE,
    AFTER_XSAVE,
    COMPACTS,
    AVX,
    AFTER_AVX,
    AVX512,
    AFTER_AVX512,
    KEYS,
    AFTER_PCID,
    AFTER_RDTSCP,
];

const fn plain(bit: u32, name: &'static str) -> Feature {
    passed(bit, name, PLAIN)
}

const fn passed(bit: u32, name: &'static str, reason: &'static str) -> Feature {
    Feature { bit, name, show: Show::Passed, reason }
}

const fn with(bit: u32, name: &'static str, show: Show, reason: &'static str) -> Feature {
    Feature { bit, name, show, reason }
}

const fn hidden(bit: u32, name: &'static str, reason: &'static str) -> Feature {
    Feature { bit, name, show: Show::Hidden, reason }
}

/// All rows, in the order of leaves.
pub const FEATURES: &[FeatureRegister] = &[
    FeatureRegister { leaf: 1, subleaf: 0, register: Ecx, features: LEAF_1_ECX },
    FeatureRegister { leaf: 1, subleaf: 0, register: Edx, features: LEAF_1_EDX },
    FeatureRegister { leaf: 7, subleaf: 0, register: Ebx, features: LEAF_7_EBX },
    FeatureRegister { leaf: 7, subleaf: 0, register: Ecx, features: LEAF_7_ECX },
    FeatureRegister { leaf: 7, subleaf: 0, register: Edx, features: LEAF_7_EDX },
    FeatureRegister { leaf: 0xd, subleaf: 1, register: Eax, features: LEAF_D_EAX },
    FeatureRegister { leaf: 0x8000_0001, subleaf: 0, register: Ecx, features: EXTENDED_ECX },
    FeatureRegister { leaf: 0x8000_0001, subleaf: 0, register: Edx, features: EXTENDED_EDX },
    FeatureRegister { leaf: 0x8000_0007, subleaf: 0, register: Edx, features: POWER_EDX },
    FeatureRegister { leaf: 0x8000_0008, subleaf: 0, register: Ebx, features: SIZES_EBX },
];

const LEAF_1_ECX: &[Feature] = &[
    plain(0, "sse3"),
    plain(1, "pclmulqdq"),
    hidden(2, "dtes64", "debug store: not virtualized"),
    hidden(3, "monitor", "would idle the physical CPU; #UD"),
    hidden(4, "ds-cpl", "debug store: not virtualized"),
    hidden(5, "vmx", NESTING),
    hidden(6, "smx", "no measured launch; #UD"),
    hidden(7, "eist", HOST),
    hidden(8, "tm2", HOST),
    plain(9, "ssse3"),
    hidden(10, "cnxt-id", HOST),
    hidden(11, "sdbg", HOST),
    with(12, "fma", AFTER_AVX, WITH_AVX),
    plain(13, "cx16"),
    hidden(14, "xtpr", HOST),
    hidden(15, "pdcm", ABSENT),
    passed(17, "pcid", "the CPU's own under nested paging; under shadow every CR3 load flushes"),
    hidden(18, "dca", HOST),
    plain(19, "sse4.1"),
    plain(20, "sse4.2"),
    with(21, "x2apic", X2APIC, "the APIC's registers as MSRs"),
    plain(22, "movbe"),
    plain(23, "popcnt"),
    hidden(24, "tsc-deadline", "the virtual APIC's timer has no such mode"),
    plain(25, "aes"),
    with(26, "xsave", XSAVE, "XCR0 is the guest's own; writes are checked where they exit"),
    with(27, "osxsave", Show::Mirrors(Cr4::OSXSAVE), "follows CR4.OSXSAVE"),
    with(28, "avx", AVX, WITH_AVX),
    with(29, "f16c", AFTER_AVX, WITH_AVX),
    plain(30, "rdrand"),
    with(31, "hypervisor", Show::Set, "a hypervisor is present"),
];

const LEAF_1_EDX: &[Feature] = &[
    plain(0, "fpu"),
    passed(1, "vme", "CR4.VME and CR4.PVI"),
    passed(2, "de", "CR4.DE; DR4 and DR5 raise #UD then"),
    passed(3, "pse", "4 MiB pages in 32-bit paging"),
    passed(4, "tsc", "never intercepted; offset by the machine"),
    passed(5, "msr", "RDMSR and WRMSR of the MSRs in the machine's table"),
    passed(6, "pae", "PAE paging"),
    passed(7, "mce", "CR4.MCE, which kernels set unasked; no machine check reaches the guest"),
    plain(8, "cx8"),
    with(9, "apic", APIC, "as the machine has one"),
    passed(11, "sep", "SYSENTER and SYSEXIT; the MSRs are switched"),
    passed(12, "mtrr", "kept but without effect: all memory is write-back"),
    passed(13, "pge", "global pages; under shadow paging they go with every CR3 load too"),
    hidden(14, "mca", "machine checks are the host's"),
    plain(15, "cmov"),
    passed(16, "pat", "switched by the hardware"),
    passed(17, "pse-36", "4 MiB pages above 4 GiB in 32-bit paging"),
    hidden(18, "psn", "no serial number"),
    plain(19, "clfsh"),
    hidden(21, "ds", "debug store: not virtualized"),
    hidden(22, "acpi", "thermal MSRs: the host's"),
    plain(23, "mmx"),
    plain(24, "fxsr"),
    plain(25, "sse"),
    plain(26, "sse2"),
    passed(27, "ss", "self-snoop: as the caches are the CPU's"),
    hidden(28, "htt", "one logical processor"),
    hidden(29, "tm", HOST),
    hidden(31, "pbe", HOST),
];

const LEAF_7_EBX: &[Feature] = &[
    passed(0, "fsgsbase", "the bases are switched; CR4.FSGSBASE"),
    hidden(1, "tsc-adjust", "the MSR is not virtualized"),
    hidden(2, "sgx", "no enclaves"),
    plain(3, "bmi1"),
    hidden(4, "hle", "no transactions"),
    with(5, "avx2", AFTER_AVX, WITH_AVX),
    passed(6, "fdp-excptn-only", "how this CPU's x87 is"),
    passed(7, "smep", "the CPU's own, under shadow tables too; CR4.SMEP"),
    plain(8, "bmi2"),
    plain(9, "erms"),
    with(10, "invpcid", AFTER_PCID, "goes with PCID"),
    hidden(11, "rtm", "no transactions"),
    hidden(12, "rdt-m", HOST),
    passed(13, "fcs-fds-deprecated", "how this CPU's x87 is"),
    hidden(14, "mpx", "its registers are not carried along"),
    hidden(15, "rdt-a", HOST),
    with(16, "avx512f", AVX512, WITH_AVX),
    with(17, "avx512dq", AFTER_AVX512, WITH_AVX),
    plain(18, "rdseed"),
    plain(19, "adx"),
    passed(20, "smap", "the CPU's own, under shadow tables too; CR4.SMAP"),
    with(21, "avx512ifma", AFTER_AVX512, WITH_AVX),
    plain(23, "clflushopt"),
    plain(24, "clwb"),
    hidden(25, "pt", "processor trace: the host's"),
    with(26, "avx512pf", AFTER_AVX512, WITH_AVX),
    with(27, "avx512er", AFTER_AVX512, WITH_AVX),
    with(28, "avx512cd", AFTER_AVX512, WITH_AVX),
    plain(29, "sha"),
    with(30, "avx512bw", AFTER_AVX512, WITH_AVX),
    with(31, "avx512vl", AFTER_AVX512, WITH_AVX),
];

const LEAF_7_ECX: &[Feature] = &[
    plain(0, "prefetchwt1"),
    with(1, "avx512vbmi", AFTER_AVX512, WITH_AVX),
    passed(2, "umip", "the CPU's own; CR4.UMIP"),
    with(3, "pku", KEYS, "the CPU's own, under shadow tables too; CR4.PKE"),
    with(4, "ospke", Show::Mirrors(Cr4::PKE), "follows CR4.PKE"),
    hidden(5, "waitpkg", "would idle the physical CPU"),
    with(6, "avx512vbmi2", AFTER_AVX512, WITH_AVX),
    hidden(7, "cet-ss", "its MSRs and states are not virtualized"),
    plain(8, "gfni"),
    with(9, "vaes", AFTER_AVX, WITH_AVX),
    with(10, "vpclmulqdq", AFTER_AVX, WITH_AVX),
    with(11, "avx512vnni", AFTER_AVX512, WITH_AVX),
    with(12, "avx512bitalg", AFTER_AVX512, WITH_AVX),
    hidden(13, "tme", HOST),
    with(14, "avx512vpopcntdq", AFTER_AVX512, WITH_AVX),
    passed(16, "la57", "five-level paging; CR4.LA57"),
    with(22, "rdpid", AFTER_RDTSCP, "reads TSC_AUX"),
    hidden(23, "kl", "its states are not virtualized"),
    plain(25, "cldemote"),
    hidden(27, "movdiri", "stores that our emulator does not know"),
    hidden(28, "movdir64b", "stores that our emulator does not know"),
    hidden(29, "enqcmd", "no such devices"),
    hidden(30, "sgx-lc", "no enclaves"),
    hidden(31, "pks", "its MSR is not virtualized"),
];

const LEAF_7_EDX: &[Feature] = &[
    passed(4, "fsrm", "REP MOVSB is fast, if short"),
    with(8, "avx512-vp2intersect", AFTER_AVX512, WITH_AVX),
    hidden(9, "srbds-ctrl", ABSENT),
    hidden(10, "md-clear", "speculation controls: their MSRs are not virtualized"),
    hidden(14, "serialize", "no CPU at hand to test it on"),
    hidden(18, "pconfig", HOST),
    hidden(20, "cet-ibt", "its MSRs and states are not virtualized"),
    hidden(26, "ibrs-ibpb", "speculation controls: their MSRs are not virtualized"),
    hidden(27, "stibp", "speculation controls: their MSRs are not virtualized"),
    hidden(28, "l1d-flush", "speculation controls: their MSRs are not virtualized"),
    hidden(29, "arch-capabilities", ABSENT),
    hidden(30, "core-capabilities", ABSENT),
    hidden(31, "ssbd", "speculation controls: their MSRs are not virtualized"),
];

const LEAF_D_EAX: &[Feature] = &[
    with(0, "xsaveopt", AFTER_XSAVE, PLAIN),
    with(1, "xsavec", COMPACTS, "tried by the backend, for Bochs 2.7 misplaces all states"),
    with(2, "xgetbv1", AFTER_XSAVE, PLAIN),
    hidden(3, "xsaves", "no supervisor states, and IA32_XSS is not virtualized"),
];

const EXTENDED_ECX: &[Feature] = &[
    plain(0, "lahf"),
    hidden(1, "cmp-legacy", "one logical processor"),
    hidden(2, "svm", NESTING),
    hidden(3, "extended-apic", "registers that the virtual APIC does not have"),
    passed(4, "cr8", "MOV to CR8 outside 64-bit mode"),
    plain(5, "lzcnt"),
    plain(6, "sse4a"),
    plain(7, "misaligned-sse"),
    plain(8, "prefetchw"),
    hidden(9, "osvw", ABSENT),
    hidden(10, "ibs", ABSENT),
    with(11, "xop", AFTER_AVX, WITH_AVX),
    hidden(12, "skinit", "no measured launch; #UD"),
    hidden(13, "wdt", HOST),
    hidden(15, "lwp", "its states are not carried along"),
    with(16, "fma4", AFTER_AVX, WITH_AVX),
    hidden(17, "tce", "an EFER bit that is not virtualized"),
    plain(21, "tbm"),
    hidden(22, "topoext", "one logical processor"),
    hidden(23, "perfctr-core", ABSENT),
    hidden(24, "perfctr-nb", ABSENT),
    hidden(26, "dbext", ABSENT),
    hidden(28, "perfctr-llc", ABSENT),
    hidden(29, "mwaitx", "would idle the physical CPU"),
];

const EXTENDED_EDX: &[Feature] = &[
    plain(0, "fpu"),
    passed(1, "vme", "as in leaf 1"),
    passed(2, "de", "as in leaf 1"),
    passed(3, "pse", "as in leaf 1"),
    passed(4, "tsc", "as in leaf 1"),
    passed(5, "msr", "as in leaf 1"),
    passed(6, "pae", "as in leaf 1"),
    passed(7, "mce", "as in leaf 1"),
    plain(8, "cx8"),
    with(9, "apic", APIC, "as in leaf 1"),
    passed(11, "syscall", "SYSCALL and SYSRET; the MSRs are switched"),
    passed(12, "mtrr", "as in leaf 1"),
    passed(13, "pge", "as in leaf 1"),
    hidden(14, "mca", "as in leaf 1"),
    plain(15, "cmov"),
    passed(16, "pat", "as in leaf 1"),
    passed(17, "pse-36", "as in leaf 1"),
    passed(20, "nx", "EFER.NXE"),
    plain(22, "mmx-ext"),
    plain(23, "mmx"),
    plain(24, "fxsr"),
    hidden(25, "ffxsr", "an EFER bit that is not virtualized"),
    passed(26, "pdpe1gb", "1 GiB pages; under shadow paging from smaller ones where need be"),
    passed(27, "rdtscp", "TSC_AUX is the guest's own"),
    passed(29, "lm", "long mode"),
    plain(30, "3dnow-ext"),
    plain(31, "3dnow"),
];

const POWER_EDX: &[Feature] = &[passed(8, "invariant-tsc", "the TSC is the CPU's own")];

const SIZES_EBX: &[Feature] = &[
    plain(0, "clzero"),
    hidden(1, "irperf", ABSENT),
    with(2, "xsave-error-pointers", AFTER_XSAVE, "how this CPU's XSAVE is"),
    hidden(4, "rdpru", "the counters are the host's"),
    hidden(9, "wbnoinvd", "would write back the host's caches"),
    hidden(12, "ibpb", "speculation controls: their MSRs are not virtualized"),
    hidden(14, "ibrs", "speculation controls: their MSRs are not virtualized"),
    hidden(15, "stibp", "speculation controls: their MSRs are not virtualized"),
    hidden(24, "ssbd", "speculation controls: their MSRs are not virtualized"),
];
