//! SVM on one physical CPU.
#![expect(unsafe_code, reason = "turning SVM on changes the CPU under everybody")]

use crate::asid::AsidPool;
use crate::bitmaps::{MSR_PAGES, PORT_PAGES};
use crate::capabilities::{RawCapabilities, probe};
use crate::instructions as cpu;
use crate::passive::Slot;
use crate::vcpu::{Creation, SvmVcpu};
use anchorite_addr::HpaPage;
use anchorite_vcpu::{Capabilities, Efer, Extended, HostPages, PageSource, Unavailable};
use x86::msr::IA32_EFER;

/// VM_HSAVE_PA: where VMRUN saves the host's state.
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// CPUID and VM_CR of this CPU.
///
/// # Safety
/// Ring 0.
pub unsafe fn collect() -> RawCapabilities {
    // SAFETY: ring 0, and `collect` asks only for the MSR that CPUID announces.
    RawCapabilities::collect(cpu::cpuid, |index| unsafe { cpu::rdmsr(index) })
}

/// A physical CPU with SVM enabled; makes virtual CPUs that run on it.
///
/// It stays on its CPU: it cannot be sent to another thread. SVM is never turned off
/// again, since the image ends by turning the machine off.
#[derive(Debug)]
pub struct SvmCpu {
    raw: RawCapabilities,
    capabilities: Capabilities,
    extended: Extended,
    slot: Slot,
    /// Where the world switch keeps what VMSAVE saves of the host.
    host: HpaPage,
}

impl SvmCpu {
    /// Turns SVM on, on the CPU that executes this. Takes three pages.
    ///
    /// # Safety
    /// Ring 0, in a task that never moves to another CPU. The host executes no
    /// floating-point instruction and needs no debug register; `pages` keeps its own
    /// promise.
    pub unsafe fn enable(pages: &mut dyn PageSource) -> Result<Self, Unavailable> {
        // SAFETY: ring 0 by the caller's promise.
        let raw = unsafe { collect() };
        let mut capabilities = probe(&raw)?;
        let extended = Extended::collect(cpu::cpuid_subleaf);
        // SAFETY: CPUID shows what they belong to. OSXSAVE concerns XSAVE's instructions
        // only, and PKE pages of user mode, of which the host has none.
        unsafe { cpu::set_cr4_bits(extended.host_cr4()) };
        capabilities.xsavec = extended.compacts(|area| cpu::compacted(area, extended.states));
        let asids = AsidPool::new(capabilities.address_space_ids);
        let slot = Slot::new(take_as_they_are(pages, 1)?, asids);
        // VMRUN and VMSAVE write there before #VMEXIT and VMLOAD read.
        let host = take_as_they_are(pages, 1)?.physical;
        turn_on(take_as_they_are(pages, 1)?.physical)?;
        Ok(Self { raw, capabilities, extended, slot, host })
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
    /// can run. Takes seven pages.
    pub fn vcpu(&self, pages: &mut dyn PageSource) -> Result<SvmVcpu, Unavailable> {
        Ok(SvmVcpu::new(Creation {
            raw: self.raw,
            capabilities: self.capabilities,
            extended: self.extended,
            slot: self.slot,
            host: self.host,
            vmcb: take(pages, 1)?,
            maps: take_as_they_are(pages, PORT_PAGES + MSR_PAGES)?,
            resting: take_as_they_are(pages, 1)?,
        }))
    }
}

fn take(pages: &mut dyn PageSource, count: usize) -> Result<HostPages, Unavailable> {
    pages.pages(count).ok_or(Unavailable::NoMemory { pages: count })
}

/// For what is filled in before anyone reads it.
fn take_as_they_are(pages: &mut dyn PageSource, count: usize) -> Result<HostPages, Unavailable> {
    pages.pages_as_they_are(count).ok_or(Unavailable::NoMemory { pages: count })
}

/// Source: APM vol. 2, 15.4 "Enabling SVM"; 15.30.4 "VM_HSAVE_PA MSR".
fn turn_on(save_area: HpaPage) -> Result<(), Unavailable> {
    // SAFETY: every CPU with long mode has EFER. SVME only makes the new instructions
    // available; firmware's SVMDIS was checked by `probe`, so that it can be set.
    let efer = unsafe {
        cpu::wrmsr(IA32_EFER, cpu::rdmsr(IA32_EFER) | Efer::SVME.bits());
        cpu::rdmsr(IA32_EFER)
    };
    if efer & Efer::SVME.bits() == 0 {
        return Err(Unavailable::EnableFailed { what: "EFER.SVME", value: efer });
    }
    // SAFETY: the MSR exists where SVM does; the page is ours for good.
    unsafe { cpu::wrmsr(VM_HSAVE_PA, save_area.as_u64()) };
    Ok(())
}
