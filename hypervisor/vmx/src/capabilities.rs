//! What this CPU's VMX offers, or why it cannot be used.
//!
//! Source: SDM appendix A "VMX Capability Reporting Facility"; 24.6 "Discovering
//! Support for VMX"; 24.7 "Enabling and Entering VMX Operation".

use crate::controls::{Allowed, ControlSet};
use anchorite_vcpu::{Capabilities, Unavailable};
use bitflags::bitflags;
use x86::msr;
use x86::vmx::vmcs::control::{PinbasedControls, PrimaryControls, SecondaryControls};

/// The extension's name in messages.
const EXTENSION: &str = "VMX";
/// CPUID leaf whose ECX shows VMX.
const FEATURE_LEAF: u32 = 1;
/// CPUID.1:ECX bit 5.
const CPUID_VMX: u32 = 1 << 5;

/// IA32_FEATURE_CONTROL bit 0: the MSR can no longer be written.
pub const FEATURE_CONTROL_LOCK: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL bit 2: VMXON works outside SMX operation.
pub const FEATURE_CONTROL_VMXON: u64 = 1 << 2;

bitflags! {
    /// IA32_VMX_EPT_VPID_CAP. Source: SDM A.10 "VPID and EPT Capabilities".
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct EptVpid: u64 {
        /// Four-level EPT walks.
        const WALK_4 = 1 << 6;
        /// EPT structures may be write-back memory.
        const WRITE_BACK = 1 << 14;
        /// 2 MiB leaves.
        const LEAF_2M = 1 << 16;
        /// 1 GiB leaves.
        const LEAF_1G = 1 << 17;
        /// INVEPT.
        const INVEPT = 1 << 20;
        /// INVEPT for one EPTP.
        const INVEPT_SINGLE = 1 << 25;
        /// INVEPT for all.
        const INVEPT_ALL = 1 << 26;
        /// INVVPID.
        const INVVPID = 1 << 32;
        /// INVVPID for one address.
        const INVVPID_ADDRESS = 1 << 40;
        /// INVVPID for one VPID.
        const INVVPID_SINGLE = 1 << 41;
        /// INVVPID for all VPIDs.
        const INVVPID_ALL = 1 << 42;
    }
}

/// What CPUID and the capability MSRs say, unjudged.
///
/// An MSR that this CPU does not have is 0 here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawCapabilities {
    /// CPUID.1:ECX.
    pub cpuid_1_ecx: u32,
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// IA32_VMX_PINBASED_CTLS, or its TRUE variant where there is one.
    pub pin: u64,
    /// IA32_VMX_PROCBASED_CTLS, or its TRUE variant.
    pub primary: u64,
    /// IA32_VMX_PROCBASED_CTLS2.
    pub secondary: u64,
    /// IA32_VMX_EXIT_CTLS, or its TRUE variant.
    pub exit: u64,
    /// IA32_VMX_ENTRY_CTLS, or its TRUE variant.
    pub entry: u64,
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept_vpid: EptVpid,
    /// IA32_VMX_CR0_FIXED0: bits that must be 1.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1: bits that may be 1.
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0.
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1.
    pub cr4_fixed1: u64,
}

impl RawCapabilities {
    /// Asks only for MSRs that the CPU has: reading another one would be a #GP.
    ///
    /// `cpuid_1_ecx` is CPUID.1:ECX; `rdmsr` reads one MSR by number.
    pub fn collect(cpuid_1_ecx: u32, mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        let mut raw = Self { cpuid_1_ecx, ..Self::default() };
        if cpuid_1_ecx & CPUID_VMX == 0 {
            return raw;
        }
        raw.feature_control = rdmsr(msr::IA32_FEATURE_CONTROL);
        raw.basic = rdmsr(msr::IA32_VMX_BASIC);
        raw.misc = rdmsr(msr::IA32_VMX_MISC);
        raw.cr0_fixed0 = rdmsr(msr::IA32_VMX_CR0_FIXED0);
        raw.cr0_fixed1 = rdmsr(msr::IA32_VMX_CR0_FIXED1);
        raw.cr4_fixed0 = rdmsr(msr::IA32_VMX_CR4_FIXED0);
        raw.cr4_fixed1 = rdmsr(msr::IA32_VMX_CR4_FIXED1);
        raw.collect_controls(&mut rdmsr);
        raw
    }

    fn collect_controls(&mut self, rdmsr: &mut impl FnMut(u32) -> u64) {
        let [pin, primary, exit, entry] = if self.has_true_controls() {
            [
                msr::IA32_VMX_TRUE_PINBASED_CTLS,
                msr::IA32_VMX_TRUE_PROCBASED_CTLS,
                msr::IA32_VMX_TRUE_EXIT_CTLS,
                msr::IA32_VMX_TRUE_ENTRY_CTLS,
            ]
        } else {
            [
                msr::IA32_VMX_PINBASED_CTLS,
                msr::IA32_VMX_PROCBASED_CTLS,
                msr::IA32_VMX_EXIT_CTLS,
                msr::IA32_VMX_ENTRY_CTLS,
            ]
        }
        .map(&mut *rdmsr);
        (self.pin, self.primary, self.exit, self.entry) = (pin, primary, exit, entry);

        if Allowed(primary).may_set(PrimaryControls::SECONDARY_CONTROLS.bits()) {
            self.secondary = rdmsr(msr::IA32_VMX_PROCBASED_CTLS2);
        }
        let tables = Allowed(self.secondary);
        if tables.may_set(SecondaryControls::ENABLE_EPT.bits())
            || tables.may_set(SecondaryControls::ENABLE_VPID.bits())
        {
            self.ept_vpid = EptVpid::from_bits_retain(rdmsr(msr::IA32_VMX_EPT_VPID_CAP));
        }
    }

