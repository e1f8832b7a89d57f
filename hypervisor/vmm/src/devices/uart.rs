//! A 16550A UART: registers, FIFOs, interrupts, loopback.
//!
//! The wire is infinitely fast: who owns the UART takes what it sends with
//! [`Uart::transmit`] after each access and hands it input with [`Uart::receive`].
//! Time only matters for the character timeout, which fires after four character
//! times at the programmed speed.
//!
//! Known differences from the chip: word length and parity do not change the bytes;
//! host input has no parity, framing or break errors; holding and shift register
//! empty together; output 2 does not gate the interrupt (as in other emulators).
//!
//! Source: National Semiconductor PC16550D data sheet, June 1995.

mod bits;
mod fifo;

use super::time::Now;
use bits::{
    FCR_CLEAR_RX, FCR_CLEAR_TX, FCR_ENABLE, IER_LINE, IER_MODEM, IER_RECEIVED, IER_TRANSMIT,
    IIR_FIFOS, IIR_NONE, LCR_DLAB, LCR_PARITY, LCR_STOP, LCR_WORD, LSR_DATA, LSR_IDLE, LSR_OVERRUN,
    MCR_DTR, MCR_LOOP, MCR_OUT1, MCR_OUT2, MCR_RTS, MSR_CARRIER, MSR_CTS, MSR_DSR, MSR_RING,
    offset,
};
use core::num::NonZeroU64;
use fifo::{DEPTH, Fifo};

/// Divisor after reset: 9,600 baud.
const DEFAULT_DIVISOR: u16 = 12;
/// Bits a second at divisor 1: a 1.8432 MHz crystal divided by 16.
const BAUD_BASE: NonZeroU64 = NonZeroU64::new(115_200).unwrap();
/// Modem inputs while a host console is attached: ready, and nobody rings.
const CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_CARRIER;

/// An interrupt cause, highest priority first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A byte was lost; cleared by reading LSR.
    LineStatus,
    /// The receiver holds data up to its trigger level; cleared by reading it.
    DataAvailable,
    /// Data lies below the trigger level and nothing came or went for four
    /// character times; cleared by reading RBR.
    CharacterTimeout,
    /// The transmitter can take data; cleared by reading IIR or writing THR.
    TransmitterEmpty,
    /// A modem input changed; cleared by reading MSR.
    ModemStatus,
}

impl Cause {
    /// The low four bits of the interrupt identification register.
    const fn identification(self) -> u8 {
        match self {
            Self::LineStatus => 0x06,
            Self::DataAvailable => 0x04,
            Self::CharacterTimeout => 0x0c,
            Self::TransmitterEmpty => 0x02,
            Self::ModemStatus => 0x00,
        }
    }
}

/// The state of the chip.
#[derive(Clone, Debug)]
pub struct Uart {
    receiver: Fifo,
    transmitter: Fifo,
    fifos: bool,
    trigger: u8,
    divisor: u16,
    ier: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    overrun: bool,
    /// Modem inputs changed since MSR was read: its low four bits.
    modem_delta: u8,
    transmitter_empty: bool,
    timeout: bool,
    /// TSC at which the character timeout fires if nothing comes or goes before.
    deadline: u64,
}

impl Default for Uart {
    /// The state after a reset.
    fn default() -> Self {
        Self {
            receiver: Fifo::default(),
            transmitter: Fifo::default(),
            fifos: false,
            trigger: 1,
            divisor: DEFAULT_DIVISOR,
            ier: 0,
            lcr: 0,
            mcr: 0,
            scratch: 0,
            overrun: false,
            modem_delta: 0,
            transmitter_empty: false,
            timeout: false,
            deadline: 0,
        }
    }
}

