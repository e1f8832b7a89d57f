//! Tests of the flush clock; apart, because `tests/loom.rs` compiles the clock with other atomics.

use anchorite_addr::Gva;
use std::vec::Vec;

use crate::flush::{FlushClock, TlbFlush, VcpuId};

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
