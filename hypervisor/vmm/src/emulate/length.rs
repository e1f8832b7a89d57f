//! Length and operands of instructions that are intercepted.
//!
//! CPUs without NRIPS or decode assists leave this to us, on every exit. So there
//! are three steps: [`instruction_length`] compares the first bytes of the common,
//! unprefixed instructions; [`intercepted`] decodes all that have an intercept with
//! a few comparisons; what neither knows goes to `iced-x86`, which is complete.
//!
//! The bytes are the guest's to change: another vCPU may have written over the
//! instruction since it exited. Whoever acts on an [`Operation`] compares it with
//! the exit.

mod opcode;

use super::address::MemoryOperand;
use super::mode::CodeSize;
use anchorite_vcpu::{Gpr, SegmentRegister};
use iced_x86::{Decoder, DecoderError, DecoderOptions};
use opcode::Unknown;

/// Bytes of the longest instruction. Source: SDM vol. 2, 2.3.11 "AVX Instruction Length".
pub const MAX_LENGTH: usize = 15;

/// An intercepted instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intercepted {
    /// Its bytes, prefixes included: 1–15.
    pub length: u8,
    /// What it does.
    pub operation: Operation,
}

/// What an intercepted instruction does, with the operands an exit may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// CPUID.
    Cpuid,
    /// HLT.
    Halt,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// RDPMC.
    Rdpmc,
    /// XSETBV.
    Xsetbv,
    /// INVD.
    Invd,
    /// WBINVD.
    Wbinvd,
    /// MONITOR.
    Monitor,
    /// MWAIT.
    Mwait,
    /// PAUSE.
    Pause,
    /// CLTS.
    Clts,
    /// LMSW.
    Lmsw(Place),
    /// SMSW to a register, of which so many bytes are written (2, or 4 with the upper
    /// half zeroed), or to 2 bytes of memory.
    Smsw(Place, u8),
    /// INVLPG of this operand's address.
    Invlpg(MemoryOperand),
    /// INVPCID: the type is in the register, the descriptor in memory.
    Invpcid(Gpr, MemoryOperand),
    /// MOV to a control register.
    WriteControl {
        /// 0, 2, 3, 4 or 8.
        number: u8,
        /// Its source.
        from: Gpr,
    },
    /// MOV from a control register.
    ReadControl {
        /// 0, 2, 3, 4 or 8.
        number: u8,
        /// Its destination.
        to: Gpr,
    },
    /// MOV to a debug register.
    WriteDebug {
        /// 0–7.
        number: u8,
        /// Its source.
        from: Gpr,
    },
    /// MOV from a debug register.
    ReadDebug {
        /// 0–7.
        number: u8,
        /// Its destination.
        to: Gpr,
    },
    /// IN.
    In(PortOperand),
    /// OUT.
    Out(PortOperand),
    /// INS.
    Ins(StringPort),
    /// OUTS.
    Outs(StringPort),
    /// MOV to memory, of a register or of a constant. It has no intercept,
    /// but page faults of it are carried out by the thousand.
    Store(Store),
    /// Another instruction; only its length is known.
    Other,
}

/// A MOV to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Where to.
    pub to: MemoryOperand,
    /// Bytes stored: 2, 4 or 8.
    pub size: u8,
    /// What is stored, from its low end.
    pub value: StoredValue,
}

/// What a MOV stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredValue {
    /// A general register.
    Register(Gpr),
    /// A constant, to be sign-extended.
    Constant(i32),
}

/// Where a 16-bit operand lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A general register's low half.
    Register(Gpr),
    /// Memory.
    Memory(MemoryOperand),
}

/// The operands of IN and OUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortOperand {
    /// The port in the instruction; `None` where it is in DX.
    pub port: Option<u8>,
    /// Bytes moved: 1, 2 or 4.
    pub size: u8,
}

/// The operands of INS and OUTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringPort {
    /// Bytes an iteration moves: 1, 2 or 4.
    pub size: u8,
    /// Bytes of the index and count registers: 2, 4 or 8.
    pub address_bytes: u8,
    /// With a REP prefix.
    pub repeat: bool,
    /// The segment of the memory operand.
    pub segment: SegmentRegister,
}

/// Why bytes are no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthError {
    /// The instruction goes on beyond the bytes given.
    Truncated,
    /// No such instruction, or longer than 15 bytes.
    Invalid,
}

