//! Every single request to the heap that an operation makes is refused once: the operation says so,
//! has changed nothing, and the guest goes on; nothing leaks. (Frames come from elsewhere:
//! `allocation_failure`. Faults ask the heap for nothing: `no_allocation`.)
//!
//! Seen to fail when `HeadTable::new` reserves its heads by `reserve_exact`, when `log_start`
//! takes its log by `vec!`, when `relocate_slot` moves the slot's base before it has the heads.
#![expect(unsafe_code, reason = "an allocator that refuses is an allocator")]

#[allow(dead_code, unreachable_pub, reason = "shared with the benchmarks")]
#[path = "../benches/instructions/guest.rs"]
mod guest;
#[allow(dead_code, unreachable_pub, reason = "shared with the benchmarks")]
#[path = "../benches/instructions/machine.rs"]
mod machine;
#[allow(dead_code, unreachable_pub, reason = "shared with the benchmarks")]
#[path = "../benches/instructions/store.rs"]
mod store;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

use anchorite_addr::{Gfn, Hfn};
use anchorite_shadow::policy::{Linked, Tagged, ZapPolicy};
use anchorite_shadow::{
    Config, ConfigError, FlushPromise, Mmu, PolicyKind, ShadowMmu, SlotError, SlotId, SlotSpec,
};
use guest::{Guest, Size};
use machine::Host;
use store::Flat;

type Engine<P> = Mmu<Host<Flat>, P>;

/// The heap, which refuses the request that a test chose.
struct Refusing;

const NEVER: u32 = u32::MAX;

thread_local! {
    /// Requests of this thread until one is refused.
    static LEFT: Cell<u32> = const { Cell::new(NEVER) };
    /// Bytes that this thread holds.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: whatever is handed out is the system allocator's, with the layout asked for; a null
// pointer is what a refusal has to be.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let left = LEFT.get();
        if left != NEVER {
            LEFT.set(left.checked_sub(1).unwrap_or(NEVER));
        }
        if left == 0 {
            return null_mut();
        }
        HELD.set(HELD.get() + layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size() as isize);
        // SAFETY: `alloc` had it from the system allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HEAP: Refusing = Refusing;

/// Runs `operation` with its `nth` request refused, and tells whether it made that many.
fn refusing<R>(nth: u32, operation: impl FnOnce() -> R) -> (R, bool) {
    LEFT.set(nth);
    let result = operation();
    (result, LEFT.replace(NEVER) == NEVER)
}

/// Tries `operation` with each of its requests refused in turn, until it makes no more. Returns how
/// many it made, and what came of it at last.
fn each_refused<P: ZapPolicy, T>(
    guest: &mut Guest<P>,
    operation: impl Fn(&mut Engine<P>) -> Result<T, SlotError>,
    unchanged: impl Fn(&Engine<P>) -> bool,
) -> (u32, T) {
    let mut nth = 0;
    loop {
        let (result, refused) = refusing(nth, || operation(&mut guest.mmu));
        guest.mmu.audit().expect("the invariants hold");
        guest.enter();
        guest.touch_all();
        match result {
            Ok(value) => {
                assert!(!refused, "a refusal was taken for memory");
                return (nth, value);
            }
            Err(error) => {
                assert_eq!((error, refused), (SlotError::OutOfMemory, true));
                assert!(unchanged(&guest.mmu), "request {nth} was refused, half was done");
            }
        }
        nth += 1;
    }
}

fn spec(number: u64) -> SlotSpec {
    let base = Gfn::new((number + 1) << 20);
    SlotSpec { base, pages: 3 << 9, host: Hfn::new(0), read_only: false }
}

fn keep<P: ZapPolicy>(guest: &mut Guest<P>, promise: FlushPromise) {
    guest.mmu.discharge(promise, |_| ()).expect("the vCPU is outside");
}

/// Slots come, move, are logged and go.
fn slots_and_logs<P: ZapPolicy>(policy: P) {
    let mut guest: Guest<P> = Guest::new(policy, Size::of(8, 4));
    guest.touch_all();
    let mut slots: Vec<SlotId> = Vec::with_capacity(5);
    let mut made = 0;
    for number in 0..5 {
        let absent = |mmu: &Engine<P>| mmu.slot_at(spec(number).base.addr()).is_none();
        let (requests, slot) = each_refused(&mut guest, |mmu| mmu.add_slot(spec(number)), absent);
        assert!(requests >= 3, "{requests} requests: a slot has three kinds of heads");
        made += requests;
        slots.push(slot);
    }
    assert!(made > 15, "the tables of slots never grew");
    for (number, slot) in (0..).zip(slots) {
        let still = |mmu: &Engine<P>| mmu.slot(slot) == Some(spec(number));
        let target = spec(number + 10).base;
        let (requests, promise) =
            each_refused(&mut guest, |mmu| mmu.move_slot(slot, target), still);
        assert!(requests >= 3);
        keep(&mut guest, promise);
        assert_eq!(guest.mmu.slot(slot).map(|slot| slot.base), Some(target));

        let (requests, promise) =
            each_refused(&mut guest, |mmu| mmu.start_dirty_log(slot), |_| true);
        assert_eq!(requests, 1);
        keep(&mut guest, promise);
        let (requests, promise) =
            each_refused(&mut guest, |mmu| mmu.harvest_dirty(slot, |_| ()), |_| true);
        assert_eq!(requests, 0, "the log is there");
        keep(&mut guest, promise);
        let (requests, promise) = each_refused(&mut guest, |mmu| mmu.delete_slot(slot), |_| true);
        assert_eq!(requests, 0, "giving back asks for nothing");
        keep(&mut guest, promise);
    }
}

#[test]
fn a_slot_that_the_heap_has_no_room_for_changes_nothing() {
    for kind in PolicyKind::ALL {
        let before = HELD.get();
        match Linked::of(kind) {
            Some(policy) => slots_and_logs(policy),
            None => slots_and_logs(Tagged),
        }
        assert_eq!(HELD.get(), before, "{kind:?}: bytes leaked");
    }
}

#[test]
fn a_log_that_the_heap_has_no_room_for_is_not_running() {
    let mut guest: Guest<Tagged> = Guest::new(Tagged, Size::of(1, 1));
    let slot = guest.mmu.add_slot(spec(0)).expect("it fits");
    let (result, refused) = refusing(0, || guest.mmu.start_dirty_log(slot));
    assert!(matches!(result, Err(SlotError::OutOfMemory)) && refused);
    let harvest = guest.mmu.harvest_dirty(slot, |_| ());
    assert!(matches!(harvest, Err(SlotError::NotLogging(_))));
}

/// Metadata, slabs, and the directory. What comes behind them, the vCPUs and their flush clock, are some
/// hundred bytes that the engine takes for granted.
#[test]
fn an_engine_that_the_heap_has_no_room_for_is_refused() {
    let before = HELD.get();
    for nth in 0..4 {
        let host: Host<Flat> = Host::new(256, 16);
        let config = Config { quota: 256, ..Config::default() };
        let (result, refused) = refusing(nth, || Mmu::<_, Tagged>::new(Tagged, host, config));
        assert!(refused, "{nth} requests only");
        assert!(matches!(result, Err(ConfigError::OutOfMemory)));
        drop(result);
        assert_eq!(HELD.get(), before, "bytes leaked");
    }
}
