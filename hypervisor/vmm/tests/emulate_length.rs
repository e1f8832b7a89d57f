//! The lean decoder of intercepted instructions against `iced-x86`.

use anchorite_addr::Gva;
use anchorite_vcpu::{Gpr, Registers, SegmentRegister};
use anchorite_vmm::emulate::length::{LengthError, Place, PortOperand, StringPort};
use anchorite_vmm::emulate::{
    CodeSize, MemoryOperand, Operation, Store, StoredValue, instruction_length, intercepted,
};
use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind, Register,
};
use oorandom::Rand64;

const SIZES: [CodeSize; 3] = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64];
const RIP: u64 = 0x1234_5678;

/// Random bytes, most of the time behind some prefixes and an opcode of interest.
fn candidate(random: &mut Rand64) -> [u8; 15] {
    const PREFIXES: [u8; 13] =
        [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3, 0x41, 0x48, 0x4f];
    const ONE: [u8; 13] =
        [0xf4, 0xe4, 0xe5, 0xe6, 0xe7, 0xec, 0xed, 0xee, 0xef, 0x6c, 0x6d, 0x6e, 0x6f];
    const TWO: [u8; 15] =
        [0x01, 0x01, 0x01, 0x06, 0x08, 0x09, 0x20, 0x21, 0x22, 0x23, 0x30, 0x32, 0x33, 0xa2, 0x38];

    let mut bytes = [0; 15];
    bytes.fill_with(|| random.rand_u64() as u8);
    let mut position = 0;
    for _ in 0..random.rand_range(0..4) {
        bytes[position] = PREFIXES[random.rand_range(0..13) as usize];
        position += 1;
    }
    match random.rand_range(0..9) {
        0..=4 => {
            bytes[position] = 0x0f;
            bytes[position + 1] = TWO[random.rand_range(0..15) as usize];
            if bytes[position + 1] == 0x38 {
                bytes[position + 2] = 0x82;
            }
        }
        5 => bytes[position] = ONE[random.rand_range(0..13) as usize],
        6 => bytes[position] = 0x90,
        7 => bytes[position] = [0x89, 0xc7][random.rand_range(0..2) as usize],
        _ => {}
    }
    bytes
}

fn iced(bytes: &[u8], code: CodeSize) -> Result<Instruction, DecoderError> {
    let mut decoder = Decoder::with_ip(code.bits(), bytes, RIP, DecoderOptions::NONE);
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => Ok(instruction),
        error => Err(error),
    }
}

#[test]
fn lengths_and_errors_are_those_of_the_complete_decoder() {
    let mut random = Rand64::new(0x1357_9bdf_2468_ace1);
    for _ in 0..1_500_000 {
        let bytes = candidate(&mut random);
        let available = 15 - random.rand_range(0..20).saturating_sub(5) as usize;
        let bytes = &bytes[..available];
        for code in SIZES {
            let expected = match iced(bytes, code) {
                Ok(instruction) => Ok(instruction.len() as u8),
                Err(DecoderError::NoMoreBytes) if available < 15 => Err(LengthError::Truncated),
                Err(_) => Err(LengthError::Invalid),
            };
            let lean = intercepted(bytes, RIP, code).map(|found| found.length);
            assert_eq!(lean, expected, "{bytes:02x?} {code:?}");
            assert_eq!(instruction_length(bytes, code), expected, "{bytes:02x?} {code:?}");
        }
    }
}

#[test]
fn operands_are_those_of_the_complete_decoder() {
    let mut random = Rand64::new(0xfeed_f00d_dead_beef);
    let mut compared = 0;
    while compared < 500_000 {
        let bytes = candidate(&mut random);
        for code in SIZES {
            let (Ok(lean), Ok(full)) = (intercepted(&bytes, RIP, code), iced(&bytes, code)) else {
                continue;
            };
            let expected = operation(&full, code);
            assert_eq!(normal(lean.operation), expected, "{bytes:02x?} {code:?} {full:?}");
            compared += usize::from(lean.operation != Operation::Other);
        }
    }
}

