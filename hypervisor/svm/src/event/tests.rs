use super::{injection, interrupted};
use anchorite_vcpu::{Event, EventKind, Vector};

fn event(kind: EventKind, vector: u8) -> Event {
    Event { kind, vector: Vector(vector), error_code: None, instruction_length: 0 }
}

#[test]
fn each_kind_has_its_type() {
    assert_eq!(injection(Event::interrupt(Vector(0x30))), 0x8000_0030);
    assert_eq!(injection(Event::nmi()), 0x8000_0202);
    assert_eq!(injection(Event::exception(Vector::INVALID_OPCODE)), 0x8000_0306);
    assert_eq!(injection(event(EventKind::SoftwareInterrupt, 0x80)), 0x8000_0480);
    assert_eq!(injection(event(EventKind::SoftwareException, 3)), 0x8000_0303);
    assert_eq!(injection(event(EventKind::PrivilegedSoftwareException, 1)), 0x8000_0301);
}

#[test]
fn an_error_code_takes_the_upper_half() {
    assert_eq!(injection(Event::fault(Vector::PAGE_FAULT, 0x15)), 0x0000_0015_8000_0b0e);
    assert_eq!(injection(Event::fault(Vector::DOUBLE_FAULT, 0)), 0x8000_0b08);
}

#[test]
fn what_was_injected_is_read_back() {
    for event in [
        Event::interrupt(Vector(8)),
        Event::nmi(),
        Event::exception(Vector::DEBUG),
        Event::fault(Vector::GENERAL_PROTECTION, 0xffff_fffe),
        event(EventKind::SoftwareInterrupt, 0xff),
    ] {
        assert_eq!(interrupted(injection(event)), Some(event));
    }
}

#[test]
fn without_the_valid_bit_there_is_no_event() {
    assert_eq!(interrupted(0x0000_0b0e), None);
}

#[test]
fn reserved_types_are_no_events() {
    for kind in [1, 5, 6, 7] {
        assert_eq!(interrupted(0x8000_0020 | kind << 8), None, "type {kind}");
    }
}

#[test]
fn an_exception_above_31_is_an_interrupt() {
    assert_eq!(interrupted(0x8000_0330), Some(Event::interrupt(Vector(0x30))));
}
