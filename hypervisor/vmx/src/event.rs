//! How an event is written for entry and read back from an exit.
//!
//! Source: SDM 25.8.3 "VM-Entry Controls for Event Injection", table 25-17; 25.9.3
//! "Information for VM Exits That Occur During Event Delivery", table 25-19.

use crate::FieldSource;
use anchorite_vcpu::{Event, EventKind, Vector};
use x86::vmx::vmcs::ro;

/// Bit 31: the field holds something.
const VALID: u32 = 1 << 31;
/// Bit 11: an error code is pushed.
const ERROR_CODE: u32 = 1 << 11;
/// Bit 12 of an exit's interruption information: an IRET had just ended NMI blocking.
const NMI_UNBLOCKED: u32 = 1 << 12;
/// Bits 10:8 hold the type.
const TYPE_SHIFT: u32 = 8;

/// The three VM-entry fields of an injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryEvent {
    /// VM-entry interruption-information field.
    pub info: u32,
    /// VM-entry exception error code; meaningless without the bit in `info`.
    pub error_code: u32,
    /// VM-entry instruction length; used for software kinds only.
    pub length: u32,
}

impl EntryEvent {
    /// The fields that inject `event` into a guest whose CR0.PE is `protected`.
    ///
    /// Only exceptions push an error code, and none do in real mode: entry demands
    /// that none is offered then. Source: SDM 27.2.1.3 "VM-Entry Control Fields".
    pub fn new(event: Event, protected: bool) -> Self {
        let pushes = protected && matches!(event.kind, EventKind::Exception);
        let error_code = event.error_code.filter(|_| pushes);
        let flag = if error_code.is_some() { ERROR_CODE } else { 0 };
        Self {
            info: VALID | flag | type_of(event.kind) << TYPE_SHIFT | u32::from(event.vector.0),
            error_code: error_code.unwrap_or(0),
            length: u32::from(event.instruction_length),
        }
    }
}

/// An interruption-information field of an exit: what happened, or what was
/// interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitEvent(pub u32);

impl ExitEvent {
    /// Whether the field holds anything.
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// The vector.
    pub const fn vector(self) -> Vector {
        Vector(self.0 as u8)
    }

    /// How the event is delivered; `None` for the types 1 and 7, which no exit reports.
    pub const fn kind(self) -> Option<EventKind> {
        match self.0 >> TYPE_SHIFT & 7 {
            0 => Some(EventKind::ExternalInterrupt),
            2 => Some(EventKind::Nmi),
            3 => Some(EventKind::Exception),
            4 => Some(EventKind::SoftwareInterrupt),
            5 => Some(EventKind::PrivilegedSoftwareException),
            6 => Some(EventKind::SoftwareException),
            _ => None,
        }
    }

    /// Whether the error-code field beside this one is valid.
    pub const fn has_error_code(self) -> bool {
        self.0 & ERROR_CODE != 0
    }

    /// Whether an IRET had ended NMI blocking when its own fault came: the blocking
    /// must be set again before that IRET is tried again.
    ///
    /// Source: SDM 28.2.3 "Information About NMI Unblocking Due to IRET"; the bit is
    /// undefined for a double fault.
    pub fn unblocked_nmi(self) -> bool {
        self.0 & NMI_UNBLOCKED != 0 && self.vector() != Vector::DOUBLE_FAULT
    }
}

/// The event that the exit interrupted, from the IDT-vectoring fields.
///
/// Reads the error code and the instruction length only where they are valid.
pub fn interrupted(vmcs: &impl FieldSource) -> Option<Event> {
    let info = ExitEvent(vmcs.read(ro::IDT_VECTORING_INFO) as u32);
    if !info.is_valid() {
        return None;
    }
    let kind = info.kind()?;
    let error_code = info.has_error_code().then(|| vmcs.read(ro::IDT_VECTORING_ERR_CODE) as u32);
    let instruction_length =
        if is_software(kind) { vmcs.read(ro::VMEXIT_INSTRUCTION_LEN) as u8 } else { 0 };
    Some(Event { kind, vector: info.vector(), error_code, instruction_length })
}

/// Whether RIP must move past an instruction when the event is delivered.
pub const fn is_software(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::SoftwareInterrupt
            | EventKind::PrivilegedSoftwareException
            | EventKind::SoftwareException
    )
}

const fn type_of(kind: EventKind) -> u32 {
    match kind {
        EventKind::ExternalInterrupt => 0,
        EventKind::Nmi => 2,
        EventKind::Exception => 3,
        EventKind::SoftwareInterrupt => 4,
        EventKind::PrivilegedSoftwareException => 5,
        EventKind::SoftwareException => 6,
    }
}

#[cfg(test)]
mod tests;
