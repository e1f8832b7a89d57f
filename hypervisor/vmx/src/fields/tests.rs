extern crate std;
use super::*;
use crate::capabilities::tests::ICELAKE;
use std::collections::BTreeSet;
use std::vec::Vec;

/// Bits 11:10 of an encoding are the field's group.
///
/// Source: SDM table 25-21 "Structure of VMCS Component Encoding".
fn group(field: u32) -> u32 {
    field >> 10 & 3
}

#[test]
fn every_table_holds_fields_of_its_own_group() {
    let host = host_state(&HostState::default(), 0x1000);
    assert!(host.iter().all(|(field, _)| group(*field) == 3));
    assert!(GUEST_RESET.iter().all(|(field, _)| group(*field) == 2));
    assert!(execution(&Resources::default()).iter().all(|(field, _)| group(*field) == 0));
}

#[test]
fn no_field_is_set_twice() {
    let set = ControlSet::nested(&ICELAKE).expect("allowed");
    let resources = Resources { vpid: 1, ..Resources::default() };
    let mut all: Vec<u32> = Vec::new();
    all.extend(host_state(&HostState::default(), 0).map(|(field, _)| field));
    all.extend(execution(&resources).map(|(field, _)| field));
    all.extend(control_words(&set).map(|(field, _)| field));
    all.extend(GUEST_RESET.map(|(field, _)| field));
    all.extend(optional(&resources, &set).into_iter().flatten().map(|(field, _)| field));
    let unique: BTreeSet<u32> = all.iter().copied().collect();
    assert_eq!(unique.len(), all.len());
}

#[test]
fn host_selectors_lose_rpl_and_ti() {
    let state = HostState { selectors: [0x2b, 0x33, 0x2b, 0, 0, 0, 0x47], ..HostState::default() };
    let settings = host_state(&state, 0);
    assert!(settings.contains(&(host::CS_SELECTOR, 0x30)));
    assert!(settings.contains(&(host::TR_SELECTOR, 0x40)));
}

#[test]
fn the_second_port_bitmap_follows_the_first() {
    let resources = Resources { port_bitmaps: 0x5000, ..Resources::default() };
    assert!(execution(&resources).contains(&(control::IO_BITMAP_B_ADDR_FULL, 0x6000)));
}

#[test]
fn the_preemption_timer_counts_in_its_own_unit() {
    let set = ControlSet::nested(&ICELAKE).expect("allowed");
    let resources = Resources { preemption_shift: 5, vpid: 1, ..Resources::default() };
    let [_, timer] = optional(&resources, &set);
    assert_eq!(timer, Some((guest::VMX_PREEMPTION_TIMER_VALUE, 1 << 19)));
}

#[test]
fn names_and_fields_are_unique() {
    let names: BTreeSet<&str> = NAMES.iter().map(|(name, _)| *name).collect();
    let fields: BTreeSet<u32> = NAMES.iter().map(|(_, field)| *field).collect();
    assert_eq!((names.len(), fields.len()), (NAMES.len(), NAMES.len()));
}

#[test]
fn switched_msrs_are_fields_and_the_others_stay_in_the_cpu() {
    assert_eq!(msr_home(GuestMsr::GsBase), MsrHome::Field(0x6810));
    assert_eq!(msr_home(GuestMsr::Pat), MsrHome::Field(0x2804));
    assert_eq!(msr_home(GuestMsr::KernelGsBase), MsrHome::Cpu(0xc000_0102));
    assert_eq!(msr_home(GuestMsr::Star), MsrHome::Cpu(0xc000_0081));
}
