//! Guest registers that stay loaded while the host runs.
//!
//! SVM does not switch DR0 to DR3, TSC_AUX, XCR0 or the registers of XSAVE. The host uses
//! none of them: it arms no breakpoint, reads TSC_AUX only along with the TSC, and is
//! built without floating point. So the guest's
//! values stay in the CPU across exits, and change only when another vCPU is used on
//! the same physical CPU.
#![expect(unsafe_code, reason = "the state lives in memory shared by a CPU's vCPUs")]

use crate::asid::AsidPool;
use crate::instructions as cpu;
use anchorite_vcpu::{Extended, HostPages, StateArea};
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};

/// Where a vCPU's registers of this group rest while another vCPU's are loaded.
#[repr(C, align(64))]
struct Resting {
    area: StateArea,
    extended: Extended,
    xcr0: u64,
    tsc_aux: u64,
    debug: [u64; 4],
}

const _: () = assert!(size_of::<Resting>() <= 4096);

/// XCR0 after reset: x87 only.
pub(crate) const XCR0_RESET: u64 = 1;
/// TSC_AUX.
pub(crate) const TSC_AUX: u32 = 0xc000_0103;

/// What the vCPUs of one physical CPU share.
struct Shared {
    /// The vCPU whose registers are loaded; null before the first.
    loaded: Cell<*mut Resting>,
    asids: Cell<AsidPool>,
}

/// The state shared by the vCPUs of one physical CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot(NonNull<Shared>);

impl Slot {
    /// The slot of a CPU that no vCPU has used.
    pub(crate) fn new(page: HostPages, asids: AsidPool) -> Self {
        let slot = NonNull::from(page.memory).cast::<Shared>();
        // SAFETY: the page is ours for good, large enough and aligned.
        unsafe { slot.write(Shared { loaded: Cell::new(null_mut()), asids: Cell::new(asids) }) };
        Self(slot)
    }

    fn shared(&self) -> &Shared {
        // SAFETY: `new` initialized it, and it is never freed. Only this CPU uses it:
        // neither `Slot` nor `Passive` can leave their thread.
        unsafe { self.0.as_ref() }
    }
}

/// One vCPU's claim on the registers of its physical CPU.
#[derive(Debug)]
pub(crate) struct Passive {
    slot: Slot,
    resting: NonNull<Resting>,
}

impl Passive {
    /// The registers of a vCPU that has not run.
    pub(crate) fn new(slot: Slot, page: HostPages, extended: Extended) -> Self {
        let resting = NonNull::from(page.memory).cast::<Resting>();
        let (area, xcr0) = (StateArea::INITIAL, XCR0_RESET);
        // SAFETY: the page is ours for good, large enough and aligned.
        unsafe { resting.write(Resting { area, extended, xcr0, tsc_aux: 0, debug: [0; 4] }) };
        Self { slot, resting }
    }

    /// Makes this vCPU's registers the loaded ones; whether they were not.
    ///
    /// To be called with the global interrupt flag clear, for a task switch could
    /// bring another vCPU.
    #[inline]
    pub(crate) fn claim(&self) -> bool {
        let loaded = &self.slot.shared().loaded;
        let absent = loaded.get() != self.resting.as_ptr();
        if absent {
            self.switch(loaded);
        }
        absent
    }

    /// The ASIDs of this CPU, under the same condition.
    pub(crate) fn asids(&self) -> &Cell<AsidPool> {
        &self.slot.shared().asids
    }

    #[cold]
    fn switch(&self, loaded: &Cell<*mut Resting>) {
        if let Some(mut previous) = NonNull::new(loaded.get()) {
            // SAFETY: a slot refers only to memory that `new` initialized and that is
            // never freed; no other reference to it exists outside this function.
            unsafe { previous.as_mut() }.save();
        }
        // SAFETY: as above; it is not `previous`, which `claim` has compared.
        unsafe { self.resting.as_ref() }.load();
        loaded.set(self.resting.as_ptr());
    }
}

impl Resting {
    fn save(&mut self) {
        self.debug = cpu::debug_registers();
        if self.extended.tsc_aux {
            // SAFETY: the CPU has the MSR.
            self.tsc_aux = unsafe { cpu::rdmsr(TSC_AUX) };
        }
        if self.extended.states != 0 {
            self.xcr0 = cpu::xcr0();
        }
        cpu::save_extended(&mut self.area, self.extended.states);
    }

    fn load(&self) {
        cpu::set_debug_registers(self.debug);
        if self.extended.tsc_aux {
            // SAFETY: the CPU has the MSR, the value was read from it or is 0, and the
            // host does not look at it.
            unsafe { cpu::wrmsr(TSC_AUX, self.tsc_aux) };
        }
        cpu::restore_extended(&self.area, self.extended.states);
        if self.extended.states != 0 {
            cpu::set_xcr0(self.xcr0);
        }
    }
}
