//! Guest registers that stay loaded while the host runs.
//!
//! VMX does not switch SYSCALL's MSRs, KernelGSbase, CR2, the debug registers, TSC_AUX,
//! XCR0 or the registers of XSAVE. The host uses none of them: Hermit as a library in ring 0
//! executes no SYSCALL and no SWAPGS (its handlers test the interrupted CS first),
//! handles page faults only to die, arms no breakpoint, and is built without
//! floating point. So the guest's values stay in the CPU across exits, and change
//! only when another vCPU is used on the same physical CPU.
#![expect(unsafe_code, reason = "the state lives in memory shared by a CPU's vCPUs")]

use crate::instructions as cpu;
use anchorite_addr::HpaPage;
use anchorite_vcpu::{Extended, HostPages, StateArea};
use core::cell::Cell;
use core::ptr::NonNull;
use x86::msr;

/// MSRs that VMX does not switch.
const MSRS: [u32; 5] =
    [msr::IA32_STAR, msr::IA32_LSTAR, msr::IA32_CSTAR, msr::IA32_FMASK, msr::IA32_KERNEL_GSBASE];

/// DR6 after reset. Source: SDM 18.2.3 "Debug Status Register (DR6)".
const DR6_RESET: u64 = 0xffff_0ff0;

/// Where a vCPU's registers of this group rest while another vCPU's are loaded.
#[repr(C, align(64))]
struct Resting {
    area: StateArea,
    extended: Extended,
    xcr0: u64,
    tsc_aux: u64,
    vmcs: HpaPage,
    cr2: u64,
    debug: [u64; 5],
    msrs: [u64; MSRS.len()],
}

const _: () = assert!(size_of::<Resting>() <= 4096);

/// XCR0 after reset: x87 only.
pub(crate) const XCR0_RESET: u64 = 1;

/// Which vCPU's registers are loaded on one physical CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot(NonNull<Cell<Option<NonNull<Resting>>>>);

impl Slot {
    /// The slot of a CPU that no vCPU has used.
    pub(crate) fn new(page: HostPages) -> Self {
        let slot = NonNull::from(page.memory).cast::<Cell<Option<NonNull<Resting>>>>();
        // SAFETY: the page is ours for good, large enough and aligned.
        unsafe { slot.write(Cell::new(None)) };
        Self(slot)
    }
}

/// One vCPU's claim on the registers of its physical CPU.
#[derive(Debug)]
pub(crate) struct Passive {
    slot: Slot,
    resting: NonNull<Resting>,
}

impl Passive {
    /// The registers of a vCPU that has not run, with the VMCS that goes with them.
    pub(crate) fn new(slot: Slot, page: HostPages, vmcs: HpaPage, extended: Extended) -> Self {
        let resting = NonNull::from(page.memory).cast::<Resting>();
        let initial = Resting {
            area: StateArea::INITIAL,
            extended,
            xcr0: XCR0_RESET,
            tsc_aux: 0,
            vmcs,
            cr2: 0,
            debug: [0, 0, 0, 0, DR6_RESET],
            msrs: [0; MSRS.len()],
        };
        // SAFETY: the page is ours for good, large enough and aligned.
        unsafe { resting.write(initial) };
        Self { slot, resting }
    }

    /// Makes this vCPU's VMCS and registers the loaded ones.
    ///
    /// To be called with interrupts off, for a task switch could bring another vCPU.
    #[inline]
    pub(crate) fn claim(&self) {
        // SAFETY: `Slot::new` initialized it, and it is never freed. Only this CPU
        // uses it: neither `Slot` nor `Passive` can leave their thread.
        let loaded = unsafe { self.slot.0.as_ref() };
        if loaded.get() != Some(self.resting) {
            self.switch(loaded);
        }
    }

    #[cold]
    fn switch(&self, loaded: &Cell<Option<NonNull<Resting>>>) {
        if let Some(mut previous) = loaded.get() {
            // SAFETY: a slot refers only to memory that `new` initialized and that is
            // never freed; no other reference to it exists outside this function.
            unsafe { previous.as_mut() }.save();
        }
        // SAFETY: as above; it is not `previous`, which `claim` has compared.
        unsafe { self.resting.as_ref() }.load();
        loaded.set(Some(self.resting));
    }
}

impl Resting {
    fn save(&mut self) {
        self.cr2 = cpu::cr2();
        self.debug = cpu::debug_registers();
        // SAFETY: every CPU with long mode has these MSRs.
        self.msrs = MSRS.map(|msr| unsafe { cpu::rdmsr(msr) });
        if self.extended.tsc_aux {
            // SAFETY: the CPU has the MSR.
            self.tsc_aux = unsafe { cpu::rdmsr(msr::IA32_TSC_AUX) };
        }
        if self.extended.states != 0 {
            self.xcr0 = cpu::xcr0();
        }
        cpu::save_extended(&mut self.area, self.extended.states);
    }

    fn load(&self) {
        // SAFETY: the region was cleared and initialized when the vCPU was made.
        unsafe { cpu::vmptrld(self.vmcs) };
        cpu::set_cr2(self.cr2);
        cpu::set_debug_registers(self.debug);
        for (msr, value) in MSRS.into_iter().zip(self.msrs) {
            // SAFETY: the CPU has these MSRs, the value was read from them or is 0,
            // and the host does not depend on it (see the module's head).
            unsafe { cpu::wrmsr(msr, value) };
        }
        if self.extended.tsc_aux {
            // SAFETY: as above.
            unsafe { cpu::wrmsr(msr::IA32_TSC_AUX, self.tsc_aux) };
        }
        cpu::restore_extended(&self.area, self.extended.states);
        if self.extended.states != 0 {
            cpu::set_xcr0(self.xcr0);
        }
    }
}
