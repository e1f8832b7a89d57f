//! The guest's turn: from the machine's decision to its next one.
#![expect(unsafe_code, reason = "entering a guest and the fields it starts from")]

use super::VmxVcpu;
use crate::FieldSource;
use crate::decode::{self, Decoded};
use crate::event::EntryEvent;
use crate::instructions::{self as cpu, CurrentVmcs, Invept, Invvpid};
use crate::world::{self, Outcome};
use anchorite_vcpu::{Cr0, Event, EventKind, Gpr, Rflags, Root, VmExit};
use x86::vmx::vmcs::{control, guest, ro};

/// STI blocks interrupts for one instruction.
///
/// Source: SDM table 25-3 "Format of Interruptibility State".
pub(super) const BLOCKED_BY_STI: u32 = 1 << 0;
/// MOV SS or POP SS does.
pub(super) const BLOCKED_BY_MOV_SS: u32 = 1 << 1;
/// An NMI is being handled.
pub(super) const BLOCKED_BY_NMI: u32 = 1 << 3;

/// What a turn starts from and leaves behind.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// What the VMCS holds of the registers and of `interruptibility`.
    held: Held,
    /// The interruptibility state that the next entry starts with.
    pub(super) interruptibility: u32,
    /// What the HOST_RSP field holds.
    host_rsp: u64,
    /// VMRESUME rather than VMLAUNCH.
    launched: bool,
    /// Translations must go before the next entry.
    pub(super) flush: bool,
    pub(super) queued: Option<Event>,
    pub(super) interrupted: Option<Event>,
    pub(super) instruction_length: Option<u8>,
}

/// Copies of VMCS fields that are written only when they change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    rip: u64,
    rsp: u64,
    rflags: u64,
    interruptibility: u32,
}

impl VmxVcpu {
    /// The guest's turn: everything between the machine's decision and its next one.
    #[inline]
    pub(super) fn take_turn(&mut self) -> VmExit {
        cpu::disable_interrupts();
        self.passive.claim();
        self.write_back();
        if self.turn.flush {
            self.discard_translations();
        }
        if let Some(event) = self.turn.queued {
            self.offer(event);
        }
        // SAFETY: `VmxCpu::enable` and its caller brought VMX operation in ring 0;
        // interrupts are off; `claim` made this vCPU's VMCS current, which
        // `initialize` and `set_root` filled.
        let outcome =
            unsafe { world::enter(&mut self.regs, &mut self.turn.host_rsp, self.turn.launched) };
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
        let mut interruptibility = self.turn.interruptibility;
        if rflags & Rflags::IF.bits() == 0 {
            // Entry refuses the one without the other, and the guest cannot tell.
            interruptibility &= !BLOCKED_BY_STI;
        }
        let held = self.turn.held;
        // SAFETY: guest state decides nothing about host memory.
        unsafe {
            if rip != held.rip {
                cpu::vmwrite(guest::RIP, rip);
            }
            if rsp != held.rsp {
                cpu::vmwrite(guest::RSP, rsp);
            }
            if rflags != held.rflags {
                cpu::vmwrite(guest::RFLAGS, rflags);
            }
            if interruptibility != held.interruptibility {
                cpu::vmwrite(guest::INTERRUPTIBILITY_STATE, u64::from(interruptibility));
            }
        }
        self.turn.held = Held { rip, rsp, rflags, interruptibility };
    }

    /// Source: SDM 29.4.3.1 "Operations that Invalidate Cached Mappings".
    #[cold]
    fn discard_translations(&mut self) {
        self.turn.flush = false;
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
    #[inline(never)]
    fn offer(&mut self, event: Event) {
        let pushes = event.error_code.is_some();
        let protected = !pushes || CurrentVmcs.read(guest::CR0) & Cr0::PE.bits() != 0;
        let fields = EntryEvent::new(event, protected);
        if event.kind == EventKind::Nmi {
            self.end_nmi_blocking();
        }
        // SAFETY: an event concerns the guest only.
        unsafe {
            if pushes {
                cpu::vmwrite(control::VMENTRY_EXCEPTION_ERR_CODE, fields.error_code.into());
            }
            if fields.length != 0 {
                cpu::vmwrite(control::VMENTRY_INSTRUCTION_LEN, fields.length.into());
            }
            cpu::vmwrite(control::VMENTRY_INTERRUPTION_INFO_FIELD, fields.info.into());
        }
    }

    /// An NMI whose delivery was interrupted had begun the blocking itself, and entry
    /// injects none while it lasts.
    fn end_nmi_blocking(&mut self) {
        if self.turn.held.interruptibility & BLOCKED_BY_NMI == 0 {
            return;
        }
        self.turn.held.interruptibility &= !BLOCKED_BY_NMI;
        let state = self.turn.held.interruptibility.into();
        // SAFETY: guest state.
        unsafe { cpu::vmwrite(guest::INTERRUPTIBILITY_STATE, state) };
    }

    /// Reads and decodes an exit.
    #[inline]
    fn exited(&mut self) -> VmExit {
        let raw = CurrentVmcs.read(ro::EXIT_REASON) as u32;
        let Decoded { exit, instruction_length, interrupted, nmi_unblocked } =
            decode::decode(raw, &CurrentVmcs);
        self.turn.instruction_length = instruction_length;
        self.turn.interrupted = interrupted;
        if raw & decode::ENTRY_FAILURE != 0 {
            return exit;
        }
        self.turn.launched = true;
        self.turn.queued = None;
        self.adopt(Held::read(CurrentVmcs));
        if nmi_unblocked {
            self.turn.interruptibility |= BLOCKED_BY_NMI;
        }
        if exit == VmExit::HostNmi {
            cpu::handle_nmi();
        }
        exit
    }

    /// Takes over what the VMCS holds of the registers.
    #[inline]
    pub(super) fn adopt(&mut self, held: Held) {
        self.regs.rip = held.rip;
        self.regs[Gpr::Rsp] = held.rsp;
        self.regs.rflags = held.rflags;
        self.turn.interruptibility = held.interruptibility;
        self.turn.held = held;
    }
}

impl Held {
    #[inline]
    pub(super) fn read(vmcs: CurrentVmcs) -> Self {
        Self {
            rip: vmcs.read(guest::RIP),
            rsp: vmcs.read(guest::RSP),
            rflags: vmcs.read(guest::RFLAGS),
            interruptibility: vmcs.read(guest::INTERRUPTIBILITY_STATE) as u32,
        }
    }
}
