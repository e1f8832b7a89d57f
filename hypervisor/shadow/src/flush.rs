//! The flush clock: who may still hold what in a TLB.
//!
//! Every event after which an old translation must not be used any more opens an
//! *epoch*: it moves the clock. A vCPU has *acknowledged* an epoch once it cannot use
//! a translation older than that: it is outside the guest (it will flush before it
//! enters), or it entered after the clock moved, and flushed.
//!
//! The clock is the only part of the engine that a vCPU touches without the engine's lock,
//! and only to *leave*. Everything else, entering above all, happens under the lock: what
//! one holder unlinked and opened, the next one sees. So the stores of an entry and of a
//! retirement need no order of their own; leaving is a release, and whoever finds a vCPU
//! outside acquires what it did inside: its last walk of a frame about to be reused, its
//! last write to a table about to be read. See `docs/locking.md`; `tests/loom.rs` tries
//! every interleaving.

use alloc::vec::Vec;

use anchorite_addr::Gva;

use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// A vCPU of one engine; made by `add_vcpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub(crate) u16);

impl VcpuId {
    /// Position in the order of creation, from 0.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What one CPU must forget before it enters the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum TlbFlush {
    /// Nothing.
    None,
    /// All translations of this page (INVVPID individual-address, INVLPGA).
    Address(Gva),
    /// Everything tagged with this vCPU.
    All,
}

impl TlbFlush {
    /// What covers both.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, flush) | (flush, Self::None) => flush,
            (a, b) if a == b => a,
            _ => Self::All,
        }
    }
}

/// A promise that must be kept before its holder relies on what it just did: every vCPU
/// that is in the guest leaves it, and flushes before it enters again.
///
/// Discharge it with `discharge`; dropping it unseen is what the compiler warns about.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "other vCPUs may still use old translations until the promise is discharged"]
pub struct FlushPromise {
    pub(crate) epoch: u64,
}

impl FlushPromise {
    /// The epoch that every vCPU has to acknowledge.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// One promise that keeps both.
    #[expect(clippy::needless_pass_by_value, reason = "the other promise is merged into this one")]
    pub fn and(self, other: Self) -> Self {
        Self { epoch: self.epoch.max(other.epoch) }
    }
}

#[derive(Debug)]
struct Seat {
    in_guest: AtomicBool,
    acknowledged: AtomicU64,
}

/// The clock, and for each vCPU whether it is in the guest and what it acknowledged.
///
/// Shared: clone the `Arc` that `clock()` returns to leave the guest without the lock.
#[derive(Debug)]
pub struct FlushClock {
    now: AtomicU64,
    seats: Vec<Seat>,
}

impl FlushClock {
    /// A clock for `vcpus` vCPUs, all outside the guest.
    pub fn new(vcpus: u16) -> Self {
        let seat = |_| Seat { in_guest: AtomicBool::new(false), acknowledged: AtomicU64::new(0) };
        Self { now: AtomicU64::new(1), seats: (0..vcpus).map(seat).collect() }
    }

    /// The current epoch.
    #[inline]
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Seats, one for each vCPU that may be added.
    pub fn capacity(&self) -> usize {
        self.seats.len()
    }

    /// Opens a new epoch and returns it. Under the engine's lock.
    pub(crate) fn advance(&self) -> u64 {
        self.now.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// An epoch that no vCPU has acknowledged: the current one, or a new one where some
    /// vCPU already flushed for the current. Whatever was unlinked before this call is
    /// out of every TLB once the result is acknowledged. Under the engine's lock.
    #[inline]
    pub(crate) fn open(&self) -> u64 {
        let now = self.now.load(Ordering::Relaxed);
        let is_used = |seat: &Seat| seat.acknowledged.load(Ordering::Relaxed) >= now;
        if self.seats.iter().any(is_used) { self.advance() } else { now }
    }

    /// Records that `vcpu` flushed everything, after reading the clock as `epoch`. Under the
    /// engine's lock.
    pub(crate) fn acknowledge(&self, vcpu: VcpuId, epoch: u64) {
        self.seats[vcpu.index()].acknowledged.fetch_max(epoch, Ordering::Relaxed);
    }

    /// Declares that `vcpu` is about to enter. Returns whether it must flush everything
    /// first; the flush belongs between this call and the entry instruction.
    ///
    /// Under the engine's lock, which orders it after every retirement whose epoch it reads.
    /// Without, it could walk an entry whose removal is still on its way to memory, though it
    /// has acknowledged the epoch.
    #[inline]
    pub(crate) fn enter(&self, vcpu: VcpuId) -> bool {
        let seat = &self.seats[vcpu.index()];
        seat.in_guest.store(true, Ordering::Relaxed);
        let now = self.now.load(Ordering::Relaxed);
        let lagging = seat.acknowledged.load(Ordering::Relaxed) < now;
        if lagging {
            seat.acknowledged.store(now, Ordering::Relaxed);
        }
        lagging
    }

    /// Declares that `vcpu` has left the guest: it walks no table until it enters again.
    /// With the engine's lock or without.
    #[inline]
    pub fn leave(&self, vcpu: VcpuId) {
        // After all that the vCPU read and wrote inside.
        self.seats[vcpu.index()].in_guest.store(false, Ordering::Release);
    }

    /// Whether `vcpu` is in the guest, or about to be.
    pub fn in_guest(&self, vcpu: VcpuId) -> bool {
        self.seats[vcpu.index()].in_guest.load(Ordering::Acquire)
    }

    /// Whether `vcpu` is in the guest with translations older than `epoch`.
    #[inline]
    pub fn lags(&self, vcpu: VcpuId, epoch: u64) -> bool {
        Self::seat_lags(&self.seats[vcpu.index()], epoch)
    }

    /// Whether every vCPU acknowledged `epoch`.
    #[inline]
    pub fn acknowledged(&self, epoch: u64) -> bool {
        self.seats.iter().all(|seat| !Self::seat_lags(seat, epoch))
    }

    /// The vCPUs to kick so that `epoch` becomes acknowledged.
    pub fn lagging(&self, epoch: u64) -> impl Iterator<Item = VcpuId> + '_ {
        (0..self.seats.len() as u16).map(VcpuId).filter(move |vcpu| self.lags(*vcpu, epoch))
    }

    /// Whether any vCPU but `except` is in the guest.
    #[inline]
    pub(crate) fn anyone_else_in_guest(&self, except: VcpuId) -> bool {
        self.seats
            .iter()
            .enumerate()
            .any(|(index, seat)| index != except.index() && seat.in_guest.load(Ordering::Acquire))
    }

    #[inline]
    fn seat_lags(seat: &Seat, epoch: u64) -> bool {
        // Acquires what a vCPU that left did inside.
        seat.in_guest.load(Ordering::Acquire) && seat.acknowledged.load(Ordering::Relaxed) < epoch
    }
}
