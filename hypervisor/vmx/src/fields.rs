//! Which VMCS fields a new vCPU starts with, and their names for dumps.
//!
//! Each function gives a table of encodings and values; [`VmxCpu`](crate::VmxCpu)
//! applies them in one loop.
//!
//! Source: SDM 25.4 "Guest-State Area", 25.5 "Host-State Area", 25.6 to 25.8 for the
//! controls; appendix B "Field Encoding in VMCS".

use crate::controls::ControlSet;
use anchorite_vcpu::GuestMsr;
use x86::msr;
use x86::vmx::vmcs::{control, guest, host, ro};

/// A field's encoding and its value.
pub type Setting = (u32, u64);

/// TSC ticks after which the guest's turn ends although no interrupt came: some 10 ms
/// on today's machines. A backstop against guests that cannot be interrupted, not a
/// time slice.
pub const BACKSTOP_TICKS: u64 = 1 << 24;

/// No VMCS is linked. Source: SDM 25.4.2 "Guest Non-Register State".
const NO_LINK: u64 = u64::MAX;
/// DR7 after reset, and as each exit leaves it.
const DR7_RESET: u64 = 0x400;
/// RFLAGS with nothing set but the bit that always is.
const RFLAGS_RESET: u64 = 2;
/// RIP after reset.
const RIP_RESET: u64 = 0xfff0;
/// IA32_PAT after reset. Source: SDM 12.12.4 "Programming the PAT".
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// Limit of a descriptor table after reset.
const TABLE_LIMIT_RESET: u64 = 0xffff;

/// The host's state as each exit loads it.
///
/// An exit also sets the limits of GDTR and IDTR to 0xffff and LDTR to null, and
/// switches DR7 to 0x400. Source: SDM 28.5 "Loading Host State".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4, VMXE included.
    pub cr4: u64,
    /// ES, CS, SS, DS, FS, GS, TR.
    pub selectors: [u16; 7],
    /// FS.base.
    pub fs_base: u64,
    /// GS.base.
    pub gs_base: u64,
    /// Linear address of the TSS.
    pub tr_base: u64,
    /// Linear address of the GDT.
    pub gdtr_base: u64,
    /// Linear address of the IDT.
    pub idtr_base: u64,
    /// IA32_SYSENTER_CS, ESP and EIP.
    pub sysenter: [u64; 3],
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_EFER.
    pub efer: u64,
}

/// The host-state fields but RSP, which the world switch writes.
///
/// RPL and TI of host selectors must be 0. Source: SDM 27.2.3 "Checks on Host Segment
/// and Descriptor-Table Registers".
pub fn host_state(state: &HostState, exit_address: u64) -> [Setting; 22] {
    let [es, cs, ss, ds, fs, gs, tr] = state.selectors.map(|selector| u64::from(selector & !7));
    let [code, stack, entry] = state.sysenter;
    [
        (host::CR0, state.cr0),
        (host::CR3, state.cr3),
        (host::CR4, state.cr4),
        (host::ES_SELECTOR, es),
        (host::CS_SELECTOR, cs),
        (host::SS_SELECTOR, ss),
        (host::DS_SELECTOR, ds),
        (host::FS_SELECTOR, fs),
        (host::GS_SELECTOR, gs),
        (host::TR_SELECTOR, tr),
        (host::FS_BASE, state.fs_base),
        (host::GS_BASE, state.gs_base),
        (host::TR_BASE, state.tr_base),
        (host::GDTR_BASE, state.gdtr_base),
        (host::IDTR_BASE, state.idtr_base),
        (host::IA32_SYSENTER_CS, code),
        (host::IA32_SYSENTER_ESP, stack),
        (host::IA32_SYSENTER_EIP, entry),
        (host::IA32_PAT_FULL, state.pat),
        (host::IA32_EFER_FULL, state.efer),
        (host::RSP, 0),
        (host::RIP, exit_address),
    ]
}

/// Physical addresses and numbers that stay with a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// I/O bitmap A; B is the page after it.
    pub port_bitmaps: u64,
    /// The MSR bitmap.
    pub msr_bitmap: u64,
    /// The VPID; 0 where translations are not tagged.
    pub vpid: u16,
    /// As a shift count, TSC ticks to one count of the preemption timer.
    pub preemption_shift: u32,
}

