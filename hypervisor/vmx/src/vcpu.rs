//! [`VmxVcpu`]: the contract, implemented.
//!
//! This file holds the structure and the turn of the guest; `contract` has the trait's
//! methods, `state` what they do to control registers and roots.
#![expect(unsafe_code, reason = "VMCS fields decide what memory the CPU uses")]

mod contract;
mod state;

use crate::capabilities::RawCapabilities;
use crate::controls::{ControlSet, GuestControl, HardwareControl, Imposed};
use crate::cpu::stamp;
use crate::decode::{self, Decoded};
use crate::event::EntryEvent;
use crate::fields::{self, HostState, Resources, Setting};
use crate::instructions::{self as cpu, CurrentVmcs, Invept, Invvpid};
use crate::passive::{Passive, Slot};
use crate::world::{self, Outcome};
use crate::{FieldSource, bitmaps};
use anchorite_addr::HpaPage;
use anchorite_vcpu::{
    Capabilities, Cr0, Cr4, Event, EventKind, Gpr, HostPages, Page, Registers, Rflags, Root,
    SegmentRegister, Unavailable, VmExit,
};
use core::ptr::NonNull;
use x86::vmx::vmcs::{control, guest, ro};

/// STI blocks interrupts for one instruction.
///
/// Source: SDM table 25-3 "Format of Interruptibility State".
const BLOCKED_BY_STI: u32 = 1 << 0;
/// MOV SS or POP SS does.
const BLOCKED_BY_MOV_SS: u32 = 1 << 1;
/// An NMI is being handled.
const BLOCKED_BY_NMI: u32 = 1 << 3;

/// What [`VmxCpu::vcpu`](crate::VmxCpu::vcpu) brings together.
pub(crate) struct Creation {
    pub(crate) raw: RawCapabilities,
    pub(crate) capabilities: Capabilities,
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
    /// What the VMCS holds of `regs` and of `interruptibility`.
    held: Held,
    interruptibility: u32,
    host_rsp: u64,
    launched: bool,
    flush: bool,
    queued: Option<Event>,
    interrupted: Option<Event>,
    instruction_length: Option<u8>,

    root: Option<Root>,
    /// What the guest reads where the hardware holds something else.
    view: GuestControl,
    applied: HardwareControl,
    imposed: Imposed,
    shadowed_cr3: u64,
    cr8: u64,
    exceptions: u32,
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

/// Copies of VMCS fields that are written only when they change.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    rip: u64,
    rsp: u64,
    rflags: u64,
    interruptibility: u32,
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
        let passive = prepare(&from.raw, from.slot, from.vmcs, from.resting)?;
        let machine_check = from.host.cr4 & Cr4::MCE.bits() != 0;
        let mut vcpu = Self {
            regs: Registers::default(),
            held: Held::default(),
            interruptibility: 0,
            host_rsp: 0,
            launched: false,
            flush: true,
            queued: None,
            interrupted: None,
            instruction_length: None,
            root: None,
            view: GuestControl::default(),
            applied: HardwareControl::default(),
            imposed: Imposed {
                cr0_fixed0: from.raw.cr0_fixed0,
                cr4_fixed0: from.raw.cr4_fixed0,
                machine_check,
                intercept_paging: false,
            },
            shadowed_cr3: 0,
            cr8: 0,
            exceptions: 0,
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
        self.access(|vmcs| -> Result<(), Unavailable> {
            // SAFETY: the host's state is the running one's; the bitmaps are pages
            // of ours that stay.
            unsafe {
                write_all(vmcs, &fields::host_state(host, world::exit_address()))?;
                write_all(vmcs, &fields::execution(resources))?;
                write_all(vmcs, &fields::control_words(&self.nested))?;
                write_all(vmcs, &fields::GUEST_RESET)?;
                for setting in fields::optional(resources, &self.nested).into_iter().flatten() {
                    write_all(vmcs, &[setting])?;
                }
            }
            Ok(())
        })?;
        self.apply(GuestControl { cr0: Cr0::ET | Cr0::CD | Cr0::NW, ..GuestControl::default() });
        for register in SegmentRegister::ALL {
            self.write_segment(register, crate::segments::after_reset(register));
        }
        let held = self.access(Held::read);
        self.adopt(held);
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
        self.access(|vmcs| unsafe { vmcs.write(field, value) });
    }

    /// The guest's turn: everything between the machine's decision and its next one.
    #[inline]
    fn turn(&mut self) -> VmExit {
        cpu::disable_interrupts();
        self.passive.claim();
        self.write_back();
        if self.flush {
            self.discard_translations();
        }
        if let Some(event) = self.queued {
            self.offer(event);
        }
        // SAFETY: `VmxCpu::enable` and its caller brought VMX operation in ring 0;
        // interrupts are off; `claim` made this vCPU's VMCS current, which
        // `initialize` and `set_root` filled.
        let outcome = unsafe { world::enter(&mut self.regs, &mut self.host_rsp, self.launched) };
        let exit = match outcome {
            Outcome::Exited => self.exited(),
            Outcome::Refused => {
                VmExit::EntryFailure { code: CurrentVmcs.read(ro::VM_INSTRUCTION_ERROR) }
            }
            Outcome::NoVmcs => VmExit::EntryFailure { code: 0 },
        };
        cpu::enable_interrupts();
        exit
    }

