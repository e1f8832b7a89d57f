//! The emulator against the CPU that runs the test: the same instruction, the same
//! registers, the same memory, and every bit of the result that the manual defines.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(unsafe_code, reason = "executes single instructions from memory mapped for that")]

mod emulate_support;

use anchorite_vcpu::{Gpr, Registers, Rflags};
use anchorite_vmm::emulate::operands::memory_operand;
use anchorite_vmm::emulate::{CodeSize, Mode, Outcome, decode, emulate};
use core::arch::asm;
use emulate_support::{Flat, candidate, interesting, pick};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use oorandom::Rand64;
use std::collections::BTreeMap;

const STATUS: u64 = 0x8d5;
const CASES: usize = 250_000;

/// Everything an instruction can see or change, at a fixed place below 2 GiB.
#[repr(C)]
struct State {
    gpr: [u64; 16],
    rflags: u64,
    host_rsp: u64,
    xmm: [u128; 16],
}

/// Three neighbouring parts of one mapping: code, state, and the instructions' memory.
struct Native {
    code: *mut u8,
    state: *mut State,
    memory: *mut u8,
}

const CODE_BYTES: usize = 4096;
const STATE_BYTES: usize = 4096;
const MEMORY_BYTES: usize = 8192;
/// Room around the memory, so that an emulator that is wrong by little shows as a
/// difference and not as a crash.
const GAP_BYTES: usize = 65536;

impl Native {
    fn new() -> Self {
        let length = CODE_BYTES + STATE_BYTES + GAP_BYTES + MEMORY_BYTES + GAP_BYTES;
        let code = map_low(length);
        // SAFETY: both offsets lie within the mapping of `length` bytes.
        let (state, memory) =
            unsafe { (code.add(CODE_BYTES), code.add(CODE_BYTES + STATE_BYTES + GAP_BYTES)) };
        Self { code, state: state.cast(), memory }
    }

    fn address(&self) -> u64 {
        self.memory as u64
    }

    /// Executes `instruction` on `registers`, `xmm` and `memory`.
    fn run(
        &mut self,
        instruction: &[u8],
        registers: &mut Registers,
        xmm: &mut [u128; 16],
        memory: &mut [u8],
    ) {
        let program = self.program(instruction);
        assert!(program.len() <= CODE_BYTES && memory.len() == MEMORY_BYTES);
        // SAFETY: code, state and memory are parts of a private mapping that is
        // readable, writable and executable, each long enough (asserted above). The
        // program saves and restores the registers a call must keep, its stack
        // pointer and the direction flag. The instruction between was emulated
        // before without an access outside `memory`.
        unsafe {
            core::ptr::copy_nonoverlapping(program.as_ptr(), self.code, program.len());
            core::ptr::copy_nonoverlapping(memory.as_ptr(), self.memory, memory.len());
            (*self.state).gpr = registers.gpr;
            (*self.state).rflags = registers.rflags;
            (*self.state).xmm = *xmm;

            let entry: extern "C" fn() = core::mem::transmute(self.code);
            entry();

            registers.gpr = (*self.state).gpr;
            registers.rflags = (*self.state).rflags;
            *xmm = (*self.state).xmm;
            core::ptr::copy_nonoverlapping(self.memory, memory.as_mut_ptr(), memory.len());
        }
    }

    /// Loads the state, executes, stores the state. All addresses are absolute, so
    /// that every register, the stack pointer too, belongs to the instruction.
    fn program(&self, instruction: &[u8]) -> Vec<u8> {
        let state = u32::try_from(self.state as u64).expect("mapped below 4 GiB");
        let gpr = |index: u8| state + 8 * u32::from(index);
        let (rflags, host_rsp) = (state + 128, state + 136);
        let xmm = |index: u8| state + 144 + 16 * u32::from(index);
        let mut program = Vec::new();

        program.extend([0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57]);
        absolute(&mut program, &[0x48, 0x89], 4, host_rsp);
        for index in 0..16 {
            absolute(&mut program, &[0x40 | index >> 3 << 2, 0x0f, 0x10], index & 7, xmm(index));
        }
        absolute(&mut program, &[0xff], 6, rflags);
        program.push(0x9d);
        for index in 0..16 {
            absolute(&mut program, &[0x48 | index >> 3 << 2, 0x8b], index & 7, gpr(index));
        }

        program.extend(instruction);

        for index in 0..16 {
            absolute(&mut program, &[0x48 | index >> 3 << 2, 0x89], index & 7, gpr(index));
        }
        absolute(&mut program, &[0x48, 0x8b], 4, host_rsp);
        program.push(0x9c);
        absolute(&mut program, &[0x8f], 0, rflags);
        for index in 0..16 {
            absolute(&mut program, &[0x40 | index >> 3 << 2, 0x0f, 0x11], index & 7, xmm(index));
        }
        program.push(0xfc);
        program.extend([0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3]);
        program
    }
}

