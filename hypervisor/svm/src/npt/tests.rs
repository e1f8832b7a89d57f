use super::Npt;
use anchorite_addr::{Hfn, HpaPage, PageSize};
use anchorite_vcpu::{NestedFormat, NestedFrame, NestedRights};

fn page(number: u64) -> HpaPage {
    Hfn::new(number).page()
}

fn leaf(size: PageSize, rights: NestedRights) -> u64 {
    Npt::leaf(NestedFrame { page: page(0x40000), size, rights })
}

#[test]
fn a_leaf_with_all_rights_is_present_writable_user_accessed_dirty() {
    assert_eq!(leaf(PageSize::Size4K, NestedRights::all()), 0x4000_0067);
}

#[test]
fn large_leaves_set_the_page_size_bit() {
    assert_eq!(leaf(PageSize::Size2M, NestedRights::all()), 0x4000_00e7);
    assert_eq!(leaf(PageSize::Size1G, NestedRights::all()), 0x4000_00e7);
}

#[test]
fn withheld_rights_are_withheld() {
    let read_only = leaf(PageSize::Size4K, NestedRights::READ);
    assert_eq!(read_only, 0x8000_0000_4000_0025);
    let read_execute = leaf(PageSize::Size4K, NestedRights::READ | NestedRights::EXECUTE);
    assert_eq!(read_execute, 0x4000_0025);
}

#[test]
fn what_npt_cannot_express_is_not_present() {
    assert_eq!(leaf(PageSize::Size4K, NestedRights::WRITE), 0);
    assert_eq!(leaf(PageSize::Size4M, NestedRights::all()), 0);
}

#[test]
fn a_table_entry_leads_to_its_table() {
    let entry = Npt::table(page(0x123));
    assert_eq!(entry, 0x12_3027);
    for level in 2..=4 {
        assert_eq!(Npt::child(entry, level), Some(page(0x123)), "level {level}");
    }
}

#[test]
fn leaves_and_absent_entries_have_no_child() {
    let large = leaf(PageSize::Size2M, NestedRights::all());
    assert_eq!(Npt::child(large, 2), None);
    assert_eq!(Npt::child(large, 3), None);
    assert_eq!(Npt::child(leaf(PageSize::Size4K, NestedRights::all()), 1), None);
    assert_eq!(Npt::child(0, 4), None);
    assert!(!Npt::is_present(0));
}
