//! The engine's operations in time, by criterion:
//! `cargo bench -p anchorite-shadow --features time --bench time`.
//!
//! By command only, and never gated: what machines agree on is counted in instructions
//! (`cargo xtask bench engine`). This tells what they leave out, caches above all. Every operation
//! counted there is timed here (`operations`), each after its preparation; the rest goes on
//! with one guest, whose memory the caches know.
//!
//! All of it takes hours; a word after `--` chooses: `-- operations/revive`, `-- --quick invlpg`.
//! Zap-alls of 2^17 and 2^20 pages are there only if it names `largest`: `-- 'largest.*/walk'`.

#[allow(dead_code, reason = "what the counted benchmark needs besides")]
#[path = "../instructions/cases.rs"]
mod cases;
#[allow(dead_code, reason = "what the counted benchmark needs besides")]
#[path = "../instructions/guest.rs"]
mod guest;
#[path = "../instructions/lookups.rs"]
mod lookups;
#[path = "../instructions/machine.rs"]
mod machine;
mod operations;
#[path = "../instructions/store.rs"]
mod store;

// As in the counted benchmark: the directory by itself.
#[path = "../../src/directory.rs"]
#[allow(dead_code, unused_imports, reason = "a part is measured")]
mod directory;
#[path = "../../src/page.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part is measured")]
mod page;
#[path = "../../src/registers.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part is measured")]
mod registers;
#[path = "../../src/role.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part is measured")]
mod role;

use std::hint::black_box;
use std::time::{Duration, Instant};

use anchorite_addr::Gva;
use anchorite_shadow::policy::{Linked, Tagged, ZapPolicy};
use anchorite_shadow::{PolicyKind, ShadowMmu};
use criterion::{BenchmarkId, Criterion, Throughput};
use guest::{Guest, MOST_ROOTS, READ, Size, gva};
use operations::{counted, difference, section};

/// Shadowed tables that a zap-all finds.
const SIZES: [u64; 2] = [1 << 10, 1 << 14];
/// Leaves of a table.
const LEAVES: u64 = 512;

/// The time that `operation` takes on the whole, without what `prepare` takes before each.
fn timed<T>(
    times: u64,
    state: &mut T,
    mut prepare: impl FnMut(&mut T),
    mut operation: impl FnMut(&mut T),
) -> Duration {
    (0..times).fold(Duration::ZERO, |sum, _| {
        prepare(state);
        let start = Instant::now();
        operation(state);
        sum + start.elapsed()
    })
}

fn zap_all<P: ZapPolicy>(criterion: &mut Criterion, policy: P) {
    let mut group = criterion.benchmark_group("zap_all");
    for tables in SIZES {
        let mut guest: Guest<P> = Guest::new(policy, Size::of(tables, 1));
        let rebuild = |guest: &mut Guest<P>| {
            guest.enter();
            guest.touch_all();
        };
        group.bench_function(BenchmarkId::new(policy.kind().name(), tables), |bencher| {
            bencher.iter_custom(|times| timed(times, &mut guest, rebuild, Guest::zap_all));
        });
    }
}

/// All tables again after a zap-all.
fn rebuild<P: ZapPolicy>(criterion: &mut Criterion, policy: P) {
    let mut group = criterion.benchmark_group("rebuild");
    for tables in SIZES {
        let mut guest: Guest<P> = Guest::new(policy, Size::of(tables, 1));
        guest.touch_all();
        let zap = |guest: &mut Guest<P>| {
            guest.zap_all();
            guest.enter();
        };
        group.throughput(Throughput::Elements(tables));
        group.bench_function(BenchmarkId::new(policy.kind().name(), tables), |bencher| {
            bencher.iter_custom(|times| timed(times, &mut guest, zap, Guest::touch_all));
        });
    }
}

/// Every leaf of one table, its own fault each, or those that the one before mapped ahead.
fn leaves<P: ZapPolicy>(criterion: &mut Criterion, policy: P) {
    let mut group = criterion.benchmark_group("fault");
    let mut guest: Guest<P> = Guest::new(policy, Size::of(1, LEAVES));
    let zap = |guest: &mut Guest<P>| {
        guest.zap_all();
        guest.enter();
        guest.touch(0, 0);
    };
    group.throughput(Throughput::Elements(LEAVES - 1));
    group.bench_function(BenchmarkId::new(policy.kind().name(), "leaves"), |bencher| {
        bencher.iter_custom(|times| {
            timed(times, &mut guest, zap, |guest| {
                for leaf in 1..LEAVES {
                    let _any = black_box(guest.fault(gva(0, leaf), READ));
                }
            })
        });
    });
}

fn switches<P: ZapPolicy>(criterion: &mut Criterion, policy: P) {
    let name = policy.kind().name();
    let mut guest: Guest<P> = Guest::new(policy, Size::of(1, 1));
    let mut root = 0;
    let mut switch = |guest: &mut Guest<P>| {
        root = (root + 1) % MOST_ROOTS;
        guest.mmu.set_cr3(guest.vcpu, Guest::<P>::root(root)).expect("a valid CR3");
        guest.enter();
    };
    criterion.bench_function(&format!("cr3_switch_{MOST_ROOTS}/{name}"), |bencher| {
        bencher.iter(|| switch(&mut guest));
    });
    guest.touch(0, 0);
    criterion.bench_function(&format!("invlpg/{name}"), |bencher| {
        bencher.iter(|| {
            guest.mmu.invlpg(guest.vcpu, black_box(Gva::new(gva(0, 0))));
            guest.enter();
        });
    });
}

fn all<P: ZapPolicy>(criterion: &mut Criterion, policy: P) {
    zap_all(criterion, policy);
    rebuild(criterion, policy);
    leaves(criterion, policy);
    switches(criterion, policy);
    operations::all(criterion, policy);
    if std::env::args().any(|word| word.contains("largest")) {
        operations::largest(criterion, policy);
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for kind in PolicyKind::ALL {
        match Linked::of(kind) {
            Some(policy) => all(&mut criterion, policy),
            None => all(&mut criterion, Tagged),
        }
    }
    criterion.final_summary();
}
