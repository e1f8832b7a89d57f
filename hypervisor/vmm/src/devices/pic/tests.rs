use super::*;

/// Vectors 0x20 and 0x28, nothing masked, as Linux programs them.
fn programmed() -> Pic {
    let mut pic = Pic::default();
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 0x02),
        (0xa1, 0x01),
    ] {
        pic.write(port, value);
    }
    pic
}

fn taken(pic: &mut Pic) -> Option<u8> {
    pic.is_pending().then(|| pic.acknowledge().0)
}

fn pulse(pic: &mut Pic, irq: u8) {
    pic.set_line(irq, false);
    pic.set_line(irq, true);
}

const EOI: u8 = 0x20;

#[test]
fn nothing_gets_through_before_a_guest_programs_the_masks() {
    let mut pic = Pic::default();
    (0..16).for_each(|irq| pic.set_line(irq, true));
    assert!(!pic.is_pending());
    assert_eq!((pic.read(0x21), pic.read(0xa1)), (0xff, 0xff));
}

#[test]
fn an_edge_interrupts_once_and_again_only_after_the_line_has_fallen() {
    let mut pic = programmed();
    pic.set_line(4, true);
    assert_eq!(taken(&mut pic), Some(0x24));
    pic.set_line(4, true);
    pic.write(0x20, EOI);
    assert_eq!(taken(&mut pic), None);
    pulse(&mut pic, 4);
    assert_eq!(taken(&mut pic), Some(0x24));
}

#[test]
fn an_edge_during_service_waits_for_the_end_of_interrupt() {
    let mut pic = programmed();
    pulse(&mut pic, 0);
    assert_eq!(taken(&mut pic), Some(0x20));
    pulse(&mut pic, 0);
    assert_eq!(taken(&mut pic), None);
    pic.write(0x20, EOI);
    assert_eq!(taken(&mut pic), Some(0x20));
}

#[test]
fn a_higher_priority_interrupts_a_lower_one_and_not_the_other_way_round() {
    let mut pic = programmed();
    pulse(&mut pic, 4);
    assert_eq!(taken(&mut pic), Some(0x24));
    pulse(&mut pic, 5);
    assert_eq!(taken(&mut pic), None);
    pulse(&mut pic, 1);
    assert_eq!(taken(&mut pic), Some(0x21));
    pic.write(0x20, EOI);
    assert_eq!(taken(&mut pic), None, "line 4 is still in service");
    pic.write(0x20, EOI);
    assert_eq!(taken(&mut pic), Some(0x25));
}

#[test]
fn the_second_controller_goes_through_input_2_and_needs_two_ends() {
    let mut pic = programmed();
    pic.set_line(8, true);
    assert_eq!(taken(&mut pic), Some(0x28));
    pic.set_line(14, true);
    assert_eq!(taken(&mut pic), None);
    pic.write(0xa0, EOI);
    assert_eq!(taken(&mut pic), None, "input 2 of the first is still in service");
    pic.write(0x20, EOI);
    assert_eq!(taken(&mut pic), Some(0x2e));
}

#[test]
fn a_mask_holds_back_and_lets_go() {
    let mut pic = programmed();
    pic.write(0x21, 0xef);
    pic.set_line(3, true);
    assert!(!pic.is_pending());
    pic.write(0x20, 0x0a);
    assert_eq!(pic.read(0x20), 0x08, "the request shows");
    pic.write(0x21, 0);
    assert_eq!(taken(&mut pic), Some(0x23));
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), 0x08, "now in service");
}

#[test]
fn a_request_withdrawn_before_it_is_taken_is_gone_or_spurious() {
    let mut pic = programmed();
    pic.set_line(4, true);
    pic.set_line(4, false);
    assert_eq!(taken(&mut pic), None);
    assert_eq!(pic.acknowledge(), Vector(0x27));
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), 0, "a spurious interrupt is not in service");
}

#[test]
fn a_level_interrupts_as_long_as_its_line_is_high() {
    let mut pic = programmed();
    pic.write_trigger(0x4d1, 0xff);
    assert_eq!(pic.read_trigger(0x4d1), 0xde, "the clock and the coprocessor stay edges");
    pic.set_line(11, true);
    for _ in 0..3 {
        assert_eq!(taken(&mut pic), Some(0x2b));
        pic.write(0xa0, EOI);
        pic.write(0x20, EOI);
    }
    pic.set_line(11, false);
    assert_eq!(taken(&mut pic), None);
}

#[test]
fn automatic_ends_leave_nothing_in_service() {
    let mut pic = programmed();
    for (port, value) in [(0x20, 0x11), (0x21, 0x40), (0x21, 0x04), (0x21, 0x03)] {
        pic.write(port, value);
    }
    pulse(&mut pic, 6);
    assert_eq!(taken(&mut pic), Some(0x46));
    pulse(&mut pic, 7);
    assert_eq!(taken(&mut pic), Some(0x47));
}

#[test]
fn rotation_gives_the_served_line_the_lowest_priority() {
    let mut pic = programmed();
    pulse(&mut pic, 4);
    assert_eq!(taken(&mut pic), Some(0x24));
    pic.write(0x20, 0xa0);
    pulse(&mut pic, 4);
    pulse(&mut pic, 5);
    assert_eq!(taken(&mut pic), Some(0x25));
    pic.write(0x20, EOI);
    assert_eq!(taken(&mut pic), Some(0x24));
}

#[test]
fn a_specific_end_ends_only_its_line() {
    let mut pic = programmed();
    pulse(&mut pic, 5);
    assert_eq!(taken(&mut pic), Some(0x25));
    pulse(&mut pic, 3);
    assert_eq!(taken(&mut pic), Some(0x23));
    pic.write(0x20, 0x60 | 5);
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), 0x08);
}

#[test]
fn special_mask_mode_lets_lower_priorities_through_a_masked_service() {
    let mut pic = programmed();
    pulse(&mut pic, 3);
    assert_eq!(taken(&mut pic), Some(0x23));
    pulse(&mut pic, 6);
    pic.write(0x21, 0x08);
    assert_eq!(taken(&mut pic), None);
    pic.write(0x20, 0x68);
    assert_eq!(taken(&mut pic), Some(0x26));
}

#[test]
fn a_poll_takes_the_place_of_an_acknowledgement() {
    let mut pic = programmed();
    pulse(&mut pic, 6);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0x86);
    assert!(!pic.is_pending());
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0, "in service: nothing of a higher priority requests");
}

#[test]
fn initialization_forgets_edges_and_opens_the_mask() {
    let mut pic = programmed();
    pic.set_line(1, true);
    pic.write(0x20, 0x13);
    pic.write(0x21, 0x50);
    pic.write(0x21, 0x01);
    assert_eq!(pic.read(0x21), 0, "a single controller has no ICW3");
    assert_eq!(taken(&mut pic), None);
    pulse(&mut pic, 1);
    assert_eq!(taken(&mut pic), Some(0x51));
}

#[test]
fn linux_finds_the_controllers_by_their_mask() {
    let mut pic = Pic::default();
    pic.write(0xa1, 0xff);
    pic.write(0x21, 0xfb);
    assert_eq!(pic.read(0x21), 0xfb);
}
