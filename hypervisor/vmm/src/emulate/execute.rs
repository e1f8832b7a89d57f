//! Emulation of instructions that access memory.
//!
//! [`emulate`] executes one instruction against an [`Environment`]. It computes
//! with a copy of the registers and hands it back only when every memory access has
//! succeeded, so that a fault leaves the instruction to be started again. Repeated
//! string instructions hand back what their finished iterations did, as the CPU does.
//!
//! Left to the caller: CR2 of a page fault, the interrupt shadow, and the #DB of a
//! guest that single-steps (RFLAGS.TF).

mod arithmetic;
mod data;
mod exchange;
mod plain;
mod stack;
mod string;
mod update;
mod vector;

use super::environment::{Environment, Exception, Fault};
use super::length::{LengthError, MAX_LENGTH};
use super::mode::{CodeSize, Mode};
use super::operands::Step;
use anchorite_vcpu::{Registers, Rflags};
use core::fmt;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic};
use string::Strings;

/// Iterations of a repeated string instruction in one call; the guest comes back
/// for the rest, and interrupts get their turn.
pub const MAX_ITERATIONS: u32 = 1024;

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; RIP stands behind it (or at a branch's target).
    Completed,
    /// A repeated string instruction has more iterations: let the guest execute it
    /// again, or call again.
    Unfinished,
    /// Nothing was done; let the guest execute it again.
    Retry,
    /// It raises this exception; RIP still points at it.
    Exception(Exception),
}

/// Why an instruction cannot be emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmulationError {
    /// The bytes are no whole instruction.
    Decode(LengthError),
    /// An instruction that the emulator (or its environment) does not know.
    Unsupported {
        /// Its bytes, zero beyond `length`.
        bytes: [u8; MAX_LENGTH],
        /// How many they are.
        length: u8,
    },
}

impl fmt::Display for EmulationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(LengthError::Invalid) => f.write_str("the bytes are no instruction"),
            Self::Decode(LengthError::Truncated) => f.write_str("the instruction is cut off"),
            Self::Unsupported { bytes, length } => {
                f.write_str("no emulation of the instruction")?;
                bytes
                    .iter()
                    .take(usize::from(*length))
                    .try_for_each(|byte| write!(f, " {byte:02x}"))
            }
        }
    }
}

/// Decodes the instruction at the start of `bytes`, which lies at `rip`.
pub fn decode(bytes: &[u8], rip: u64, mode: Mode) -> Result<Instruction, LengthError> {
    let mut decoder = Decoder::with_ip(mode.code.bits(), bytes, rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => Ok(instruction),
        DecoderError::NoMoreBytes if bytes.len() < MAX_LENGTH => Err(LengthError::Truncated),
        _ => Err(LengthError::Invalid),
    }
}

/// Executes the instruction whose bytes are given and which lies at `registers.rip`.
pub fn emulate<E: Environment>(
    bytes: &[u8],
    registers: &mut Registers,
    mode: Mode,
    environment: &mut E,
) -> Result<Outcome, EmulationError> {
    match plain::execute(bytes, registers, mode, environment) {
        Some(Ok(outcome)) => Ok(outcome),
        Some(Err(Fault::Exception(exception))) => Ok(Outcome::Exception(exception)),
        Some(Err(Fault::Retry)) => Ok(Outcome::Retry),
        Some(Err(Fault::Unsupported)) | None => emulate_more(bytes, registers, mode, environment),
    }
}

/// Whether the instruction is STOS or MOVS with a REP prefix.
pub fn is_repeated_store(bytes: &[u8], code: CodeSize) -> bool {
    Strings::decode(bytes, code).is_some_and(Strings::is_repeated_store)
}

fn emulate_more<E: Environment>(
    bytes: &[u8],
    registers: &mut Registers,
    mode: Mode,
    environment: &mut E,
) -> Result<Outcome, EmulationError> {
    match Strings::decode(bytes, mode.code) {
        Some(strings) => {
            let flow = strings.execute(registers, mode, environment);
            conclude(&flow, bytes, registers, mode)
        }
        None => emulate_any(bytes, registers, mode, environment),
    }
}

/// Any instruction, through the complete decoder.
#[inline(never)]
fn emulate_any<E: Environment>(
    bytes: &[u8],
    registers: &mut Registers,
    mode: Mode,
    environment: &mut E,
) -> Result<Outcome, EmulationError> {
    let instruction = decode(bytes, registers.rip, mode).map_err(EmulationError::Decode)?;
    let working = registers.clone();
    let mut step = Step { instruction: &instruction, mode, registers: working, environment };

    let flow = step.execute();
    if flow.is_ok() {
        *registers = step.registers;
    }
    let length = instruction.len().min(bytes.len());
    conclude(&flow, &bytes[..length], registers, mode)
}

/// What became of an instruction of these bytes; where it is done, control goes on.
fn conclude(
    flow: &Result<Flow, Fault>,
    bytes: &[u8],
    registers: &mut Registers,
    mode: Mode,
) -> Result<Outcome, EmulationError> {
    match *flow {
        Ok(Flow::Jump(target)) => {
            complete(registers, target, mode);
            Ok(Outcome::Completed)
        }
        Ok(Flow::Partial(None)) => Ok(Outcome::Unfinished),
        Ok(Flow::Partial(Some(fault))) | Err(fault) => outcome(fault, bytes),
    }
}

/// The instruction is done: control goes to `rip`.
fn complete(registers: &mut Registers, rip: u64, mode: Mode) {
    registers.rip = rip & mode.code.instruction_pointer_mask();
    registers.rflags &= !Rflags::RF.bits();
}

/// Where control goes when the memory accesses of an instruction have succeeded.
enum Flow {
    /// To this offset.
    Jump(u64),
    /// Nowhere: a string instruction did some of its iterations and then met its
    /// bound or a fault.
    Partial(Option<Fault>),
}

fn outcome(fault: Fault, bytes: &[u8]) -> Result<Outcome, EmulationError> {
    match fault {
        Fault::Exception(exception) => Ok(Outcome::Exception(exception)),
        Fault::Retry => Ok(Outcome::Retry),
        Fault::Unsupported => {
            let length = bytes.len().min(MAX_LENGTH);
            let mut copy = [0; MAX_LENGTH];
            copy[..length].copy_from_slice(&bytes[..length]);
            Err(EmulationError::Unsupported { bytes: copy, length: length as u8 })
        }
    }
}

impl<E: Environment> Step<'_, E> {
    fn execute(&mut self) -> Result<Flow, Fault> {
        use Mnemonic as M;
        match self.instruction.mnemonic() {
            M::Mov | M::Movnti | M::Movzx => self.mov()?,
            M::Push => self.push_operand()?,
            M::Pop => self.pop_operand()?,
            M::Call => return self.call(),
            M::Jmp => return self.jump(),
            _ => self.execute_plain()?,
        }
        Ok(Flow::Jump(self.instruction.next_ip()))
    }

    /// Instructions that neither branch nor repeat, group by group.
    fn execute_plain(&mut self) -> Result<(), Fault> {
        if let Some(done) = self.data() {
            return done;
        }
        if let Some(done) = self.arithmetic() {
            return done;
        }
        if let Some(done) = self.exchange() {
            return done;
        }
        self.vector()
    }
}