/// Execution-control fields that are the same under each kind of root.
///
/// With both #PF fields 0, a #PF exits exactly if its bit in the exception bitmap is
/// set. Source: SDM 25.6.3 "Exception Bitmap".
pub fn execution(resources: &Resources) -> [Setting; 15] {
    [
        (control::IO_BITMAP_A_ADDR_FULL, resources.port_bitmaps),
        (control::IO_BITMAP_B_ADDR_FULL, resources.port_bitmaps + 0x1000),
        (control::MSR_BITMAPS_ADDR_FULL, resources.msr_bitmap),
        (control::EXCEPTION_BITMAP, 0),
        (control::PAGE_FAULT_ERR_CODE_MASK, 0),
        (control::PAGE_FAULT_ERR_CODE_MATCH, 0),
        (control::CR3_TARGET_COUNT, 0),
        (control::TSC_OFFSET_FULL, 0),
        (control::EPTP_FULL, 0),
        (control::VMEXIT_MSR_STORE_COUNT, 0),
        (control::VMEXIT_MSR_LOAD_COUNT, 0),
        (control::VMENTRY_MSR_LOAD_COUNT, 0),
        (control::VMENTRY_INTERRUPTION_INFO_FIELD, 0),
        (control::VMENTRY_EXCEPTION_ERR_CODE, 0),
        (control::VMENTRY_INSTRUCTION_LEN, 0),
    ]
}

/// Fields that exist only on CPUs with the feature they belong to.
pub fn optional(resources: &Resources, set: &ControlSet) -> [Option<Setting>; 2] {
    let timer = BACKSTOP_TICKS >> resources.preemption_shift;
    [
        set.has_vpid().then_some((control::VPID, u64::from(resources.vpid))),
        set.has_preemption_timer().then_some((guest::VMX_PREEMPTION_TIMER_VALUE, timer)),
    ]
}

/// The control words of one kind of root.
pub fn control_words(set: &ControlSet) -> [Setting; 5] {
    [
        (control::PINBASED_EXEC_CONTROLS, u64::from(set.pin)),
        (control::PRIMARY_PROCBASED_EXEC_CONTROLS, u64::from(set.primary)),
        (control::SECONDARY_PROCBASED_EXEC_CONTROLS, u64::from(set.secondary)),
        (control::VMEXIT_CONTROLS, u64::from(set.exit)),
        (control::VMENTRY_CONTROLS, u64::from(set.entry)),
    ]
}

/// Guest state after reset that is neither a segment nor a control register.
///
/// Source: SDM table 10-1 "IA-32 and Intel 64 Processor States Following Power-up,
/// Reset, or INIT".
pub const GUEST_RESET: [Setting; 22] = [
    (guest::LINK_PTR_FULL, NO_LINK),
    (guest::IA32_DEBUGCTL_FULL, 0),
    (guest::IA32_PAT_FULL, PAT_RESET),
    (guest::PDPTE0_FULL, 0),
    (guest::PDPTE1_FULL, 0),
    (guest::PDPTE2_FULL, 0),
    (guest::PDPTE3_FULL, 0),
    (guest::GDTR_BASE, 0),
    (guest::GDTR_LIMIT, TABLE_LIMIT_RESET),
    (guest::IDTR_BASE, 0),
    (guest::IDTR_LIMIT, TABLE_LIMIT_RESET),
    (guest::INTERRUPTIBILITY_STATE, 0),
    (guest::ACTIVITY_STATE, 0),
    (guest::PENDING_DBG_EXCEPTIONS, 0),
    (guest::IA32_SYSENTER_CS, 0),
    (guest::IA32_SYSENTER_ESP, 0),
    (guest::IA32_SYSENTER_EIP, 0),
    (guest::CR3, 0),
    (guest::DR7, DR7_RESET),
    (guest::RSP, 0),
    (guest::RIP, RIP_RESET),
    (guest::RFLAGS, RFLAGS_RESET),
];

