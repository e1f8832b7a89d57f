//! Once its slots and vCPUs are there, the engine works in memory that it reserved: neither a fault
//! nor a zap nor a register change allocates or frees a byte.
//!
//! On the benchmarks' machine, whose memory is plain and allocates nothing itself. Seen to fail
//! when the pool reserves no metadata, and when the directory reserves nothing.

#[allow(dead_code, unreachable_pub, reason = "shared with the benchmarks")]
#[path = "../benches/instructions/guest.rs"]
mod guest;
#[allow(dead_code, unreachable_pub, reason = "shared with the benchmarks")]
#[path = "../benches/instructions/machine.rs"]
mod machine;
#[allow(dead_code, unreachable_pub, reason = "shared with the benchmarks")]
#[path = "../benches/instructions/store.rs"]
mod store;

use anchorite_addr::Gva;
use anchorite_shadow::policy::{Linked, Tagged, ZapPolicy};
use anchorite_shadow::{PolicyKind, ShadowMmu};
use guest::{Guest, Size, WRITE, entry, gva};

const TABLES: u64 = 300;

/// Faults with a quota that holds half of the tables, zaps, and everything a guest does about its
/// page tables.
fn work<P: ZapPolicy>(guest: &mut Guest<P>) {
    for round in 0..4 {
        guest.touch_all();
        guest.zap_all();
        guest.mmu.idle_slice(5);
        for table in 0..40 {
            for leaf in 0..4 {
                let _outcome = guest.fault(gva(table, leaf), WRITE);
            }
            // Its leaf table goes unsync, and comes back in step.
            let (frame, at) = (guest.leaf_table(table), gva(table, 1));
            guest.mmu.guest_wrote(entry(frame, 1), 8);
            guest.mmu.invlpg(guest.vcpu, Gva::new(at));
            guest.mmu.guest_wrote(entry(guest.directory(table), table), 8);
        }
        let root = Guest::<P>::root(round % 2);
        guest.mmu.set_cr3(guest.vcpu, root).expect("a root table of the guest");
        guest.enter();
    }
}

fn allocates_nothing<P: ZapPolicy>(policy: P, name: PolicyKind) {
    let mut guest: Guest<P> = Guest::new(policy, Size::of(TABLES, 4).limited(TABLES / 2));
    let measured = allocation_counter::measure(|| work(&mut guest));
    assert_eq!((measured.count_total, measured.count_current), (0, 0), "{name:?}");
    let stats = guest.mmu.stats();
    assert!(stats.mmu_evicted > 100 && stats.pf_fixed > 1000, "{name:?}: the work is too small");
    assert!(guest.mmu.usage().taken > 64, "{name:?}: no second slab was taken");
    guest.mmu.audit().expect("the invariants hold");
}

#[test]
fn nothing_is_allocated_on_the_fault_path() {
    for kind in PolicyKind::ALL {
        match Linked::of(kind) {
            Some(policy) => allocates_nothing(policy, kind),
            None => allocates_nothing(Tagged, kind),
        }
    }
}
