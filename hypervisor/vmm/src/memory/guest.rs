//! Guest memory as seen from outside the guest.

use super::{
    HostMemory, Memslot, Memslots, OutsideHostMemory, SlotChange, SlotError, SlotId, WriteLog,
};
use anchorite_addr::{Gfn, Gpa, Hpa, PAGE_BYTES};
use core::fmt;

/// Why bytes of guest memory could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// No slot holds this byte.
    NoMemory {
        /// The first such byte.
        gpa: Gpa,
    },
    /// A guest may not write this byte.
    ReadOnly {
        /// The first such byte.
        gpa: Gpa,
    },
    /// A slot names host memory that is not set aside for guests.
    Host(OutsideHostMemory),
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory { gpa } => write!(f, "there is no guest memory at {gpa}"),
            Self::ReadOnly { gpa } => write!(f, "the guest memory at {gpa} is read-only"),
            Self::Host(outside) => outside.fmt(f),
        }
    }
}

impl From<OutsideHostMemory> for AccessError {
    fn from(outside: OutsideHostMemory) -> Self {
        Self::Host(outside)
    }
}

/// Who writes, and so whether read-only memory refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// The guest, or a device on its behalf.
    Guest,
    /// The loader, who fills ROMs too.
    Loader,
}

/// The guest's memory: slots over host memory, and the one door for writes.
#[derive(Debug)]
pub struct GuestMemory<M> {
    slots: Memslots,
    host: M,
    writes: WriteLog,
}

impl<M: HostMemory> GuestMemory<M> {
    /// Guest memory without any slot over `host`.
    pub fn new(host: M) -> Self {
        Self { slots: Memslots::default(), host, writes: WriteLog::default() }
    }

    /// The slots.
    #[inline]
    pub const fn slots(&self) -> &Memslots {
        &self.slots
    }

    /// The host memory behind them.
    pub const fn host(&self) -> &M {
        &self.host
    }

    /// The writes from outside the guest since they were last taken.
    pub const fn writes(&mut self) -> &mut WriteLog {
        &mut self.writes
    }

    /// Adds a slot; its frames keep what the host memory holds. The caller tells the
    /// translation of the change.
    pub fn add_slot(&mut self, slot: Memslot) -> Result<SlotChange, SlotError> {
        let bytes = slot.frames.checked_mul(PAGE_BYTES);
        if !bytes.is_some_and(|bytes| self.host.contains(slot.host.addr(), bytes)) {
            return Err(SlotError::BeyondHostMemory(slot));
        }
        self.slots.add(slot)
    }

    /// Deletes a slot. The caller tells the translation of the change.
    pub fn delete_slot(&mut self, id: SlotId) -> Result<SlotChange, SlotError> {
        self.slots.delete(id)
    }

    /// Moves a slot to `first`. The caller tells the translation of the change.
    pub fn move_slot(&mut self, id: SlotId, first: Gfn) -> Result<SlotChange, SlotError> {
        self.slots.move_to(id, first)
    }

    /// Makes a slot read-only or writable. The caller tells the translation of the change.
    pub fn set_slot_read_only(
        &mut self,
        id: SlotId,
        read_only: bool,
    ) -> Result<SlotChange, SlotError> {
        self.slots.set_read_only(id, read_only)
    }

