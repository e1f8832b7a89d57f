//! What the emulator needs of the machine: memory, segments, vector registers, ports.

use super::address::Access;
use super::mode::Mode;
use anchorite_addr::Gva;
use anchorite_vcpu::{Event, EventKind, Segment, SegmentRegister, Vector};

/// The machine as an emulated instruction sees it.
///
/// Addresses are linear; translation, RAM, MMIO and the tracking of writes to guest
/// page tables all lie behind these calls. An access may cross a page: the
/// implementation splits it, and touches nothing before both halves are known to
/// succeed.
pub trait Environment {
    /// A segment register with its hidden part.
    fn segment(&self, register: SegmentRegister) -> Segment;

    /// Loads `size` bytes (1, 2, 4 or 8), zero-extended.
    ///
    /// With [`Access::ReadForWrite`] a page that is not writable faults as a write.
    fn load(&mut self, address: Gva, size: u8, access: Access) -> Result<u64, Fault>;

    /// Stores the low `size` bytes (1, 2, 4 or 8) of `value`.
    fn store(&mut self, address: Gva, size: u8, value: u64) -> Result<(), Fault>;

    /// Stores `value` if the location still holds `expected`, atomically where the
    /// location is RAM; `false` where it holds something else by now.
    ///
    /// Used for locked instructions, after a load with [`Access::ReadForWrite`]. A
    /// device register simply takes the value.
    fn store_if_unchanged(
        &mut self,
        address: Gva,
        size: u8,
        expected: u64,
        value: u64,
    ) -> Result<bool, Fault>;

    /// Whether all of `size` bytes (up to 16) could be stored; stores nothing.
    ///
    /// Asked before an instruction stores in parts, or reads a port whose value it
    /// could not put back.
    fn check_store(&mut self, address: Gva, size: u8) -> Result<(), Fault>;

    /// XMM register `number` (0–15).
    fn xmm(&mut self, number: u8) -> Result<u128, Fault> {
        let _ = number;
        Err(Fault::Unsupported)
    }

    /// Sets the low 128 bits of XMM register `number` (0–15) and leaves the upper
    /// bits of its YMM and ZMM registers alone.
    fn set_xmm(&mut self, number: u8, value: u128) -> Result<(), Fault> {
        let _ = (number, value);
        Err(Fault::Unsupported)
    }

    /// Reads a port for INS; `size` is 1, 2 or 4.
    fn port_in(&mut self, port: u16, size: u8) -> Result<u32, Fault> {
        let _ = (port, size);
        Err(Fault::Unsupported)
    }

    /// Writes a port for OUTS; `size` is 1, 2 or 4.
    fn port_out(&mut self, port: u16, size: u8, value: u32) -> Result<(), Fault> {
        let _ = (port, size, value);
        Err(Fault::Unsupported)
    }
}

/// So that the emulator is compiled once, however many kinds of machine there are.
impl Environment for &mut dyn Environment {
    fn segment(&self, register: SegmentRegister) -> Segment {
        (**self).segment(register)
    }

    fn load(&mut self, address: Gva, size: u8, access: Access) -> Result<u64, Fault> {
        (**self).load(address, size, access)
    }

    fn store(&mut self, address: Gva, size: u8, value: u64) -> Result<(), Fault> {
        (**self).store(address, size, value)
    }

    fn store_if_unchanged(
        &mut self,
        address: Gva,
        size: u8,
        expected: u64,
        value: u64,
    ) -> Result<bool, Fault> {
        (**self).store_if_unchanged(address, size, expected, value)
    }

    fn check_store(&mut self, address: Gva, size: u8) -> Result<(), Fault> {
        (**self).check_store(address, size)
    }

    fn xmm(&mut self, number: u8) -> Result<u128, Fault> {
        (**self).xmm(number)
    }

    fn set_xmm(&mut self, number: u8, value: u128) -> Result<(), Fault> {
        (**self).set_xmm(number, value)
    }

    fn port_in(&mut self, port: u16, size: u8) -> Result<u32, Fault> {
        (**self).port_in(port, size)
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) -> Result<(), Fault> {
        (**self).port_out(port, size, value)
    }
}

/// Why an access did not happen. Nothing has been changed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The guest gets an exception.
    Exception(Exception),
    /// The cause has been removed: let the guest execute the instruction again.
    Retry,
    /// This machine does not do that (a vector register, a port).
    Unsupported,
}

impl From<Exception> for Fault {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

/// An exception that an emulated instruction raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The vector.
    pub vector: Vector,
    /// The error code it pushes; none in real mode.
    pub error_code: Option<u32>,
    /// What CR2 is to hold: #PF only.
    pub cr2: Option<Gva>,
}

impl Exception {
    /// A page fault at `address`.
    pub const fn page_fault(address: Gva, error_code: u32) -> Self {
        Self { vector: Vector::PAGE_FAULT, error_code: Some(error_code), cr2: Some(address) }
    }

    /// An exception that pushes no error code.
    pub const fn plain(vector: Vector) -> Self {
        Self { vector, error_code: None, cr2: None }
    }

    /// An exception whose error code is zero, and in real mode left out.
    pub const fn with_zero_code(vector: Vector, mode: Mode) -> Self {
        let error_code = if mode.protected { Some(0) } else { None };
        Self { vector, error_code, cr2: None }
    }

    /// The event to inject; CR2 must be set apart.
    pub const fn event(self) -> Event {
        Event {
            kind: EventKind::Exception,
            vector: self.vector,
            error_code: self.error_code,
            instruction_length: 0,
        }
    }
}
