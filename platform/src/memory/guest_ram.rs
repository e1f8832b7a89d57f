//! The host memory that backs the guest's RAM.

#![expect(unsafe_code, reason = "accesses memory that the guest changes at any time")]

use super::direct_map;
use super::lines::Lines;
use anchorite_addr::Hpa;
use anchorite_vmm::memory::{HostMemory, OutsideHostMemory};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One physical range, of which the hypervisor keeps no reference: all accesses
/// are checked against it and made through raw pointers.
#[derive(Clone, Debug)]
pub struct GuestRam {
    lines: Lines,
    /// Of these the last bytes are the remap window's.
    window_bytes: u64,
}

impl GuestRam {
    /// The guest's RAM at `range`, which nobody else may use from now on. Its last bytes
    /// are no RAM at first but the remap window's.
    ///
    /// # Panics
    /// Where the range goes beyond the direct map, or does not consist of lines: no access
    /// asks again.
    pub(super) const fn new(range: Range<u64>, window_bytes: u64) -> Self {
        assert!(range.end <= super::DIRECT_MAP_BYTES, "guest RAM beyond the direct map");
        Self { lines: Lines::new(range), window_bytes }
    }

    /// The first byte.
    pub const fn start(&self) -> Hpa {
        Hpa::new(self.lines.start())
    }

    /// Bytes of RAM.
    pub const fn bytes(&self) -> u64 {
        self.lines.bytes() - self.window_bytes
    }

    /// Where the remap window's memory begins.
    pub const fn window(&self) -> Hpa {
        Hpa::new(self.lines.start() + self.bytes())
    }

    /// Where `bytes` bytes at `at` are mapped.
    #[inline]
    fn pointer(&self, at: Hpa, bytes: u64) -> Result<*mut u8, OutsideHostMemory> {
        if self.contains(at, bytes) {
            Ok(direct_map::address(at.as_u64()))
        } else {
            Err(OutsideHostMemory { at, bytes })
        }
    }

    /// Where the unit `T` of `BYTES` bytes at `at` is mapped, aligned to its size.
    #[inline]
    fn unit_at<T, const BYTES: u64>(&self, at: Hpa) -> Result<*mut T, OutsideHostMemory> {
        const { assert!(size_of::<T>() as u64 == BYTES) };
        if self.lines.contain_unit::<BYTES>(at.as_u64()) {
            Ok(direct_map::address(at.as_u64()).cast())
        } else {
            Err(OutsideHostMemory { at, bytes: BYTES })
        }
    }
}

/// An aligned word of guest RAM, in bounds.
#[derive(Clone, Copy, Debug)]
pub struct GuestWord(*const AtomicU64);

impl GuestRam {
    /// Shows `look` eight 4-byte words from `at`, a multiple of 32, checked once for all and each
    /// read atomically; zeros where they are not all guest RAM.
    #[inline]
    pub(super) fn each_of_eight_u32(&self, at: Hpa, mut look: impl FnMut(u64, u32)) {
        let Ok(eight) = self.unit_at::<[u32; 8], 32>(at) else {
            return (0..8).for_each(|n| look(n, 0));
        };
        let first = eight.cast::<u32>();
        for n in 0..8 {
            // SAFETY: all eight are in bounds and aligned; atomic, since the guest may write
            // them.
            look(n as u64, unsafe { AtomicU32::from_ptr(first.add(n)) }.load(Ordering::Relaxed));
        }
    }

    /// The same for 8-byte words from a multiple of 64.
    #[inline]
    pub(super) fn each_of_eight_u64(&self, at: Hpa, mut look: impl FnMut(u64, u64)) {
        let Ok(eight) = self.unit_at::<[u64; 8], 64>(at) else {
            return (0..8).for_each(|n| look(n, 0));
        };
        let first = eight.cast::<u64>();
        for n in 0..8 {
            // SAFETY: as for `each_of_eight_u32`.
            look(n as u64, unsafe { AtomicU64::from_ptr(first.add(n)) }.load(Ordering::Relaxed));
        }
    }
}

impl HostMemory for GuestRam {
    type Word = GuestWord;

    #[inline]
    fn contains(&self, first: Hpa, bytes: u64) -> bool {
        self.lines.contain(first.as_u64(), bytes)
    }