/// An instruction with `register` in its ModRM byte and an absolute address.
fn absolute(program: &mut Vec<u8>, opcode: &[u8], register: u8, address: u32) {
    program.extend(opcode);
    program.extend([register << 3 | 4, 0x25]);
    program.extend(address.to_le_bytes());
}

/// Maps memory below 2 GiB: instructions with 32-bit addresses reach it too.
fn map_low(length: usize) -> *mut u8 {
    const MMAP: usize = 9;
    const READ_WRITE_EXECUTE: usize = 7;
    const PRIVATE_ANONYMOUS_32BIT: usize = 0x62;
    let address: isize;
    // SAFETY: mmap(2) of fresh anonymous memory touches no existing mapping; the
    // kernel clobbers RCX and R11 alone.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") MMAP => address,
            in("rdi") 0,
            in("rsi") length,
            in("rdx") READ_WRITE_EXECUTE,
            in("r10") PRIVATE_ANONYMOUS_32BIT,
            in("r8") -1,
            in("r9") 0,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    assert!(address > 0, "mmap failed: {address}");
    address as *mut u8
}

/// The instructions compared, and how many of each must have been.
const MNEMONICS: &[Mnemonic] = &[
    Mnemonic::Mov,
    Mnemonic::Movzx,
    Mnemonic::Movsx,
    Mnemonic::Movsxd,
    Mnemonic::Movbe,
    Mnemonic::Movnti,
    Mnemonic::Xchg,
    Mnemonic::Xadd,
    Mnemonic::Cmpxchg,
    Mnemonic::Cmpxchg8b,
    Mnemonic::Cmpxchg16b,
    Mnemonic::Add,
    Mnemonic::Or,
    Mnemonic::Adc,
    Mnemonic::Sbb,
    Mnemonic::And,
    Mnemonic::Sub,
    Mnemonic::Xor,
    Mnemonic::Cmp,
    Mnemonic::Test,
    Mnemonic::Not,
    Mnemonic::Neg,
    Mnemonic::Inc,
    Mnemonic::Dec,
    Mnemonic::Bt,
    Mnemonic::Bts,
    Mnemonic::Btr,
    Mnemonic::Btc,
    Mnemonic::Rol,
    Mnemonic::Ror,
    Mnemonic::Rcl,
    Mnemonic::Rcr,
    Mnemonic::Shl,
    Mnemonic::Shr,
    Mnemonic::Sar,
    Mnemonic::Shld,
    Mnemonic::Shrd,
    Mnemonic::Push,
    Mnemonic::Pop,
    Mnemonic::Sete,
    Mnemonic::Setg,
    Mnemonic::Cmovb,
    Mnemonic::Cmovle,
    Mnemonic::Movsb,
    Mnemonic::Movsw,
    Mnemonic::Movsd,
    Mnemonic::Movsq,
    Mnemonic::Stosb,
    Mnemonic::Stosd,
    Mnemonic::Lodsb,
    Mnemonic::Lodsq,
    Mnemonic::Scasb,
    Mnemonic::Scasw,
    Mnemonic::Cmpsb,
    Mnemonic::Cmpsd,
    Mnemonic::Movups,
    Mnemonic::Movaps,
    Mnemonic::Movupd,
    Mnemonic::Movapd,
    Mnemonic::Movdqu,
    Mnemonic::Movdqa,
    Mnemonic::Movntdq,
    Mnemonic::Movntps,
    Mnemonic::Movq,
    Mnemonic::Movd,
    Mnemonic::Movss,
    Mnemonic::Movlps,
    Mnemonic::Movhps,
];

