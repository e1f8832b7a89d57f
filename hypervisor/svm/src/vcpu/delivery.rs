//! Events and windows: what the next entry delivers, and what an exit leaves of it.
//!
//! Source: APM vol. 2, 15.20 "Event Injection", 15.21 "Interrupt and Local APIC
//! Support", 15.21.4 "Injecting Virtual (INTR) Interrupts".

use super::SvmVcpu;
use super::attention::Attention;
use crate::capabilities::SvmFeatures;
use crate::event;
use crate::fields::{Clean, VirtualInterrupt, get, set};
use crate::instructions as cpu;
use anchorite_vcpu::{Event, EventKind, Gpr, Rflags, Vector, VmExit};

/// Bit 14 of DR6: the debug exception is a single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;
/// Bits 0–3 of DR6: a breakpoint was met.
const DR6_BREAKPOINTS: u64 = 0xf;

/// How often one `run` may re-enter on its own: over an IRET, and with an exception
/// that this IRET raised.
const REENTRIES: u32 = 4;

/// What V_IRQ is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VirtualUse {
    Idle,
    /// It opens the interrupt window: its delivery exits.
    Window,
    /// It delivers this vector; done when the processor has cleared V_IRQ.
    Interrupt(Vector),
}

/// Whether the guest can take an NMI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NmiState {
    Open,
    /// It handles one; IRET exits.
    Blocked,
    /// The IRET that ends this is being stepped over.
    Stepping(Step),
}

/// An IRET to be stepped over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The guest itself single-steps.
    trap: bool,
    /// RIP and RSP before.
    at: (u64, u64),
}

impl SvmVcpu {
    /// Priorities do not matter: the machine decides what is delivered when.
    pub(super) fn initialize_virtual_interrupt(&mut self) {
        let field = VirtualInterrupt::MASKING | VirtualInterrupt::IGNORE_TPR;
        set!(self.vmcb, control.virtual_interrupt, field.bits());
    }

    pub(super) fn virtual_interrupt(&self) -> VirtualInterrupt {
        VirtualInterrupt::from_bits_retain(get!(self.vmcb, control.virtual_interrupt))
    }

    pub(super) fn set_virtual_interrupt(&mut self, field: VirtualInterrupt) {
        set!(self.vmcb, control.virtual_interrupt, field.bits());
        self.dirty(Clean::VIRTUAL_INTERRUPT);
    }

    /// The interrupt that V_IRQ still holds.
    pub(super) fn undelivered(&self) -> Option<Vector> {
        match self.virtual_use {
            VirtualUse::Interrupt(vector)
                if self.virtual_interrupt().contains(VirtualInterrupt::PENDING) =>
            {
                Some(vector)
            }
            _ => None,
        }
    }

    /// Moves the queued event into the VMCB, and clears away the last one.
    pub(super) fn arm_event(&mut self) {
        self.in_flight = self.queued.take();
        self.advanced = 0;
        let Some(event) = self.in_flight else {
            return self.set_injection(0);
        };
        self.demand(Attention::EVENT);
        if event.kind == EventKind::ExternalInterrupt && self.raw.emulated_by_qemu {
            self.set_injection(0);
            return self.offer_interrupt(event.vector);
        }
        self.set_injection(event::injection(event));
        self.watch_delivery(event.kind == EventKind::Exception && self.raw.emulated_by_qemu);
        if event.kind == EventKind::Nmi && self.nmi == NmiState::Open {
            self.nmi = NmiState::Blocked;
            self.write_intercepts();
        }
        if event::is_software(&event) {
            self.set_return_address(&event);
        }
    }

    fn set_injection(&mut self, value: u64) {
        set!(self.vmcb, control.event_injection, value);
        self.checked.event_injection = value;
    }

    /// QEMU 7.2 forgets that it delivers an exception which EVENTINJ injects: where that
    /// raises a second one, it raises just this instead of #DF, or of a triple fault. So
    /// the second exits, and the machine sees what it met. The exits stay on until
    /// something else is injected.
    fn watch_delivery(&mut self, watched: bool) {
        if self.delivery_watched != watched {
            self.delivery_watched = watched;
            self.write_intercepts();
        }
    }

