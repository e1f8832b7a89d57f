//! An emulated instruction that faults has done nothing, and does the same as ever
//! when it is started again; and no bytes, registers, segments or mode make the
//! emulator panic.

#[expect(dead_code, reason = "the flat memory is for other tests")]
mod emulate_support;

use anchorite_addr::Gva;
use anchorite_vcpu::{Registers, Segment, SegmentAttributes, SegmentRegister};
use anchorite_vmm::emulate::{
    Access, CodeSize, EmulationError, Environment, Exception, Fault, Mode, Outcome, decode, emulate,
};
use emulate_support::{candidate, interesting, pick};
use oorandom::Rand64;
use std::collections::BTreeMap;

const PAGES: u64 = 8;
const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    None,
    Read,
    Write,
}

/// Eight pages that repeat through the whole address space, each with its rights.
#[derive(Clone)]
struct Paged {
    bytes: Vec<u8>,
    rights: [Rights; PAGES as usize],
    xmm: [u128; 16],
    segments: [Segment; 8],
    ports_read: u64,
    ports_written: Vec<u32>,
    /// Locked stores still to be refused, as if another vCPU had been faster.
    races: u32,
}

impl Paged {
    fn page(address: u64) -> usize {
        (address / PAGE % PAGES) as usize
    }

    fn check(&self, address: Gva, size: u8, write: bool) -> Result<(), Fault> {
        for byte in 0..u64::from(size) {
            let address = address.as_u64().wrapping_add(byte);
            let rights = self.rights[Self::page(address)];
            if rights == Rights::None || write && rights == Rights::Read {
                let code = u32::from(rights == Rights::Read) | u32::from(write) << 1;
                return Err(Fault::Exception(Exception::page_fault(Gva::new(address), code)));
            }
        }
        Ok(())
    }

    fn byte(&mut self, address: u64) -> &mut u8 {
        &mut self.bytes[(address % (PAGES * PAGE)) as usize]
    }
}

impl Environment for Paged {
    fn segment(&self, register: SegmentRegister) -> Segment {
        self.segments[register as usize]
    }

    fn load(&mut self, address: Gva, size: u8, access: Access) -> Result<u64, Fault> {
        self.check(address, size, access.writes())?;
        Ok((0..u64::from(size)).fold(0, |value, index| {
            let byte = *self.byte(address.as_u64().wrapping_add(index));
            value | u64::from(byte) << (8 * index)
        }))
    }

    fn store(&mut self, address: Gva, size: u8, value: u64) -> Result<(), Fault> {
        self.check(address, size, true)?;
        for index in 0..u64::from(size) {
            *self.byte(address.as_u64().wrapping_add(index)) = (value >> (8 * index)) as u8;
        }
        Ok(())
    }

    fn store_if_unchanged(
        &mut self,
        address: Gva,
        size: u8,
        expected: u64,
        value: u64,
    ) -> Result<bool, Fault> {
        if self.races > 0 {
            self.races -= 1;
            return Ok(false);
        }
        assert_eq!(self.load(address, size, Access::ReadForWrite)?, expected);
        self.store(address, size, value)?;
        Ok(true)
    }

    fn check_store(&mut self, address: Gva, size: u8) -> Result<(), Fault> {
        self.check(address, size, true)
    }

    fn xmm(&mut self, number: u8) -> Result<u128, Fault> {
        Ok(self.xmm[usize::from(number)])
    }

    fn set_xmm(&mut self, number: u8, value: u128) -> Result<(), Fault> {
        self.xmm[usize::from(number)] = value;
        Ok(())
    }

    fn port_in(&mut self, port: u16, _: u8) -> Result<u32, Fault> {
        self.ports_read += 1;
        Ok((u64::from(port) * 77 + self.ports_read) as u32)
    }

    fn port_out(&mut self, _: u16, _: u8, value: u32) -> Result<(), Fault> {
        self.ports_written.push(value);
        Ok(())
    }
}

/// How an instruction ended, once all that could be mended was.
#[derive(Debug, PartialEq)]
enum End {
    Completed,
    Exception(Exception),
    Error(EmulationError),
    Endless,
}

