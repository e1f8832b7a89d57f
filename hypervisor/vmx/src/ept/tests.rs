use super::*;

const PAGE: HpaPage = Hpa::new(0x1234_5000).page();

fn leaf(size: PageSize, rights: NestedRights) -> u64 {
    Ept::leaf(NestedFrame { page: Hpa::new(0x4000_0000).page(), size, rights })
}

#[test]
fn a_4k_leaf_is_write_back_without_the_large_bit() {
    let rights = NestedRights::READ | NestedRights::EXECUTE;
    assert_eq!(leaf(PageSize::Size4K, rights), 0x4000_0035);
}

#[test]
fn large_leaves_carry_bit_7() {
    assert_eq!(leaf(PageSize::Size2M, NestedRights::all()), 0x4000_00b7);
    assert_eq!(leaf(PageSize::Size1G, NestedRights::all()), 0x4000_00b7);
}

#[test]
fn a_write_only_leaf_becomes_readable_for_else_it_is_misconfigured() {
    assert_eq!(leaf(PageSize::Size4K, NestedRights::WRITE) & 7, 3);
}

#[test]
fn a_table_entry_leads_to_its_table() {
    let entry = Ept::table(PAGE);
    assert_eq!(entry, 0x1234_5007);
    assert!(Ept::is_present(entry));
    assert_eq!(Ept::child(entry, 4), Some(PAGE));
    assert_eq!(Ept::child(entry, 2), Some(PAGE));
}

#[test]
fn leaves_and_empty_entries_have_no_child() {
    assert_eq!(Ept::child(leaf(PageSize::Size2M, NestedRights::all()), 2), None);
    assert_eq!(Ept::child(leaf(PageSize::Size4K, NestedRights::all()), 1), None);
    assert_eq!(Ept::child(0, 3), None);
    assert!(!Ept::is_present(0));
}

#[test]
fn a_leaf_without_rights_is_not_present() {
    assert!(!Ept::is_present(leaf(PageSize::Size4K, NestedRights::empty())));
}

#[test]
fn the_pointer_names_four_levels_of_write_back_memory() {
    assert_eq!(pointer(PAGE), 0x1234_501e);
}
