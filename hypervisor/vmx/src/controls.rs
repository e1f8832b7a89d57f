//! What is intercepted, and what the guest's control registers become in hardware.
//!
//! Source: SDM 25.6 "VM-Execution Control Fields", 25.7 "VM-Exit Control Fields",
//! 25.8 "VM-Entry Control Fields", A.2 to A.5 for what a CPU allows.

use crate::capabilities::RawCapabilities;
use anchorite_vcpu::root::ShadowFormat;
use anchorite_vcpu::{Cr0, Cr4, Efer, Instructions, Root, Unavailable};
use x86::vmx::vmcs::control::{
    EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls,
};

/// A control bit and what is wanted of it.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// The bit, as a mask.
    pub bit: u32,
    /// Whether we cannot do without.
    pub required: bool,
    /// Why it is set.
    pub reason: &'static str,
}

/// A bit that must be settable.
const fn need(bit: u32, reason: &'static str) -> Control {
    Control { bit, required: true, reason }
}

/// A bit that is set where the CPU allows it.
const fn like(bit: u32, reason: &'static str) -> Control {
    Control { bit, required: false, reason }
}

/// Pin-based controls.
pub const PIN: &[Control] = &[
    need(PinbasedControls::EXTERNAL_INTERRUPT_EXITING.bits(), "the host takes its interrupts"),
    need(PinbasedControls::NMI_EXITING.bits(), "the host takes its NMIs"),
    need(PinbasedControls::VIRTUAL_NMIS.bits(), "NMI blocking is the guest's own; NMI windows"),
    like(PinbasedControls::VMX_PREEMPTION_TIMER.bits(), "a turn ends even without interrupts"),
];

/// Primary processor-based controls for every root.
pub const PRIMARY: &[Control] = &[
    need(PrimaryControls::USE_TSC_OFFSETTING.bits(), "the guest's TSC starts where it is told to"),
    need(PrimaryControls::HLT_EXITING.bits(), "an idle guest gives the CPU back"),
    need(PrimaryControls::MWAIT_EXITING.bits(), "as HLT"),
    need(PrimaryControls::MONITOR_EXITING.bits(), "it would watch host memory"),
    need(PrimaryControls::RDPMC_EXITING.bits(), "the counters are the host's"),
    need(PrimaryControls::CR8_LOAD_EXITING.bits(), "it would set the host APIC's priority"),
    need(PrimaryControls::CR8_STORE_EXITING.bits(), "it would read the host APIC's priority"),
    need(PrimaryControls::MOV_DR_EXITING.bits(), "DR0-DR3 and DR6 are not switched by hardware"),
    need(PrimaryControls::USE_IO_BITMAPS.bits(), "ports exit one by one"),
    need(PrimaryControls::USE_MSR_BITMAPS.bits(), "MSRs exit one by one"),
    need(PrimaryControls::SECONDARY_CONTROLS.bits(), "EPT and VPID are there"),
];

/// Primary controls that a shadow root adds: the guest's CR3 and TLB are not the CPU's.
pub const PRIMARY_SHADOW: &[Control] = &[
    need(PrimaryControls::CR3_LOAD_EXITING.bits(), "a new CR3 asks for a new root"),
    need(PrimaryControls::CR3_STORE_EXITING.bits(), "CR3 holds the root, not what the guest wrote"),
    need(PrimaryControls::INVLPG_EXITING.bits(), "the tables must follow"),
];

/// Secondary processor-based controls for every root.
pub const SECONDARY: &[Control] = &[
    like(SecondaryControls::ENABLE_VPID.bits(), "entries and exits keep the TLB"),
    like(SecondaryControls::WBINVD_EXITING.bits(), "it would empty the host's caches"),
    like(SecondaryControls::ENABLE_RDTSCP.bits(), "else #UD where CPUID shows it"),
    like(SecondaryControls::ENABLE_INVPCID.bits(), "else #UD where CPUID shows it"),
];