impl Uart {
    /// Reads the register at `register` (0–7; higher bits are ignored).
    pub fn read(&mut self, register: u8, now: Now) -> u8 {
        self.advance(now);
        let latch = self.lcr & LCR_DLAB != 0;
        match register & 7 {
            offset::DATA if latch => self.divisor as u8,
            offset::IER if latch => (self.divisor >> 8) as u8,
            offset::DATA => self.read_data(now),
            offset::IER => self.ier,
            offset::IIR_FCR => self.identify(),
            offset::LCR => self.lcr,
            offset::MCR => self.mcr,
            offset::LSR => self.read_line_status(),
            offset::MSR => self.modem_inputs() | core::mem::take(&mut self.modem_delta),
            _ => self.scratch,
        }
    }

    /// Writes the register at `register` (0–7; higher bits are ignored).
    pub fn write(&mut self, register: u8, value: u8, now: Now) {
        self.advance(now);
        let latch = self.lcr & LCR_DLAB != 0;
        match register & 7 {
            offset::DATA if latch => self.divisor = self.divisor & 0xff00 | u16::from(value),
            offset::IER if latch => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            offset::DATA => self.write_data(value),
            offset::IER => self.write_interrupt_enable(value),
            offset::IIR_FCR => self.write_fifo_control(value),
            offset::LCR => self.lcr = value,
            offset::MCR => self.write_modem_control(value),
            // LSR and MSR are for factory tests only; writes are ignored.
            offset::LSR | offset::MSR => {}
            _ => self.scratch = value,
        }
    }

    /// The level of the interrupt output.
    pub fn interrupt(&self) -> bool {
        self.ier != 0 && self.cause().is_some()
    }

    /// Sends the oldest byte waiting in the transmitter, in loopback to the receiver.
    ///
    /// `None` where nothing went out onto the wire.
    pub fn transmit(&mut self, now: Now) -> Option<u8> {
        let byte = self.transmitter.pop()?;
        self.transmitter_empty |= self.transmitter.is_empty();
        if self.mcr & MCR_LOOP == 0 {
            return Some(byte);
        }
        self.deliver(byte, now);
        None
    }

    /// Hands over a byte from the host's console; refused with `false` in loopback
    /// or while the receiver is full, so that the host can keep it for later.
    pub fn receive(&mut self, byte: u8, now: Now) -> bool {
        if self.mcr & MCR_LOOP != 0 || self.receiver.len() == self.capacity() {
            return false;
        }
        self.advance(now);
        self.deliver(byte, now);
        true
    }

    /// Lets time pass: raises the character timeout if it is due.
    pub fn advance(&mut self, now: Now) {
        self.timeout |= self.timeout_armed() && now.tsc >= self.deadline;
    }

    /// The TSC at which [`advance`](Self::advance) will raise an interrupt.
    pub fn deadline(&self) -> Option<u64> {
        let wanted = self.ier & IER_RECEIVED != 0 && !self.timeout;
        (wanted && self.timeout_armed()).then_some(self.deadline)
    }

    fn read_data(&mut self, now: Now) -> u8 {
        self.timeout = false;
        self.restart_timeout(now);
        self.receiver.pop().unwrap_or(0)
    }

    fn write_data(&mut self, value: u8) {
        self.transmitter_empty = false;
        if !self.fifos {
            self.transmitter.clear();
        }
        // A full FIFO loses the new byte; the data sheet leaves it open which.
        let _ = self.transmitter.push(value);
    }

    /// Enabling the transmitter's interrupt while it is empty raises it at once.
    fn write_interrupt_enable(&mut self, value: u8) {
        let enabled = value & !self.ier;
        self.ier = value & 0x0f;
        if enabled & IER_TRANSMIT != 0 && self.transmitter.is_empty() {
            self.transmitter_empty = true;
        }
    }

    /// Source: data sheet 8.4 "FIFO Control Register": bit 0 must be set with the
    /// others or they are not programmed; changing it empties both FIFOs.
    fn write_fifo_control(&mut self, value: u8) {
        let enable = value & FCR_ENABLE != 0;
        let switched = enable != self.fifos;
        self.fifos = enable;
        if switched || (enable && value & FCR_CLEAR_RX != 0) {
            self.receiver.clear();
            self.timeout = false;
        }
        if switched || (enable && value & FCR_CLEAR_TX != 0) {
            self.transmitter_empty |= !self.transmitter.is_empty();
            self.transmitter.clear();
        }
        if enable {
            self.trigger = [1, 4, 8, 14][usize::from(value >> 6)];
        }
    }

