//! The first serial line, as Hermit has set it up: 115200 baud, 8N1.
//!
//! Written directly rather than through `sys_write`: that call holds text back
//! until a newline comes, and a guest's prompt has none.

#![expect(unsafe_code, reason = "port I/O")]

use crate::instructions::{in8, out8};
use core::fmt;

/// First port of the first serial line.
pub const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Tries before a byte is given up, so that a machine without a UART goes on.
const PATIENCE: u32 = 100_000;

/// Sends `bytes`, each as soon as the transmitter takes it.
pub fn send(bytes: &[u8]) {
    for &byte in bytes {
        // SAFETY: COM1 moves no memory.
        unsafe {
            for _ in 0..PATIENCE {
                if in8(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
                    break;
                }
            }
            out8(COM1, byte);
        }
    }
}

/// The line as a formatting target; for messages before there is a console.
#[derive(Debug)]
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        send(text.as_bytes());
        Ok(())
    }
}
