//! Register bits of the 16550A. Source: PC16550D data sheet, 8.0 "Registers", table II.

/// Register offsets from the base port, with the divisor latch access bit clear.
pub(super) mod offset {
    /// Receiver buffer (read), transmitter holding (write); divisor low with DLAB.
    pub(in crate::devices::uart) const DATA: u8 = 0;
    /// Interrupt enable; divisor high with DLAB.
    pub(in crate::devices::uart) const IER: u8 = 1;
    /// Interrupt identification (read), FIFO control (write).
    pub(in crate::devices::uart) const IIR_FCR: u8 = 2;
    /// Line control.
    pub(in crate::devices::uart) const LCR: u8 = 3;
    /// Modem control.
    pub(in crate::devices::uart) const MCR: u8 = 4;
    /// Line status.
    pub(in crate::devices::uart) const LSR: u8 = 5;
    /// Modem status.
    pub(in crate::devices::uart) const MSR: u8 = 6;
}

/// Interrupt enable: received data and character timeout.
pub(super) const IER_RECEIVED: u8 = 1 << 0;
/// Interrupt enable: transmitter holding register empty.
pub(super) const IER_TRANSMIT: u8 = 1 << 1;
/// Interrupt enable: receiver line status.
pub(super) const IER_LINE: u8 = 1 << 2;
/// Interrupt enable: modem status.
pub(super) const IER_MODEM: u8 = 1 << 3;

/// FIFO control: FIFOs on.
pub(super) const FCR_ENABLE: u8 = 1 << 0;
/// FIFO control: empty the receiver FIFO.
pub(super) const FCR_CLEAR_RX: u8 = 1 << 1;
/// FIFO control: empty the transmitter FIFO.
pub(super) const FCR_CLEAR_TX: u8 = 1 << 2;

/// Interrupt identification: nothing waits.
pub(super) const IIR_NONE: u8 = 0x01;
/// Interrupt identification: both FIFO bits, set while FIFOs are on.
pub(super) const IIR_FIFOS: u8 = 0xc0;

/// Line control: word length, 5 bits plus this.
pub(super) const LCR_WORD: u8 = 3;
/// Line control: two stop bits.
pub(super) const LCR_STOP: u8 = 1 << 2;
/// Line control: parity bit.
pub(super) const LCR_PARITY: u8 = 1 << 3;
/// Line control: divisor latch access.
pub(super) const LCR_DLAB: u8 = 1 << 7;

/// Modem control: data terminal ready.
pub(super) const MCR_DTR: u8 = 1 << 0;
/// Modem control: request to send.
pub(super) const MCR_RTS: u8 = 1 << 1;
/// Modem control: output 1.
pub(super) const MCR_OUT1: u8 = 1 << 2;
/// Modem control: output 2.
pub(super) const MCR_OUT2: u8 = 1 << 3;
/// Modem control: loopback.
pub(super) const MCR_LOOP: u8 = 1 << 4;

/// Line status: data ready.
pub(super) const LSR_DATA: u8 = 1 << 0;
/// Line status: a byte was lost.
pub(super) const LSR_OVERRUN: u8 = 1 << 1;
/// Line status: the holding register (or its FIFO) is empty, and so is the shift register.
pub(super) const LSR_IDLE: u8 = 3 << 5;

/// Modem status: clear to send.
pub(super) const MSR_CTS: u8 = 1 << 4;
/// Modem status: data set ready.
pub(super) const MSR_DSR: u8 = 1 << 5;
/// Modem status: ring indicator.
pub(super) const MSR_RING: u8 = 1 << 6;
/// Modem status: carrier detect.
pub(super) const MSR_CARRIER: u8 = 1 << 7;
