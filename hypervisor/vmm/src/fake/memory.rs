//! Memory and tables: host memory as an array, and nested tables that notice misuse.

extern crate std;

use crate::memory::{HostMemory, OutsideHostMemory};
use crate::translation::TableFrames;
use anchorite_addr::{Hfn, Hpa, HpaPage};
use anchorite_shadow::TableMemory;
use anchorite_vcpu::{NestedFormat, NestedFrame, NestedRights};
use core::cell::RefCell;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

/// Host memory of the fake machine: 16 MiB from here, aligned to 1 GiB.
pub(crate) const HOST_BASE: u64 = 0x40_0000_0000;
pub(crate) const HOST_BYTES: u64 = 16 << 20;

/// Host memory as an array.
#[derive(Debug)]
pub(crate) struct FakeMemory(RefCell<Vec<u8>>);

impl Default for FakeMemory {
    fn default() -> Self {
        Self(RefCell::new(vec![0; HOST_BYTES as usize]))
    }
}

impl FakeMemory {
    fn at<const N: usize>(&self, at: Hpa) -> Result<[u8; N], OutsideHostMemory> {
        assert_eq!(at.as_u64() % N as u64, 0, "{at} is not aligned to {N}");
        let mut bytes = [0; N];
        self.read(at, &mut bytes).map(|()| bytes)
    }
}

impl HostMemory for FakeMemory {
    type Word = Hpa;

    fn contains(&self, first: Hpa, bytes: u64) -> bool {
        let end = HOST_BASE + HOST_BYTES;
        (HOST_BASE..=end).contains(&first.as_u64()) && bytes <= end - first.as_u64()
    }

    fn read(&self, at: Hpa, into: &mut [u8]) -> Result<(), OutsideHostMemory> {
        let bytes = into.len() as u64;
        if !self.contains(at, bytes) {
            return Err(OutsideHostMemory { at, bytes });
        }
        let start = (at.as_u64() - HOST_BASE) as usize;
        into.copy_from_slice(&self.0.borrow()[start..][..into.len()]);
        Ok(())
    }

    fn write(&self, at: Hpa, from: &[u8]) -> Result<(), OutsideHostMemory> {
        let bytes = from.len() as u64;
        if !self.contains(at, bytes) {
            return Err(OutsideHostMemory { at, bytes });
        }
        let start = (at.as_u64() - HOST_BASE) as usize;
        self.0.borrow_mut()[start..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn zero(&self, at: Hpa, bytes: u64) -> Result<(), OutsideHostMemory> {
        self.write(at, &vec![0; bytes as usize])
    }

    fn load_u32(&self, at: Hpa) -> Result<u32, OutsideHostMemory> {
        self.at(at).map(u32::from_le_bytes)
    }

    fn load_u64(&self, at: Hpa) -> Result<u64, OutsideHostMemory> {
        self.at(at).map(u64::from_le_bytes)
    }

    fn word(&self, at: Hpa) -> Result<Hpa, OutsideHostMemory> {
        self.load_u64(at).map(|_| at)
    }

    fn read_word(&self, word: Hpa) -> u64 {
        self.load_u64(word).expect("it was checked")
    }

    fn compare_exchange_u32(&self, at: Hpa, old: u32, new: u32) -> Result<bool, OutsideHostMemory> {
        if self.load_u32(at)? != old {
            return Ok(false);
        }
        self.write(at, &new.to_le_bytes()).map(|()| true)
    }

    fn compare_exchange_u64(&self, at: Hpa, old: u64, new: u64) -> Result<bool, OutsideHostMemory> {
        if self.load_u64(at)? != old {
            return Ok(false);
        }
        self.write(at, &new.to_le_bytes()).map(|()| true)
    }
}

/// Table frames, at most `limit` of them; every misuse panics.
#[derive(Debug)]
pub(crate) struct FakeTables {
    pub(crate) frames: BTreeMap<u64, [u64; 512]>,
    pub(crate) limit: usize,
    next: u64,
}

impl FakeTables {
    pub(crate) fn new(limit: usize) -> Self {
        Self { frames: BTreeMap::new(), limit, next: 0x1000 }
    }
}

impl TableMemory for FakeTables {
    fn read_entry(&self, at: Hpa) -> u64 {
        self.frames[&at.frame().number()][at.page_offset() as usize / 8]
    }

    fn write_entry(&mut self, at: Hpa, value: u64) {
        let frame = self.frames.get_mut(&at.frame().number()).expect("a frame that is allocated");
        frame[at.page_offset() as usize / 8] = value;
    }
}

impl TableFrames for FakeTables {
    fn allocate(&mut self) -> Option<HpaPage> {
        if self.frames.len() == self.limit {
            return None;
        }
        self.next += 1;
        self.frames.insert(self.next, [0; 512]);
        Some(Hfn::new(self.next).page())
    }

    fn free(&mut self, frame: HpaPage) {
        let freed = self.frames.remove(&frame.frame().number());
        assert!(freed.is_some(), "{frame:?} is freed twice");
    }
}

/// An entry format of nobody's: bit 0 present, bit 1 leaf, bits 2–4 rights.
#[derive(Debug)]
pub(crate) enum FakeFormat {}

impl FakeFormat {
    /// The rights in a leaf.
    pub(crate) fn rights(entry: u64) -> NestedRights {
        NestedRights::from_bits_truncate((entry >> 2) as u8 & 7)
    }
}

impl NestedFormat for FakeFormat {
    fn leaf(frame: NestedFrame) -> u64 {
        assert!(frame.page.addr().is_aligned(frame.size), "{frame:?}");
        frame.page.as_u64() | u64::from(frame.rights.bits()) << 2 | 3
    }

    fn table(table: HpaPage) -> u64 {
        table.as_u64() | 1
    }

    fn child(entry: u64, _: u8) -> Option<HpaPage> {
        (entry & 3 == 1).then(|| Hpa::new(entry).page())
    }

    fn is_present(entry: u64) -> bool {
        entry & 1 == 1
    }
}
