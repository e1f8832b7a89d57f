extern crate std;
use super::*;
use crate::fake::{FakeFormat, FakeTables, HOST_BASE, Words, enter, shadow, shadow_under};
use crate::memory::{Memslot, SlotId};
use crate::translation::Entry;
use anchorite_addr::{Gfn, Hpa, HpaPage};
use anchorite_shadow::{AccessKind, AnyMmu, Cr4, Efer, PolicyKind, TableMemory};
use anchorite_vcpu::exit::NestedAccess;
use anchorite_vcpu::{FlushScope, Root};

type Both = Combined<FakeFormat, FakeTables, AnyMmu<Words>>;

fn both() -> (Both, Memslots) {
    both_under(PolicyKind::Tagged)
}

fn both_under(policy: PolicyKind) -> (Both, Memslots) {
    let nested = Nested::new(FakeTables::new(16), false).unwrap();
    let shadow = shadow_under(policy);
    let (mut tables, mut slots) = (Combined::both(shadow, nested), Memslots::default());
    let slot = Memslot {
        id: SlotId(0),
        first: Gfn::new(0),
        frames: 512,
        host: Hpa::new(HOST_BASE).frame(),
        read_only: false,
    };
    let change = slots.add(slot).unwrap();
    tables.slot_changed(&slots, &change);
    (tables, slots)
}

fn registers(paging: bool) -> Registers {
    let paging = if paging { Cr0::PG } else { Cr0::empty() };
    Registers {
        cr0: paging,
        cr3: 0x1000,
        cr4: Cr4::PAE,
        efer: if paging.is_empty() { Efer::LME } else { Efer::LME | Efer::LMA },
    }
}

fn turn_paging(tables: &mut Both, on: bool) -> Entry {
    tables.registers_changed(Some(ControlRegister::Cr0), registers(on)).unwrap();
    enter(tables)
}

fn read(tables: &mut Both, slots: &Memslots, page: u64) -> FaultOutcome {
    let access =
        Access { kind: AccessKind::Read, user: false, implicit: false, ac: false, pkru: 0 };
    tables.page_fault(slots, Gva::new(page << 12), access)
}

/// The host frame that the shadow tables below `root` map `page` of the first 2 MiB to.
fn shadowed(tables: &Both, root: Root, page: u64) -> Option<u64> {
    let Root::Shadow { cr3, .. } = root else { panic!("{root:?}") };
    let machine = tables.engine().unwrap().machine();
    let mut table = cr3.as_u64();
    for index in [0, 0, 0, page] {
        let entry = machine.read_entry(Hpa::new(table + index * 8));
        if entry & 1 == 0 {
            return None;
        }
        table = entry & 0x000f_ffff_ffff_f000;
    }
    Some(table >> 12)
}

#[test]
fn a_guest_without_paging_runs_on_nested_tables_and_one_with_paging_on_shadow_tables() {
    let (mut tables, slots) = both();
    assert!(tables.follows_paging());
    let unpaged = enter(&mut tables);
    assert!(matches!(unpaged.root, Some(Root::Nested { .. })));
    let fault =
        NestedFault { gpa: anchorite_addr::Gpa::new(0), gva: None, access: NestedAccess::WRITE };
    assert_eq!(tables.nested_fault(&slots, &fault), FaultOutcome::Resolved);

    let paged = turn_paging(&mut tables, true);
    assert!(matches!(paged.root, Some(Root::Shadow { .. })), "{paged:?}");
    assert_eq!(shadowed(&tables, paged.root.unwrap(), 5), None);
    assert_eq!(read(&mut tables, &slots, 5), FaultOutcome::Resolved);
    let root = enter(&mut tables).root.expect("the first had no tables");
    assert_eq!(shadowed(&tables, root, 5), Some((HOST_BASE >> 12) + 6));

    let unpaged_again = turn_paging(&mut tables, false);
    assert_eq!(unpaged_again.root, unpaged.root);
    assert_eq!(unpaged_again.flush, Some(FlushScope::All));
}

