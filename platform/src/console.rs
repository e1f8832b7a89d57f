//! The console: text out in whole lines, key strokes in.

#![expect(unsafe_code, reason = "Hermit's system calls take raw buffers")]

use crate::serial;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// Collects text and sends it when a line ends, when the buffer is full and on
/// [`flush`](Console::flush): sending costs a port read and write a byte.
#[derive(Debug)]
pub struct Console {
    bytes: [u8; Self::CAPACITY],
    used: usize,
}

impl Console {
    const CAPACITY: usize = 128;

    /// An empty console.
    pub const fn new() -> Self {
        Self { bytes: [0; Self::CAPACITY], used: 0 }
    }

    /// Adds one byte.
    pub fn put(&mut self, byte: u8) {
        self.bytes[self.used] = byte;
        self.used += 1;
        if byte == b'\n' || self.used == Self::CAPACITY {
            self.flush();
        }
    }

    /// Sends what has been collected.
    pub fn flush(&mut self) {
        serial::send(&self.bytes[..self.used]);
        self.used = 0;
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.put(byte));
        Ok(())
    }
}

/// Key strokes between the task that waits for them and whoever takes them.
static INPUT: InputRing = InputRing::new();

/// The oldest key stroke that nobody has taken yet.
pub fn take_input() -> Option<u8> {
    INPUT.take()
}

/// Starts the task that waits for key strokes. Call once.
pub fn start_input() {
    crate::tasks::spawn_helper(wait_for_input);
}

/// Reads from Hermit's standard input for ever.
extern "C" fn wait_for_input(_argument: usize) {
    let mut bytes = [0; 16];
    loop {
        // SAFETY: the buffer is ours and as long as the call is told.
        let count = unsafe { hermit::syscalls::sys_read(0, bytes.as_mut_ptr(), bytes.len()) };
        let Ok(count) = usize::try_from(count) else { return };
        bytes[..count.min(bytes.len())].iter().for_each(|&byte| INPUT.put(byte));
    }
}

/// A ring with one writer and one reader.
struct InputRing {
    bytes: [AtomicU8; Self::CAPACITY],
    written: AtomicUsize,
    taken: AtomicUsize,
}

impl InputRing {
    const CAPACITY: usize = 256;

    const fn new() -> Self {
        Self {
            bytes: [const { AtomicU8::new(0) }; Self::CAPACITY],
            written: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
        }
    }

    /// Keeps `byte` unless the ring is full, as a UART without flow control would.
    fn put(&self, byte: u8) {
        let written = self.written.load(Ordering::Relaxed);
        if written.wrapping_sub(self.taken.load(Ordering::Acquire)) < Self::CAPACITY {
            self.bytes[written % Self::CAPACITY].store(byte, Ordering::Relaxed);
            self.written.store(written.wrapping_add(1), Ordering::Release);
        }
    }

    fn take(&self) -> Option<u8> {
        let taken = self.taken.load(Ordering::Relaxed);
        if taken == self.written.load(Ordering::Acquire) {
            return None;
        }
        let byte = self.bytes[taken % Self::CAPACITY].load(Ordering::Relaxed);
        self.taken.store(taken.wrapping_add(1), Ordering::Release);
        Some(byte)
    }
}
