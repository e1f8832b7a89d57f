//! What vCPUs share without the engine's lock, under every interleaving and every order that the
//! memory model permits: fault × zap × acknowledge × reclaim.
//!
//! `flush.rs` and `generation.rs` are compiled here as they are, with the atomics of loom in the
//! place of the processor's, so that this is an ordinary test without a build of its own. Around
//! them stands the least that can go wrong: one table entry, one frame, one guest table, one vCPU
//! that walks, and the engine's lock, which is held as `docs/locking.md` says: around every
//! operation and every entry, but neither by the walker nor to leave.
//!
//! The bounds: two threads, two stays in the guest, two zaps, no bound on preemptions.
//!
//! Seen to fail, each alone:
//! - `open` returns `now` although a vCPU acknowledged it: a walker meets a reused frame, and a
//!   write is missed.
//! - `enter` does not store `in_guest`; `enter` does not acknowledge, or says that nothing is to
//!   be flushed; `seat_lags` looks at `in_guest` or at `acknowledged` alone.
//! - `leave` is `Relaxed`, or the load of `in_guest` in `seat_lags` is: a write is missed.
//! - `Generation::safe` asks for the oldest epoch only: a page of the second zap is reused early.
//! - The vCPU enters without the lock: it walks an entry whose removal it was to have flushed.

extern crate alloc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;

/// What `flush.rs` finds as `crate::sync`.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}

#[allow(dead_code, unreachable_pub, reason = "the engine's module; the model uses a part")]
#[path = "../src/flush.rs"]
mod flush;

#[allow(dead_code, reason = "the engine's module; the model uses a part")]
#[path = "../src/generation.rs"]
mod generation;

use flush::{FlushClock, VcpuId};
use generation::Generation;

const WALKER: VcpuId = VcpuId(0);
const STAYS: usize = 2;
/// No tag in heads: the model has none.
const NO_TAG: u64 = 0;

/// The least of a machine.
struct Machine {
    engine: Mutex<Engine>,
    clock: FlushClock,
    /// A table entry that hardware reads: the owner of `frame`, or 0 where it is not present.
    entry: AtomicU64,
    /// A frame, which says whose it is.
    frame: AtomicU64,
}

/// What the engine's lock guards.
struct Engine {
    generation: Generation,
    /// The generation that the frame serves, or served.
    owner: u64,
}

impl Machine {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            engine: Mutex::new(Engine { generation: Generation::new(1), owner: 1 }),
            clock: FlushClock::new(1),
            entry: AtomicU64::new(1),
            frame: AtomicU64::new(1),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().expect("no thread panicked")
    }

    /// Enters; returns whether the TLB has to be flushed now.
    fn enter(&self) -> bool {
        let _engine = self.lock();
        self.clock.enter(WALKER)
    }

    /// The vCPU, outside, has flushed by itself.
    fn acknowledge(&self) {
        let _engine = self.lock();
        self.clock.acknowledge(WALKER, self.clock.now());
    }

    /// Makes the frame stale.
    fn zap(&self) {
        let mut engine = self.lock();
        self.entry.store(0, Ordering::Release);
        let epoch = self.clock.open();
        engine.generation.bump(epoch, NO_TAG);
    }

    /// Reuses the frame for the present generation, if nobody can still see it (I9).
    fn reclaim(&self) {
        let mut engine = self.lock();
        let safe = engine.generation.safe(|epoch| self.clock.acknowledged(epoch));
        if engine.owner < safe {
            engine.owner = engine.generation.now();
            self.frame.store(engine.owner, Ordering::Relaxed);
            self.entry.store(engine.owner, Ordering::Release);
        }
    }
}

/// A vCPU that reads the frame, and faults where there is none. Its TLB has room for one
/// translation: whose frame it leads to.
fn read_twice(machine: &Machine, flushes_outside: bool) {
    let mut tlb = None;
    for _ in 0..STAYS {
        if machine.enter() {
            tlb = None;
        }
        if tlb.is_none() {
            let owner = machine.entry.load(Ordering::Acquire);
            tlb = (owner != 0).then_some(owner);
        }
        if let Some(owner) = tlb {
            let found = machine.frame.load(Ordering::Acquire);
            assert_eq!(found, owner, "the frame was reused under a walker");
        }
        machine.clock.leave(WALKER);
        if tlb.is_none() {
            machine.reclaim();
        } else if flushes_outside {
            tlb = None;
            machine.acknowledge();
        }
    }
}

#[test]
fn no_frame_is_reused_under_a_walker() {
    for flushes_outside in [false, true] {
        loom::model(move || {
            let machine = Machine::new();
            let other = Arc::clone(&machine);
            let vcpu = thread::spawn(move || read_twice(&other, flushes_outside));
            machine.zap();
            machine.reclaim();
            machine.zap();
            machine.reclaim();
            vcpu.join().expect("the vCPU saw only what was its own");
        });
    }
}

/// A guest page table that the vCPU may write, until the engine tracks it.
struct Tracking {
    machine: Arc<Machine>,
    /// The table's one entry.
    table: AtomicU64,
}

impl Tracking {
    /// Takes the right to write away, and reads the table once nobody can still have it.
    fn track(&self) -> Option<u64> {
        let epoch = {
            let _engine = self.machine.lock();
            self.machine.entry.store(0, Ordering::Release);
            self.machine.clock.open()
        };
        let _engine = self.machine.lock();
        self.machine.clock.acknowledged(epoch).then(|| self.table.load(Ordering::Relaxed))
    }

    /// A vCPU that writes the table as long as its TLB or the entry lets it.
    fn write_twice(&self) {
        let mut writable = false;
        for stay in 1..=STAYS {
            if self.machine.enter() {
                writable = false;
            }
            writable |= self.machine.entry.load(Ordering::Acquire) != 0;
            if writable {
                self.table.store(stay as u64, Ordering::Relaxed);
            }
            self.machine.clock.leave(WALKER);
        }
    }
}

#[test]
fn no_table_is_read_before_its_last_untracked_write() {
    loom::model(|| {
        let tracking = Arc::new(Tracking { machine: Machine::new(), table: AtomicU64::new(0) });
        let other = Arc::clone(&tracking);
        let vcpu = thread::spawn(move || other.write_twice());
        let seen = tracking.track();
        vcpu.join().expect("the vCPU only writes");
        if let Some(seen) = seen {
            let last = tracking.table.load(Ordering::Relaxed);
            assert_eq!(seen, last, "a write was missed");
        }
    });
}
