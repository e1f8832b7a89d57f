//! One function an operation.

use anchorite_addr::{Gpa, Gva};
use anchorite_shadow::policy::ZapPolicy;
use anchorite_shadow::{FaultOutcome, ShadowMmu};

use crate::guest::{FRESH, Guest, MOST_ROOTS, READ, Size, WRITE, entry, gva};
use crate::store::{Flat, Sparse, Store};
use crate::{counted, difference, lookups, section};

/// Operations in most sections.
const COUNT: u64 = 256;

/// The zap-alls whose pages take long to make.
pub(crate) fn largest<P: ZapPolicy>(policy: P) {
    for bits in [17, 20] {
        zap_all::<P, Sparse>(policy, 1 << bits);
    }
}

pub(crate) fn all<P: ZapPolicy>(policy: P) {
    for bits in [6, 10, 14] {
        zap_all::<P, Flat>(policy, 1 << bits);
    }
    fault_leaf(policy);
    for missing in 1..=3 {
        fault_tables(policy, missing);
    }
    fault_with_root(policy);
    recycle(policy, 1);
    recycle(policy, 512);
    revive(policy);
    rebuild(policy, 4096, 1);
    rebuild(policy, 64, 512);
    entering(policy);
    invlpg(policy);
    invlpg_of_a_changed_entry(policy);
    for roots in [1, 4, MOST_ROOTS] {
        cr3_switch(policy, roots);
    }
    for leaves in [1, 512] {
        leaf_write(policy, leaves);
    }
    upper_writes(policy);
    evict(policy);
    for stale in [0, 50, 90] {
        lookups::with_stale(stale);
    }
}

/// Zaps `pages` shadow pages, and waits as the policy's caller waits.
pub(crate) fn zap_all<P: ZapPolicy, S: Store>(policy: P, pages: u64) {
    let mut guest: Guest<P, S> = Guest::new(policy, Size::of(pages, 1));
    for table in 0..pages {
        guest.touch(table, 0);
        if u64::from(guest.mmu.usage().active) == pages {
            break;
        }
    }
    assert_eq!(u64::from(guest.mmu.usage().active), pages);
    counted(|| guest.zap_all());
    section("zap_all", pages, 1, 1);
}

fn fixed(outcome: &FaultOutcome) {
    assert_eq!(*outcome, FaultOutcome::Fixed);
}

/// Tables present, leaf missing; A is set by this very access.
pub(crate) fn fault_leaf<P: ZapPolicy>(policy: P) {
    let mut guest: Guest<P> = Guest::new(policy, Size::of(2, 512));
    guest.touch(0, 0);
    for leaf in 1..=COUNT {
        fixed(&counted(|| guest.fault(gva(0, leaf), READ)));
    }
    section("fault_leaf", 0, 0, COUNT);
    for leaf in COUNT + 1..512 {
        fixed(&counted(|| guest.fault(gva(0, leaf), WRITE)));
    }
    section("fault_leaf_write", 0, 0, 511 - COUNT);
}

/// `missing` tables on the way, taken from free frames, and the leaf.
pub(crate) fn fault_tables<P: ZapPolicy>(policy: P, missing: u32) {
    let stride = [1, 512, 512 * 512][missing as usize - 1];
    let count = [COUNT, 32, 3][missing as usize - 1];
    let size = Size::of(count + 1, 1).spread(stride);
    let mut guest: Guest<P> = Guest::new(policy, size.limited(2048));
    guest.touch(0, 0);
    for index in 1..=count {
        fixed(&counted(|| guest.fault(gva(index * stride, 0), READ)));
    }
    section(&format!("fault_tables_{missing}"), 0, 0, count);
}

/// The root and three tables.
pub(crate) fn fault_with_root<P: ZapPolicy>(policy: P) {
    let count = 8;
    let mut guest: Guest<P> = Guest::new(policy, Size::of(1, 1).limited(2048));
    for root in 1..=count {
        // Shadows of the same tables would only be linked: they go first.
        guest.mmu.zap_all().epoch();
        guest.mmu.reclaim(1024);
        guest.mmu.set_cr3(guest.vcpu, Guest::<P>::root(root)).expect("a valid CR3");
        fixed(&counted(|| guest.fault(gva(0, 0), READ)));
    }
    section("fault_tables_4", 0, 0, count);
}

