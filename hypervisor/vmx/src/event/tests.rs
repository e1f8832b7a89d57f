extern crate std;
use super::*;
use crate::testing::Strict;
use std::vec;

const SOFTWARE: Event = Event {
    kind: EventKind::SoftwareInterrupt,
    vector: Vector(0x80),
    error_code: None,
    instruction_length: 2,
};

#[test]
fn an_interrupt_is_type_0() {
    let entry = EntryEvent::new(Event::interrupt(Vector(0x30)), true);
    assert_eq!(entry, EntryEvent { info: 0x8000_0030, error_code: 0, length: 0 });
}

#[test]
fn a_fault_carries_its_error_code() {
    let entry = EntryEvent::new(Event::fault(Vector::GENERAL_PROTECTION, 0x42), true);
    assert_eq!(entry, EntryEvent { info: 0x8000_0b0d, error_code: 0x42, length: 0 });
}

#[test]
fn real_mode_pushes_no_error_code() {
    let entry = EntryEvent::new(Event::fault(Vector::GENERAL_PROTECTION, 0x42), false);
    assert_eq!(entry, EntryEvent { info: 0x8000_030d, error_code: 0, length: 0 });
}

#[test]
fn only_an_exception_offers_an_error_code() {
    let entry = EntryEvent::new(Event { error_code: Some(1), ..SOFTWARE }, true);
    assert_eq!(entry, EntryEvent { info: 0x8000_0480, error_code: 0, length: 2 });
}

#[test]
fn nmi_and_software_exceptions_have_their_own_types() {
    assert_eq!(EntryEvent::new(Event::nmi(), true).info, 0x8000_0202);
    let breakpoint = Event {
        kind: EventKind::SoftwareException,
        instruction_length: 1,
        ..Event::exception(Vector::BREAKPOINT)
    };
    assert_eq!(EntryEvent::new(breakpoint, true).info, 0x8000_0603);
    let icebp = Event { kind: EventKind::PrivilegedSoftwareException, ..breakpoint };
    assert_eq!(EntryEvent::new(icebp, true).info, 0x8000_0503);
}

#[test]
fn captured_interrupted_events_come_back_as_they_went_in() {
    let info = ro::IDT_VECTORING_INFO;
    let captured = [
        (Strict(vec![(info, 0)]), None),
        (Strict(vec![(info, 0x8000_0030)]), Some(Event::interrupt(Vector(0x30)))),
        (Strict(vec![(info, 0x8000_0202)]), Some(Event::nmi())),
        (
            Strict(vec![(info, 0x8000_0b0d), (ro::IDT_VECTORING_ERR_CODE, 0x99)]),
            Some(Event::fault(Vector::GENERAL_PROTECTION, 0x99)),
        ),
        (Strict(vec![(info, 0x8000_0480), (ro::VMEXIT_INSTRUCTION_LEN, 2)]), Some(SOFTWARE)),
    ];
    for (fields, expected) in captured {
        assert_eq!(interrupted(&fields), expected);
    }
}

#[test]
fn every_event_survives_the_way_out_and_back() {
    let kinds = [
        EventKind::ExternalInterrupt,
        EventKind::Nmi,
        EventKind::Exception,
        EventKind::SoftwareInterrupt,
        EventKind::PrivilegedSoftwareException,
        EventKind::SoftwareException,
    ];
    for kind in kinds {
        let error_code = (kind == EventKind::Exception).then_some(0x1234);
        let instruction_length = if is_software(kind) { 3 } else { 0 };
        let event = Event { kind, vector: Vector(2), error_code, instruction_length };
        let entry = EntryEvent::new(event, true);
        let fields = Strict(vec![
            (ro::IDT_VECTORING_INFO, entry.info.into()),
            (ro::IDT_VECTORING_ERR_CODE, entry.error_code.into()),
            (ro::VMEXIT_INSTRUCTION_LEN, entry.length.into()),
        ]);
        assert_eq!(interrupted(&fields), Some(event));
    }
}

#[test]
fn nmi_unblocking_is_undefined_for_a_double_fault() {
    assert!(ExitEvent(0x8000_1b0e).unblocked_nmi());
    assert!(!ExitEvent(0x8000_1b08).unblocked_nmi());
    assert!(!ExitEvent(0x8000_0b0e).unblocked_nmi());
}
