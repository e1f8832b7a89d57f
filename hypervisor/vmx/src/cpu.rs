//! VMX on one physical CPU.
#![expect(unsafe_code, reason = "turning VMX on changes the CPU under everybody")]

use crate::capabilities::{FEATURE_CONTROL_LOCK, FEATURE_CONTROL_VMXON, RawCapabilities, probe};
use crate::controls::ControlSet;
use crate::fields::HostState;
use crate::instructions as cpu;
use crate::passive::Slot;
use crate::segments;
use crate::vcpu::{Creation, VmxVcpu};
use anchorite_vcpu::{Capabilities, Cr4, Extended, HostPages, PageSource, Unavailable};
use core::cell::Cell;
use x86::msr;

/// CPUID and the capability MSRs of this CPU.
///
/// # Safety
/// Ring 0.
pub unsafe fn collect() -> RawCapabilities {
    // SAFETY: ring 0, and `collect` asks only for MSRs that the CPU announces.
    RawCapabilities::collect(cpu::cpuid(1)[2], |index| unsafe { cpu::rdmsr(index) })
}

/// A physical CPU in VMX operation; makes virtual CPUs that run on it.
///
/// It stays on its CPU: it cannot be sent to another thread. VMX is never turned off
/// again, since the image ends by turning the machine off.
#[derive(Debug)]
pub struct VmxCpu {
    raw: RawCapabilities,
    capabilities: Capabilities,
    extended: Extended,
    nested: ControlSet,
    shadow: ControlSet,
    slot: Slot,
    next_vpid: Cell<u16>,
}

impl VmxCpu {
    /// Turns VMX on, on the CPU that executes this. Takes two pages.
    ///
    /// # Safety
    /// Ring 0, in a task that never moves to another CPU. The host executes no
    /// SYSCALL, no SWAPGS and no floating-point instruction, needs no debug register,
    /// and has a handler for NMIs; `pages` keeps its own promise.
    pub unsafe fn enable(pages: &mut dyn PageSource) -> Result<Self, Unavailable> {
        // SAFETY: ring 0 by the caller's promise.
        let raw = unsafe { collect() };
        let mut capabilities = probe(&raw)?;
        let (nested, shadow) = (ControlSet::nested(&raw)?, ControlSet::shadow(&raw)?);
        let slot = Slot::new(take(pages, 1)?);
        let extended = Extended::collect(cpu::cpuid_subleaf);
        turn_on(&raw, extended, take(pages, 1)?)?;
        capabilities.xsavec = extended.compacts(|area| cpu::compacted(area, extended.states));
        // Translations from before belong to nobody.
        cpu::invept(cpu::Invept::All);
        if raw.vpid() {
            cpu::invvpid(cpu::Invvpid::All);
        }
        Ok(Self { raw, capabilities, extended, nested, shadow, slot, next_vpid: Cell::new(1) })
    }

    /// What this CPU offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The same, unjudged.
    pub fn raw_capabilities(&self) -> &RawCapabilities {
        &self.raw
    }

    /// A virtual CPU in the state of a CPU after reset; it needs a root before it
    /// can run. Takes five pages.
    ///
    /// Each exit loads the host's IDT, CR3, FS.base and the like as they are *now*:
    /// the host may not change them later, and the vCPU runs in the task that made it.
    pub fn vcpu(&self, pages: &mut dyn PageSource) -> Result<VmxVcpu, Unavailable> {
        VmxVcpu::new(Creation {
            raw: self.raw,
            capabilities: self.capabilities,
            extended: self.extended,
            nested: self.nested,
            shadow: self.shadow,
            slot: self.slot,
            vpid: self.take_vpid(),
            host: host_state(),
            vmcs: take(pages, 1)?,
            bitmaps: take(pages, 3)?,
            resting: take(pages, 1)?,
        })
    }

    /// A VPID nobody else has on this CPU; 0, no tagging, when they run out.
    fn take_vpid(&self) -> u16 {
        let vpid = if self.nested.has_vpid() { self.next_vpid.get() } else { 0 };
        if vpid != 0 {
            self.next_vpid.set(vpid.wrapping_add(1));
        }
        vpid
    }
}

fn take(pages: &mut dyn PageSource, count: usize) -> Result<HostPages, Unavailable> {
    pages.pages(count).ok_or(Unavailable::NoMemory { pages: count })
}

/// Source: SDM 24.7 "Enabling and Entering VMX Operation", 25.11.5 "VMXON Region".
fn turn_on(
    raw: &RawCapabilities,
    extended: Extended,
    mut region: HostPages,
) -> Result<(), Unavailable> {
    if raw.feature_control_open() {
        let value = raw.feature_control | FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON;
        // SAFETY: the MSR exists where CPUID shows VMX, and is not locked.
        unsafe { cpu::wrmsr(msr::IA32_FEATURE_CONTROL, value) };
    }
    let cr0 = (cpu::cr0() | raw.cr0_fixed0) & raw.cr0_fixed1;
    let wanted = Cr4::VMXE | extended.host_cr4();
    let cr4 = (cpu::cr4() | wanted.bits() | raw.cr4_fixed0) & raw.cr4_fixed1;
    // SAFETY: the host runs in long mode, whose bits VMX leaves alone; NE, VMXE and
    // OSXSAVE, which it adds, concern x87 errors, VMX and XSAVE only, and PKE pages of
    // user mode, of which the host has none.
    unsafe {
        cpu::set_cr0(cr0);
        cpu::set_cr4(cr4);
    }
    let address = region.physical;
    stamp(&mut region, raw.revision());
    // SAFETY: the page is ours for good and stamped; the fixed bits are set, and
    // IA32_FEATURE_CONTROL was either set above or found fit by `probe`.
    if unsafe { cpu::vmxon(address) } {
        Ok(())
    } else {
        Err(Unavailable::EnableFailed { what: "VMXON", value: address.as_u64() })
    }
}

/// Writes the revision identifier into the first word of a VMX region.
pub(crate) fn stamp(region: &mut HostPages, revision: u32) {
    if let Some((word, _)) =
        region.memory.first_mut().and_then(|page| page.0.split_first_chunk_mut())
    {
        *word = revision.to_le_bytes();
    }
}

/// The host's state at this moment.
fn host_state() -> HostState {
    let selectors = cpu::selectors();
    let (gdtr_base, _) = cpu::gdtr();
    let [.., tr] = selectors;
    // SAFETY: the GDT holds the 16 bytes of the TSS descriptor that TR was loaded from.
    let descriptor = unsafe {
        let first = (gdtr_base as *const u64).add(usize::from(tr >> 3));
        [first.read_unaligned(), first.add(1).read_unaligned()]
    };
    // SAFETY: every CPU with VMX and long mode has the MSRs below.
    let rdmsr = |index| unsafe { cpu::rdmsr(index) };
    let [fs_base, gs_base, pat, efer] =
        [msr::IA32_FS_BASE, msr::IA32_GS_BASE, msr::IA32_PAT, msr::IA32_EFER].map(rdmsr);
    let sysenter =
        [msr::IA32_SYSENTER_CS, msr::IA32_SYSENTER_ESP, msr::IA32_SYSENTER_EIP].map(rdmsr);
    HostState {
        cr0: cpu::cr0(),
        cr3: cpu::cr3(),
        cr4: cpu::cr4(),
        selectors,
        fs_base,
        gs_base,
        tr_base: segments::system_base(descriptor),
        gdtr_base,
        idtr_base: cpu::idtr().0,
        sysenter,
        pat,
        efer,
    }
}
