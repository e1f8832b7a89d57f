//! Events: what an entry can inject and what an exit can have interrupted.

/// An exception or interrupt vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vector(pub u8);

impl Vector {
    /// #DE divide error.
    pub const DIVIDE: Self = Self(0);
    /// #DB debug.
    pub const DEBUG: Self = Self(1);
    /// Non-maskable interrupt.
    pub const NMI: Self = Self(2);
    /// #BP breakpoint.
    pub const BREAKPOINT: Self = Self(3);
    /// #OF overflow.
    pub const OVERFLOW: Self = Self(4);
    /// #UD invalid opcode.
    pub const INVALID_OPCODE: Self = Self(6);
    /// #NM device not available.
    pub const DEVICE_NOT_AVAILABLE: Self = Self(7);
    /// #DF double fault.
    pub const DOUBLE_FAULT: Self = Self(8);
    /// #TS invalid TSS.
    pub const INVALID_TSS: Self = Self(10);
    /// #NP segment not present.
    pub const SEGMENT_NOT_PRESENT: Self = Self(11);
    /// #SS stack fault.
    pub const STACK_FAULT: Self = Self(12);
    /// #GP general protection.
    pub const GENERAL_PROTECTION: Self = Self(13);
    /// #PF page fault.
    pub const PAGE_FAULT: Self = Self(14);
    /// #MF x87 error.
    pub const X87: Self = Self(16);
    /// #AC alignment check.
    pub const ALIGNMENT_CHECK: Self = Self(17);
    /// #MC machine check.
    pub const MACHINE_CHECK: Self = Self(18);
    /// #XM SIMD error.
    pub const SIMD: Self = Self(19);
}

/// How an event is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A maskable interrupt from outside.
    ExternalInterrupt,
    /// A non-maskable interrupt.
    Nmi,
    /// A fault, trap or abort raised by the CPU.
    Exception,
    /// INT n.
    SoftwareInterrupt,
    /// INT1 (ICEBP).
    PrivilegedSoftwareException,
    /// INT3 or INTO.
    SoftwareException,
}

/// An event to inject, or one that an exit interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// How it is delivered.
    pub kind: EventKind,
    /// Its vector.
    pub vector: Vector,
    /// The error code it pushes.
    pub error_code: Option<u32>,
    /// Bytes of the instruction that raised it: software kinds only, else 0.
    pub instruction_length: u8,
}

impl Event {
    /// An exception without an error code.
    pub const fn exception(vector: Vector) -> Self {
        Self { kind: EventKind::Exception, vector, error_code: None, instruction_length: 0 }
    }

    /// An exception with an error code.
    pub const fn fault(vector: Vector, error_code: u32) -> Self {
        Self {
            kind: EventKind::Exception,
            vector,
            error_code: Some(error_code),
            instruction_length: 0,
        }
    }

    /// A maskable interrupt.
    pub const fn interrupt(vector: Vector) -> Self {
        Self { kind: EventKind::ExternalInterrupt, vector, error_code: None, instruction_length: 0 }
    }

    /// A non-maskable interrupt.
    pub const fn nmi() -> Self {
        Self { kind: EventKind::Nmi, vector: Vector::NMI, error_code: None, instruction_length: 0 }
    }
}
