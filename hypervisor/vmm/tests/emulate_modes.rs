//! What only a test with chosen values shows: modes other than 64-bit, the stack,
//! branches, ports, bounds and refusals.

#[expect(dead_code, reason = "random cases are for other tests")]
mod emulate_support;

use anchorite_addr::Gva;
use anchorite_vcpu::{Gpr, Registers, Rflags, Segment, SegmentRegister, Vector};
use anchorite_vmm::emulate::execute::MAX_ITERATIONS;
use anchorite_vmm::emulate::length::LengthError;
use anchorite_vmm::emulate::{
    Access, EmulationError, Environment, Exception, Fault, Mode, Outcome, emulate,
};
use emulate_support::Flat;

/// 64 KiB of zeroes from address 0.
fn memory() -> Flat {
    Flat::new(0, vec![0; 0x1_0000])
}

fn registers(values: &[(Gpr, u64)]) -> Registers {
    let mut registers = Registers { rip: 0x100, rflags: 2, ..Registers::default() };
    for &(register, value) in values {
        registers[register] = value;
    }
    registers
}

/// Executes and asserts that it completed.
fn execute(bytes: &[u8], registers: &mut Registers, mode: Mode, memory: &mut Flat) {
    assert_eq!(emulate(bytes, registers, mode, memory), Ok(Outcome::Completed), "{bytes:02x?}");
}

fn read(memory: &mut Flat, address: u64, size: u8) -> u64 {
    memory.load(Gva::new(address), size, Access::Read).unwrap()
}

#[test]
fn real_mode_addresses_wrap_in_their_segment() {
    let mut memory = memory();
    memory.segments[SegmentRegister::Ds as usize] = Segment::real_mode(0x100, false);
    let mut registers = registers(&[(Gpr::Rbx, 0xfff0), (Gpr::Rsi, 0x20), (Gpr::Rax, 0x1234)]);
    // mov [bx+si], ax
    execute(&[0x89, 0x00], &mut registers, Mode::REAL, &mut memory);
    assert_eq!(read(&mut memory, 0x1010, 2), 0x1234);
    assert_eq!(registers.rip, 0x102);
}

#[test]
fn a_real_mode_access_across_the_segments_end_faults_without_an_error_code() {
    let mut memory = memory();
    memory.segments[SegmentRegister::Ds as usize] = Segment::real_mode(0, false);
    let mut registers = registers(&[(Gpr::Rbx, 0xffff)]);
    let fault = Exception::plain(Vector::GENERAL_PROTECTION);
    let outcome = emulate(&[0x89, 0x07], &mut registers, Mode::REAL, &mut memory);
    assert_eq!(outcome, Ok(Outcome::Exception(fault)));
    assert_eq!(fault.event().error_code, None);
}

#[test]
fn the_instruction_pointer_wraps_with_its_code_segment() {
    let mut registers = registers(&[]);
    registers.rip = 0xffff;
    // inc ax
    execute(&[0x40], &mut registers, Mode::REAL, &mut memory());
    assert_eq!((registers.rip, registers[Gpr::Rax]), (0, 1));

    registers.rip = 0xffff_ffff;
    execute(&[0x40], &mut registers, Mode::PROTECTED, &mut memory());
    assert_eq!((registers.rip, registers[Gpr::Rax]), (0, 2));
}

#[test]
fn a_16_bit_stack_moves_sp_and_leaves_the_rest_of_rsp() {
    let mut memory = memory();
    let mode = Mode { stack_bytes: 2, ..Mode::PROTECTED };
    let mut registers = registers(&[(Gpr::Rsp, 0xabcd_0002), (Gpr::Rax, 0x1111_2222)]);
    // push eax: the stack pointer wraps to 0xfffe, where four bytes do not fit.
    let outcome = emulate(&[0x50], &mut registers, mode, &mut memory);
    assert!(matches!(outcome, Ok(Outcome::Exception(_))));
    assert_eq!(registers[Gpr::Rsp], 0xabcd_0002);

    registers[Gpr::Rsp] = 0xabcd_0000;
    execute(&[0x50], &mut registers, mode, &mut memory);
    assert_eq!(registers[Gpr::Rsp], 0xabcd_fffc);
    assert_eq!(read(&mut memory, 0xfffc, 4), 0x1111_2222);
    // pop dword [0x40]
    execute(&[0x8f, 0x05, 0x40, 0, 0, 0], &mut registers, mode, &mut memory);
    assert_eq!(registers[Gpr::Rsp], 0xabcd_0000);
    assert_eq!(read(&mut memory, 0x40, 4), 0x1111_2222);
}