/// Emulates until the end; page faults are mended one page at a time.
fn to_the_end(
    bytes: &[u8],
    registers: &mut Registers,
    mode: Mode,
    memory: &mut Paged,
    faults: &mut u32,
) -> End {
    let string = decode(bytes, 0, mode).is_ok_and(|decoded| decoded.is_string_instruction());
    for _ in 0..200 {
        let before = (registers.clone(), memory.bytes.clone(), memory.xmm);
        let outcome = emulate(bytes, registers, mode, memory);
        if outcome != Ok(Outcome::Completed) {
            assert_eq!(registers.rip, before.0.rip, "{bytes:02x?}: {outcome:?}");
        }
        if !matches!(outcome, Ok(Outcome::Completed | Outcome::Unfinished)) && !string {
            assert_eq!(*registers, before.0, "{bytes:02x?}: {outcome:?} left registers changed");
            assert!(memory.bytes == before.1, "{bytes:02x?}: {outcome:?} left memory changed");
            assert_eq!(memory.xmm, before.2, "{bytes:02x?}: {outcome:?} left XMM changed");
        }
        match outcome {
            Ok(Outcome::Completed) => return End::Completed,
            Ok(Outcome::Unfinished | Outcome::Retry) => {}
            Ok(Outcome::Exception(Exception { cr2: Some(address), .. })) => {
                memory.rights[Paged::page(address.as_u64())] = Rights::Write;
                *faults += 1;
            }
            Ok(Outcome::Exception(exception)) => return End::Exception(exception),
            Err(error) => return End::Error(error),
        }
    }
    End::Endless
}

fn random_mode(random: &mut Rand64) -> Mode {
    let code = pick(random, &[CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64]);
    let long = code == CodeSize::Bits64;
    Mode {
        code,
        stack_bytes: if long { 8 } else { pick(random, &[2, 4]) },
        protected: long || random.rand_range(0..2) == 0,
        linear_bits: pick(random, &[48, 57]),
    }
}

fn random_segment(random: &mut Rand64) -> Segment {
    let attributes = match random.rand_range(0..4) {
        0 => random.rand_u64() as u32,
        _ => 0xc093,
    };
    Segment {
        selector: random.rand_u64() as u16,
        base: if random.rand_range(0..2) == 0 { 0 } else { interesting(random) },
        limit: if random.rand_range(0..4) == 0 { random.rand_u64() as u32 } else { u32::MAX },
        attributes: SegmentAttributes::from_bits_retain(attributes),
    }
}

fn random_memory(random: &mut Rand64) -> Paged {
    let bytes = (0..PAGES * PAGE / 8).flat_map(|_| random.rand_u64().to_le_bytes()).collect();
    let segment = |_| random_segment(random);
    let segments = [0; 8].map(segment);
    Paged {
        bytes,
        rights: [Rights::Write; PAGES as usize],
        xmm: [0; 16].map(|_: u128| u128::from(random.rand_u64()) * 0x1_0000_0001),
        segments,
        ports_read: 0,
        ports_written: Vec::new(),
        races: 0,
    }
}

fn random_registers(random: &mut Rand64, mode: Mode) -> Registers {
    let mut registers = Registers::default();
    registers.gpr.fill_with(|| match random.rand_range(0..3) {
        0 => interesting(random),
        1 => random.rand_u64() & 0x7fff_ffff_ffff,
        _ => random.rand_range(0..PAGES * PAGE),
    });
    registers.gpr[1] = random.rand_range(0..3000);
    registers.rip = random.rand_u64() & mode.code.instruction_pointer_mask();
    registers.rflags = 2 | random.rand_u64() & 0x1_0cd5;
    registers
}