/// The reserve of five frames is filled with stale pages of `leaves` entries, by a fault that
/// has nothing else to do.
pub(crate) fn recycle<P: ZapPolicy>(policy: P, leaves: u64) {
    let (rounds, reserve) = (50, 5);
    let mut guest: Guest<P> = Guest::new(policy, Size::of(rounds * reserve + 1, leaves));
    for table in 0..=rounds * reserve {
        (0..leaves).for_each(|leaf| guest.touch(table, leaf));
    }
    guest.zap_all();
    guest.enter();
    guest.touch(0, 0);
    for _ in 0..rounds {
        let _any = counted(|| guest.fault(gva(0, 0), READ));
    }
    section("fault_spurious", 1, leaves, rounds);
    for _ in 0..rounds {
        guest.mmu.reclaim(0);
        let usage = guest.mmu.usage();
        guest.mmu.set_quota(usage.active + usage.stale + usage.limbo);
        let _any = counted(|| guest.fault(gva(0, 0), READ));
    }
    difference("recycle", 1, leaves, rounds * reserve);
}

/// A table that was there before a zap-all, with its one leaf.
pub(crate) fn revive<P: ZapPolicy>(policy: P) {
    let mut guest: Guest<P> = Guest::new(policy, Size::of(COUNT + 1, 1));
    guest.touch_all();
    guest.zap_all();
    guest.enter();
    guest.touch(0, 0);
    for table in 1..=COUNT {
        fixed(&counted(|| guest.fault(gva(table, 0), READ)));
    }
    section("revive", 0, 0, COUNT);
}

/// Everything again after a zap-all: `count` is the number of pages touched.
pub(crate) fn rebuild<P: ZapPolicy>(policy: P, tables: u64, leaves: u64) {
    let mut guest: Guest<P> = Guest::new(policy, Size::of(tables, leaves));
    for table in 0..tables {
        (0..leaves).for_each(|leaf| guest.touch(table, leaf));
    }
    guest.zap_all();
    guest.enter();
    let ahead = if leaves == 1 { 1 } else { 16 };
    for table in 0..tables {
        for leaf in (0..leaves).step_by(ahead) {
            fixed(&counted(|| guest.fault(gva(table, leaf), READ)));
        }
    }
    section("rebuild", tables, leaves, tables * leaves);
}

/// An entry and an exit with nothing to do.
pub(crate) fn entering<P: ZapPolicy>(policy: P) {
    let mut guest: Guest<P> = Guest::new(policy, Size::of(1, 1));
    guest.touch(0, 0);
    guest.enter();
    (0..COUNT).for_each(|_| counted(|| guest.enter()));
    section("enter_and_leave", 0, 0, COUNT);
}

/// Of a mapping in step, while another table is not.
pub(crate) fn invlpg<P: ZapPolicy>(policy: P) {
    let mut guest: Guest<P> = Guest::new(policy, Size::of(2, 512));
    (0..COUNT).for_each(|leaf| guest.touch(0, leaf));
    make_unsync(&mut guest, 1);
    for leaf in 0..COUNT {
        counted(|| guest.mmu.invlpg(guest.vcpu, Gva::new(gva(0, leaf))));
    }
    section("invlpg", 0, 0, COUNT);
}

/// Of an entry that the guest has changed in an unsync table.
pub(crate) fn invlpg_of_a_changed_entry<P: ZapPolicy>(policy: P) {
    let mut guest: Guest<P> = Guest::new(policy, Size::of(1, 512));
    (0..512).for_each(|leaf| guest.touch(0, leaf));
    make_unsync(&mut guest, 0);
    let table = guest.leaf_table(0);
    for leaf in 1..=COUNT {
        guest.poke(table, leaf, 0);
        counted(|| guest.mmu.invlpg(guest.vcpu, Gva::new(gva(0, leaf))));
    }
    section("invlpg_changed", 0, 0, COUNT);
}

