//! The table of MSRs: what a read gives and what a write does.
//!
//! An index that no rule covers does not exist: #GP, and a count.
//!
//! Source: SDM vol. 4, 2.1 "Architectural MSRs"; APM vol. 2, appendix A "MSR
//! Cross-Reference".

use crate::cpuid::Cpuid;
use crate::cpuid::policy::Register;
use anchorite_vcpu::GuestMsr;

/// What a write must look like; anything else is #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Valid {
    /// Any value.
    Any,
    /// A canonical linear address.
    Canonical,
    /// No bits but these.
    Low(u64),
    /// Eight memory types, as in IA32_PAT: UC-, beside those of MTRRs.
    MemoryTypes,
    /// Eight memory types of a fixed-range MTRR.
    RangeTypes,
    /// IA32_MTRR_PHYSBASEn.
    RangeBase,
    /// IA32_MTRR_PHYSMASKn.
    RangeMask,
    /// IA32_MTRR_DEF_TYPE.
    RangeDefault,
}

/// What becomes of a write to an MSR whose value never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstantWrite {
    /// #GP.
    Refused,
    /// Nothing: kernels write here without need.
    Ignored,
}

/// How an MSR behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// The backend keeps it. `pass`: the guest may access it without an exit.
    Vcpu {
        /// Which.
        msr: GuestMsr,
        /// What may be written.
        valid: Valid,
        /// Whether accesses do not exit.
        pass: bool,
    },
    /// Always the same value.
    Constant {
        /// The value.
        value: u64,
        /// What a write does.
        write: ConstantWrite,
    },
    /// Reads as last written; affects nothing.
    Stored {
        /// The value after reset.
        initial: u64,
        /// What may be written.
        valid: Valid,
    },
    /// IA32_APIC_BASE: the local APIC's where there is one; else it is not enabled.
    ApicBase,
    /// A register of the local APIC, which exists in x2APIC mode alone.
    Apic,
    /// IA32_EFER: it changes the mode.
    Efer,
    /// The time stamp counter: a write moves the offset.
    TimeStampCounter,
}

/// One MSR, or several in a row that behave alike.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The first index.
    pub first: u32,
    /// The last index.
    pub last: u32,
    /// The name in the manual.
    pub name: &'static str,
    /// How it behaves.
    pub behaviour: Behaviour,
    /// The feature that brings it; `None` where it is always there.
    pub needs: Option<Need>,
}

impl Rule {
    /// Whether the feature is shown that brings the register.
    pub fn exists(&self, cpuid: &Cpuid) -> bool {
        self.needs.is_none_or(|Need { leaf, register, bit }| cpuid.shows(leaf, register, bit))
    }
}

/// A CPUID bit without which a register does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The leaf.
    pub leaf: u32,
    /// The register.
    pub register: Register,
    /// The bit.
    pub bit: u32,
}

const MTRR: Need = Need { leaf: 1, register: Register::Edx, bit: 12 };
const MCE: Need = Need { leaf: 1, register: Register::Edx, bit: 7 };
const X2APIC: Need = Need { leaf: 1, register: Register::Ecx, bit: 21 };
const RDTSCP: Need = Need { leaf: 0x8000_0001, register: Register::Edx, bit: 27 };

impl Rule {
    /// The same, where the feature is shown.
    const fn with(self, needs: Need) -> Self {
        Self { needs: Some(needs), ..self }
    }
}

/// The first index that belongs to the local APIC in x2APIC mode.
pub(crate) const FIRST_X2APIC: u32 = 0x800;
/// Memory type of MTRRs and PAT: write-back.
const WRITE_BACK: u64 = 6;
/// Pairs of variable-range MTRRs.
const VARIABLE_RANGES: u64 = 8;

