//! What the tests of the emulator share: random numbers and a flat memory.

use anchorite_addr::Gva;
use anchorite_vcpu::{Segment, SegmentRegister};
use anchorite_vmm::emulate::{Access, Environment, Exception, Fault};

/// A small generator, so that a failure can be repeated.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
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
