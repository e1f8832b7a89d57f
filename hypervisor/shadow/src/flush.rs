//! The flush clock: who may still hold what in a TLB.
//!
//! Every event after which an old translation must not be used any more opens an
//! *epoch*: it moves the clock. A vCPU has *acknowledged* an epoch once it cannot use
//! a translation older than that: it is outside the guest (it will flush before it
//! enters), or it entered after the clock moved, and flushed.
//!
//! The clock is the only part of the engine that vCPUs touch without the engine's lock.
//! Entering is store `in_guest`, then load `now`; retiring is store `now`, then load
//! `in_guest`; both sequentially consistent, so one of the two sees the other
//! (Dekker's argument), and a frame is never reused under a vCPU that did not see the
//! new epoch. See `docs/locking.md`.

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
        self.now.load(Ordering::SeqCst)
    }

    /// Seats, one for each vCPU that may be added.
    pub fn capacity(&self) -> usize {
        self.seats.len()
    }

    /// Opens a new epoch and returns it.
    pub fn advance(&self) -> u64 {
        self.now.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// An epoch that no vCPU has acknowledged: the current one, or a new one where some
    /// vCPU already flushed for the current. Whatever was unlinked before this call is
    /// out of every TLB once the result is acknowledged.
    #[inline]
    pub fn open(&self) -> u64 {
        let now = self.now.load(Ordering::SeqCst);
        let is_used = |seat: &Seat| seat.acknowledged.load(Ordering::SeqCst) >= now;
        if self.seats.iter().any(is_used) { self.advance() } else { now }
    }

    /// Records that `vcpu` flushed everything, after reading the clock as `epoch`.
    pub fn acknowledge(&self, vcpu: VcpuId, epoch: u64) {
        self.seats[vcpu.index()].acknowledged.fetch_max(epoch, Ordering::SeqCst);
    }

    /// Declares that `vcpu` is about to enter. Returns whether it must flush everything
    /// first; the flush belongs between this call and the entry instruction.
    #[inline]
    pub fn enter(&self, vcpu: VcpuId) -> bool {
        let seat = &self.seats[vcpu.index()];
        seat.in_guest.store(true, Ordering::SeqCst);
        let now = self.now.load(Ordering::SeqCst);
        let lagging = seat.acknowledged.load(Ordering::SeqCst) < now;
        if lagging {
            seat.acknowledged.store(now, Ordering::SeqCst);
        }
        lagging
    }

    /// Declares that `vcpu` has left the guest: it walks no table until it enters again.
    #[inline]
    pub fn leave(&self, vcpu: VcpuId) {
        self.seats[vcpu.index()].in_guest.store(false, Ordering::SeqCst);
    }

    /// Whether `vcpu` is in the guest, or about to be.
    pub fn in_guest(&self, vcpu: VcpuId) -> bool {
        self.seats[vcpu.index()].in_guest.load(Ordering::SeqCst)
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
            .any(|(index, seat)| index != except.index() && seat.in_guest.load(Ordering::SeqCst))
    }

    #[inline]
    fn seat_lags(seat: &Seat, epoch: u64) -> bool {
        seat.in_guest.load(Ordering::SeqCst) && seat.acknowledged.load(Ordering::SeqCst) < epoch
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    const A: VcpuId = VcpuId(0);
    const B: VcpuId = VcpuId(1);

    #[test]
    fn a_vcpu_outside_the_guest_never_lags_and_flushes_when_it_enters() {
        let clock = FlushClock::new(2);
        let epoch = clock.advance();
        assert!(clock.acknowledged(epoch));
        assert!(clock.enter(A), "it has not flushed for the epoch");
        assert!(!clock.enter(A), "it just has");
        assert!(clock.acknowledged(epoch));
    }

    #[test]
    fn a_vcpu_in_the_guest_lags_until_it_leaves() {
        let clock = FlushClock::new(2);
        let _ = clock.enter(A);
        let epoch = clock.open();
        assert_eq!(clock.lagging(epoch).collect::<Vec<_>>(), [A]);
        assert!(clock.anyone_else_in_guest(B) && !clock.anyone_else_in_guest(A));
        clock.leave(A);
        assert!(clock.acknowledged(epoch));
    }

    #[test]
    fn an_epoch_is_shared_until_somebody_acknowledges_it() {
        let clock = FlushClock::new(1);
        let first = clock.open();
        assert_eq!(clock.open(), first);
        let _ = clock.enter(A);
        let second = clock.open();
        assert!(second > first, "what is unlinked now was not flushed by that entry");
    }

    #[test]
    fn flushes_add_up() {
        let (one, other) = (TlbFlush::Address(Gva::new(1)), TlbFlush::Address(Gva::new(2)));
        assert_eq!(one.and(TlbFlush::None), one);
        assert_eq!(one.and(one), one);
        assert_eq!(one.and(other), TlbFlush::All);
        assert_eq!(TlbFlush::All.and(one), TlbFlush::All);
    }
}
