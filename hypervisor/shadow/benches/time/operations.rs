//! The operations that `cargo xtask bench engine` counts, in time: the same code, with a clock
//! around each operation. What it takes to read the clock is in the figures, some 20 ns.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::time::{Duration, Instant};

use anchorite_shadow::policy::ZapPolicy;
use criterion::Criterion;

use crate::store::{Flat, Sparse};
use crate::{cases, lookups};

thread_local! {
    /// What the sections of the case that is running took, an operation each.
    static SECTIONS: RefCell<Vec<Duration>> = const { RefCell::new(Vec::new()) };
    /// What the last section took in all.
    static LAST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// What is timed.
pub(crate) fn counted<R>(operation: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = black_box(operation());
    ELAPSED.set(ELAPSED.get() + start.elapsed());
    result
}

fn end(took: Duration, count: u64) {
    // Criterion divides by it.
    let each = (took / count as u32).max(Duration::from_nanos(1));
    SECTIONS.with_borrow_mut(|sections| sections.push(each));
}

/// Ends a section of `count` operations.
pub(crate) fn section(_name: &str, _tables: u64, _leaves: u64, count: u64) {
    LAST.set(ELAPSED.take());
    end(LAST.get(), count);
}

/// Ends a section that did what the one before did, and `count` operations besides.
pub(crate) fn difference(_name: &str, _tables: u64, _leaves: u64, count: u64) {
    end(ELAPSED.take().saturating_sub(LAST.get()), count);
}

/// Measures each of the sections, `labels`, that `case` has.
fn case<P: ZapPolicy>(criterion: &mut Criterion, policy: P, labels: &[&str], case: impl Fn(P)) {
    for (at, label) in labels.iter().enumerate() {
        let name = format!("operations/{label}/{}", policy.kind().name());
        criterion.bench_function(&name, |bencher| {
            bencher.iter_custom(|times| {
                let one = |_| {
                    case(policy);
                    let sections = SECTIONS.take();
                    assert_eq!(sections.len(), labels.len(), "{labels:?}");
                    sections[at]
                };
                (0..times).map(one).sum()
            });
        });
    }
}

/// Every operation that is counted, but for the largest zap-alls.
pub(crate) fn all<P: ZapPolicy>(criterion: &mut Criterion, policy: P) {
    let mut of = |labels: &[&str], run: fn(P)| case(criterion, policy, labels, run);
    of(&["zap_all 64"], |policy| cases::zap_all::<P, Flat>(policy, 1 << 6));
    of(&["zap_all 1024"], |policy| cases::zap_all::<P, Flat>(policy, 1 << 10));
    of(&["zap_all 16384"], |policy| cases::zap_all::<P, Flat>(policy, 1 << 14));
    of(&["fault_leaf", "fault_leaf_write"], cases::fault_leaf);
    of(&["fault_tables_1"], |policy| cases::fault_tables(policy, 1));
    of(&["fault_tables_2"], |policy| cases::fault_tables(policy, 2));
    of(&["fault_tables_3"], |policy| cases::fault_tables(policy, 3));
    of(&["fault_tables_4"], cases::fault_with_root);
    of(&["fault_spurious", "recycle 1"], |policy| cases::recycle(policy, 1));
    of(&["fault_spurious 512", "recycle 512"], |policy| cases::recycle(policy, 512));
    of(&["revive"], cases::revive);
    of(&["rebuild 4096×1"], |policy| cases::rebuild(policy, 4096, 1));
    of(&["rebuild 64×512"], |policy| cases::rebuild(policy, 64, 512));
    of(&["enter_and_leave"], cases::entering);
    of(&["invlpg"], cases::invlpg);
    of(&["invlpg_changed"], cases::invlpg_of_a_changed_entry);
    of(&["cr3_switch_1"], |policy| cases::cr3_switch(policy, 1));
    of(&["cr3_switch_4"], |policy| cases::cr3_switch(policy, 4));
    of(&["cr3_switch_16"], |policy| cases::cr3_switch(policy, 16));
    of(&["pte_write_1 1"], |policy| cases::leaf_write(policy, 1));
    of(&["pte_write_1 512"], |policy| cases::leaf_write(policy, 512));
    of(&["pte_write_2", "pte_write_3", "pte_write_4", "pte_write_5"], cases::upper_writes);
    of(&["evict"], cases::evict);
    of(&["lookup_stale_0"], |_| lookups::with_stale(0));
    of(&["lookup_stale_50"], |_| lookups::with_stale(50));
    of(&["lookup_stale_90"], |_| lookups::with_stale(90));
}

/// Zap-alls whose pages take seconds to make.
pub(crate) fn largest<P: ZapPolicy>(criterion: &mut Criterion, policy: P) {
    case(criterion, policy, &["largest/zap_all 131072"], |policy| {
        cases::zap_all::<P, Sparse>(policy, 1 << 17);
    });
    case(criterion, policy, &["largest/zap_all 1048576"], |policy| {
        cases::zap_all::<P, Sparse>(policy, 1 << 20);
    });
}
