//! RDMSR and WRMSR.

use crate::action::ExitAction;
use crate::cpuid::policy::Register;
use crate::host::Host;
use crate::machine::Machine;
use crate::msr::Msrs;
use crate::msr::policy::{Behaviour, ConstantWrite, FIRST_X2APIC, Rule};
use crate::translation::Translation;
use anchorite_vcpu::{ControlRegister, Event, Gpr, Vcpu, Vector};

/// IA32_APIC_BASE where there is no APIC: at its usual place, bootstrap processor.
const NO_APIC: u64 = 0xfee0_0100;

/// IA32_APIC_BASE.EXTD: x2APIC mode.
const X2APIC: u64 = 1 << 10;

/// CPUID.1:ECX's bit for that mode.
const X2APIC_FEATURE: u32 = 21;

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    #[inline]
    pub(crate) fn read_msr(&mut self) -> ExitAction {
        let index = self.vcpu.regs()[Gpr::Rcx] as u32;
        let Some(rule) = self.msr_rule(index) else {
            self.msrs.count_unknown(index, false);
            return general_protection();
        };
        let value = match rule.behaviour {
            Behaviour::Vcpu { msr, .. } => self.vcpu.msr(msr),
            Behaviour::Constant { value, .. } => value,
            Behaviour::Stored { initial, .. } => self.msrs.load(index, initial),
            Behaviour::Efer => self.vcpu.control(ControlRegister::Efer),
            Behaviour::ApicBase => self.devices.interrupts.apic_base().unwrap_or(NO_APIC),
            Behaviour::Apic => {
                self.tell_priority();
                let number = (index - FIRST_X2APIC) as u8;
                match self.devices.interrupts.read_apic_msr(number, self.now()) {
                    Some(value) => value,
                    None => return general_protection(),
                }
            }
            Behaviour::TimeStampCounter => self.host.ticks().wrapping_add(self.tsc_offset),
        };
        let registers = self.vcpu.regs_mut();
        registers[Gpr::Rax] = value & 0xffff_ffff;
        registers[Gpr::Rdx] = value >> 32;
        self.skip()
    }

    #[inline]
    pub(crate) fn write_msr(&mut self) -> ExitAction {
        let registers = self.vcpu.regs();
        let index = registers[Gpr::Rcx] as u32;
        let value = registers[Gpr::Rdx] << 32 | registers[Gpr::Rax] & 0xffff_ffff;
        let Some(rule) = self.msr_rule(index) else {
            self.msrs.count_unknown(index, true);
            return general_protection();
        };
        match self.set_msr(index, rule.behaviour, value) {
            Ok(()) => self.skip(),
            Err(Refused) => general_protection(),
        }
    }

    /// The rule for `index`, if the guest has that register.
    #[inline]
    fn msr_rule(&self, index: u32) -> Option<&'static Rule> {
        Msrs::rule(index).filter(|rule| rule.exists(&self.cpuid))
    }

    fn set_msr(&mut self, index: u32, behaviour: Behaviour, value: u64) -> Result<(), Refused> {
        match behaviour {
            Behaviour::Vcpu { msr, valid, .. } if valid.accepts(value, self.linear_bits) => {
                self.vcpu.set_msr(msr, value);
            }
            Behaviour::Stored { initial, valid } if valid.accepts(value, self.linear_bits) => {
                let changed = self.msrs.load(index, initial) != value;
                self.msrs.store(index, value);
                if changed && valid.is_memory_type() {
                    self.memory_types_changed();
                }
            }
            Behaviour::Constant { write: ConstantWrite::Ignored, .. } => {}
            Behaviour::Efer => return self.write_efer(value),
            // Where CPUID shows no APIC kernels write here without need.
            Behaviour::ApicBase if self.devices.interrupts.apic_base().is_none() => {
                return if value & X2APIC == 0 { Ok(()) } else { Err(Refused) };
            }
            Behaviour::ApicBase => return self.write_apic_base(value),
            Behaviour::Apic => return self.write_apic_msr((index - FIRST_X2APIC) as u8, value),
            Behaviour::TimeStampCounter => {
                self.tsc_offset = value.wrapping_sub(self.host.ticks());
                self.vcpu.set_tsc_offset(self.tsc_offset);
            }
            _ => return Err(Refused),
        }
        Ok(())
    }
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    fn write_apic_base(&mut self, value: u64) -> Result<(), Refused> {
        let extended = self.cpuid.shows(1, Register::Ecx, X2APIC_FEATURE);
        let taken = self.devices.interrupts.set_apic_base(value, extended);
        self.rearm();
        if taken { Ok(()) } else { Err(Refused) }
    }

    fn write_apic_msr(&mut self, number: u8, value: u64) -> Result<(), Refused> {
        self.tell_priority();
        let now = self.now();
        let effect = self.devices.write_apic_msr(number, value, now).ok_or(Refused)?;
        // Of an APIC's effects, an NMI and another CR8, none ends the run.
        let _ = self.perform(effect);
        self.rearm();
        Ok(())
    }
}

/// A value that the register does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// #GP(0).
pub(crate) const fn general_protection() -> ExitAction {
    ExitAction::Inject(Event::fault(Vector::GENERAL_PROTECTION, 0))
}
