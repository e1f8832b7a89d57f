//! Events in the layout of the fields EVENTINJ and EXITINTINFO.
//!
//! Source: APM vol. 2, 15.20 "Event Injection"; 15.7.2 "Intercepts During IDT
//! Interrupt Delivery".

use anchorite_vcpu::{Event, EventKind, Vector};

/// Bit 31: the field holds an event.
pub const VALID: u64 = 1 << 31;
/// Bit 11: bits 32–63 hold an error code.
const ERROR_CODE: u64 = 1 << 11;
/// Bits 8–10: the type.
const TYPE_SHIFT: u32 = 8;

/// A maskable interrupt, or a virtual one.
const TYPE_INTERRUPT: u64 = 0;
/// A non-maskable interrupt.
const TYPE_NMI: u64 = 2;
/// A fault or trap.
const TYPE_EXCEPTION: u64 = 3;
/// INT n.
const TYPE_SOFTWARE: u64 = 4;

/// The value of EVENTINJ that delivers `event`.
pub fn injection(event: Event) -> u64 {
    let kind = match event.kind {
        EventKind::ExternalInterrupt => TYPE_INTERRUPT,
        EventKind::Nmi => TYPE_NMI,
        EventKind::Exception
        | EventKind::PrivilegedSoftwareException
        | EventKind::SoftwareException => TYPE_EXCEPTION,
        EventKind::SoftwareInterrupt => TYPE_SOFTWARE,
    };
    let error = event.error_code.map_or(0, |code| u64::from(code) << 32 | ERROR_CODE);
    VALID | error | kind << TYPE_SHIFT | u64::from(event.vector.0)
}

/// The event in EXITINTINFO whose delivery an exit interrupted.
///
/// A type that the manual reserves is no event. An interrupt reported as an exception
/// is still an interrupt: no exception has a vector above 31, and QEMU (seen in 7.2)
/// reports every interrupt that way.
pub fn interrupted(info: u64) -> Option<Event> {
    if info & VALID == 0 {
        return None;
    }
    let vector = Vector(info as u8);
    let kind = match raw_type(info) {
        TYPE_INTERRUPT => EventKind::ExternalInterrupt,
        TYPE_NMI => EventKind::Nmi,
        TYPE_EXCEPTION if vector.0 > 31 => EventKind::ExternalInterrupt,
        TYPE_EXCEPTION => EventKind::Exception,
        TYPE_SOFTWARE => EventKind::SoftwareInterrupt,
        _ => return None,
    };
    let error_code = (info & ERROR_CODE != 0).then_some((info >> 32) as u32);
    Some(Event { kind, vector, error_code, instruction_length: 0 })
}

/// The type in bits 8–10 of either field.
pub const fn raw_type(info: u64) -> u64 {
    (info >> TYPE_SHIFT) & 7
}

/// Whether the instruction that raised it is complete only once it is delivered, so
/// that the return address lies behind that instruction.
pub const fn is_software(event: &Event) -> bool {
    matches!(
        event.kind,
        EventKind::SoftwareInterrupt
            | EventKind::SoftwareException
            | EventKind::PrivilegedSoftwareException
    )
}

#[cfg(test)]
mod tests;