#[test]
fn emulated_instructions_do_what_the_cpu_does() {
    let mut native = Native::new();
    let mut random = Rand64::new(0x0123_4567_89ab_cdef);
    let mut compared = BTreeMap::new();

    for _ in 0..CASES {
        let Some(mut case) = Case::random(&mut random, native.address()) else { continue };
        if let Some(mnemonic) = case.compare(&mut native) {
            *compared.entry(format!("{mnemonic:?}")).or_insert(0_u32) += 1;
        }
    }

    let total: u32 = compared.values().sum();
    println!("{total} compared: {compared:?}");
    for mnemonic in MNEMONICS {
        let count = compared.get(&format!("{mnemonic:?}")).copied().unwrap_or(0);
        assert!(count >= 50, "{mnemonic:?} was compared {count} times only");
    }
}

/// One instruction with everything it works on.
struct Case {
    instruction: Instruction,
    bytes: Vec<u8>,
    registers: Registers,
    environment: Flat,
}

impl Case {
    fn random(random: &mut Rand64, memory: u64) -> Option<Self> {
        let bytes = candidate(random);
        let instruction = decode(&bytes, 0, Mode::LONG).ok()?;
        if !is_comparable(&instruction) {
            return None;
        }

        let mut registers = Registers::default();
        registers.gpr.fill_with(|| interesting(random));
        registers.rflags = 0x202 | random.rand_u64() & (STATUS | Rflags::DF.bits());
        registers[Gpr::Rsp] = memory + 2048 + random.rand_range(0..2048);
        let bytes = bytes[..instruction.len()].to_vec();
        let contents =
            (0..MEMORY_BYTES / 8).flat_map(|_| interesting(random).to_le_bytes()).collect();
        let mut environment = Flat::new(memory, contents);
        environment
            .xmm
            .fill_with(|| u128::from(random.rand_u64()) << 64 | u128::from(random.rand_u64()));

        let mut case = Self { instruction, bytes, registers, environment };
        let alignment = pick(random, &[1, 16]);
        let target = memory + 1024 + random.rand_range(0..4096) / alignment * alignment;
        case.aim(random, target);
        Some(case)
    }

    /// Turns registers so that the memory operand lies at `target`.
    fn aim(&mut self, random: &mut Rand64, target: u64) {
        if self.instruction.is_string_instruction() {
            self.registers[Gpr::Rsi] = target;
            self.registers[Gpr::Rdi] = target + random.rand_range(0..512);
            self.registers[Gpr::Rcx] = random.rand_range(0..60);
            return;
        }
        if is_far_bit_test(&self.instruction) {
            let register = gpr(self.instruction.op1_register());
            self.registers[register] = random.rand_range(0..4000).wrapping_sub(2000);
        }
        if self.equal_accumulator(random) {
            self.aim_base(target);
            self.match_accumulator();
        } else {
            self.aim_base(target);
        }
    }

    fn aim_base(&mut self, target: u64) {
        let operand = memory_operand(&self.instruction, CodeSize::Bits64);
        let Some(base) = operand.base else { return };
        let delta = target.wrapping_sub(operand.offset(&self.registers));
        self.registers[base] = self.registers[base].wrapping_add(delta);
    }

    /// Half of the compare-and-exchanges shall find what they expect.
    fn equal_accumulator(&self, random: &mut Rand64) -> bool {
        let mnemonic = self.instruction.mnemonic();
        let compares =
            [Mnemonic::Cmpxchg, Mnemonic::Cmpxchg8b, Mnemonic::Cmpxchg16b].contains(&mnemonic);
        compares && random.rand_range(0..2) == 0
    }

    fn match_accumulator(&mut self) {
        let operand = memory_operand(&self.instruction, CodeSize::Bits64);
        let address = operand.offset(&self.registers);
        let Some(offset) = address.checked_sub(self.environment.start) else { return };
        let Some(found) = self.environment.bytes.get(offset as usize..offset as usize + 16) else {
            return;
        };
        let low = u64::from_le_bytes(found[..8].try_into().unwrap());
        let high = u64::from_le_bytes(found[8..].try_into().unwrap());
        self.registers[Gpr::Rax] = low;
        self.registers[Gpr::Rdx] =
            if self.instruction.mnemonic() == Mnemonic::Cmpxchg8b { low >> 32 } else { high };
    }

