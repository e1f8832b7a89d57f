//! Guest registers that stay loaded while the host runs.
//!
//! VMX does not switch SYSCALL's MSRs, KernelGSbase, CR2, the debug registers or the
//! floating-point state. The host uses none of them: Hermit as a library in ring 0
//! executes no SYSCALL and no SWAPGS (its handlers test the interrupted CS first),
//! handles page faults only to die, arms no breakpoint, and is built without
//! floating point. So the guest's values stay in the CPU across exits, and change
//! only when another vCPU is used on the same physical CPU.
#![expect(unsafe_code, reason = "the state lives in memory shared by a CPU's vCPUs")]

use crate::instructions as cpu;
use anchorite_addr::HpaPage;
use anchorite_vcpu::HostPages;
use core::cell::Cell;
use core::ptr::NonNull;
use x86::msr;

/// MSRs that VMX does not switch.
const MSRS: [u32; 5] =
    [msr::IA32_STAR, msr::IA32_LSTAR, msr::IA32_CSTAR, msr::IA32_FMASK, msr::IA32_KERNEL_GSBASE];

/// DR6 after reset. Source: SDM 18.2.3 "Debug Status Register (DR6)".
const DR6_RESET: u64 = 0xffff_0ff0;

/// Where a vCPU's registers of this group rest while another vCPU's are loaded.
#[repr(C, align(16))]
struct Resting {
    floating_point: FloatingPoint,
    vmcs: HpaPage,
    cr2: u64,
    debug: [u64; 5],
    msrs: [u64; MSRS.len()],
}

/// Where XMM0 lies in [`FloatingPoint::registers`]; the others follow it.
const XMM: usize = 160 - 28;

/// The memory image of FXSAVE. Source: SDM vol. 1, 10.5.1 "FXSAVE Area".
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
    pub(crate) fn new(slot: Slot, page: HostPages, vmcs: HpaPage) -> Self {
        let resting = NonNull::from(page.memory).cast::<Resting>();
        let floating_point = FloatingPoint::INITIAL;
        let debug = [0, 0, 0, 0, DR6_RESET];
        // SAFETY: the page is ours for good, large enough and aligned.
        unsafe {
            resting.write(Resting { floating_point, vmcs, cr2: 0, debug, msrs: [0; MSRS.len()] });
        }
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
        cpu::save_floating_point(&mut self.floating_point);
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
        self.floating_point.load();
    }
}
