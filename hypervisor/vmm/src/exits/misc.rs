//! The exits that need little.

use super::msr::general_protection;
use crate::action::{ExitAction, Stop};
use crate::emulate::{CodeSize, MemoryOperand, Mode, Operation};
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_addr::Gva;
use anchorite_shadow::Invpcid;
use anchorite_vcpu::{ControlRegister, Cr4, Event, Instructions, Vcpu, Vector};

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// A physical interrupt ended the guest's turn: a good moment for the devices.
    pub(crate) fn host_interrupt(&mut self) -> ExitAction {
        self.serve_devices();
        ExitAction::Resume
    }

    /// INVLPG.
    pub(crate) fn invlpg(&mut self, gva: Option<Gva>) -> ExitAction {
        if let (Some(gva), Some(length)) = (gva, self.vcpu.instruction_length()) {
            self.translation.invalidate(gva);
            return ExitAction::SkipInstruction(length);
        }
        let (operation, length, code) = match self.known_in_code() {
            Some((known, code)) => (known.operation, known.length, code),
            None => match self.decode_anew() {
                Ok(anew) => (anew.operation, anew.length, CodeSize::of(&self.vcpu)),
                Err(action) => return action,
            },
        };
        let gva = match (gva, operation) {
            (Some(gva), _) => gva,
            (None, Operation::Invlpg(operand)) => self.invlpg_address(&operand, code),
            _ => return ExitAction::Stop(Stop::Emulation { what: "no INVLPG", gpa: None }),
        };
        self.translation.invalidate(gva);
        ExitAction::SkipInstruction(length)
    }

    /// INVPCID, where the tables it concerns are ours, or where it is hidden.
    ///
    /// Source: SDM vol. 2, "INVPCID—Invalidate Process-Context Identifier".
    pub(crate) fn invpcid(&mut self) -> ExitAction {
        if !self.cpuid.instructions().contains(Instructions::INVPCID) {
            return hidden_instruction();
        }
        let instruction = match self.decoded() {
            Ok(instruction) => instruction,
            Err(action) => return action,
        };
        let Operation::Invpcid(register, operand) = instruction.operation else {
            return ExitAction::Stop(Stop::Emulation { what: "no INVPCID", gpa: None });
        };
        let descriptor = match self.pair_operand(&operand) {
            Ok(descriptor) => descriptor,
            Err(action) => return action,
        };
        let Some(kind) = self.invpcid_kind(self.vcpu.regs()[register], descriptor) else {
            return general_protection();
        };
        self.translation.invpcid(kind);
        ExitAction::SkipInstruction(instruction.length)
    }

    /// What is to be invalidated; `None` for an operand that raises #GP.
    fn invpcid_kind(&self, kind: u64, [context, address]: [u64; 2]) -> Option<Invpcid> {
        let tagged = self.vcpu.control(ControlRegister::Cr4) & Cr4::PCIDE.bits() != 0;
        let pcid = u16::try_from(context).ok().filter(|pcid| *pcid < 1 << 12)?;
        let kind = if self.vcpu.runs_64_bit_code() { kind } else { kind & 0xffff_ffff };
        match kind {
            0 | 1 if pcid != 0 && !tagged => None,
            0 if !Mode::of(&self.vcpu).is_canonical(address) => None,
            0 => Some(Invpcid::Address { pcid, gva: Gva::new(address) }),
            1 => Some(Invpcid::Context { pcid }),
            2 => Some(Invpcid::AllWithGlobal),
            3 => Some(Invpcid::All),
            _ => None,
        }
    }

    /// The guest changed CR0.CD or an MTRR: whatever was made with the old memory types in
    /// mind goes. Ours are write-back throughout, so nothing else follows from it.
    #[cold]
    pub(crate) fn memory_types_changed(&mut self) {
        self.counters.memory_types += 1;
        self.translation.zap_all();
    }

    /// Lets devices see the time and the console's input.
    pub(crate) fn serve_devices(&mut self) {
        self.left = self.left.max(self.host.ticks().min(self.deadline));
        let now = self.now();
        while let Some(byte) = self.typed.take().or_else(|| self.host.console_read()) {
            if !self.devices.input(byte, now) {
                self.typed = Some(byte);
                break;
            }
        }
        self.devices.advance(now);
        // What the host was asked for may have gone with the interrupt.
        self.wake = self.devices.deadline().min(self.alarm);
        self.host.wake_at(self.wake);
    }

    /// Asks the host for an interrupt when the devices or the alarm next need one.
    #[inline]
    pub(crate) fn rearm(&mut self) {
        let next = self.devices.deadline().min(self.alarm);
        if next != self.wake {
            self.wake = next;
            self.host.wake_at(next);
        }
    }

    /// Tells the local APIC the guest's CR8, whose changes need no exit.
    #[inline]
    pub(crate) fn tell_priority(&mut self) {
        if self.devices.interrupts.has_apic() {
            let priority = self.vcpu.control(ControlRegister::Cr8) as u8;
            self.devices.interrupts.set_priority(priority);
        }
    }

    #[inline]
    fn invlpg_address(&self, operand: &MemoryOperand, code: CodeSize) -> Gva {
        let flat = code == CodeSize::Bits64 && !operand.has_long_base();
        let base = if flat { 0 } else { self.vcpu.segment(operand.segment).base };
        operand.linear(self.vcpu.regs(), base, code)
    }
}

/// An instruction of a feature that CPUID does not show: #UD.
pub(crate) const fn hidden_instruction() -> ExitAction {
    ExitAction::Inject(Event::exception(Vector::INVALID_OPCODE))
}