#[test]
fn a_call_through_memory_pushes_the_next_instruction() {
    let mut memory = memory();
    memory.store(Gva::new(0x80), 8, 0x4_5678).unwrap();
    let mut registers = registers(&[(Gpr::Rsp, 0x1000), (Gpr::Rbx, 0x80)]);
    // call [rbx]
    execute(&[0xff, 0x13], &mut registers, Mode::LONG, &mut memory);
    assert_eq!((registers.rip, registers[Gpr::Rsp]), (0x4_5678, 0xff8));
    assert_eq!(read(&mut memory, 0xff8, 8), 0x102);
    // call $+5+0x10
    execute(&[0xe8, 0x10, 0, 0, 0], &mut registers, Mode::LONG, &mut memory);
    assert_eq!(registers.rip, 0x4_568d);
    // jmp [rbx]
    execute(&[0xff, 0x23], &mut registers, Mode::LONG, &mut memory);
    assert_eq!(registers.rip, 0x4_5678);
}

#[test]
fn a_branch_out_of_the_code_segment_faults_before_it_pushes() {
    let mut memory = memory();
    memory.segments[SegmentRegister::Cs as usize].limit = 0xffff;
    let before = registers(&[(Gpr::Rsp, 0x1000), (Gpr::Rax, 0x1_0000)]);
    let mut after = before.clone();
    let fault = Exception::with_zero_code(Vector::GENERAL_PROTECTION, Mode::PROTECTED);
    // call eax
    let outcome = emulate(&[0xff, 0xd0], &mut after, Mode::PROTECTED, &mut memory);
    assert_eq!((outcome, after), (Ok(Outcome::Exception(fault)), before.clone()));

    let mut after = before.clone();
    after[Gpr::Rax] = 1 << 47;
    let outcome = emulate(&[0xff, 0xd0], &mut after, Mode::LONG, &mut memory);
    assert_eq!(outcome, Ok(Outcome::Exception(fault)));
    assert_eq!(read(&mut memory, 0xff8, 8), 0);
}

#[test]
fn a_long_string_instruction_stops_at_its_bound_and_goes_on() {
    let mut memory = memory();
    let count = u64::from(MAX_ITERATIONS) + 10;
    let mut registers = registers(&[(Gpr::Rcx, count), (Gpr::Rax, 0x5a)]);
    // rep stosb
    let outcome = emulate(&[0xf3, 0xaa], &mut registers, Mode::LONG, &mut memory);
    assert_eq!(outcome, Ok(Outcome::Unfinished));
    assert_eq!((registers[Gpr::Rcx], registers.rip), (10, 0x100));
    execute(&[0xf3, 0xaa], &mut registers, Mode::LONG, &mut memory);
    assert_eq!((registers[Gpr::Rcx], registers[Gpr::Rdi], registers.rip), (0, count, 0x102));
    assert!(memory.bytes[..count as usize].iter().all(|&byte| byte == 0x5a));
    assert_eq!(memory.bytes[count as usize], 0);
}

#[test]
fn a_string_instruction_that_faults_keeps_its_finished_iterations() {
    let mut memory = memory();
    let mut registers = registers(&[(Gpr::Rcx, 8), (Gpr::Rdi, 0xfffc)]);
    // rep stosb, four bytes before the end of memory
    let outcome = emulate(&[0xf3, 0xaa], &mut registers, Mode::LONG, &mut memory);
    let fault = Exception::page_fault(Gva::new(0x1_0000), 2);
    assert_eq!(outcome, Ok(Outcome::Exception(fault)));
    assert_eq!((registers[Gpr::Rcx], registers[Gpr::Rdi], registers.rip), (4, 0x1_0000, 0x100));
}