    /// Writes what the machine changed since the last exit.
    #[inline]
    fn write_back(&mut self) {
        let (rip, rsp) = (self.regs.rip, self.regs[Gpr::Rsp]);
        let rflags = self.regs.rflags | Rflags::FIXED.bits();
        let mut interruptibility = self.interruptibility;
        if rflags & Rflags::IF.bits() == 0 {
            // Entry refuses the one without the other, and the guest cannot tell.
            interruptibility &= !BLOCKED_BY_STI;
        }
        let held = self.held;
        // SAFETY: guest state decides nothing about host memory.
        unsafe {
            if rip != held.rip {
                CurrentVmcs.write(guest::RIP, rip);
            }
            if rsp != held.rsp {
                CurrentVmcs.write(guest::RSP, rsp);
            }
            if rflags != held.rflags {
                CurrentVmcs.write(guest::RFLAGS, rflags);
            }
            if interruptibility != held.interruptibility {
                CurrentVmcs.write(guest::INTERRUPTIBILITY_STATE, u64::from(interruptibility));
            }
        }
        self.held = Held { rip, rsp, rflags, interruptibility };
    }

    /// Source: SDM 29.4.3.1 "Operations that Invalidate Cached Mappings".
    #[cold]
    fn discard_translations(&mut self) {
        self.flush = false;
        if self.vpid != 0 && !cpu::invvpid(Invvpid::Single(self.vpid)) {
            cpu::invvpid(Invvpid::All);
        }
        if let Some(Root::Nested { table }) = self.root {
            if !cpu::invept(Invept::Single(crate::ept::pointer(table))) {
                cpu::invept(Invept::All);
            }
        }
    }

    /// Fills in the fields that inject `event`.
    fn offer(&mut self, event: Event) {
        let protected =
            event.error_code.is_none() || CurrentVmcs.read(guest::CR0) & Cr0::PE.bits() != 0;
        let fields = EntryEvent::new(event, protected);
        let unblock =
            event.kind == EventKind::Nmi && self.held.interruptibility & BLOCKED_BY_NMI != 0;
        // SAFETY: an event concerns the guest only.
        unsafe {
            if unblock {
                // The NMI whose delivery was interrupted had begun the blocking itself.
                self.held.interruptibility &= !BLOCKED_BY_NMI;
                CurrentVmcs
                    .write(guest::INTERRUPTIBILITY_STATE, u64::from(self.held.interruptibility));
            }
            if event.error_code.is_some() {
                CurrentVmcs
                    .write(control::VMENTRY_EXCEPTION_ERR_CODE, u64::from(fields.error_code));
            }
            if fields.length != 0 {
                CurrentVmcs.write(control::VMENTRY_INSTRUCTION_LEN, u64::from(fields.length));
            }
            CurrentVmcs.write(control::VMENTRY_INTERRUPTION_INFO_FIELD, u64::from(fields.info));
        }
    }

    /// Reads and decodes an exit.
    #[inline]
    fn exited(&mut self) -> VmExit {
        let raw = CurrentVmcs.read(ro::EXIT_REASON) as u32;
        let Decoded { exit, instruction_length, interrupted, nmi_unblocked } =
            decode::decode(raw, &CurrentVmcs);
        self.instruction_length = instruction_length;
        self.interrupted = interrupted;
        if raw & decode::ENTRY_FAILURE != 0 {
            return exit;
        }
        self.launched = true;
        self.queued = None;
        self.adopt(Held::read(CurrentVmcs));
        if nmi_unblocked {
            self.interruptibility |= BLOCKED_BY_NMI;
        }
        if exit == VmExit::HostNmi {
            cpu::handle_nmi();
        }
        exit
    }

    /// Takes over what the VMCS holds of the registers.
    #[inline]
    fn adopt(&mut self, held: Held) {
        self.regs.rip = held.rip;
        self.regs[Gpr::Rsp] = held.rsp;
        self.regs.rflags = held.rflags;
        self.interruptibility = held.interruptibility;
        self.held = held;
    }
}

impl Held {
    #[inline]
    fn read(vmcs: CurrentVmcs) -> Self {
        Self {
            rip: vmcs.read(guest::RIP),
            rsp: vmcs.read(guest::RSP),
            rflags: vmcs.read(guest::RFLAGS),
            interruptibility: vmcs.read(guest::INTERRUPTIBILITY_STATE) as u32,
        }
    }
}

/// Makes a region a VMCS that has not been launched.
fn prepare(
    raw: &RawCapabilities,
    slot: Slot,
    vmcs: HostPages,
    resting: HostPages,
) -> Result<Passive, Unavailable> {
    let region: HpaPage = vmcs.physical;
    stamp(vmcs, raw.revision());
    // SAFETY: the page is ours for good, and stamped.
    if unsafe { cpu::vmclear(region) } {
        Ok(Passive::new(slot, resting, region))
    } else {
        Err(Unavailable::EnableFailed { what: "VMCLEAR", value: region.as_u64() })
    }
}

/// Writes a table of fields.
///
/// # Safety
/// As for [`CurrentVmcs::write`].
unsafe fn write_all(vmcs: CurrentVmcs, settings: &[Setting]) -> Result<(), Unavailable> {
    for &(field, value) in settings {
        // SAFETY: the caller answers for the values.
        if !unsafe { vmcs.try_write(field, value) } {
            let value = u64::from(field);
            return Err(Unavailable::EnableFailed { what: "VMWRITE of the field", value });
        }
    }
    Ok(())
}