#[test]
fn nothing_shadowed_outlives_a_time_in_which_the_guest_wrote_unseen() {
    let (mut tables, slots) = both();
    let _ = turn_paging(&mut tables, true);
    assert_eq!(read(&mut tables, &slots, 5), FaultOutcome::Resolved);
    let root = enter(&mut tables).root.unwrap();
    assert!(shadowed(&tables, root, 5).is_some());
    let _ = turn_paging(&mut tables, false);
    let entry = turn_paging(&mut tables, true);
    let empty = entry.root.expect("nested tables are loaded till now");
    assert_eq!(shadowed(&tables, empty, 5), None);
    assert_eq!(read(&mut tables, &slots, 6), FaultOutcome::Resolved);
    let root = enter(&mut tables).root.unwrap();
    assert!(shadowed(&tables, root, 6).is_some());
    assert_eq!(shadowed(&tables, root, 5), None);
    assert_eq!(tables.audit(), Ok(()));
}

#[test]
fn entries_after_exits_that_concern_no_table_ask_for_nothing() {
    let (mut tables, slots) = both();
    let _ = turn_paging(&mut tables, true);
    assert_eq!(enter(&mut tables), Entry::default());
    assert_eq!(read(&mut tables, &slots, 7), FaultOutcome::Resolved);
    let _ = enter(&mut tables);
    tables.invalidate(Gva::new(0x7000));
    assert_eq!(enter(&mut tables).flush, Some(FlushScope::Address(Gva::new(0x7000))));
    tables.zap_all();
    let zapped = enter(&mut tables);
    assert!(zapped.root.is_some() || zapped.flush == Some(FlushScope::All), "{zapped:?}");
    assert_eq!(enter(&mut tables), Entry::default());
    assert_eq!(tables.audit(), Ok(()));
}

#[test]
fn an_invpcid_is_obeyed_at_the_next_entry() {
    let (mut tables, slots) = both();
    let _ = turn_paging(&mut tables, true);
    assert_eq!(read(&mut tables, &slots, 7), FaultOutcome::Resolved);
    let _ = enter(&mut tables);
    tables.invpcid(Invpcid::All);
    assert_eq!(enter(&mut tables), Entry { root: None, flush: Some(FlushScope::All) });
}

#[test]
fn a_refused_way_into_paging_leaves_the_nested_tables_in_force() {
    let (mut tables, _) = both();
    let unpaged = enter(&mut tables);
    assert!(unpaged.root.is_some());
    // In PAE paging the table at 0x1000 has reserved bits set.
    let refused = Registers { efer: Efer::empty(), ..registers(true) };
    assert!(tables.registers_changed(Some(ControlRegister::Cr0), refused).is_err());
    assert_eq!(enter(&mut tables).root, None, "still the same");
}

#[test]
fn slots_deleted_while_paging_is_off_are_gone_when_it_is_on() {
    let (mut tables, mut slots) = both();
    let root = turn_paging(&mut tables, true).root;
    assert!(root.is_some());
    let _ = turn_paging(&mut tables, false);
    let change = slots.delete(SlotId(0)).unwrap();
    tables.slot_changed(&slots, &change);
    let _ = turn_paging(&mut tables, true);
    assert!(matches!(read(&mut tables, &slots, 5), FaultOutcome::Guest(_)), "no table is there");
}

#[test]
fn shadow_tables_alone_serve_a_guest_without_paging_too() {
    let mut tables: Both = Combined::shadow(shadow());
    assert!(!tables.follows_paging());
    tables.registers_changed(None, registers(false)).unwrap();
    assert!(matches!(enter(&mut tables).root, Some(Root::Shadow { .. })));
    let nested = Nested::new(FakeTables::new(16), false).unwrap();
    let root = nested.root();
    let mut tables: Both = Combined::nested(nested);
    let loaded = enter(&mut tables).root;
    assert_eq!(loaded, Some(Root::Nested { table: HpaPage::new(root.addr()).unwrap() }));
    assert!(tables.engine().is_none());
}

#[test]
fn idle_time_takes_stale_pages_apart_under_the_policy_that_waits_for_it_and_no_other() {
    for policy in PolicyKind::ALL {
        let (mut tables, slots) = both_under(policy);
        let _ = turn_paging(&mut tables, true);
        assert_eq!(read(&mut tables, &slots, 5), FaultOutcome::Resolved);
        tables.zap_all();
        let stale = Translation::usage(&tables).unwrap().stale;
        let worked = tables.idle_slice();
        let left = Translation::usage(&tables).unwrap().stale;
        assert_eq!(worked, policy == PolicyKind::Background, "{policy:?}");
        assert_eq!(left, if worked { 0 } else { stale }, "{policy:?}");
        assert!(!tables.idle_slice(), "{policy:?}: nothing is left to do");
        assert_eq!(tables.engine().unwrap().audit(), Ok(()));
    }
}