#[test]
fn string_instructions_use_as_much_of_their_registers_as_the_address_size_names() {
    let mut memory = memory();
    let mut registers = registers(&[(Gpr::Rcx, 0xffff_0002), (Gpr::Rdi, 0xffff_fffe)]);
    registers[Gpr::Rax] = 0x77;
    // 16-bit rep stosb wraps from 0xffff to 0.
    let mode = Mode { code: Mode::REAL.code, ..Mode::PROTECTED };
    execute(&[0xf3, 0xaa], &mut registers, mode, &mut memory);
    assert_eq!((registers[Gpr::Rcx], registers[Gpr::Rdi]), (0xffff_0000, 0xffff_0000));
    assert_eq!(read(&mut memory, 0xfffe, 2), 0x7777);
}

#[test]
fn moving_down_copies_backwards() {
    let mut memory = memory();
    memory.bytes[..4].copy_from_slice(b"abcd");
    let mut registers = registers(&[(Gpr::Rcx, 4), (Gpr::Rsi, 3), (Gpr::Rdi, 0x13)]);
    registers.rflags |= Rflags::DF.bits();
    execute(&[0xf3, 0xa4], &mut registers, Mode::LONG, &mut memory);
    assert_eq!(memory.bytes[0x10..0x14], *b"abcd");
    assert_eq!(registers[Gpr::Rsi], u64::MAX);
}

#[test]
fn selectors_are_stored_and_segment_registers_are_not_loaded() {
    let mut memory = memory();
    let mut registers = registers(&[(Gpr::Rbx, 0x40)]);
    // mov [rbx], ds
    execute(&[0x8c, 0x1b], &mut registers, Mode::LONG, &mut memory);
    assert_eq!(read(&mut memory, 0x40, 8), 0x10);
    // mov ds, [rbx]
    let outcome = emulate(&[0x8e, 0x1b], &mut registers, Mode::LONG, &mut memory);
    assert!(matches!(outcome, Err(EmulationError::Unsupported { length: 2, .. })));
}

#[test]
fn an_instruction_without_emulation_is_named_by_its_bytes() {
    let mut registers = registers(&[]);
    // div dword [rax], followed by others
    let outcome = emulate(&[0xf7, 0x30, 0x90, 0x90], &mut registers, Mode::LONG, &mut memory());
    let error = outcome.unwrap_err();
    assert_eq!(error.to_string(), "no emulation of the instruction f7 30");
    let cut = emulate(&[0x48], &mut registers, Mode::LONG, &mut memory());
    assert_eq!(cut, Err(EmulationError::Decode(LengthError::Truncated)));
    let none = emulate(&[0x0f, 0xff, 0xff], &mut registers, Mode::LONG, &mut memory());
    assert!(matches!(none, Err(EmulationError::Decode(_) | EmulationError::Unsupported { .. })));
}

#[test]
fn completing_clears_the_resume_flag_and_faulting_does_not() {
    let mut registers = registers(&[]);
    registers.rflags |= Rflags::RF.bits();
    let before = registers.clone();
    // mov [0x10_0000], al lies outside memory
    let far = [0x88, 0x04, 0x25, 0, 0, 0x10, 0];
    let outcome = emulate(&far, &mut registers, Mode::LONG, &mut memory());
    assert!(matches!(outcome, Ok(Outcome::Exception(_))));
    assert_eq!(registers, before);
    execute(&[0x88, 0x04, 0x25, 0, 1, 0, 0], &mut registers, Mode::LONG, &mut memory());
    assert_eq!(registers.rflags, 2);
}

#[test]
fn stack_faults_are_told_from_others_by_the_base_register() {
    let mut registers = registers(&[(Gpr::Rbp, 1 << 47), (Gpr::Rbx, 1 << 47)]);
    let cases =
        [([0x88, 0x45, 0], Vector::STACK_FAULT), ([0x88, 0x43, 0], Vector::GENERAL_PROTECTION)];
    for (bytes, vector) in cases {
        let outcome = emulate(&bytes, &mut registers, Mode::LONG, &mut memory());
        let fault = Exception::with_zero_code(vector, Mode::LONG);
        assert_eq!(outcome, Ok(Outcome::Exception(fault)));
    }
}