    /// Fills `into` from guest memory at `gpa`; it may cross slots that touch.
    pub fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), AccessError> {
        let mut done = 0;
        while done < into.len() {
            let (hpa, there) = self.run_at(gpa, done as u64)?;
            let end = into.len().min(done.saturating_add(there as usize));
            self.host.read(hpa, &mut into[done..end])?;
            done = end;
        }
        Ok(())
    }

    /// The 4-byte value at `gpa`, a multiple of 4.
    #[inline]
    pub fn load_u32(&self, gpa: Gpa) -> Result<u32, AccessError> {
        let hpa = self.slots.host_address(gpa).ok_or(AccessError::NoMemory { gpa })?;
        Ok(self.host.load_u32(hpa)?)
    }

    /// The 8-byte value at `gpa`, a multiple of 8.
    #[inline]
    pub fn load_u64(&self, gpa: Gpa) -> Result<u64, AccessError> {
        let hpa = self.slots.host_address(gpa).ok_or(AccessError::NoMemory { gpa })?;
        Ok(self.host.load_u64(hpa)?)
    }

    /// Stores `from` at `gpa` for the guest or a device; nothing where any byte of
    /// it has no memory or is read-only.
    pub fn write(&mut self, gpa: Gpa, from: &[u8]) -> Result<(), AccessError> {
        self.through_the_door(gpa, from.len() as u64, Writer::Guest, |host, hpa, done, bytes| {
            host.write(hpa, &from[done as usize..][..bytes as usize])
        })
    }

    /// As [`write`](Self::write), for bytes that all lie in one page.
    #[inline]
    pub fn write_in_page(&mut self, gpa: Gpa, from: &[u8]) -> Result<(), AccessError> {
        let slot = self.slots.find(gpa.frame()).ok_or(AccessError::NoMemory { gpa })?;
        if slot.read_only {
            return Err(AccessError::ReadOnly { gpa });
        }
        let hpa = slot.host_frame(gpa.frame()).addr().wrapping_add(gpa.page_offset());
        self.host.write(hpa, from)?;
        self.writes.note(gpa, from.len() as u64);
        Ok(())
    }

    /// Whether [`write`](Self::write) could store `bytes` bytes at `gpa`.
    pub fn check(&self, gpa: Gpa, bytes: u64) -> Result<(), AccessError> {
        self.check_writable(gpa, bytes, Writer::Guest)
    }

    /// Stores `from` at `gpa`, into read-only memory too: for the loader.
    pub fn place(&mut self, gpa: Gpa, from: &[u8]) -> Result<(), AccessError> {
        self.through_the_door(gpa, from.len() as u64, Writer::Loader, |host, hpa, done, bytes| {
            host.write(hpa, &from[done as usize..][..bytes as usize])
        })
    }

    /// Zeroes `bytes` bytes at `gpa`, in read-only memory too: for the loader.
    pub fn zero(&mut self, gpa: Gpa, bytes: u64) -> Result<(), AccessError> {
        self.through_the_door(gpa, bytes, Writer::Loader, |host, hpa, _, bytes| {
            host.zero(hpa, bytes)
        })
    }

    /// Stores the low `size` bytes (1, 2, 4 or 8) of `new` at `gpa` if they hold `old`;
    /// tells whether they did. Atomic where they lie in one aligned word of 4 or 8 bytes.
    pub fn compare_exchange(
        &mut self,
        gpa: Gpa,
        size: u8,
        old: u64,
        new: u64,
    ) -> Result<bool, AccessError> {
        self.check_writable(gpa, size.into(), Writer::Guest)?;
        let (hpa, _) = self.run_at(gpa, 0)?;
        let in_word = hpa.as_u64() & 3;
        let stored = if size == 8 && gpa.as_u64() % 8 == 0 {
            self.host.compare_exchange_u64(hpa, old, new)?
        } else if in_word + u64::from(size) <= 4 {
            self.exchange_in_word(hpa, size, old as u32, new as u32)?
        } else {
            return self.exchange_torn(gpa, size, old, new);
        };
        if stored {
            self.writes.note(gpa, size.into());
        }
        Ok(stored)
    }

    /// Replaces 1 to 4 bytes inside one aligned word.
    fn exchange_in_word(
        &self,
        hpa: Hpa,
        size: u8,
        old: u32,
        new: u32,
    ) -> Result<bool, OutsideHostMemory> {
        let shift = (hpa.as_u64() & 3) * 8;
        let mask = (u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))) << shift;
        let at = Hpa::new(hpa.as_u64() & !3);
        let present = self.host.load_u32(at)?;
        if (present ^ old << shift) & mask != 0 {
            return Ok(false);
        }
        self.host.compare_exchange_u32(at, present, present & !mask | new << shift & mask)
    }

    /// A locked access across words. Hardware would lock the bus; here another CPU may
    /// see it in two parts.
    fn exchange_torn(
        &mut self,
        gpa: Gpa,
        size: u8,
        old: u64,
        new: u64,
    ) -> Result<bool, AccessError> {
        let bytes = usize::from(size.min(8));
        let mut present = [0; 8];
        self.read(gpa, &mut present[..bytes])?;
        if present[..bytes] != old.to_le_bytes()[..bytes] {
            return Ok(false);
        }
        self.write(gpa, &new.to_le_bytes()[..bytes])?;
        Ok(true)
    }

    /// The only way by which guest memory is written from outside the guest.
    ///
    /// `store` is given a host address, the bytes done before it and the bytes to
    /// store there. All bytes are checked before the first is stored.
    fn through_the_door(
        &mut self,
        gpa: Gpa,
        bytes: u64,
        writer: Writer,
        store: impl Fn(&M, Hpa, u64, u64) -> Result<(), OutsideHostMemory>,
    ) -> Result<(), AccessError> {
        self.check_writable(gpa, bytes, writer)?;

        let mut done = 0;
        while done < bytes {
            let (hpa, there) = self.run_at(gpa, done)?;
            let here = there.min(bytes - done);
            self.writes.note(gpa.wrapping_add(done), here);
            store(&self.host, hpa, done, here)?;
            done += here;
        }
        Ok(())
    }

    fn check_writable(&self, gpa: Gpa, bytes: u64, writer: Writer) -> Result<(), AccessError> {
        let mut done = 0;
        while done < bytes {
            let (_, there) = self.run_at(gpa, done)?;
            let gpa = gpa.wrapping_add(done);
            let slot = self.slots.find(gpa.frame());
            if writer == Writer::Guest && slot.is_some_and(|slot| slot.read_only) {
                return Err(AccessError::ReadOnly { gpa });
            }
            done += there;
        }
        Ok(())
    }

    /// The host address behind `gpa + offset`, and how many bytes follow it in the
    /// same slot, at least 1.
    fn run_at(&self, gpa: Gpa, offset: u64) -> Result<(Hpa, u64), AccessError> {
        let gpa = gpa.checked_add(offset).ok_or(AccessError::NoMemory { gpa })?;
        let slot = self.slots.find(gpa.frame()).ok_or(AccessError::NoMemory { gpa })?;
        let hpa = slot.host_frame(gpa.frame()).addr().wrapping_add(gpa.page_offset());
        Ok((hpa, slot.end() * PAGE_BYTES - gpa.as_u64()))
    }
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
