//! [`VmxVcpu`]: the contract, implemented.
//!
//! This file holds the structure and its creation; `turn` runs the guest, `contract`
//! has the trait's methods, `state` what they do to control registers and roots.
#![expect(unsafe_code, reason = "VMCS fields decide what memory the CPU uses")]

mod contract;
mod state;
mod turn;

use self::turn::{Held, Turn};
use crate::capabilities::RawCapabilities;
use crate::controls::{ControlSet, GuestControl, HardwareControl, Imposed};
use crate::cpu::stamp;
use crate::fields::{self, HostState, Resources, Setting};
use crate::instructions::{self as cpu, CurrentVmcs};
use crate::passive::{Passive, Slot};
use crate::{FieldSource, bitmaps, segments, world};
use anchorite_addr::HpaPage;
use anchorite_vcpu::{
    Capabilities, Cr0, Cr4, Extended, HostPages, Page, Registers, Root, SegmentRegister,
    Unavailable,
};
use core::ptr::NonNull;

/// What [`VmxCpu::vcpu`](crate::VmxCpu::vcpu) brings together.
pub(crate) struct Creation {
    pub(crate) raw: RawCapabilities,
    pub(crate) capabilities: Capabilities,
    pub(crate) extended: Extended,
    pub(crate) nested: ControlSet,
    pub(crate) shadow: ControlSet,
    pub(crate) slot: Slot,
    pub(crate) vpid: u16,
    pub(crate) host: HostState,
    /// One page.
    pub(crate) vmcs: HostPages,
    /// Two for ports, one for MSRs.
    pub(crate) bitmaps: HostPages,
    /// One page.
    pub(crate) resting: HostPages,
}

/// One virtual CPU on VMX, bound to the physical CPU and the task that made it.
#[derive(Debug)]
pub struct VmxVcpu {
    regs: Registers,
    turn: Turn,

    root: Option<Root>,
    /// What the guest reads where the hardware holds something else.
    view: GuestControl,
    applied: HardwareControl,
    imposed: Imposed,
    shadowed_cr3: u64,
    cr8: u64,
    exceptions: u32,
    extended: Extended,
    /// Primary controls as the VMCS holds them, windows included.
    primary: u32,
    nested: ControlSet,
    shadow: ControlSet,

    vpid: u16,
    passive: Passive,
    bitmaps: NonNull<[Page]>,
    capabilities: Capabilities,
    raw: RawCapabilities,
}

impl VmxVcpu {
    pub(crate) fn new(from: Creation) -> Result<Self, Unavailable> {
        let mut nested = from.nested;
        let mut shadow = from.shadow;
        if from.vpid == 0 {
            nested.disable_vpid();
            shadow.disable_vpid();
        }
        let resources = Resources {
            port_bitmaps: from.bitmaps.physical.as_u64(),
            msr_bitmap: from.bitmaps.physical.as_u64() + bitmaps::PORT_BYTES as u64,
            vpid: from.vpid,
            preemption_shift: from.raw.preemption_shift(),
        };
        for page in from.bitmaps.memory.iter_mut() {
            page.0.fill(0xff);
        }
        let prepared = prepare(&from.raw, from.vmcs)?;
        let passive = Passive::new(from.slot, from.resting, prepared, from.extended);
        let machine_check = from.host.cr4 & Cr4::MCE.bits() != 0;
        let mut vcpu = Self {
            regs: Registers::default(),
            turn: Turn::default(),
            root: None,
            view: GuestControl::default(),
            applied: HardwareControl::default(),
            imposed: Imposed {
                cr0_fixed0: from.raw.cr0_fixed0,
                cr4_fixed0: from.raw.cr4_fixed0,
                machine_check,
                paging_exits: false,
            },
            shadowed_cr3: 0,
            cr8: 0,
            exceptions: 0,
            extended: from.extended,
            primary: nested.primary,
            nested,
            shadow,
            vpid: from.vpid,
            passive,
            bitmaps: NonNull::from(from.bitmaps.memory),
            capabilities: from.capabilities,
            raw: from.raw,
        };
        vcpu.initialize(&from.host, &resources)?;
        Ok(vcpu)
    }

    /// Writes every field that is ever written, so that a field the CPU lacks shows
    /// up here and not later.
    fn initialize(&mut self, host: &HostState, resources: &Resources) -> Result<(), Unavailable> {
        self.access(|_| -> Result<(), Unavailable> {
            // SAFETY: the host's state is the running one's; the bitmaps are pages
            // of ours that stay.
            unsafe {
                write_all(&fields::host_state(host, world::exit_address()))?;
                write_all(&fields::execution(resources))?;
                write_all(&fields::control_words(&self.nested))?;
                write_all(&fields::GUEST_RESET)?;
                for setting in fields::optional(resources, &self.nested).into_iter().flatten() {
                    write_all(&[setting])?;
                }
            }
            Ok(())
        })?;
        self.apply(GuestControl { cr0: Cr0::ET | Cr0::CD | Cr0::NW, ..GuestControl::default() });
        for register in SegmentRegister::ALL {
            self.write_segment(register, segments::after_reset(register));
        }
        let held = self.access(Held::read);
        self.adopt(held);
        self.turn.flush = true;
        Ok(())
    }

    /// Runs `body` with this vCPU's VMCS current and its registers loaded.
    #[inline]
    fn access<T>(&self, body: impl FnOnce(CurrentVmcs) -> T) -> T {
        let were_on = cpu::disable_interrupts();
        self.passive.claim();
        let result = body(CurrentVmcs);
        if were_on {
            cpu::enable_interrupts();
        }
        result
    }

    fn read(&self, field: u32) -> u64 {
        self.access(|vmcs| vmcs.read(field))
    }

    /// Writes a guest-state field.
    fn write(&self, field: u32, value: u64) {
        // SAFETY: guest state decides nothing about host memory.
        self.access(|_| unsafe { cpu::vmwrite(field, value) });
    }
}

/// Makes a region a VMCS that has not been launched.
fn prepare(raw: &RawCapabilities, mut vmcs: HostPages) -> Result<HpaPage, Unavailable> {
    let region: HpaPage = vmcs.physical;
    stamp(&mut vmcs, raw.revision());
    // SAFETY: the page is ours for good, and stamped.
    if unsafe { cpu::vmclear(region) } {
        Ok(region)
    } else {
        Err(Unavailable::EnableFailed { what: "VMCLEAR", value: region.as_u64() })
    }
}

/// Writes a table of fields.
///
/// # Safety
/// As for [`vmwrite`](cpu::vmwrite).
unsafe fn write_all(settings: &[Setting]) -> Result<(), Unavailable> {
    for &(field, value) in settings {
        // SAFETY: the caller answers for the values.
        if !unsafe { cpu::try_vmwrite(field, value) } {
            let value = u64::from(field);
            return Err(Unavailable::EnableFailed { what: "VMWRITE of the field", value });
        }
    }
    Ok(())
}