    fn read(&self, at: Hpa, into: &mut [u8]) -> Result<(), OutsideHostMemory> {
        let from = self.pointer(at, into.len() as u64)?;
        // SAFETY: in bounds; `into` cannot overlap memory that nobody has references to.
        unsafe { copy(into.as_mut_ptr(), from, into.len(), from.addr()) };
        Ok(())
    }

    fn write(&self, at: Hpa, from: &[u8]) -> Result<(), OutsideHostMemory> {
        let into = self.pointer(at, from.len() as u64)?;
        // SAFETY: as for `read`.
        unsafe { copy(into, from.as_ptr(), from.len(), into.addr()) };
        Ok(())
    }

    fn zero(&self, at: Hpa, bytes: u64) -> Result<(), OutsideHostMemory> {
        let start = self.pointer(at, bytes)?;
        // SAFETY: in bounds; nobody has references to this memory.
        unsafe { start.write_bytes(0, bytes as usize) };
        Ok(())
    }

    #[inline]
    fn load_u32(&self, at: Hpa) -> Result<u32, OutsideHostMemory> {
        let pointer = self.unit_at::<u32, 4>(at)?;
        // SAFETY: in bounds and aligned; atomic, since the guest may write it.
        Ok(unsafe { AtomicU32::from_ptr(pointer) }.load(Ordering::Relaxed))
    }

    #[inline]
    fn load_u64(&self, at: Hpa) -> Result<u64, OutsideHostMemory> {
        let pointer = self.unit_at::<u64, 8>(at)?;
        // SAFETY: in bounds and aligned; atomic, since the guest may write it.
        Ok(unsafe { AtomicU64::from_ptr(pointer) }.load(Ordering::Relaxed))
    }

    fn word(&self, at: Hpa) -> Result<GuestWord, OutsideHostMemory> {
        Ok(GuestWord(self.unit_at::<AtomicU64, 8>(at)?))
    }

    #[inline]
    fn read_word(&self, word: GuestWord) -> u64 {
        // SAFETY: only `word` makes one, in bounds and aligned; guest RAM stays mapped
        // as long as the machine runs. Atomic, since the guest may write it.
        unsafe { &*word.0 }.load(Ordering::Relaxed)
    }

    #[inline]
    fn compare_exchange_u32(&self, at: Hpa, old: u32, new: u32) -> Result<bool, OutsideHostMemory> {
        let pointer = self.unit_at::<u32, 4>(at)?;
        // SAFETY: in bounds and aligned; atomic, since the guest may write it.
        let word = unsafe { AtomicU32::from_ptr(pointer) };
        Ok(word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    #[inline]
    fn compare_exchange_u64(&self, at: Hpa, old: u64, new: u64) -> Result<bool, OutsideHostMemory> {
        let pointer = self.unit_at::<u64, 8>(at)?;
        // SAFETY: in bounds and aligned; atomic, since the guest may write it.
        let word = unsafe { AtomicU64::from_ptr(pointer) };
        Ok(word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }
}

/// Copies `bytes` bytes between guest memory and our own. One that is a naturally
/// aligned word on the guest's side (`guest_address`) is copied in one access.
///
/// # Safety
/// Both sides must be valid for `bytes` bytes and must not overlap.
#[inline]
unsafe fn copy(into: *mut u8, from: *const u8, bytes: usize, guest_address: usize) {
    // SAFETY: passed on from the caller; volatile accesses are not torn by the
    // compiler, and the side that is ours needs no alignment.
    unsafe {
        match bytes {
            1 => into.write_volatile(from.read_volatile()),
            2 if guest_address % 2 == 0 => copy_word::<u16>(into, from, guest_address),
            4 if guest_address % 4 == 0 => copy_word::<u32>(into, from, guest_address),
            8 if guest_address % 8 == 0 => copy_word::<u64>(into, from, guest_address),
            _ => core::ptr::copy_nonoverlapping(from, into, bytes),
        }
    }
}

/// One word, volatile on the guest's side.
///
/// # Safety
/// As for [`copy`], and the guest's side is aligned to the word.
#[inline]
unsafe fn copy_word<T: Copy>(into: *mut u8, from: *const u8, guest_address: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        if into.addr() == guest_address {
            into.cast::<T>().write_volatile(from.cast::<T>().read_unaligned());
        } else {
            into.cast::<T>().write_unaligned(from.cast::<T>().read_volatile());
        }
    }
}