    fn write_modem_control(&mut self, value: u8) {
        let before = self.modem_inputs();
        self.mcr = value & 0x1f;
        let changed = before ^ self.modem_inputs();
        // The ring indicator's delta marks its trailing edge only.
        let counted = changed & !MSR_RING | changed & before & MSR_RING;
        self.modem_delta |= counted >> 4;
    }

    /// Reading the identification clears a transmitter interrupt if that is what it says.
    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        if cause == Some(Cause::TransmitterEmpty) {
            self.transmitter_empty = false;
        }
        let fifos = if self.fifos { IIR_FIFOS } else { 0 };
        cause.map_or(IIR_NONE, Cause::identification) | fifos
    }

    fn read_line_status(&mut self) -> u8 {
        let data = if self.receiver.is_empty() { 0 } else { LSR_DATA };
        let overrun = if core::mem::take(&mut self.overrun) { LSR_OVERRUN } else { 0 };
        let idle = if self.transmitter.is_empty() { LSR_IDLE } else { 0 };
        data | overrun | idle
    }

    /// The enabled cause of the highest priority.
    fn cause(&self) -> Option<Cause> {
        let received = self.ier & IER_RECEIVED != 0;
        let level = if self.fifos { self.trigger } else { 1 };
        if self.overrun && self.ier & IER_LINE != 0 {
            Some(Cause::LineStatus)
        } else if received && self.receiver.len() >= level {
            Some(Cause::DataAvailable)
        } else if received && self.timeout {
            Some(Cause::CharacterTimeout)
        } else if self.transmitter_empty && self.ier & IER_TRANSMIT != 0 {
            Some(Cause::TransmitterEmpty)
        } else if self.modem_delta != 0 && self.ier & IER_MODEM != 0 {
            Some(Cause::ModemStatus)
        } else {
            None
        }
    }

    /// The upper half of MSR: in loopback the modem outputs, else the wire.
    fn modem_inputs(&self) -> u8 {
        if self.mcr & MCR_LOOP == 0 {
            return CONNECTED;
        }
        let wires =
            [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RING), (MCR_OUT2, MSR_CARRIER)];
        wires
            .iter()
            .filter(|(output, _)| self.mcr & output != 0)
            .fold(0, |inputs, (_, input)| inputs | input)
    }

    /// A byte arrives. Without FIFOs a byte not yet read is lost, with full FIFOs
    /// the new one is.
    fn deliver(&mut self, byte: u8, now: Now) {
        self.restart_timeout(now);
        if self.receiver.len() == self.capacity() {
            self.overrun = true;
            if self.fifos {
                return;
            }
            self.receiver.clear();
        }
        let _ = self.receiver.push(byte);
    }

    fn capacity(&self) -> u8 {
        if self.fifos { DEPTH } else { 1 }
    }

    fn timeout_armed(&self) -> bool {
        self.fifos && !self.receiver.is_empty()
    }

    fn restart_timeout(&mut self, now: Now) {
        if !self.fifos {
            return;
        }
        self.deadline = now.tsc.saturating_add(self.four_characters(now));
    }

    /// TSC ticks that four characters take on the wire: each a start bit, the word,
    /// parity and stop bits. Source: data sheet 8.4.1 "FIFO Interrupt Mode Operation".
    fn four_characters(&self, now: Now) -> u64 {
        let parity = u64::from(self.lcr & LCR_PARITY != 0);
        let stop = 1 + u64::from(self.lcr & LCR_STOP != 0);
        let bits = 1 + 5 + u64::from(self.lcr & LCR_WORD) + parity + stop;
        now.ticks(4 * bits * u64::from(self.divisor.max(1)), BAUD_BASE)
    }
}

#[cfg(test)]
mod tests;