    /// The handler shall return behind the instruction that raised the event. A CPU
    /// with a next-RIP field takes the address from there for INT n, INT3 and INTO, and
    /// from RIP for INT1 or without the field (Bochs 2.7 always does). So both hold it,
    /// and RIP moves back if the delivery is interrupted.
    fn set_return_address(&mut self, event: &Event) {
        self.advanced = event.instruction_length;
        self.regs.rip = self.regs.rip.wrapping_add(u64::from(self.advanced));
        if self.raw.features.contains(SvmFeatures::NEXT_RIP) {
            set!(self.vmcb, control.next_rip, self.regs.rip);
        }
    }

    /// QEMU 7.2 can deliver an interrupt twice that EVENTINJ injects: once at VMRUN and
    /// again when something makes it leave its main loop. V_IRQ it delivers once.
    /// (Bochs 2.7 does not deliver V_IRQ at all unless the guest sets RFLAGS.IF anew.)
    fn offer_interrupt(&mut self, vector: Vector) {
        self.delivery_watched = false;
        set!(self.vmcb, control.virtual_vector, u32::from(vector.0));
        self.use_virtual_interrupt(VirtualUse::Interrupt(vector));
    }

    fn use_virtual_interrupt(&mut self, purpose: VirtualUse) {
        self.virtual_use = purpose;
        let mut field = self.virtual_interrupt();
        field.set(VirtualInterrupt::PENDING, purpose != VirtualUse::Idle);
        self.set_virtual_interrupt(field);
        self.write_intercepts();
    }

    /// Opens or closes the interrupt window. An interrupt on its way goes first; until
    /// it is taken, each entry looks again.
    pub(super) fn arm_window(&mut self) {
        if self.undelivered().is_some() {
            self.demand(Attention::EVENT);
            return;
        }
        let wanted = if self.interrupt_window { VirtualUse::Window } else { VirtualUse::Idle };
        if self.virtual_use != wanted {
            self.use_virtual_interrupt(wanted);
        }
    }

    /// An NMI window needs no entry where nothing blocks. What the last exit
    /// interrupted has been reported by then.
    pub(super) fn nmi_window_is_open(&mut self) -> bool {
        let open = self.nmi_window && self.nmi == NmiState::Open && self.queued.is_none();
        if open {
            self.demand(Attention::EVENT);
            set!(self.vmcb, control.exit_int_info, 0);
        }
        open
    }

    /// Whether the last exit came in the middle of no event's delivery, as most do.
    #[inline]
    pub(super) fn was_undisturbed(&self) -> bool {
        get!(self.vmcb, control.exit_int_info) & event::VALID == 0
            && self.virtual_use == VirtualUse::Idle
    }

    /// The event whose delivery the last exit interrupted.
    ///
    /// A virtual interrupt that the guest has not taken counts as one: it stays pending
    /// whether it is injected again or not, and an exit during its delivery may be
    /// reported either way, or both. A software event that the guest raised itself is
    /// none: RIP is at its instruction, which raises it again.
    pub(super) fn interrupted(&self) -> Option<Event> {
        let reported = event::interrupted(get!(self.vmcb, control.exit_int_info));
        if let Some(vector) = self.undelivered() {
            if reported.is_none_or(|event| event.vector == vector) {
                return Some(Event::interrupt(vector));
            }
        }
        let reported = reported?;
        match self.in_flight {
            Some(event) if event.vector == reported.vector && event::is_software(&event) => {
                Some(event)
            }
            _ if reported.kind == EventKind::SoftwareInterrupt => None,
            _ if matches!(reported.vector, Vector::BREAKPOINT | Vector::OVERFLOW) => None,
            _ => Some(reported),
        }
    }

