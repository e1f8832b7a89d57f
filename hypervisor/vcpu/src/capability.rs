//! What a CPU offers, or why it cannot be used.

use core::fmt;

/// What the CPU's virtualization extension offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The extension's name: "SVM" or "VMX".
    pub extension: &'static str,
    /// Revision of the extension (SVM revision, VMCS revision identifier).
    pub revision: u32,
    /// Address space identifiers (ASIDs, VPIDs) including 0; 0 where none are tagged.
    pub address_space_ids: u32,
    /// Nested paging (NPT, EPT).
    pub nested_paging: bool,
    /// Real mode and paging off run natively under nested paging.
    pub unrestricted_guest: bool,
    /// A guest without paging, real mode included, runs on a shadow root too.
    pub shadow_unpaged: bool,
    /// The CPU tells the length of an intercepted instruction.
    pub instruction_length: bool,
    /// The CPU delivers the bytes of an instruction that faulted.
    pub instruction_bytes: bool,
    /// Flushes can name one ASID or VPID.
    pub tagged_flush: bool,
    /// 1 GiB leaves in nested tables.
    pub nested_1g_pages: bool,
    /// A timer that ends the guest's turn (VMX preemption timer).
    pub preemption_timer: bool,
    /// XSETBV exits, so that what the guest writes to XCR0 can be refused.
    pub xsetbv_exits: bool,
    /// XSAVEC is there and writes the format that the manual describes.
    pub xsavec: bool,
}

/// Why the virtualization extension cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// CPUID does not show the extension.
    NotInCpuid {
        /// "SVM" or "VMX".
        extension: &'static str,
        /// The CPUID leaf that was asked.
        leaf: u32,
    },
    /// Firmware locked the extension off.
    LockedOff {
        /// "SVM" or "VMX".
        extension: &'static str,
        /// The MSR's name.
        msr: &'static str,
        /// Its value.
        value: u64,
    },
    /// A feature that this hypervisor cannot do without is missing.
    Missing {
        /// The feature's name in the manual.
        feature: &'static str,
        /// The register that would show it.
        register: &'static str,
        /// Its value.
        value: u64,
    },
    /// Required control bits may not be set, or forbidden ones may not be cleared.
    Controls {
        /// The control field.
        field: &'static str,
        /// Bits asked for that the CPU refuses.
        refused: u32,
    },
    /// No memory is left for a control structure.
    NoMemory {
        /// Pages asked for.
        pages: usize,
    },
    /// Turning the extension on failed although it was announced.
    EnableFailed {
        /// The instruction or register.
        what: &'static str,
        /// A value that helps to find out why.
        value: u64,
    },
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotInCpuid { extension, leaf } => write!(
                f,
                "this CPU has no {extension} (CPUID leaf {leaf:#x}); use a CPU model that has it"
            ),
            Self::LockedOff { extension, msr, value } => write!(
                f,
                "{extension} is locked off by firmware: {msr} = {value:#x}; enable it in the firmware's set-up"
            ),
            Self::Missing { feature, register, value } => {
                write!(f, "this CPU lacks {feature} ({register} = {value:#x})")
            }
            Self::Controls { field, refused } => {
                write!(f, "this CPU refuses the bits {refused:#x} of {field}")
            }
            Self::NoMemory { pages } => write!(
                f,
                "no memory for {pages} pages of control structures; give the machine more RAM"
            ),
            Self::EnableFailed { what, value } => write!(f, "{what} failed ({value:#x})"),
        }
    }
}