/// An operation with its memory operand reduced to what it comes to.
#[derive(Debug, PartialEq)]
enum Normal {
    Plain(Operation),
    Lmsw(Gva),
    Smsw(Gva),
    Invlpg(Gva),
    Invpcid(Gpr, Gva),
    Store(Gva, u8, StoredValue),
}

fn registers() -> Registers {
    let mut registers = Registers::default();
    for (index, register) in registers.gpr.iter_mut().enumerate() {
        *register = 0x9876_5432_1000_0000_u64.wrapping_mul(2 * index as u64 + 3) ^ 0x7fff;
    }
    registers
}

/// Segment bases that tell every segment apart.
fn base(segment: SegmentRegister) -> u64 {
    0x1_0000 * (segment as u64 + 1)
}

/// The linear address, with the base even of segments that have none in 64-bit
/// mode, so that the choice of DS or SS shows too.
fn address(operand: &MemoryOperand) -> Gva {
    Gva::new(operand.offset(&registers()).wrapping_add(base(operand.segment)))
}

fn normal(operation: Operation) -> Normal {
    match operation {
        Operation::Lmsw(Place::Memory(operand)) => Normal::Lmsw(address(&operand)),
        Operation::Smsw(Place::Memory(operand), _) => Normal::Smsw(address(&operand)),
        Operation::Invlpg(operand) => Normal::Invlpg(address(&operand)),
        Operation::Invpcid(register, operand) => Normal::Invpcid(register, address(&operand)),
        Operation::Store(Store { to, size, value }) => Normal::Store(address(&to), size, value),
        plain => Normal::Plain(plain),
    }
}

fn operation(full: &Instruction, code: CodeSize) -> Normal {
    Normal::Plain(match full.mnemonic() {
        Mnemonic::Cpuid => Operation::Cpuid,
        Mnemonic::Hlt => Operation::Halt,
        Mnemonic::Rdmsr => Operation::ReadMsr,
        Mnemonic::Wrmsr => Operation::WriteMsr,
        Mnemonic::Vmcall | Mnemonic::Vmmcall => Operation::Hypercall,
        Mnemonic::Rdpmc => Operation::Rdpmc,
        Mnemonic::Xsetbv => Operation::Xsetbv,
        Mnemonic::Invd => Operation::Invd,
        Mnemonic::Wbinvd => Operation::Wbinvd,
        Mnemonic::Monitor => Operation::Monitor,
        Mnemonic::Mwait => Operation::Mwait,
        Mnemonic::Pause => Operation::Pause,
        Mnemonic::Clts => Operation::Clts,
        Mnemonic::Lmsw if full.op0_kind() == OpKind::Memory => {
            return Normal::Lmsw(full_address(full, code));
        }
        Mnemonic::Lmsw => Operation::Lmsw(Place::Register(gpr(full.op0_register()))),
        Mnemonic::Smsw if full.op0_kind() == OpKind::Memory => {
            return Normal::Smsw(full_address(full, code));
        }
        Mnemonic::Smsw => {
            let register = full.op0_register();
            let bytes = if register.size() == 2 { 2 } else { 4 };
            Operation::Smsw(Place::Register(gpr(register)), bytes)
        }
        Mnemonic::Invlpg => return Normal::Invlpg(full_address(full, code)),
        Mnemonic::Invpcid => {
            return Normal::Invpcid(gpr(full.op0_register()), full_address(full, code));
        }
        Mnemonic::Mov => match stored(full) {
            Some((size, value)) => return Normal::Store(full_address(full, code), size, value),
            None => moved(full),
        },
        Mnemonic::In => Operation::In(port(full, full.op1_kind(), full.op0_register())),
        Mnemonic::Out => Operation::Out(port(full, full.op0_kind(), full.op1_register())),
        Mnemonic::Insb => Operation::Ins(string(full, 1, SegmentRegister::Es)),
        Mnemonic::Insw => Operation::Ins(string(full, 2, SegmentRegister::Es)),
        Mnemonic::Insd => Operation::Ins(string(full, 4, SegmentRegister::Es)),
        Mnemonic::Outsb => Operation::Outs(string(full, 1, segment(full, code))),
        Mnemonic::Outsw => Operation::Outs(string(full, 2, segment(full, code))),
        Mnemonic::Outsd => Operation::Outs(string(full, 4, segment(full, code))),
        _ => Operation::Other,
    })
}

