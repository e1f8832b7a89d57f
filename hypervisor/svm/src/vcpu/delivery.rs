//! Events and windows: what the next entry delivers, and what an exit leaves of it.
//!
//! Source: APM vol. 2, 15.20 "Event Injection", 15.21 "Interrupt and Local APIC
//! Support", 15.21.4 "Injecting Virtual (INTR) Interrupts".

use super::SvmVcpu;
use crate::capabilities::SvmFeatures;
use crate::event;
use crate::fields::{Clean, VirtualInterrupt, get, set};
use anchorite_vcpu::{Event, EventKind, Rflags, Vector, VmExit};

/// Bit 14 of DR6: the debug exception is a single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;

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
    Stepping {
        /// The guest itself single-steps.
        trap: bool,
    },
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
            return set!(self.vmcb, control.event_injection, 0);
        };
        self.demand_attention();
        if event.kind == EventKind::ExternalInterrupt {
            set!(self.vmcb, control.event_injection, 0);
            return self.offer_interrupt(event.vector);
        }
        set!(self.vmcb, control.event_injection, event::injection(event));
        if event.kind == EventKind::Nmi && self.nmi == NmiState::Open {
            self.nmi = NmiState::Blocked;
            self.write_intercepts();
        }
        if event::is_software(&event) {
            self.set_return_address(&event);
        }
    }

    /// The handler shall return behind the instruction that raised the event. Where the
    /// CPU has no next-RIP field, or ignores it for INT1, RIP itself is moved; if the
    /// delivery is interrupted, it moves back.
    fn set_return_address(&mut self, event: &Event) {
        let next = self.regs.rip.wrapping_add(u64::from(event.instruction_length));
        if self.raw.features.contains(SvmFeatures::NEXT_RIP) && event::returns_to_next_rip(event) {
            set!(self.vmcb, control.next_rip, next);
        } else {
            self.regs.rip = next;
            self.advanced = event.instruction_length;
        }
    }

    fn offer_interrupt(&mut self, vector: Vector) {
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
            self.demand_attention();
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
            self.demand_attention();
            set!(self.vmcb, control.exit_int_info, 0);
        }
        open
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
            let exit = self.decode_exit();
            self.undo_return_address();
            let done = match self.nmi {
                NmiState::Blocked if exit == VmExit::NmiWindow => {
                    self.begin_step();
                    None
                }
                NmiState::Stepping { trap } => self.end_step(exit, trap),
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
    fn begin_step(&mut self) {
        let trap = self.regs.rflags & Rflags::TF.bits() != 0;
        self.nmi = NmiState::Stepping { trap };
        self.regs.rflags |= Rflags::TF.bits();
        self.write_intercepts();
    }

    /// The exit that ended the step, or `None` to enter again.
    fn end_step(&mut self, exit: VmExit, trap: bool) -> Option<VmExit> {
        let VmExit::Exception(exception) = exit else {
            self.cancel_step(trap);
            return Some(exit);
        };
        if exception.vector == Vector::DEBUG && exception.qualification & DR6_SINGLE_STEP != 0 {
            self.complete_step(trap);
            return Some(VmExit::NmiWindow);
        }
        self.cancel_step(trap);
        if self.intercepted_exceptions() & 1 << (exception.vector.0 & 31) != 0 {
            return Some(exit);
        }
        if exception.vector == Vector::PAGE_FAULT {
            set!(self.vmcb, save.cr2, exception.qualification);
            self.dirty(Clean::CR2);
        }
        let reflected =
            Event { error_code: exception.error_code, ..Event::exception(exception.vector) };
        self.queue(reflected);
        None
    }

    /// IRET is done: RFLAGS are those it popped. A guest that steps by itself gets its
    /// debug exception.
    fn complete_step(&mut self, trap: bool) {
        self.nmi = NmiState::Open;
        self.write_intercepts();
        if trap {
            self.queue(Event::exception(Vector::DEBUG));
        } else {
            let dr6 = get!(self.vmcb, save.dr6);
            set!(self.vmcb, save.dr6, dr6 & !DR6_SINGLE_STEP);
            self.dirty(Clean::DEBUG_REGISTERS);
        }
    }

    /// IRET is still to be executed; it will exit again.
    fn cancel_step(&mut self, trap: bool) {
        self.nmi = NmiState::Blocked;
        if !trap {
            self.regs.rflags &= !Rflags::TF.bits();
        }
        self.write_intercepts();
    }

    pub(super) fn queue(&mut self, event: Event) {
        self.queued = Some(event);
        self.demand_attention();
    }
}
