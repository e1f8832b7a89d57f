//! Exceptions and interrupts on their way into the guest.

use anchorite_vcpu::{Event, EventKind, Vector};

/// What a vCPU still has to be told; interrupts of devices wait in their queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Events {
    /// To be injected at the next entry whatever the guest's flags say: an exception,
    /// or an event whose delivery an exit interrupted.
    next: Option<Event>,
    /// An NMI waits.
    pub(crate) nmi: bool,
    /// The backend was asked for an interrupt or NMI window.
    pub(crate) window: bool,
}

/// What comes of a new exception that meets an event not yet delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// The exception is delivered first. The event is raised again by itself: its
    /// instruction will be executed again.
    New,
    /// The same, but the event came from outside and must wait for its turn again.
    NewThenOld,
    /// #DF takes the place of both.
    DoubleFault,
    /// The CPU shuts down.
    TripleFault,
}

impl Events {
    /// Whether nothing waits and nothing was asked of the backend.
    #[inline]
    pub(crate) const fn is_quiet(&self) -> bool {
        self.next.is_none() && !self.nmi && !self.window
    }

    /// Whether an event is to be injected next.
    pub(crate) const fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Sets the event to be injected next.
    pub(crate) const fn set_next(&mut self, event: Option<Event>) {
        self.next = event;
    }

    /// Takes the event to be injected next.
    pub(crate) const fn take_next(&mut self) -> Option<Event> {
        self.next.take()
    }
}

/// What becomes of `raised`, an exception, while `pending` was not yet delivered.
///
/// Source: SDM vol. 3, 6.15 "Exception and Interrupt Reference", interrupt 8,
/// tables 6-4 and 6-5.
pub(crate) fn meet(pending: Event, raised: Event) -> Meeting {
    match pending.kind {
        EventKind::ExternalInterrupt | EventKind::Nmi => Meeting::NewThenOld,
        EventKind::SoftwareInterrupt
        | EventKind::SoftwareException
        | EventKind::PrivilegedSoftwareException => Meeting::New,
        EventKind::Exception => match (Class::of(pending.vector), Class::of(raised.vector)) {
            (Class::DoubleFault, Class::Contributory | Class::PageFault) => Meeting::TripleFault,
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => Meeting::DoubleFault,
            _ => Meeting::New,
        },
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

impl Class {
    const fn of(vector: Vector) -> Self {
        match vector {
            Vector::DIVIDE
            | Vector::INVALID_TSS
            | Vector::SEGMENT_NOT_PRESENT
            | Vector::STACK_FAULT
            | Vector::GENERAL_PROTECTION => Self::Contributory,
            Vector::PAGE_FAULT => Self::PageFault,
            Vector::DOUBLE_FAULT => Self::DoubleFault,
            _ => Self::Benign,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    const BENIGN: Event = Event::exception(Vector::INVALID_OPCODE);
    const CONTRIBUTORY: Event = Event::fault(Vector::GENERAL_PROTECTION, 0);
    const PAGE_FAULT: Event = Event::fault(Vector::PAGE_FAULT, 0);
    const DOUBLE_FAULT: Event = Event::fault(Vector::DOUBLE_FAULT, 0);

    #[test]
    fn exceptions_meet_as_the_manual_tabulates() {
        use Meeting::{DoubleFault, New, TripleFault};
        let raised = [BENIGN, CONTRIBUTORY, PAGE_FAULT];
        let rows = [
            (BENIGN, [New, New, New]),
            (CONTRIBUTORY, [New, DoubleFault, New]),
            (PAGE_FAULT, [New, DoubleFault, DoubleFault]),
            (DOUBLE_FAULT, [New, TripleFault, TripleFault]),
        ];
        for (pending, expected) in rows {
            assert_eq!(raised.map(|raised| meet(pending, raised)), expected, "{pending:?}");
        }
    }

    #[test]
    fn every_contributory_vector_of_the_manual_counts_as_one_and_no_other() {
        let contributory: std::vec::Vec<u8> = (0..=255)
            .filter(|vector| {
                meet(CONTRIBUTORY, Event::exception(Vector(*vector))) == Meeting::DoubleFault
            })
            .collect();
        assert_eq!(contributory, [0, 10, 11, 12, 13]);
    }

    #[test]
    fn an_interrupt_met_by_an_exception_waits_for_its_turn_again() {
        for pending in [Event::interrupt(Vector(0x20)), Event::nmi()] {
            assert_eq!(meet(pending, PAGE_FAULT), Meeting::NewThenOld);
        }
    }

    #[test]
    fn a_software_interrupt_met_by_an_exception_is_executed_again() {
        let kinds = [
            EventKind::SoftwareInterrupt,
            EventKind::SoftwareException,
            EventKind::PrivilegedSoftwareException,
        ];
        for kind in kinds {
            let pending = Event { kind, ..Event::exception(Vector::PAGE_FAULT) };
            assert_eq!(meet(pending, PAGE_FAULT), Meeting::New);
        }
    }
}
