extern crate std;
use super::*;
use std::format;

#[test]
fn debug_output_names_the_space() {
    assert_eq!(format!("{:?}", Gpa::new(0x1234)), "gpa:0x1234");
    assert_eq!(format!("{:?}", Gva::new(0xffff_8000_0000_0000)), "gva:0xffff800000000000");
    assert_eq!(format!("{:?}", Hpa::new(0x5fff).frame()), "hfn:0x5");
    assert_eq!(format!("{:?}", Gpa::new(0x5fff).page()), "gpa:0x5000");
}

#[test]
fn arithmetic_refuses_to_wrap() {
    assert_eq!(Gpa::new(u64::MAX).checked_add(1), None);
    assert_eq!(Gpa::new(u64::MAX - 1).align_up(PageSize::Size4K), None);
    assert_eq!(Gfn::new(u64::MAX >> 12).checked_add(1), None);
    assert_eq!(Gpa::new(1).offset_from(Gpa::new(2)), None);
    assert_eq!(Gva::new(u64::MAX).wrapping_add(2), Gva::new(1));
}

#[test]
fn page_address_takes_only_aligned_values() {
    assert!(GpaPage::new(Gpa::new(0x1001)).is_none());
    let page = GpaPage::new(Gpa::new(0x3000)).expect("aligned");
    assert_eq!(page.frame(), Gfn::new(3));
    assert_eq!(page.addr(), Gpa::new(0x3000));
}

#[test]
fn alignment_follows_the_page_size() {
    let addr = Gpa::new(0x4060_1234);
    assert_eq!(addr.align_down(PageSize::Size2M), Gpa::new(0x4060_0000));
    assert_eq!(addr.align_down(PageSize::Size4M), Gpa::new(0x4040_0000));
    assert_eq!(addr.align_down(PageSize::Size1G), Gpa::new(0x4000_0000));
    assert_eq!(addr.align_up(PageSize::Size4K), Some(Gpa::new(0x4060_2000)));
    assert_eq!(addr.frame().align_down(PageSize::Size2M), Gfn::new(0x40600));
    assert!(Gfn::new(0x400).is_aligned(PageSize::Size4M));
    assert!(!Gfn::new(0x200).is_aligned(PageSize::Size4M));
}

#[test]
fn table_indices_split_the_address_as_the_manual_does() {
    let addr = Gva::new((1 << 48) | (2 << 39) | (3 << 30) | (4 << 21) | (5 << 12) | 6);
    assert_eq!(
        (1..=5).map(|level| addr.table_index(level)).collect::<std::vec::Vec<_>>(),
        [5, 4, 3, 2, 1]
    );
    // Bits outside the index leave the offset alone.
    let addr = Gva::new(u64::MAX << 57 | addr.as_u64());
    assert_eq!(
        (1..=5).map(|level| addr.table_offset(level)).collect::<std::vec::Vec<_>>(),
        [40, 32, 24, 16, 8]
    );
}