    /// The TRUE control MSRs exist. Source: SDM A.1 "Basic VMX Information", bit 55.
    const fn has_true_controls(&self) -> bool {
        self.basic & 1 << 55 != 0
    }

    /// The VMCS revision identifier, which the first word of each region must hold.
    pub const fn revision(&self) -> u32 {
        self.basic as u32 & 0x7fff_ffff
    }

    /// TSC ticks that one count of the preemption timer lasts, as a shift count.
    ///
    /// Source: SDM A.6 "Miscellaneous Data", bits 4:0.
    pub const fn preemption_shift(&self) -> u32 {
        self.misc as u32 & 0x1f
    }

    /// Whether a software event of length 0 can be injected.
    ///
    /// Source: SDM A.6 "Miscellaneous Data", bit 30.
    pub const fn zero_length_events(&self) -> bool {
        self.misc & 1 << 30 != 0
    }

    /// Whether any exception can be injected with or without an error code.
    ///
    /// Source: SDM A.1 "Basic VMX Information", bit 56.
    pub const fn free_error_codes(&self) -> bool {
        self.basic & 1 << 56 != 0
    }

    /// Whether firmware left the decision about VMX to us.
    pub const fn feature_control_open(&self) -> bool {
        self.feature_control & FEATURE_CONTROL_LOCK == 0
    }

    /// Whether translations of one VPID can be discarded.
    pub const fn tagged_flush(&self) -> bool {
        self.ept_vpid.contains(EptVpid::INVVPID)
            && self.ept_vpid.intersects(EptVpid::INVVPID_SINGLE.union(EptVpid::INVVPID_ALL))
    }

    /// Whether VPIDs are usable: tagged translations need a way to discard them.
    pub const fn vpid(&self) -> bool {
        Allowed(self.secondary).may_set(SecondaryControls::ENABLE_VPID.bits())
            && self.tagged_flush()
    }
}

/// Judges what was collected.
///
/// Everything that each guest needs is demanded here, so that the image refuses
/// to start rather than a vCPU to enter: real mode has no substitute for
/// unrestricted guest, and that needs EPT.
pub fn probe(raw: &RawCapabilities) -> Result<Capabilities, Unavailable> {
    if raw.cpuid_1_ecx & CPUID_VMX == 0 {
        return Err(Unavailable::NotInCpuid { extension: EXTENSION, leaf: FEATURE_LEAF });
    }
    check_firmware(raw)?;
    check_ept(raw)?;
    ControlSet::nested(raw)?;
    ControlSet::shadow(raw)?;
    Ok(Capabilities {
        extension: EXTENSION,
        revision: raw.revision(),
        address_space_ids: if raw.vpid() { 1 << 16 } else { 0 },
        nested_paging: true,
        unrestricted_guest: true,
        shadow_unpaged: false,
        instruction_length: true,
        instruction_bytes: false,
        tagged_flush: raw.vpid(),
        nested_1g_pages: raw.ept_vpid.contains(EptVpid::LEAF_1G),
        xsetbv_exits: true,
        // Tried when VMX is turned on.
        xsavec: false,
        preemption_timer: Allowed(raw.pin).may_set(PinbasedControls::VMX_PREEMPTION_TIMER.bits()),
    })
}

/// Firmware must have allowed VMXON outside SMX, or left the choice open.
fn check_firmware(raw: &RawCapabilities) -> Result<(), Unavailable> {
    if raw.feature_control_open() || raw.feature_control & FEATURE_CONTROL_VMXON != 0 {
        return Ok(());
    }
    Err(Unavailable::LockedOff {
        extension: EXTENSION,
        msr: "IA32_FEATURE_CONTROL",
        value: raw.feature_control,
    })
}

/// EPT with four levels in write-back memory, flushable, and unrestricted guest.
fn check_ept(raw: &RawCapabilities) -> Result<(), Unavailable> {
    let secondary = [
        ("EPT", SecondaryControls::ENABLE_EPT.bits()),
        ("unrestricted guest", SecondaryControls::UNRESTRICTED_GUEST.bits()),
    ];
    for (feature, bit) in secondary {
        if !Allowed(raw.secondary).may_set(bit) {
            let register = "IA32_VMX_PROCBASED_CTLS2";
            return Err(Unavailable::Missing { feature, register, value: raw.secondary });
        }
    }
    let ept = [
        ("4-level EPT walks", EptVpid::WALK_4),
        ("EPT in write-back memory", EptVpid::WRITE_BACK),
        ("2 MiB EPT leaves", EptVpid::LEAF_2M),
        ("INVEPT", EptVpid::INVEPT),
        ("all-context INVEPT", EptVpid::INVEPT_ALL),
    ];
    for (feature, bit) in ept {
        if !raw.ept_vpid.contains(bit) {
            let register = "IA32_VMX_EPT_VPID_CAP";
            return Err(Unavailable::Missing { feature, register, value: raw.ept_vpid.bits() });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