/// Where the value of a guest's MSR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrHome {
    /// In this guest-state field: VMX switches it.
    Field(u32),
    /// In the CPU's MSR of this number, while the vCPU's registers are loaded.
    Cpu(u32),
}

/// Where the value of `register` is.
pub const fn msr_home(register: GuestMsr) -> MsrHome {
    match register {
        GuestMsr::FsBase => MsrHome::Field(guest::FS_BASE),
        GuestMsr::GsBase => MsrHome::Field(guest::GS_BASE),
        GuestMsr::SysenterCs => MsrHome::Field(guest::IA32_SYSENTER_CS),
        GuestMsr::SysenterEsp => MsrHome::Field(guest::IA32_SYSENTER_ESP),
        GuestMsr::SysenterEip => MsrHome::Field(guest::IA32_SYSENTER_EIP),
        GuestMsr::Pat => MsrHome::Field(guest::IA32_PAT_FULL),
        GuestMsr::DebugCtl => MsrHome::Field(guest::IA32_DEBUGCTL_FULL),
        GuestMsr::Star => MsrHome::Cpu(msr::IA32_STAR),
        GuestMsr::Lstar => MsrHome::Cpu(msr::IA32_LSTAR),
        GuestMsr::Cstar => MsrHome::Cpu(msr::IA32_CSTAR),
        GuestMsr::Sfmask => MsrHome::Cpu(msr::IA32_FMASK),
        GuestMsr::KernelGsBase => MsrHome::Cpu(msr::IA32_KERNEL_GSBASE),
        GuestMsr::TscAux => MsrHome::Cpu(msr::IA32_TSC_AUX),
    }
}