    /// Emulates, executes, compares. `None` where the emulator said that there is
    /// nothing to execute: a fault.
    fn compare(&mut self, native: &mut Native) -> Option<Mnemonic> {
        let before = self.registers.clone();
        let mut memory = self.environment.bytes.clone();
        let mut xmm = self.environment.xmm;

        let mut emulated = before.clone();
        let outcome = emulate(&self.bytes, &mut emulated, Mode::LONG, &mut self.environment);
        match outcome {
            Ok(Outcome::Completed) => {}
            Ok(Outcome::Exception(_)) => return None,
            other => panic!("{:02x?} {:?}: {other:?}", self.bytes, self.instruction),
        }

        let mut executed = before.clone();
        native.run(&self.bytes, &mut executed, &mut xmm, &mut memory);
        executed.rip = self.bytes.len() as u64;
        let undefined = undefined_flags(&self.instruction, &before);
        executed.rflags &= !undefined;
        emulated.rflags &= !undefined;

        let what = || format!("{:02x?} {:?}\nbefore:\n{before}", self.bytes, self.instruction);
        assert_eq!(emulated, executed, "{}", what());
        assert_eq!(self.environment.xmm, xmm, "{}", what());
        let difference = memory.iter().zip(&self.environment.bytes).position(|(a, b)| a != b);
        assert_eq!(difference, None, "memory differs there; {}", what());
        Some(self.instruction.mnemonic())
    }
}

/// Whether the instruction can be both emulated and executed alone.
fn is_comparable(instruction: &Instruction) -> bool {
    let conditional = instruction.condition_code() != iced_x86::ConditionCode::None
        && !instruction.is_jcc_short_or_near();
    let segments = instruction.op0_register().is_segment_register()
        || instruction.op1_register().is_segment_register();
    let far = matches!(instruction.memory_segment(), Register::FS | Register::GS);
    let special = [instruction.op0_register(), instruction.op1_register()]
        .iter()
        .any(|register| register.is_cr() || register.is_dr() || register.is_mm());
    let vector_only = instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && (instruction.op0_register().is_xmm() || instruction.op1_register().is_xmm());
    (MNEMONICS.contains(&instruction.mnemonic()) || conditional)
        && !segments
        && !far
        && !special
        && !vector_only
        && !instruction.is_ip_rel_memory_operand()
        && !is_undefined_double_shift(instruction)
}

fn is_far_bit_test(instruction: &Instruction) -> bool {
    let tests = [Mnemonic::Bt, Mnemonic::Bts, Mnemonic::Btr, Mnemonic::Btc];
    tests.contains(&instruction.mnemonic())
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
}

/// SHLD and SHRD of a word by more than sixteen have an undefined result; with a
/// count in CL that cannot be excluded beforehand.
fn is_undefined_double_shift(instruction: &Instruction) -> bool {
    let double = [Mnemonic::Shld, Mnemonic::Shrd].contains(&instruction.mnemonic());
    let word = instruction.op1_register().size() == 2;
    let defined =
        instruction.op2_kind() == OpKind::Immediate8 && instruction.immediate8() & 31 <= 16;
    double && word && !defined
}

/// The flags that the manual leaves open for this instruction on these operands.
fn undefined_flags(instruction: &Instruction, before: &Registers) -> u64 {
    let (cf, af, of) = (1, 1 << 4, 1 << 11);
    let count_operand = match instruction.mnemonic() {
        Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr
        | Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Sar => 1,
        Mnemonic::Shld | Mnemonic::Shrd => 2,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
            return STATUS & !cf & !(1 << 6);
        }
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test => return af,
        _ => return 0,
    };

    let size = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    };
    let count = match instruction.op_kind(count_operand) {
        OpKind::Register => before[Gpr::Rcx],
        _ => instruction.immediate(count_operand),
    } & if size == 8 { 63 } else { 31 };
    let rotates = matches!(
        instruction.mnemonic(),
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr
    );
    match count {
        0 => 0,
        1 if rotates => 0,
        1 => af,
        _ if rotates => of,
        _ if count >= 8 * size as u64 && instruction.mnemonic() != Mnemonic::Sar => af | of | cf,
        _ => af | of,
    }
}

fn gpr(register: Register) -> Gpr {
    Gpr::from_encoding(register.full_register().number() as u8)
}
