//! The 16-byte queues of a UART.

/// Bytes in a FIFO of a 16550A.
pub(super) const DEPTH: u8 = 16;

/// A queue of at most [`DEPTH`] bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Fifo {
    bytes: [u8; DEPTH as usize],
    /// Index of the oldest byte, below `DEPTH`.
    first: u8,
    length: u8,
}

impl Fifo {
    pub(super) const fn len(&self) -> u8 {
        self.length
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    /// Appends a byte; `false` where there is no room.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        if self.length == DEPTH {
            return false;
        }
        self.bytes[usize::from((self.first + self.length) % DEPTH)] = byte;
        self.length += 1;
        true
    }

    /// Takes the oldest byte.
    pub(super) fn pop(&mut self) -> Option<u8> {
        if self.is_empty() {
            return None;
        }
        let byte = self.bytes[usize::from(self.first % DEPTH)];
        self.first = (self.first + 1) % DEPTH;
        self.length -= 1;
        Some(byte)
    }
}