/// The length of the instruction at the start of `bytes`.
///
/// For the common intercepted instructions without prefixes this is a comparison
/// or two, given at least three bytes; see [`intercepted`] for the rest.
#[inline]
pub fn instruction_length(bytes: &[u8], code: CodeSize) -> Result<u8, LengthError> {
    if let [first, second, third, ..] = *bytes {
        let length = unprefixed_length(first, second, third);
        if length != 0 {
            return Ok(length);
        }
    }
    general(bytes, 0, code).map(|instruction| instruction.length)
}

/// The length of an instruction that is known by its first three bytes, the same in
/// code of every size; else 0.
#[inline]
pub const fn unprefixed_length(first: u8, second: u8, third: u8) -> u8 {
    match (first, second) {
        // CPUID, RDMSR, WRMSR, CLTS, INVD; IN and OUT with a number.
        (0x0f, 0xa2 | 0x32 | 0x30 | 0x06 | 0x08) | (0xe4..=0xe7, _) => 2,
        // MOV to and from control registers 0, 2, 3, 4.
        (0x0f, 0x20 | 0x22) if matches!(third >> 3 & 7, 0 | 2 | 3 | 4) => 3,
        // VMCALL, VMMCALL, XSETBV.
        (0x0f, 0x01) if matches!(third, 0xc1 | 0xd9 | 0xd1) => 3,
        // HLT; IN and OUT with DX.
        (0xf4 | 0xec..=0xef, _) => 1,
        _ => 0,
    }
}

/// Decodes the instruction at the start of `bytes`.
///
/// `rip` is its address, for operands relative to RIP; any value does where only
/// the length is of interest.
#[inline]
pub fn intercepted(bytes: &[u8], rip: u64, code: CodeSize) -> Result<Intercepted, LengthError> {
    match unprefixed(bytes, code) {
        Some(operation) => Ok(Intercepted { length: 3, operation }),
        None => general(bytes, rip, code),
    }
}

/// Decodes the instruction at the start of `bytes` if it is a MOV of 2, 4 or 8 bytes to memory.
pub fn store(bytes: &[u8], rip: u64, code: CodeSize) -> Option<Intercepted> {
    let decoded = opcode::decode(&bytes[..bytes.len().min(MAX_LENGTH)], rip, code).ok()?;
    matches!(decoded.operation, Operation::Store(_)).then_some(decoded)
}

/// Any intercepted instruction: out of line, so that what comes before stays small.
#[inline(never)]
fn general(bytes: &[u8], rip: u64, code: CodeSize) -> Result<Intercepted, LengthError> {
    match opcode::decode(&bytes[..bytes.len().min(MAX_LENGTH)], rip, code) {
        Ok(instruction) => Ok(instruction),
        Err(Unknown::Truncated) if bytes.len() < MAX_LENGTH => Err(LengthError::Truncated),
        Err(_) => by_iced(bytes, code),
    }
}

/// MOV to and from control registers, and INVLPG of what a register points to: the
/// forms that kernels use all the time, without going through prefixes and ModRM.
#[inline]
fn unprefixed(bytes: &[u8], code: CodeSize) -> Option<Operation> {
    let [0x0f, opcode, modrm, ..] = *bytes else { return None };
    let (number, register) = (modrm >> 3 & 7, Gpr::from_encoding(modrm & 7));
    let exists = matches!(number, 0 | 2 | 3 | 4);
    match (opcode, modrm) {
        (0x20, _) if exists => Some(Operation::ReadControl { number, to: register }),
        (0x22, _) if exists => Some(Operation::WriteControl { number, from: register }),
        (0x01, 0x38..=0x3b | 0x3e | 0x3f) if code != CodeSize::Bits16 => {
            Some(Operation::Invlpg(MemoryOperand {
                segment: SegmentRegister::Ds,
                base: Some(register),
                index: None,
                shift: 0,
                displacement: 0,
                address_bytes: if code == CodeSize::Bits64 { 8 } else { 4 },
            }))
        }
        _ => None,
    }
}

/// The complete decoder.
#[cold]
fn by_iced(bytes: &[u8], code: CodeSize) -> Result<Intercepted, LengthError> {
    let mut decoder = Decoder::new(code.bits(), bytes, DecoderOptions::NONE);
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => {
            Ok(Intercepted { length: instruction.len() as u8, operation: Operation::Other })
        }
        DecoderError::NoMoreBytes if bytes.len() < MAX_LENGTH => Err(LengthError::Truncated),
        _ => Err(LengthError::Invalid),
    }
}