/// Bytes and value of a store of more than a byte, without XRELEASE and the like.
fn stored(full: &Instruction) -> Option<(u8, StoredValue)> {
    let repeated = full.has_rep_prefix() || full.has_repne_prefix();
    if full.op0_kind() != OpKind::Memory || repeated || full.has_xrelease_prefix() {
        return None;
    }
    let constant = match full.code() {
        Code::Mov_rm16_imm16 => full.immediate16() as i16 as i32,
        Code::Mov_rm32_imm32 => full.immediate32() as i32,
        Code::Mov_rm64_imm32 => full.immediate32to64() as i32,
        Code::Mov_rm16_r16 | Code::Mov_rm32_r32 | Code::Mov_rm64_r64 => {
            let source = full.op1_register();
            return Some((source.size() as u8, StoredValue::Register(gpr(source))));
        }
        _ => return None,
    };
    Some((full.memory_size().size() as u8, StoredValue::Constant(constant)))
}

fn moved(full: &Instruction) -> Operation {
    let (target, source) = (full.op0_register(), full.op1_register());
    let number = |register: Register| register.number() as u8;
    if target.is_cr() {
        Operation::WriteControl { number: number(target), from: gpr(source) }
    } else if source.is_cr() {
        Operation::ReadControl { number: number(source), to: gpr(target) }
    } else if target.is_dr() {
        Operation::WriteDebug { number: number(target), from: gpr(source) }
    } else if source.is_dr() {
        Operation::ReadDebug { number: number(source), to: gpr(target) }
    } else {
        Operation::Other
    }
}

fn port(full: &Instruction, kind: OpKind, accumulator: Register) -> PortOperand {
    let port = (kind == OpKind::Immediate8).then(|| full.immediate8());
    PortOperand { port, size: accumulator.size() as u8 }
}

fn string(full: &Instruction, size: u8, segment: SegmentRegister) -> StringPort {
    let index = if matches!(full.mnemonic(), Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd) {
        full.op0_kind()
    } else {
        full.op1_kind()
    };
    let address_bytes = match index {
        OpKind::MemoryESDI | OpKind::MemorySegSI => 2,
        OpKind::MemoryESEDI | OpKind::MemorySegESI => 4,
        _ => 8,
    };
    let repeat = full.has_rep_prefix() || full.has_repne_prefix();
    StringPort { size, address_bytes, repeat, segment }
}

fn gpr(register: Register) -> Gpr {
    Gpr::from_encoding(register.full_register().number() as u8)
}

fn segment(full: &Instruction, code: CodeSize) -> SegmentRegister {
    let register = full.memory_segment();
    if code == CodeSize::Bits64 && !matches!(register, Register::FS | Register::GS) {
        let stack = matches!(full.memory_base().full_register(), Register::RSP | Register::RBP);
        return if stack { SegmentRegister::Ss } else { SegmentRegister::Ds };
    }
    match register {
        Register::ES => SegmentRegister::Es,
        Register::CS => SegmentRegister::Cs,
        Register::SS => SegmentRegister::Ss,
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ => SegmentRegister::Ds,
    }
}

/// The address by iced's own arithmetic.
fn full_address(full: &Instruction, code: CodeSize) -> Gva {
    let values = registers();
    let operand = u32::from(full.op0_kind() != OpKind::Memory);
    let address = full.virtual_address(operand, 0, |register, _, _| {
        let segment = register.is_segment_register();
        Some(if segment { 0 } else { truncated(values[gpr(register)], register.size()) })
    });
    Gva::new(address.unwrap().wrapping_add(base(segment(full, code))))
}

fn truncated(value: u64, bytes: usize) -> u64 {
    value & u64::MAX >> (64 - 8 * bytes)
}
