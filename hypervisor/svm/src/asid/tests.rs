extern crate std;

use super::{Asid, AsidPool, Stale};
use std::vec::Vec;

#[test]
fn the_first_asid_flushes_what_earlier_software_left() {
    let mut pool = AsidPool::new(16);
    let (asid, stale) = pool.take();
    assert_eq!((asid.number, stale), (1, Stale::Everything));
    assert!(pool.is_current(asid));
}

#[test]
fn asids_differ_until_a_new_generation_flushes_everything() {
    let mut pool = AsidPool::new(4);
    let first: Vec<_> = (0..3).map(|_| pool.take()).collect();
    let numbers: Vec<_> = first.iter().map(|(asid, _)| asid.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(first[1].1, Stale::Nothing);

    let (again, stale) = pool.take();
    assert_eq!((again.number, stale), (1, Stale::Everything));
    assert!(pool.is_current(again));
    assert!(first.iter().all(|&(asid, _)| !pool.is_current(asid)), "they are of the past");
}

#[test]
fn one_asid_is_flushed_each_time() {
    let mut pool = AsidPool::new(2);
    for _ in 0..5 {
        let (asid, stale) = pool.take();
        assert_eq!((asid.number, stale), (1, Stale::Everything));
    }
}

#[test]
fn a_vcpu_without_an_asid_has_none_that_is_current() {
    assert!(!AsidPool::new(16).is_current(Asid::default()));
}