/// All rules, sorted by index.
pub const TABLE: &[Rule] = &[
    // Machine checks without banks, of which there are none.
    range(0x0, 0x1, "IA32_P5_MC_ADDR, IA32_P5_MC_TYPE", constant(0)).with(MCE),
    one(0x10, "IA32_TIME_STAMP_COUNTER", Behaviour::TimeStampCounter),
    one(0x17, "IA32_PLATFORM_ID", constant(0)),
    one(0x1b, "IA32_APIC_BASE", Behaviour::ApicBase),
    // Locked, VMX off.
    one(0x3a, "IA32_FEATURE_CONTROL", constant(1)),
    one(0x79, "IA32_BIOS_UPDT_TRIG", ignoring(0)),
    // Kernels write 0, execute CPUID and read the revision of the microcode.
    one(0x8b, "IA32_BIOS_SIGN_ID", ignoring(0)),
    // Fixed ranges and write-combining are there.
    one(0xfe, "IA32_MTRRCAP", constant(VARIABLE_RANGES | 1 << 8 | 1 << 10)).with(MTRR),
    one(0x174, "IA32_SYSENTER_CS", vcpu(GuestMsr::SysenterCs, Valid::Any)),
    one(0x175, "IA32_SYSENTER_ESP", vcpu(GuestMsr::SysenterEsp, Valid::Canonical)),
    one(0x176, "IA32_SYSENTER_EIP", vcpu(GuestMsr::SysenterEip, Valid::Canonical)),
    // No banks: CPUID shows no machine-check architecture, but some kernels read these anyway.
    range(0x179, 0x17a, "IA32_MCG_CAP, IA32_MCG_STATUS", constant(0)),
    // Fast strings; no branch trace, no precise events. Nothing can be switched.
    one(0x1a0, "IA32_MISC_ENABLE", ignoring(1 | 1 << 11 | 1 << 12)),
    // Of branch tracing only single steps on branches, which the guest's own CPU does.
    one(0x1d9, "IA32_DEBUGCTL", intercepted(GuestMsr::DebugCtl, Valid::Low(1 << 1))),
    one(0x200, "IA32_MTRR_PHYSBASE0", stored(0, Valid::RangeBase)).with(MTRR),
    one(0x201, "IA32_MTRR_PHYSMASK0", stored(0, Valid::RangeMask)).with(MTRR),
    one(0x202, "IA32_MTRR_PHYSBASE1", stored(0, Valid::RangeBase)).with(MTRR),
    one(0x203, "IA32_MTRR_PHYSMASK1", stored(0, Valid::RangeMask)).with(MTRR),
    one(0x204, "IA32_MTRR_PHYSBASE2", stored(0, Valid::RangeBase)).with(MTRR),
    one(0x205, "IA32_MTRR_PHYSMASK2", stored(0, Valid::RangeMask)).with(MTRR),
    one(0x206, "IA32_MTRR_PHYSBASE3", stored(0, Valid::RangeBase)).with(MTRR),
    one(0x207, "IA32_MTRR_PHYSMASK3", stored(0, Valid::RangeMask)).with(MTRR),
    one(0x208, "IA32_MTRR_PHYSBASE4", stored(0, Valid::RangeBase)).with(MTRR),
    one(0x209, "IA32_MTRR_PHYSMASK4", stored(0, Valid::RangeMask)).with(MTRR),
    one(0x20a, "IA32_MTRR_PHYSBASE5", stored(0, Valid::RangeBase)).with(MTRR),
    one(0x20b, "IA32_MTRR_PHYSMASK5", stored(0, Valid::RangeMask)).with(MTRR),
    one(0x20c, "IA32_MTRR_PHYSBASE6", stored(0, Valid::RangeBase)).with(MTRR),
    one(0x20d, "IA32_MTRR_PHYSMASK6", stored(0, Valid::RangeMask)).with(MTRR),
    one(0x20e, "IA32_MTRR_PHYSBASE7", stored(0, Valid::RangeBase)).with(MTRR),
    one(0x20f, "IA32_MTRR_PHYSMASK7", stored(0, Valid::RangeMask)).with(MTRR),
    one(0x250, "IA32_MTRR_FIX64K_00000", FIXED_RANGE).with(MTRR),
    range(0x258, 0x259, "IA32_MTRR_FIX16K_80000, _A0000", FIXED_RANGE).with(MTRR),
    range(0x268, 0x26f, "IA32_MTRR_FIX4K_C0000 to _F8000", FIXED_RANGE).with(MTRR),
    one(0x277, "IA32_PAT", intercepted(GuestMsr::Pat, Valid::MemoryTypes)),
    // MTRRs on, fixed ranges off, all memory write-back.
    one(0x2ff, "IA32_MTRR_DEF_TYPE", stored(1 << 11 | WRITE_BACK, Valid::RangeDefault)).with(MTRR),
    range(FIRST_X2APIC, FIRST_X2APIC + 0xff, "IA32_X2APIC_APICID and so on", Behaviour::Apic)
        .with(X2APIC),
    one(0xc000_0080, "IA32_EFER", Behaviour::Efer),
    one(0xc000_0081, "IA32_STAR", vcpu(GuestMsr::Star, Valid::Any)),
    one(0xc000_0082, "IA32_LSTAR", vcpu(GuestMsr::Lstar, Valid::Canonical)),
    one(0xc000_0083, "IA32_CSTAR", vcpu(GuestMsr::Cstar, Valid::Canonical)),
    one(0xc000_0084, "IA32_FMASK", vcpu(GuestMsr::Sfmask, Valid::Any)),
    one(0xc000_0100, "IA32_FS_BASE", vcpu(GuestMsr::FsBase, Valid::Canonical)),
    one(0xc000_0101, "IA32_GS_BASE", vcpu(GuestMsr::GsBase, Valid::Canonical)),
    one(0xc000_0102, "IA32_KERNEL_GS_BASE", vcpu(GuestMsr::KernelGsBase, Valid::Canonical)),
    one(0xc000_0103, "TSC_AUX", intercepted(GuestMsr::TscAux, Valid::Low(0xffff_ffff)))
        .with(RDTSCP),
    one(0xc001_0010, "SYSCFG", ignoring(0)),
    // The TSC runs at the P0 frequency, which some kernels insist on.
    one(0xc001_0015, "HWCR", ignoring(1 << 24)),
    one(0xc001_001f, "NB_CFG", ignoring(0)),
    one(0xc001_0055, "Interrupt Pending and CMP-Halt", ignoring(0)),
    // SVM disabled and locked.
    one(0xc001_0114, "VM_CR", constant(1 << 4 | 1 << 3)),
    range(0xc001_1020, 0xc001_1023, "LS_CFG, IC_CFG, DC_CFG, BU_CFG", ignoring(0)),
    // LFENCE waits for what comes before it.
    one(0xc001_1029, "DE_CFG", ignoring(1 << 1)),
];

const FIXED_RANGE: Behaviour = stored(WRITE_BACK * 0x0101_0101_0101_0101, Valid::RangeTypes);

const fn one(index: u32, name: &'static str, behaviour: Behaviour) -> Rule {
    Rule { first: index, last: index, name, behaviour, needs: None }
}

const fn range(first: u32, last: u32, name: &'static str, behaviour: Behaviour) -> Rule {
    Rule { first, last, name, behaviour, needs: None }
}

/// The hardware switches it and checks what is written.
const fn vcpu(msr: GuestMsr, valid: Valid) -> Behaviour {
    Behaviour::Vcpu { msr, valid, pass: true }
}

/// The hardware would take values that the guest must not have.
const fn intercepted(msr: GuestMsr, valid: Valid) -> Behaviour {
    Behaviour::Vcpu { msr, valid, pass: false }
}

const fn constant(value: u64) -> Behaviour {
    Behaviour::Constant { value, write: ConstantWrite::Refused }
}

const fn ignoring(value: u64) -> Behaviour {
    Behaviour::Constant { value, write: ConstantWrite::Ignored }
}

const fn stored(initial: u64, valid: Valid) -> Behaviour {
    Behaviour::Stored { initial, valid }
}