/// Every field worth dumping, by its name in the manual, in the manual's order.
pub const NAMES: &[(&str, u32)] = &[
    ("exit reason", ro::EXIT_REASON),
    ("exit qualification", ro::EXIT_QUALIFICATION),
    ("VM-instruction error", ro::VM_INSTRUCTION_ERROR),
    ("VM-exit interruption information", ro::VMEXIT_INTERRUPTION_INFO),
    ("VM-exit interruption error code", ro::VMEXIT_INTERRUPTION_ERR_CODE),
    ("IDT-vectoring information", ro::IDT_VECTORING_INFO),
    ("IDT-vectoring error code", ro::IDT_VECTORING_ERR_CODE),
    ("VM-exit instruction length", ro::VMEXIT_INSTRUCTION_LEN),
    ("VM-exit instruction information", ro::VMEXIT_INSTRUCTION_INFO),
    ("guest-linear address", ro::GUEST_LINEAR_ADDR),
    ("guest-physical address", ro::GUEST_PHYSICAL_ADDR_FULL),
    ("guest CR0", guest::CR0),
    ("guest CR3", guest::CR3),
    ("guest CR4", guest::CR4),
    ("guest IA32_EFER", guest::IA32_EFER_FULL),
    ("guest RIP", guest::RIP),
    ("guest RSP", guest::RSP),
    ("guest RFLAGS", guest::RFLAGS),
    ("guest DR7", guest::DR7),
    ("guest CS selector", guest::CS_SELECTOR),
    ("guest CS base", guest::CS_BASE),
    ("guest CS limit", guest::CS_LIMIT),
    ("guest CS access rights", guest::CS_ACCESS_RIGHTS),
    ("guest SS selector", guest::SS_SELECTOR),
    ("guest SS base", guest::SS_BASE),
    ("guest SS limit", guest::SS_LIMIT),
    ("guest SS access rights", guest::SS_ACCESS_RIGHTS),
    ("guest DS selector", guest::DS_SELECTOR),
    ("guest DS base", guest::DS_BASE),
    ("guest DS limit", guest::DS_LIMIT),
    ("guest DS access rights", guest::DS_ACCESS_RIGHTS),
    ("guest ES selector", guest::ES_SELECTOR),
    ("guest ES base", guest::ES_BASE),
    ("guest ES limit", guest::ES_LIMIT),
    ("guest ES access rights", guest::ES_ACCESS_RIGHTS),
    ("guest FS selector", guest::FS_SELECTOR),
    ("guest FS base", guest::FS_BASE),
    ("guest FS limit", guest::FS_LIMIT),
    ("guest FS access rights", guest::FS_ACCESS_RIGHTS),
    ("guest GS selector", guest::GS_SELECTOR),
    ("guest GS base", guest::GS_BASE),
    ("guest GS limit", guest::GS_LIMIT),
    ("guest GS access rights", guest::GS_ACCESS_RIGHTS),
    ("guest LDTR selector", guest::LDTR_SELECTOR),
    ("guest LDTR base", guest::LDTR_BASE),
    ("guest LDTR limit", guest::LDTR_LIMIT),
    ("guest LDTR access rights", guest::LDTR_ACCESS_RIGHTS),
    ("guest TR selector", guest::TR_SELECTOR),
    ("guest TR base", guest::TR_BASE),
    ("guest TR limit", guest::TR_LIMIT),
    ("guest TR access rights", guest::TR_ACCESS_RIGHTS),
    ("guest GDTR base", guest::GDTR_BASE),
    ("guest GDTR limit", guest::GDTR_LIMIT),
    ("guest IDTR base", guest::IDTR_BASE),
    ("guest IDTR limit", guest::IDTR_LIMIT),
    ("guest IA32_DEBUGCTL", guest::IA32_DEBUGCTL_FULL),
    ("guest IA32_PAT", guest::IA32_PAT_FULL),
    ("guest IA32_SYSENTER_CS", guest::IA32_SYSENTER_CS),
    ("guest IA32_SYSENTER_ESP", guest::IA32_SYSENTER_ESP),
    ("guest IA32_SYSENTER_EIP", guest::IA32_SYSENTER_EIP),
    ("guest PDPTE0", guest::PDPTE0_FULL),
    ("guest PDPTE1", guest::PDPTE1_FULL),
    ("guest PDPTE2", guest::PDPTE2_FULL),
    ("guest PDPTE3", guest::PDPTE3_FULL),
    ("guest interruptibility state", guest::INTERRUPTIBILITY_STATE),
    ("guest activity state", guest::ACTIVITY_STATE),
    ("guest pending debug exceptions", guest::PENDING_DBG_EXCEPTIONS),
    ("VMCS link pointer", guest::LINK_PTR_FULL),
    ("pin-based controls", control::PINBASED_EXEC_CONTROLS),
    ("primary processor-based controls", control::PRIMARY_PROCBASED_EXEC_CONTROLS),
    ("secondary processor-based controls", control::SECONDARY_PROCBASED_EXEC_CONTROLS),
    ("VM-exit controls", control::VMEXIT_CONTROLS),
    ("VM-entry controls", control::VMENTRY_CONTROLS),
    ("VM-entry interruption information", control::VMENTRY_INTERRUPTION_INFO_FIELD),
    ("VM-entry exception error code", control::VMENTRY_EXCEPTION_ERR_CODE),
    ("VM-entry instruction length", control::VMENTRY_INSTRUCTION_LEN),
    ("exception bitmap", control::EXCEPTION_BITMAP),
    ("CR0 guest/host mask", control::CR0_GUEST_HOST_MASK),
    ("CR0 read shadow", control::CR0_READ_SHADOW),
    ("CR4 guest/host mask", control::CR4_GUEST_HOST_MASK),
    ("CR4 read shadow", control::CR4_READ_SHADOW),
    ("EPT pointer", control::EPTP_FULL),
    ("VPID", control::VPID),
    ("TSC offset", control::TSC_OFFSET_FULL),
    ("I/O bitmap A", control::IO_BITMAP_A_ADDR_FULL),
    ("I/O bitmap B", control::IO_BITMAP_B_ADDR_FULL),
    ("MSR bitmap", control::MSR_BITMAPS_ADDR_FULL),
    ("host CR0", host::CR0),
    ("host CR3", host::CR3),
    ("host CR4", host::CR4),
    ("host IA32_EFER", host::IA32_EFER_FULL),
    ("host RSP", host::RSP),
    ("host RIP", host::RIP),
];

#[cfg(test)]
mod tests;
