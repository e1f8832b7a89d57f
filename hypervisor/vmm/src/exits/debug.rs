//! Debug registers.
//!
//! Source: SDM vol. 3, 18.2 "Debug Registers"; vol. 2, "MOV—Move to/from Debug
//! Registers".

use super::msr::general_protection;
use crate::action::{ExitAction, Stop};
use crate::emulate::Operation;
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_vcpu::exit::{DebugExit, Direction};
use anchorite_vcpu::{ControlRegister, Cr4, Event, Gpr, Vcpu, Vector};

/// Bits of DR6 and DR7 that always read as one.
const DR6_ONES: u64 = 0xffff_0ff0;
const DR7_ONES: u64 = 0x400;
/// The bits of DR6 that can be written: B0–B3, BD, BS, BT.
const DR6_BITS: u64 = 0xe00f;
/// The bits of DR7 that can be written.
const DR7_BITS: u64 = 0xffff_2bff;

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    pub(crate) fn debug_register(&mut self, exit: DebugExit) -> ExitAction {
        let number = match exit.number {
            4 | 5 if self.vcpu.control(ControlRegister::Cr4) & Cr4::DE.bits() != 0 => {
                return ExitAction::Inject(Event::exception(Vector::INVALID_OPCODE));
            }
            alias @ 4..=5 => alias + 2,
            number => number,
        };
        let Some(gpr) = exit.gpr.or_else(|| self.decode_debug_operand(exit)) else {
            return ExitAction::Stop(Stop::Emulation { what: "no MOV to a register", gpa: None });
        };
        match exit.direction {
            Direction::In => self.vcpu.regs_mut()[gpr] = self.vcpu.debug_register(number),
            Direction::Out => {
                let value = self.vcpu.regs()[gpr];
                if number >= 6 && value >> 32 != 0 {
                    return general_protection();
                }
                self.vcpu.set_debug_register(number, writable(number, value));
            }
        }
        self.skip()
    }

    fn decode_debug_operand(&mut self, exit: DebugExit) -> Option<Gpr> {
        match self.decoded().ok()?.operation {
            Operation::WriteDebug { number, from } if number == exit.number => Some(from),
            Operation::ReadDebug { number, to } if number == exit.number => Some(to),
            _ => None,
        }
    }
}

const fn writable(number: u8, value: u64) -> u64 {
    match number {
        6 => value & DR6_BITS | DR6_ONES,
        7 => value & DR7_BITS | DR7_ONES,
        _ => value,
    }
}
