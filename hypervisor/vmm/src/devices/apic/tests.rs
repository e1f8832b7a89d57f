use super::*;
use core::num::NonZeroU64;

const GHZ: NonZeroU64 = NonZeroU64::new(1_000_000_000).unwrap();

fn at(tsc: u64) -> Now {
    Now::new(tsc, GHZ)
}

fn write(apic: &mut LocalApic, number: u8, value: u32) {
    let _ = apic.write(number, value, at(0));
}

#[test]
fn the_8259_pair_reaches_the_processor_until_lint0_is_masked() {
    let mut apic = LocalApic::default();
    assert!(apic.takes_external());
    write(&mut apic, register::LVT_TIMER + LINT0 as u8, 0x1_0700);
    assert!(!apic.takes_external());
}

#[test]
fn a_higher_class_interrupts_a_lower_one_and_waits_for_its_own() {
    let mut apic = LocalApic::default();
    for vector in [0x41, 0x52] {
        apic.accept(Vector(vector), false);
    }
    assert_eq!(apic.acknowledge(), Some(Vector(0x52)));
    apic.accept(Vector(0x5f), false);
    assert_eq!(apic.acknowledge(), None, "the same class");
    apic.accept(Vector(0x60), false);
    assert_eq!(apic.acknowledge(), Some(Vector(0x60)));
    assert_eq!(apic.read(register::PPR, at(0)), 0x60);
    for expected in [0x5f, 0x41] {
        write(&mut apic, register::EOI, 0);
        if expected == 0x5f {
            assert_eq!(apic.acknowledge(), None, "0x52 is still in service");
            write(&mut apic, register::EOI, 0);
        }
        assert_eq!(apic.acknowledge(), Some(Vector(expected)));
    }
}

#[test]
fn the_task_priority_holds_back_classes_up_to_its_own() {
    let mut apic = LocalApic::default();
    apic.accept(Vector(0x45), false);
    assert_eq!(apic.write(register::TPR, 0x40, at(0)), Request::Priority);
    assert_eq!((apic.request(), apic.priority()), (None, 4));
    apic.set_priority(3);
    assert_eq!(apic.request(), Some(Vector(0x45)));
    assert_eq!(apic.read(register::TPR, at(0)), 0x30);
}

#[test]
fn a_one_shot_timer_fires_once_at_its_time() {
    let mut apic = LocalApic::default();
    write(&mut apic, register::LVT_TIMER, 0x30);
    write(&mut apic, register::DIVIDE, 0b1011);
    write(&mut apic, register::INITIAL_COUNT, 1_000);
    assert_eq!(apic.deadline(), Some(1_000));
    assert_eq!(apic.read(register::CURRENT_COUNT, at(400)), 600);
    apic.advance(at(999));
    assert_eq!(apic.request(), None);
    apic.advance(at(1_000));
    assert_eq!(apic.acknowledge(), Some(Vector(0x30)));
    assert_eq!((apic.deadline(), apic.read(register::CURRENT_COUNT, at(5_000))), (None, 0));
}

#[test]
fn a_periodic_timer_fires_again_and_again_without_drift() {
    let mut apic = LocalApic::default();
    write(&mut apic, register::LVT_TIMER, 0x30 | PERIODIC_BIT);
    write(&mut apic, register::DIVIDE, 0b0011);
    write(&mut apic, register::INITIAL_COUNT, 62_500);
    for period in 1..=5 {
        assert_eq!(apic.deadline(), Some(period * 1_000_000));
        apic.advance(at(period * 1_000_000 + 17));
        assert_eq!(apic.acknowledge(), Some(Vector(0x30)));
        write(&mut apic, register::EOI, 0);
    }
    let _ = apic.write(register::INITIAL_COUNT, 0, at(6_000_000));
    assert_eq!(apic.deadline(), None);
}

#[test]
fn every_divisor_divides_by_what_the_manual_tabulates() {
    for (code, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        let mut apic = LocalApic::default();
        write(&mut apic, register::DIVIDE, code);
        write(&mut apic, register::INITIAL_COUNT, 1_000);
        assert_eq!(apic.deadline(), Some(1_000 * divisor), "code {code:#b}");
    }
}

#[test]
fn a_masked_timer_counts_and_does_not_interrupt() {
    let mut apic = LocalApic::default();
    write(&mut apic, register::DIVIDE, 0b1011);
    write(&mut apic, register::INITIAL_COUNT, u32::MAX);
    assert_eq!(apic.read(register::CURRENT_COUNT, at(1)), u32::MAX - 1);
    apic.advance(at(1 << 33));
    assert_eq!(apic.request(), None);
}

#[test]
fn interrupts_to_oneself_arrive_by_every_way_of_addressing() {
    for (high, low) in [
        (0, 0x4_00d1),
        (0, 0x8_00d1),
        (0, 0x00d1),
        (0xff00_0000, 0x00d1),
        (0x0100_0000, 0x08d1),
        (0, 0x01d1),
    ] {
        let mut apic = LocalApic::default();
        write(&mut apic, register::LDR, 0x0100_0000);
        write(&mut apic, register::ICR_HIGH, high);
        assert_eq!(apic.write(register::ICR_LOW, low, at(0)), Request::Nothing);
        assert_eq!(apic.request(), Some(Vector(0xd1)), "{high:#x} {low:#x}");
    }
    for (high, low) in [(0, 0xc_00d1), (0x0100_0000, 0x00d1), (0x0200_0000, 0x08d1)] {
        let mut apic = LocalApic::default();
        write(&mut apic, register::LDR, 0x0100_0000);
        write(&mut apic, register::ICR_HIGH, high);
        write(&mut apic, register::ICR_LOW, low);
        assert_eq!(apic.request(), None, "{high:#x} {low:#x}");
    }
    let mut apic = LocalApic::default();
    assert_eq!(apic.write(register::ICR_LOW, 0x4_0400, at(0)), Request::Nmi);
}

#[test]
fn illegal_vectors_are_errors_and_not_delivered() {
    let mut apic = LocalApic::default();
    write(&mut apic, register::LVT_ERROR, 0xfe);
    write(&mut apic, register::ICR_LOW, 0x4_0005);
    assert_eq!(apic.request(), Some(Vector(0xfe)));
    assert_eq!(apic.read(register::ESR, at(0)), 0);
    write(&mut apic, register::ESR, 0);
    assert_eq!(apic.read(register::ESR, at(0)), SENT_ILLEGAL);
}

#[test]
fn the_end_of_a_level_triggered_interrupt_is_told_to_its_source() {
    let mut apic = LocalApic::default();
    apic.accept(Vector(0x59), true);
    assert_eq!(apic.acknowledge(), Some(Vector(0x59)));
    assert_eq!(apic.read(register::TMR + 2, at(0)), 1 << 25);
    let end = apic.write(register::EOI, 0, at(0));
    assert_eq!(end, Request::EndOfInterrupt(Vector(0x59)));
}

#[test]
fn a_disabled_apic_takes_nothing_and_masks_its_entries() {
    let mut apic = LocalApic::default();
    write(&mut apic, register::SVR, 0xff);
    apic.accept(Vector(0x40), false);
    assert!(apic.request().is_none() && !apic.takes_external());
    write(&mut apic, register::LVT_TIMER, 0x30);
    assert_eq!(apic.read(register::LVT_TIMER, at(0)), 0x1_0030);
}

const PERIODIC_BIT: u32 = 1 << 17;
