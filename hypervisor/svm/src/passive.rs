//! Guest registers that stay loaded while the host runs.
//!
//! SVM does not switch DR0 to DR3 or the floating-point state. The host uses none of
//! them: it arms no breakpoint, and is built without floating point. So the guest's
//! values stay in the CPU across exits, and change only when another vCPU is used on
//! the same physical CPU.
#![expect(unsafe_code, reason = "the state lives in memory shared by a CPU's vCPUs")]

use crate::asid::AsidPool;
use crate::instructions as cpu;
use anchorite_vcpu::HostPages;
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};

/// Where a vCPU's registers of this group rest while another vCPU's are loaded.
#[repr(C, align(16))]
struct Resting {
    floating_point: FloatingPoint,
    debug: [u64; 4],
}

/// Where XMM0 lies in [`FloatingPoint::registers`]; the others follow it.
const XMM: usize = 160 - 28;

/// The memory image of FXSAVE. Source: APM vol. 2, 11.4.4 "FXSAVE/FXRSTOR".
#[repr(C, align(16))]
pub(crate) struct FloatingPoint {
    control_word: u16,
    other: [u8; 22],
    mxcsr: u32,
    registers: [u8; 484],
}

impl FloatingPoint {
    /// As FNINIT and reset leave it: all exceptions masked, registers empty.
    const INITIAL: Self =
        Self { control_word: 0x37f, other: [0; 22], mxcsr: 0x1f80, registers: [0; 484] };

    /// What the CPU holds now.
    pub(crate) fn of_cpu() -> Self {
        let mut image = Self::INITIAL;
        cpu::save_floating_point(&mut image);
        image
    }

    /// Makes it what the CPU holds.
    pub(crate) fn load(&self) {
        cpu::restore_floating_point(self);
    }

    /// XMM register `number` (0–15).
    pub(crate) fn xmm(&self, number: u8) -> u128 {
        let first = XMM + 16 * usize::from(number & 15);
        u128::from_le_bytes(core::array::from_fn(|byte| self.registers[first + byte]))
    }

    /// Sets it.
    pub(crate) fn set_xmm(&mut self, number: u8, value: u128) {
        let first = XMM + 16 * usize::from(number & 15);
        self.registers[first..first + 16].copy_from_slice(&value.to_le_bytes());
    }
}

const _: () = assert!(size_of::<FloatingPoint>() == 512);
const _: () = assert!(size_of::<Resting>() <= 4096);

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
    pub(crate) fn new(slot: Slot, page: HostPages) -> Self {
        let resting = NonNull::from(page.memory).cast::<Resting>();
        // SAFETY: the page is ours for good, large enough and aligned.
        unsafe { resting.write(Resting { floating_point: FloatingPoint::INITIAL, debug: [0; 4] }) };
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
        cpu::save_floating_point(&mut self.floating_point);
    }

    fn load(&self) {
        cpu::set_debug_registers(self.debug);
        self.floating_point.load();
    }
}