#[test]
fn instructions_end_the_same_with_and_without_faults_on_the_way() {
    let mut random = Rand64::new(0x5eed_0ffa_0175);
    let mut ends = BTreeMap::new();
    let mut faults = 0;
    for _ in 0..60_000 {
        let mode = random_mode(&mut random);
        let bytes = candidate(&mut random);
        if matches!(bytes[0], 0x68 | 0x6a | 0x50..=0x5f) && random.rand_range(0..4) > 0 {
            continue;
        }
        let registers = random_registers(&mut random, mode);
        let mut smooth = random_memory(&mut random);
        let mut rough = smooth.clone();
        rough.rights = [0; PAGES as usize]
            .map(|_: u8| pick(&mut random, &[Rights::None, Rights::Read, Rights::Write]));
        rough.races = random.rand_range(0..3) as u32;

        let (mut after_smooth, mut after_rough) = (registers.clone(), registers);
        let end = to_the_end(&bytes, &mut after_smooth, mode, &mut smooth, &mut 0);
        let rough_end = to_the_end(&bytes, &mut after_rough, mode, &mut rough, &mut faults);

        assert_eq!(rough_end, end, "{bytes:02x?} {mode:?}");
        assert_eq!(after_rough, after_smooth, "{bytes:02x?} {mode:?}");
        assert!(rough.bytes == smooth.bytes, "{bytes:02x?} {mode:?}: memory differs");
        assert_eq!(rough.xmm, smooth.xmm, "{bytes:02x?} {mode:?}");
        assert_eq!(rough.ports_read, smooth.ports_read, "{bytes:02x?} {mode:?}");
        assert_eq!(rough.ports_written, smooth.ports_written, "{bytes:02x?} {mode:?}");
        let kind = format!("{end:?}");
        let kind = kind.split(['(', ' ']).next().unwrap_or_default().to_owned();
        *ends.entry(kind).or_insert(0_u32) += 1;
    }
    println!("{ends:?}, {faults} page faults");
    assert!(ends["Completed"] > 10_000 && ends["Exception"] > 100 && faults > 10_000);
    assert!(!ends.contains_key("Endless"), "{ends:?}");
}

/// A REP prefix means nothing to MOV, but keeps it from the path for plain moves.
#[test]
fn plain_moves_do_the_same_as_through_the_complete_decoder() {
    let mut random = Rand64::new(0x0b01_dface);
    let mut completed = 0;
    for _ in 0..40_000 {
        let mode = random_mode(&mut random);
        let mut bytes = [0; 15];
        bytes.fill_with(|| random.rand_u64() as u8);
        let prefixes = random.rand_range(0..4) as usize;
        for byte in &mut bytes[1..=prefixes] {
            *byte =
                pick(&mut random, &[0x66, 0x67, 0x2e, 0x36, 0x64, 0x65, 0x48, 0x41, 0x4c, 0x40]);
        }
        bytes[0] = 0xf3;
        bytes[1 + prefixes] = pick(&mut random, &[0x88, 0x89, 0x8a, 0x8b, 0xc6, 0xc7]);
        if bytes[1 + prefixes] >= 0xc6 && random.rand_range(0..8) > 0 {
            bytes[2 + prefixes] &= 0xc7;
        }

        let mut complete_registers = random_registers(&mut random, mode);
        complete_registers.rip = 0x400;
        let mut plain_registers = complete_registers.clone();
        plain_registers.rip = 0x401;
        let mut complete_memory = random_memory(&mut random);
        let mut plain_memory = complete_memory.clone();
        let complete = emulate(&bytes, &mut complete_registers, mode, &mut complete_memory);
        let plain = emulate(&bytes[1..], &mut plain_registers, mode, &mut plain_memory);

        if let Ok(Outcome::Completed) = complete {
            assert_eq!(plain, complete, "{bytes:02x?} {mode:?}");
            assert_eq!(plain_registers, complete_registers, "{bytes:02x?} {mode:?}");
            completed += 1;
        } else if let Ok(outcome) = complete {
            assert_eq!(plain, Ok(outcome), "{bytes:02x?} {mode:?}");
        } else {
            assert!(plain.is_err(), "{bytes:02x?} {mode:?}: {plain:?} but {complete:?}");
        }
        assert!(plain_memory.bytes == complete_memory.bytes, "{bytes:02x?} {mode:?}");
    }
    assert!(completed > 10_000, "only {completed} moves");
}

#[test]
fn no_bytes_panic_in_any_mode() {
    let mut random = Rand64::new(0x0ff1_ce50_fc0d_e000);
    let mut memory = random_memory(&mut random);
    for round in 0..600_000_u32 {
        if round % 64 == 0 {
            memory.segments = [0; 8].map(|_: u8| random_segment(&mut random));
            memory.rights = [0; PAGES as usize]
                .map(|_: u8| pick(&mut random, &[Rights::None, Rights::Read, Rights::Write]));
            memory.ports_written.clear();
        }
        let mode = random_mode(&mut random);
        let mut bytes = [0; 15];
        bytes.fill_with(|| random.rand_u64() as u8);
        let available = random.rand_range(0..16) as usize;
        let mut registers = random_registers(&mut random, mode);
        let _ = emulate(&bytes[..available], &mut registers, mode, &mut memory);
    }
}