/// Secondary controls that a nested root adds.
pub const SECONDARY_NESTED: &[Control] = &[
    need(SecondaryControls::ENABLE_EPT.bits(), "guest-physical addresses are translated"),
    need(SecondaryControls::UNRESTRICTED_GUEST.bits(), "real mode and paging off run natively"),
];

/// VM-exit controls.
pub const EXIT: &[Control] = &[
    need(ExitControls::SAVE_DEBUG_CONTROLS.bits(), "DR7 and DEBUGCTL are the guest's"),
    need(ExitControls::HOST_ADDRESS_SPACE_SIZE.bits(), "the host runs in long mode"),
    need(ExitControls::SAVE_IA32_PAT.bits(), "the guest may write it without an exit"),
    need(ExitControls::LOAD_IA32_PAT.bits(), "the host's memory types stay"),
    need(ExitControls::SAVE_IA32_EFER.bits(), "LMA follows the guest's CR0.PG"),
    need(ExitControls::LOAD_IA32_EFER.bits(), "the host's NXE and SCE stay"),
];

/// VM-entry controls; "IA-32e mode guest" follows EFER.LMA.
pub const ENTRY: &[Control] = &[
    need(EntryControls::LOAD_DEBUG_CONTROLS.bits(), "DR7 and DEBUGCTL are the guest's"),
    need(EntryControls::LOAD_IA32_PAT.bits(), "the guest's memory types"),
    need(EntryControls::LOAD_IA32_EFER.bits(), "the guest's EFER"),
];

/// "IA-32e mode guest" of the VM-entry controls.
pub const IA32E_MODE_GUEST: u32 = EntryControls::IA32E_MODE_GUEST.bits();

/// A capability MSR of one control field: bits that must be 1 in its low half, bits
/// that may be 1 in its high half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed(pub u64);

impl Allowed {
    /// Whether all of `bits` may be 1.
    pub const fn may_set(self, bits: u32) -> bool {
        (self.0 >> 32) as u32 & bits == bits
    }

    /// The value for the control field called `name` that has the bits of `tables`
    /// and those the CPU forces.
    pub fn adjust(self, name: &'static str, tables: &[&[Control]]) -> Result<u32, Unavailable> {
        let may = (self.0 >> 32) as u32;
        let controls = || tables.iter().copied().flatten();
        let required = controls().filter(|control| control.required).fold(0, |a, c| a | c.bit);
        let refused = required & !may;
        if refused != 0 {
            return Err(Unavailable::Controls { field: name, refused });
        }
        let wanted = controls().fold(0, |bits, control| bits | control.bit);
        Ok(wanted & may | self.0 as u32)
    }

    /// Bits of `value` that this CPU refuses: forbidden ones set or forced ones clear.
    pub const fn refused(self, value: u32) -> u32 {
        (value & !((self.0 >> 32) as u32)) | (self.0 as u32 & !value)
    }
}

/// The control fields for one kind of root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlSet {
    /// Pin-based VM-execution controls.
    pub pin: u32,
    /// Primary processor-based VM-execution controls.
    pub primary: u32,
    /// Secondary processor-based VM-execution controls.
    pub secondary: u32,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls, "IA-32e mode guest" clear.
    pub entry: u32,
}

impl ControlSet {
    /// The controls under a nested root.
    pub fn nested(raw: &RawCapabilities) -> Result<Self, Unavailable> {
        Self::build(raw, &[PRIMARY], &[SECONDARY, SECONDARY_NESTED])
    }

    /// The controls under a shadow root.
    pub fn shadow(raw: &RawCapabilities) -> Result<Self, Unavailable> {
        Self::build(raw, &[PRIMARY, PRIMARY_SHADOW], &[SECONDARY])
    }