#[test]
fn misaligned_vectors_and_pairs_raise_general_protection() {
    let fault = Exception::with_zero_code(Vector::GENERAL_PROTECTION, Mode::LONG);
    // movaps [rbx], xmm0; cmpxchg16b [rbx]
    for bytes in [[0x0f, 0x29, 0x03, 0x90], [0x48, 0x0f, 0xc7, 0x0b]] {
        let mut registers = registers(&[(Gpr::Rbx, 0x48)]);
        let outcome = emulate(&bytes, &mut registers, Mode::LONG, &mut memory());
        assert_eq!(outcome, Ok(Outcome::Exception(fault)), "{bytes:02x?}");
    }
}

#[test]
fn a_vector_that_does_not_fit_is_not_stored_in_part() {
    let mut memory = memory();
    memory.xmm[1] = u128::MAX;
    let mut registers = registers(&[(Gpr::Rbx, 0xfff8)]);
    // movups [rbx], xmm1: its upper half lies outside memory.
    let outcome = emulate(&[0x0f, 0x11, 0x0b], &mut registers, Mode::LONG, &mut memory);
    assert!(matches!(outcome, Ok(Outcome::Exception(_))));
    assert!(memory.bytes.iter().all(|&byte| byte == 0));
}

/// Counts what is done, for instructions that must touch memory an exact number of
/// times.
struct Counting {
    memory: Flat,
    loads: u32,
    stores: u32,
}

impl Environment for Counting {
    fn segment(&self, register: SegmentRegister) -> Segment {
        self.memory.segment(register)
    }

    fn load(&mut self, address: Gva, size: u8, access: Access) -> Result<u64, Fault> {
        self.loads += 1;
        self.memory.load(address, size, access)
    }

    fn store(&mut self, address: Gva, size: u8, value: u64) -> Result<(), Fault> {
        self.stores += 1;
        self.memory.store(address, size, value)
    }

    fn store_if_unchanged(
        &mut self,
        address: Gva,
        size: u8,
        _: u64,
        value: u64,
    ) -> Result<bool, Fault> {
        self.store(address, size, value).map(|()| true)
    }

    fn check_store(&mut self, address: Gva, size: u8) -> Result<(), Fault> {
        self.memory.check_store(address, size)
    }
}

#[test]
fn every_instruction_touches_memory_as_often_as_the_cpu() {
    let cases: &[(&[u8], u32, u32)] = &[
        (&[0x88, 0x03], 0, 1),       // mov [rbx], al
        (&[0x8a, 0x03], 1, 0),       // mov al, [rbx]
        (&[0x00, 0x03], 1, 1),       // add [rbx], al
        (&[0xf0, 0x00, 0x03], 1, 1), // lock add [rbx], al
        (&[0x38, 0x03], 1, 0),       // cmp [rbx], al
        (&[0x86, 0x03], 1, 1),       // xchg [rbx], al
        (&[0x0f, 0xb0, 0x03], 1, 1), // cmpxchg [rbx], al, equal
        (&[0x0f, 0xb0, 0x0b], 1, 1), // cmpxchg [rbx], cl
        (&[0x0f, 0xa3, 0x0b], 1, 0), // bt [rbx], ecx
        (&[0x0f, 0xab, 0x0b], 1, 1), // bts [rbx], ecx
        (&[0xc0, 0x23, 0x03], 1, 1), // shl byte [rbx], 3
        (&[0xf3, 0xaa], 0, 3),       // rep stosb
        (&[0xf3, 0xa4], 3, 3),       // rep movsb
        (&[0xff, 0x33], 1, 1),       // push [rbx]
        (&[0x0f, 0x45, 0x03], 1, 0), // cmovne eax, [rbx], not taken or taken
        (&[0x0f, 0x95, 0x03], 0, 1), // setne [rbx]
    ];
    for &(bytes, loads, stores) in cases {
        let mut counting = Counting { memory: memory(), loads: 0, stores: 0 };
        let mut registers = registers(&[(Gpr::Rbx, 0x80), (Gpr::Rcx, 3), (Gpr::Rsp, 0x800)]);
        let outcome = emulate(bytes, &mut registers, Mode::LONG, &mut counting);
        assert_eq!(outcome, Ok(Outcome::Completed), "{bytes:02x?}");
        assert_eq!((counting.loads, counting.stores), (loads, stores), "{bytes:02x?}");
    }
}