    /// Looks at what an entry with `aftermath` has left, and re-enters where the
    /// machine has nothing to decide.
    #[cold]
    pub(super) fn settle(&mut self) -> VmExit {
        for _ in 0..REENTRIES {
            if self.may_lose_interrupts() {
                cpu::rewrite_cr8();
            }
            let exit = self.decode_exit();
            self.undo_return_address();
            let done = match self.nmi {
                NmiState::Blocked if exit == VmExit::NmiWindow => {
                    self.begin_step();
                    None
                }
                NmiState::Stepping(step) => self.end_step(exit, step),
                _ => Some(exit),
            };
            if let Some(exit) = done {
                return exit;
            }
            if !self.enter() {
                return self.not_entered;
            }
        }
        // Nothing for the machine to do but to come again.
        VmExit::HostInterrupt
    }

    /// VMRUN of QEMU 7.2 notes V_IRQ in a word in which its timers' thread asks for interrupts,
    /// and does so without the lock: a physical interrupt can stay in the local APIC, unseen,
    /// so that a host that halts never wakes. A write to CR8 makes it look there again.
    pub(super) fn may_lose_interrupts(&self) -> bool {
        self.raw.emulated_by_qemu && self.virtual_use != VirtualUse::Idle
    }

    /// Moves RIP back to the instruction whose event was not delivered.
    fn undo_return_address(&mut self) {
        if self.advanced != 0 && self.interrupted().is_some_and(|event| event::is_software(&event))
        {
            self.regs.rip = self.regs.rip.wrapping_sub(u64::from(self.advanced));
        }
        self.advanced = 0;
    }

    /// Lets the guest execute its IRET and nothing more. Every exception exits
    /// meanwhile, so that none pushes the borrowed TF.
    pub(super) fn begin_step(&mut self) {
        let trap = self.regs.rflags & Rflags::TF.bits() != 0;
        self.nmi = NmiState::Stepping(Step { trap, at: self.position() });
        self.regs.rflags |= Rflags::TF.bits();
        self.write_intercepts();
    }

    fn position(&self) -> (u64, u64) {
        (self.regs.rip, self.regs[Gpr::Rsp])
    }

    /// The exit that ended the step, or `None` to enter again.
    ///
    /// A debug exception behind the IRET is taken for the step, whatever DR6 says: the
    /// manual lets its value open for an intercepted one, and Bochs 2.7 does not set it.
    pub(super) fn end_step(&mut self, exit: VmExit, step: Step) -> Option<VmExit> {
        let VmExit::Exception(exception) = exit else {
            self.cancel_step(step);
            return Some(exit);
        };
        if exception.vector == Vector::DEBUG && self.position() != step.at {
            self.complete_step(step);
            return Some(VmExit::NmiWindow);
        }
        self.cancel_step(step);
        if self.intercepted_exceptions() & 1 << (exception.vector.0 & 31) != 0 {
            return Some(exit);
        }
        if exception.vector == Vector::PAGE_FAULT {
            set!(self.vmcb, save.cr2, exception.qualification);
            self.dirty(Clean::CR2);
        }
        self.queue(Event {
            error_code: exception.error_code,
            ..Event::exception(exception.vector)
        });
        None
    }

    /// IRET is done: RFLAGS are those it popped. A guest that steps by itself or met a
    /// breakpoint gets its debug exception.
    fn complete_step(&mut self, step: Step) {
        self.nmi = NmiState::Open;
        self.write_intercepts();
        let dr6 = get!(self.vmcb, save.dr6);
        if step.trap || dr6 & DR6_BREAKPOINTS != 0 {
            return self.queue(Event::exception(Vector::DEBUG));
        }
        set!(self.vmcb, save.dr6, dr6 & !DR6_SINGLE_STEP);
        self.dirty(Clean::DEBUG_REGISTERS);
    }

    /// IRET is still to be executed; it will exit again.
    fn cancel_step(&mut self, step: Step) {
        self.nmi = NmiState::Blocked;
        if !step.trap {
            self.regs.rflags &= !Rflags::TF.bits();
        }
        self.write_intercepts();
    }

    pub(super) fn queue(&mut self, event: Event) {
        self.queued = Some(event);
        self.demand(Attention::EVENT);
    }
}