    fn build(
        raw: &RawCapabilities,
        primary: &[&[Control]],
        secondary: &[&[Control]],
    ) -> Result<Self, Unavailable> {
        let mut set = Self {
            pin: Allowed(raw.pin).adjust("pin-based VM-execution controls", &[PIN])?,
            primary: Allowed(raw.primary)
                .adjust("primary processor-based VM-execution controls", primary)?,
            secondary: Allowed(raw.secondary)
                .adjust("secondary processor-based VM-execution controls", secondary)?,
            exit: Allowed(raw.exit).adjust("VM-exit controls", &[EXIT])?,
            entry: Allowed(raw.entry).adjust("VM-entry controls", &[ENTRY])?,
        };
        if !raw.vpid() {
            set.disable_vpid();
        }
        Ok(set)
    }

    /// Takes away what is not in `permitted`: those instructions raise #UD then.
    pub fn permit(&mut self, permitted: Instructions) {
        let switches = [
            (Instructions::RDTSCP, SecondaryControls::ENABLE_RDTSCP),
            (Instructions::INVPCID, SecondaryControls::ENABLE_INVPCID),
        ];
        for (instruction, control) in switches {
            if !permitted.contains(instruction) {
                self.secondary &= !control.bits();
            }
        }
    }

    /// Whether translations are tagged with a VPID.
    pub const fn has_vpid(&self) -> bool {
        self.secondary & SecondaryControls::ENABLE_VPID.bits() != 0
    }

    /// Runs without a tag, where VPIDs have run out.
    pub const fn disable_vpid(&mut self) {
        self.secondary &= !SecondaryControls::ENABLE_VPID.bits();
    }

    /// Whether the preemption timer counts.
    pub const fn has_preemption_timer(&self) -> bool {
        self.pin & PinbasedControls::VMX_PREEMPTION_TIMER.bits() != 0
    }
}

/// CR0, CR4 and EFER as the guest reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestControl {
    /// CR0.
    pub cr0: Cr0,
    /// CR4.
    pub cr4: Cr4,
    /// EFER; LMA is derived and may hold anything.
    pub efer: Efer,
}

impl GuestControl {
    /// Whether long mode is active: enabled, and paging on.
    pub const fn long_mode(&self) -> bool {
        self.efer.contains(Efer::LME) && self.cr0.contains(Cr0::PG)
    }

    /// EFER with LMA as the guest reads it.
    pub fn visible_efer(&self) -> Efer {
        let mut efer = self.efer & VISIBLE_EFER;
        efer.set(Efer::LMA, self.long_mode());
        efer
    }
}

/// The bits of EFER that a guest has.
pub const VISIBLE_EFER: Efer = Efer::SCE.union(Efer::LME).union(Efer::LMA).union(Efer::NXE);

/// What the host imposes on a guest's control registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imposed {
    /// IA32_VMX_CR0_FIXED0: bits that must be 1 in VMX operation.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR4_FIXED0.
    pub cr4_fixed0: u64,
    /// The host's CR4.MCE: without it a machine check would shut the machine down.
    pub machine_check: bool,
    /// Changes of CR0.PG exit under a nested root.
    pub paging_exits: bool,
}

/// The control registers as the VMCS holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardwareControl {
    /// The guest CR0 field.
    pub cr0: u64,
    /// Bits of CR0 that the guest reads from the read shadow and cannot change
    /// without an exit.
    pub cr0_mask: u64,
    /// The guest CR4 field.
    pub cr4: u64,
    /// The same for CR4.
    pub cr4_mask: u64,
    /// The guest IA32_EFER field.
    pub efer: u64,
    /// "IA-32e mode guest".
    pub long_mode: bool,
}

/// CR0 bits that never reach the hardware: they would disable the host's caches.
const CACHING: Cr0 = Cr0::CD.union(Cr0::NW);
/// CR0 bits that unrestricted guest leaves to the guest.
const PAGING: Cr0 = Cr0::PE.union(Cr0::PG);