/// Maps leaf table `table` at the last page of its own range and lets the guest write there.
fn make_unsync<P: ZapPolicy>(guest: &mut Guest<P>, table: u64) {
    let frame = guest.leaf_table(table);
    guest.touch(table, 0);
    guest.poke(frame, 511, frame << 12 | FRESH);
    guest.mmu.guest_wrote(entry(frame, 511), 8);
    fixed(&guest.fault(gva(table, 511), WRITE));
    assert!(guest.mmu.stats().mmu_unsync > 0);
}

/// MOV to CR3 in turn over `roots` roots that are all remembered.
pub(crate) fn cr3_switch<P: ZapPolicy>(policy: P, roots: u64) {
    let mut guest: Guest<P> = Guest::new(policy, Size::of(1, 1));
    for root in 0..roots {
        guest.mmu.set_cr3(guest.vcpu, Guest::<P>::root(root)).expect("a valid CR3");
        guest.touch(0, 0);
        guest.enter();
    }
    let missed = guest.mmu.stats().root_miss;
    assert_eq!(missed, roots, "every root was loaded");
    for turn in 0..COUNT {
        let cr3 = Guest::<P>::root(turn % roots);
        counted(|| guest.mmu.set_cr3(guest.vcpu, cr3)).expect("a valid CR3");
        guest.enter();
    }
    assert_eq!(guest.mmu.stats().root_miss, missed, "every root was cached");
    section(&format!("cr3_switch_{roots}"), 0, 0, COUNT);
}

/// A write to a leaf table of `leaves` present leaves, and the CR3 load that brings its shadow
/// in step again.
pub(crate) fn leaf_write<P: ZapPolicy>(policy: P, leaves: u64) {
    let count = 16;
    let mut guest: Guest<P> = Guest::new(policy, Size::of(2, 512));
    (0..leaves).for_each(|leaf| guest.touch(0, leaf));
    let (written, window) = (guest.leaf_table(0), guest.leaf_table(1));
    guest.poke(window, 7, written << 12 | FRESH);
    guest.touch(1, 7);
    guest.enter();
    let mut at = 0;
    for _ in 0..count {
        if guest.mmu.stats().mmu_unsync == guest.mmu.stats().mmu_synced {
            fixed(&counted(|| guest.fault(gva(1, 7), WRITE)));
        }
        let old = guest.peek(written, at);
        guest.poke(written, at, old ^ 2);
        at = (at + 1) % leaves;
        counted(|| guest.mmu.set_cr3(guest.vcpu, Guest::<P>::root(0))).expect("a valid CR3");
        guest.enter();
    }
    section("pte_write_1", 1, leaves, count);
}

/// Writes to tables of levels 2 to 5, which the emulator reports; the entry written is in use.
pub(crate) fn upper_writes<P: ZapPolicy>(policy: P) {
    let size = Size::of(1, 1);
    for (level, index) in [(2, 0), (3, 0), (4, 1)] {
        let guest: Guest<P> = Guest::new(policy, size);
        let frame = match level {
            2 => guest.directory(0),
            3 => Guest::<P>::pdpt(),
            _ => Guest::<P>::root(0) >> 12,
        };
        upper_write(guest, level, entry(frame, index));
    }
    let (guest, frame) = Guest::<P>::with_five_levels(policy, size);
    upper_write(guest, 5, entry(frame, 0));
}

fn upper_write<P: ZapPolicy>(mut guest: Guest<P>, level: u8, at: Gpa) {
    for _ in 0..COUNT {
        guest.touch(0, 0);
        counted(|| guest.mmu.guest_wrote(at, 8));
    }
    assert_eq!(guest.mmu.stats().mmu_pte_updated, COUNT);
    section(&format!("pte_write_{level}"), 0, 0, COUNT);
}

/// Twice as many tables as there may be shadow pages, in turn.
pub(crate) fn evict<P: ZapPolicy>(policy: P) {
    let (tables, pages) = (2048, 1024);
    let mut guest: Guest<P> = Guest::new(policy, Size::of(tables, 1).limited(pages));
    guest.touch_all();
    assert!(guest.mmu.stats().mmu_evicted > 0);
    for table in 0..tables {
        let _any = counted(|| guest.fault(gva(table, 0), READ));
        guest.enter();
    }
    section("evict", tables, pages, tables);
}
