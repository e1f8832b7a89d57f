//! The run loop.
//!
//! One round trip: make ready, enter, leave, decide. What an exit means is decided
//! in [`exits`](crate::exits); what that does to the vCPU is carried out here.

use crate::action::{ExitAction, Outcome, Stop};
use crate::counters::Kind;
use crate::events::{Meeting, meet};
use crate::exits::is_lightest;
use crate::exits::{general_protection, hidden_instruction};
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::{Entering, OutOfTables, Translation};
use alloc::format;
use anchorite_abi::Verdict;
use anchorite_vcpu::{Event, EventKind, FlushScope, Rflags, Root, Vcpu, Vector, VmExit};
use core::convert::Infallible;

/// DR6.BS: the #DB is due to a single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// Runs the guest until it ends, fails or exceeds its time limit. Where something
    /// went wrong the machine's state is written to the console.
    pub fn run(&mut self) -> Outcome {
        self.left = self.host.ticks();
        self.kind = Kind::START;
        let limit = u64::from(self.config.limit_seconds).saturating_mul(self.hertz.get());
        self.deadline = self.left.saturating_add(limit);
        self.started = self.left;
        self.schedule_zap();
        self.rearm();

        let Err(stop) = self.round_trips();
        self.finish(stop)
    }

    /// One round trip after the other, in a loop of their own: a call for each would cost
    /// a tenth of the cheapest.
    fn round_trips(&mut self) -> Result<Infallible, Stop> {
        loop {
            self.make_ready()?;
            let entered = self.host.ticks();
            self.counters.record(self.kind, entered.wrapping_sub(self.left));

            let exit = self.vcpu.run();

            self.left = self.host.ticks();
            self.counters.guest_ticks += self.left.wrapping_sub(entered);
            if self.left >= self.wake {
                self.due()?;
            }
            // The most frequent exit first, and in each branch the compiler knows its reason.
            let action = match exit {
                VmExit::Io(io) if is_lightest(io) => {
                    self.kind = Kind::of(exit.reason());
                    if let Some(length) = self.io_length(io) {
                        self.advance(length);
                        continue;
                    }
                    self.skip()
                }
                VmExit::Io(io) => {
                    self.kind = Kind::of(exit.reason());
                    self.io(io)
                }
                VmExit::Cpuid => {
                    self.kind = Kind::of(exit.reason());
                    self.cpuid();
                    self.pass()?;
                    continue;
                }
                VmExit::Hypercall => {
                    self.kind = Kind::of(exit.reason());
                    self.hypercall();
                    self.pass()?;
                    continue;
                }
                _ => {
                    self.kind = Kind::of(exit.reason());
                    self.dispatch(&exit)
                }
            };
            match action {
                ExitAction::SkipInstruction(length) => self.advance(length),
                ExitAction::Resume => {}
                _ => self.apply(action)?,
            }
        }
    }

    /// Goes past an instruction that was carried out, whatever its length.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "an action handed up would cost as much again")]
    fn pass(&mut self) -> Result<(), Stop> {
        if let Some(length) = self.known_length() {
            self.advance(length);
            return Ok(());
        }
        let action = self.skip_by_decoding_anew();
        self.apply(action)
    }

    /// The alarm rings, or the devices have something to do.
    #[cold]
    fn due(&mut self) -> Result<(), Stop> {
        if self.left >= self.alarm {
            self.ring()?;
        }
        self.devices.advance(self.now());
        self.rearm();
        Ok(())
    }

    /// Tells the vCPU what has changed since it left the guest.
    #[inline]
    fn make_ready(&mut self) -> Result<(), Stop> {
        if !self.memory.writes().is_empty() {
            self.report_writes();
        }
        if !self.events.is_quiet() || self.devices.interrupts.is_pending() {
            self.deliver();
        }
        if self.translation.is_settled() {
            return Ok(());
        }
        let vcpu = &mut Counted { vcpu: &mut self.vcpu, flushes: &mut self.counters.tlb_flushes };
        self.translation.enter(vcpu).map_err(|OutOfTables| Stop::OutOfTables)
    }

    /// The clock has reached the alarm: the run's end, or a zap-all that is due.
    #[cold]
    pub(crate) fn ring(&mut self) -> Result<(), Stop> {
        if self.left >= self.deadline {
            return Err(Stop::Timeout);
        }
        self.translation.zap_all();
        self.counters.timed_zaps += 1;
        self.schedule_zap();
        self.rearm();
        Ok(())
    }

    /// Plans the next zap-all by the clock. One that the guest, or its sleep, made late is
    /// not made up for.
    fn schedule_zap(&mut self) {
        let rate = u64::from(self.config.zaps_per_second);
        let period = self.hertz.get().checked_div(rate);
        self.zap_at = period.map_or(u64::MAX, |ticks| self.left.saturating_add(ticks.max(1)));
        self.alarm = self.deadline.min(self.zap_at);
    }

    #[cold]
    fn report_writes(&mut self) {
        while let Some(write) = self.memory.writes().take() {
            self.translation.guest_wrote(write);
        }
    }

    /// What happened, and whose business it is.
    ///
    /// Only exits that can come in the middle of an event's delivery look for one
    /// that was interrupted: an instruction that exits has begun after it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call would cost a tenth of an exit")]
    fn dispatch(&mut self, exit: &VmExit) -> ExitAction {
        match exit {
            VmExit::Io(io) => self.io(*io),
            VmExit::Cpuid => {
                self.cpuid();
                self.skip()
            }
            VmExit::Hypercall => {
                self.hypercall();
                self.skip()
            }
            VmExit::ReadMsr => self.read_msr(),
            VmExit::WriteMsr => self.write_msr(),
            VmExit::Control(control) => self.control(*control),
            VmExit::NestedFault(fault) => self.requeued().nested_fault(fault),
            VmExit::Exception(exception) => self.requeued().exception(exception),
            VmExit::Invlpg(gva) => self.invlpg(*gva),
            VmExit::Halt => self.halt(),
            VmExit::HostInterrupt | VmExit::HostNmi | VmExit::Preempted => {
                self.requeued().host_interrupt()
            }
            VmExit::InterruptWindow | VmExit::NmiWindow => {
                // Delivery tries again before the entry.
                self.requeued();
                ExitAction::Resume
            }
            VmExit::Debug(debug) => self.debug_register(*debug),
            VmExit::Invd | VmExit::Wbinvd | VmExit::Pause => self.skip(),
            VmExit::Invpcid => self.invpcid(),
            VmExit::Xsetbv => self.xsetbv(),
            VmExit::MonitorMwait | VmExit::Rdtscp | VmExit::VirtualizationInstruction => {
                hidden_instruction()
            }
            VmExit::Rdpmc => general_protection(),
            VmExit::TripleFault => ExitAction::Stop(Stop::TripleFault),
            VmExit::TaskSwitch { .. } => {
                ExitAction::Stop(Stop::Unsupported { what: "a hardware task switch" })
            }
            VmExit::EntryFailure { code } => ExitAction::Stop(Stop::EntryFailure { code: *code }),
            VmExit::Unknown { raw } => ExitAction::Stop(Stop::UnknownExit { raw: *raw }),
        }
    }

    /// Does to the vCPU what an exit's handler decided.
    pub(crate) fn apply(&mut self, action: ExitAction) -> Result<(), Stop> {
        match action {
            ExitAction::SkipInstruction(length) => self.advance(length),
            ExitAction::Resume => {}
            ExitAction::Inject(event) => self.raise(event)?,
            ExitAction::Stop(stop) => return Err(stop),
        }
        Ok(())
    }

    /// Goes past an instruction of `length` bytes that was carried out.
    #[inline]
    fn advance(&mut self, length: u8) {
        let registers = self.vcpu.regs_mut();
        let next = registers.rip.wrapping_add(length.into());
        let wraps = (next ^ registers.rip) >> 32 != 0;
        registers.rip = next;
        if wraps {
            self.wrap();
        }
        self.instruction_done();
    }

    /// An instruction was carried out: what blocked interrupts for its sake ends, and
    /// a single step traps.
    #[inline]
    pub(crate) fn instruction_done(&mut self) {
        if self.vcpu.interrupt_shadow() {
            self.vcpu.set_interrupt_shadow(false);
        }
        if self.vcpu.regs().rflags & (Rflags::TF | Rflags::RF).bits() != 0 {
            self.trace();
        }
    }

    #[cold]
    fn wrap(&mut self) {
        if !self.vcpu.runs_64_bit_code() {
            self.vcpu.regs_mut().rip &= 0xffff_ffff;
        }
    }

    #[cold]
    fn trace(&mut self) {
        let registers = self.vcpu.regs_mut();
        registers.rflags &= !Rflags::RF.bits();
        if registers.rflags & Rflags::TF.bits() != 0 {
            let dr6 = self.vcpu.debug_register(6);
            self.vcpu.set_debug_register(6, dr6 | DR6_SINGLE_STEP);
            self.events.set_next(Some(Event::exception(Vector::DEBUG)));
        }
    }

    /// Raises an exception, which may meet an event whose delivery was interrupted.
    #[cold]
    fn raise(&mut self, raised: Event) -> Result<(), Stop> {
        let Some(pending) = self.events.take_next() else {
            self.events.set_next(Some(raised));
            return Ok(());
        };
        let next = match meet(pending, raised) {
            Meeting::New => raised,
            Meeting::NewThenOld => {
                if self.vcpu.queued_event() != Some(pending) {
                    self.postpone(pending);
                }
                raised
            }
            Meeting::DoubleFault => Event::fault(Vector::DOUBLE_FAULT, 0),
            Meeting::TripleFault => return Err(Stop::TripleFault),
        };
        self.events.set_next(Some(next));
        Ok(())
    }

    fn postpone(&mut self, event: Event) {
        match event.kind {
            EventKind::Nmi => self.events.nmi = true,
            _ => self.devices.interrupts.raise(event.vector),
        }
    }

    /// Queues the event whose delivery the exit interrupted, if any.
    #[inline]
    fn requeued(&mut self) -> &mut Self {
        if let Some(event) = self.vcpu.interrupted_event() {
            self.counters.reinjected += 1;
            self.events.set_next(Some(event));
        }
        self
    }

    /// Injects what can be injected now, and asks for a window for the rest.
    #[cold]
    fn deliver(&mut self) {
        let shadow = self.vcpu.interrupt_shadow();
        let nmi_possible = self.events.nmi && !shadow && !self.vcpu.nmi_blocked();
        // A backend may still hold an interrupt that the guest has not taken.
        let mut free = self.vcpu.queued_event().is_none();

        if let Some(event) = self.events.take_next() {
            self.counters.exceptions += u64::from(event.kind == EventKind::Exception);
            self.vcpu.inject(event);
            free = false;
        } else if nmi_possible {
            self.events.nmi = false;
            self.counters.nmis += 1;
            self.vcpu.inject(Event::nmi());
            free = false;
        }
        self.tell_priority();
        if free && !shadow && self.interrupts_enabled() {
            if let Some(vector) = self.devices.interrupts.acknowledge() {
                self.counters.interrupts += 1;
                self.vcpu.inject(Event::interrupt(vector));
            }
        }
        self.ask_for_windows();
    }

    fn ask_for_windows(&mut self) {
        let interrupt = self.devices.interrupts.is_pending();
        let nmi = self.events.nmi;
        if self.events.window || interrupt || nmi {
            self.vcpu.request_interrupt_window(interrupt);
            self.vcpu.request_nmi_window(nmi);
            self.events.window = interrupt || nmi;
        }
    }

    /// Whether RFLAGS.IF is set.
    pub(crate) fn interrupts_enabled(&self) -> bool {
        self.vcpu.regs().rflags & Rflags::IF.bits() != 0
    }

    #[cold]
    fn finish(&mut self, stop: Stop) -> Outcome {
        self.tell_zaps();
        let rip = self.vcpu.regs().rip;
        let reason = format!("{stop} at rip {rip:#x}");
        let outcome = Outcome {
            stop,
            limit: self.config.limit_seconds,
            reset_passes: self.config.reset_passes,
            triple_fault_passes: self.config.triple_fault_passes,
            reason,
        };
        if stop.wants_dump() && outcome.verdict() != Verdict::Pass {
            self.dump(&stop);
        }
        outcome
    }
}

/// A vCPU about to enter, whose flushes are counted.
struct Counted<'a, B> {
    vcpu: &'a mut B,
    flushes: &'a mut u64,
}

impl<B: Vcpu> Entering for Counted<'_, B> {
    #[inline]
    fn load(&mut self, root: Root) {
        self.vcpu.set_root(root);
    }

    #[inline]
    fn forget(&mut self, scope: FlushScope) {
        *self.flushes += 1;
        self.vcpu.flush(scope);
    }
}

#[cfg(test)]
mod tests;
