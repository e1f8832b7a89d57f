//! What the tests of the emulator share: random cases and a flat memory.

use anchorite_addr::Gva;
use anchorite_vcpu::{Segment, SegmentRegister};
use anchorite_vmm::emulate::{Access, Environment, Exception, Fault};
use oorandom::Rand64;

/// One of `choices`.
pub(crate) fn pick<T: Copy>(random: &mut Rand64, choices: &[T]) -> T {
    choices[random.rand_range(0..choices.len() as u64) as usize]
}

/// Memory at one place, faults around it; flat segments.
#[derive(Clone)]
pub(crate) struct Flat {
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) xmm: [u128; 16],
    pub(crate) segments: [Segment; 8],
}

impl Flat {
    pub(crate) fn new(start: u64, bytes: Vec<u8>) -> Self {
        let flat = Segment::flat(0x10, false, false);
        Self { start, bytes, xmm: [0; 16], segments: [flat; 8] }
    }

    fn range(&self, address: Gva, size: u8, write: bool) -> Result<core::ops::Range<usize>, Fault> {
        let fault = Fault::Exception(Exception::page_fault(address, u32::from(write) << 1));
        let offset = address.as_u64().checked_sub(self.start).ok_or(fault)?;
        let end = offset.checked_add(size.into()).ok_or(fault)?;
        if end > self.bytes.len() as u64 { Err(fault) } else { Ok(offset as usize..end as usize) }
    }
}

impl Environment for Flat {
    fn segment(&self, register: SegmentRegister) -> Segment {
        self.segments[register as usize]
    }

    fn load(&mut self, address: Gva, size: u8, access: Access) -> Result<u64, Fault> {
        assert!(matches!(size, 1 | 2 | 4 | 8), "a load of {size} bytes");
        let range = self.range(address, size, access.writes())?;
        let mut value = [0; 8];
        value[..usize::from(size)].copy_from_slice(&self.bytes[range]);
        Ok(u64::from_le_bytes(value))
    }

    fn store(&mut self, address: Gva, size: u8, value: u64) -> Result<(), Fault> {
        assert!(matches!(size, 1 | 2 | 4 | 8), "a store of {size} bytes");
        let range = self.range(address, size, true)?;
        self.bytes[range].copy_from_slice(&value.to_le_bytes()[..usize::from(size)]);
        Ok(())
    }

    fn store_if_unchanged(
        &mut self,
        address: Gva,
        size: u8,
        expected: u64,
        value: u64,
    ) -> Result<bool, Fault> {
        let unchanged = self.load(address, size, Access::ReadForWrite)? == expected;
        if unchanged {
            self.store(address, size, value)?;
        }
        Ok(unchanged)
    }

    fn check_store(&mut self, address: Gva, size: u8) -> Result<(), Fault> {
        self.range(address, size, true).map(drop)
    }

    fn xmm(&mut self, number: u8) -> Result<u128, Fault> {
        Ok(self.xmm[usize::from(number)])
    }

    fn set_xmm(&mut self, number: u8, value: u128) -> Result<(), Fault> {
        self.xmm[usize::from(number)] = value;
        Ok(())
    }
}

/// Random bytes behind an opcode that the emulator knows.
pub(crate) fn candidate(random: &mut Rand64) -> [u8; 15] {
    const ONE: &[u8] = &[
        0x00, 0x01, 0x02, 0x03, 0x08, 0x09, 0x0a, 0x0b, 0x10, 0x11, 0x12, 0x13, 0x18, 0x19, 0x1a,
        0x1b, 0x20, 0x21, 0x22, 0x23, 0x28, 0x29, 0x2a, 0x2b, 0x30, 0x31, 0x32, 0x33, 0x38, 0x39,
        0x3a, 0x3b, 0x04, 0x05, 0x1c, 0x1d, 0x50, 0x57, 0x58, 0x5c, 0x63, 0x68, 0x6a, 0x80, 0x81,
        0x83, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8f, 0x91, 0xa4,
        0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xa8, 0xa9, 0xb0, 0xb8, 0xc0, 0xc1,
        0xc0, 0xc1, 0xd0, 0xd1, 0xd2, 0xd3, 0xc6, 0xc7, 0xf6, 0xf7, 0xf6, 0xf7, 0xfe, 0xff, 0x6c,
        0x6d, 0x6e, 0x6f,
    ];
    const TWO: &[u8] = &[
        0x10, 0x11, 0x12, 0x13, 0x16, 0x17, 0x28, 0x29, 0x2b, 0x42, 0x4e, 0x6e, 0x6f, 0x7e, 0x7f,
        0xd6, 0xe7, 0x94, 0x9f, 0xa3, 0xa4, 0xa5, 0xab, 0xac, 0xad, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7,
        0xba, 0xba, 0xbb, 0xbe, 0xbf, 0xc0, 0xc1, 0xc3, 0xc7, 0xc7, 0xc7, 0xf0, 0x38, 0x38, 0xb1,
    ];
    const LEGACY: &[u8] = &[0x66, 0x66, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0xf3, 0x2e, 0x36];

    let mut bytes = [0; 15];
    bytes.fill_with(|| random.rand_u64() as u8);
    let mut opcode = Vec::new();
    for _ in 0..random.rand_range(0..3) {
        opcode.push(pick(random, LEGACY));
    }
    if random.rand_range(0..2) == 0 {
        opcode.push(0x40 | random.rand_range(0..16) as u8);
    }
    if random.rand_range(0..5) < 3 {
        opcode.push(pick(random, ONE));
    } else {
        opcode.extend([0x0f, pick(random, TWO)]);
        if opcode.last() == Some(&0x38) {
            opcode.push(pick(random, &[0xf0, 0xf1]));
        }
        if opcode.last() == Some(&0xc7) && random.rand_range(0..2) == 0 {
            opcode.push(0x08 | random.rand_range(0..8) as u8);
        }
    }
    bytes[..opcode.len()].copy_from_slice(&opcode);
    bytes
}

/// Values at which carries and overflows happen, and any others.
pub(crate) fn interesting(random: &mut Rand64) -> u64 {
    match random.rand_range(0..4) {
        0 => pick(random, &[0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff]),
        1 => pick(random, &[0x8000_0000, 0xffff_ffff, i64::MAX as u64, 1 << 63, u64::MAX]),
        _ => random.rand_u64(),
    }
}