/// CR4 bits that the guest may change without an exit under any root: they concern
/// neither address translation nor a feature that may be hidden.
const CR4_OWN: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT);
/// The same under a nested root, where the CPU itself walks the guest's tables.
const CR4_OWN_NESTED: Cr4 = CR4_OWN.union(Cr4::PSE).union(Cr4::PAE);
/// CR4 bits that govern the guest's own tables and stay off over shadow tables.
const CR4_GUEST_TABLES: Cr4 = Cr4::PSE.union(Cr4::PGE).union(Cr4::LA57).union(Cr4::PCIDE);
/// CR4 bits that restrict accesses by page rights: without effect while paging is off.
const CR4_PAGE_RIGHTS: Cr4 = Cr4::SMEP.union(Cr4::SMAP).union(Cr4::PKE);

impl HardwareControl {
    /// What the hardware must hold so that the guest sees `view` under `root`.
    ///
    /// Reserved bits that the guest managed to set are passed on, so that entry
    /// fails and [`entry_check`](crate::entry_check) names them.
    pub fn new(view: GuestControl, root: Root, imposed: Imposed) -> Self {
        match root {
            Root::Nested { .. } => Self::nested(view, imposed),
            Root::Shadow { format, .. } => Self::shadow(view, format, imposed),
        }
    }

    fn nested(view: GuestControl, imposed: Imposed) -> Self {
        let forced = imposed.cr0_fixed0 & !PAGING.bits();
        let paging = if imposed.paging_exits { Cr0::PG } else { Cr0::empty() };
        Self {
            cr0: ((view.cr0 - CACHING) | Cr0::ET | Cr0::NE).bits() | forced,
            cr0_mask: (CACHING | Cr0::NE | paging).bits(),
            cr4: imposed.cr4(view.cr4),
            cr4_mask: !CR4_OWN_NESTED.bits(),
            efer: view.visible_efer().bits(),
            long_mode: view.long_mode(),
        }
    }

    /// PE is not forced: a shadow root has no real mode, and a refused entry says so.
    /// WP is, for write protection must bind ring 0 too; NXE is, for the tables use it.
    fn shadow(view: GuestControl, format: ShadowFormat, imposed: Imposed) -> Self {
        let long_mode = view.long_mode();
        let mut cr4 = (view.cr4 - CR4_GUEST_TABLES) | Cr4::PAE;
        cr4.set(Cr4::LA57, format == ShadowFormat::FiveLevel);
        if !view.cr0.contains(Cr0::PG) {
            cr4 -= CR4_PAGE_RIGHTS;
        }
        let mut efer = view.efer & VISIBLE_EFER | Efer::NXE;
        efer.set(Efer::LME | Efer::LMA, long_mode);
        let forced = imposed.cr0_fixed0 & !PAGING.bits();
        Self {
            cr0: ((view.cr0 - CACHING) | Cr0::ET | Cr0::NE | Cr0::PG | Cr0::WP).bits() | forced,
            cr0_mask: (CACHING | Cr0::NE | PAGING | Cr0::WP).bits(),
            cr4: imposed.cr4(cr4),
            cr4_mask: !CR4_OWN.bits(),
            efer: efer.bits(),
            long_mode,
        }
    }
}

impl Imposed {
    /// CR4 with what VMX demands, and the host's own machine-check enable.
    fn cr4(self, mut cr4: Cr4) -> u64 {
        cr4.set(Cr4::MCE, self.machine_check);
        (cr4 | Cr4::VMXE).bits() | self.cr4_fixed0
    }
}

/// A control register as the guest reads it: masked bits from the read shadow.
///
/// Source: SDM 25.6.6 "Guest/Host Masks and Read Shadows for CR0 and CR4".
pub const fn visible(hardware: u64, mask: u64, shadow: u64) -> u64 {
    hardware & !mask | shadow & mask
}

#[cfg(test)]
mod tests;
