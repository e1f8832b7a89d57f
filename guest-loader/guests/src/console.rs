//! Where text goes: the debug console where there is one, else the first serial line.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};

use anchorite_abi::port::{COM1, DEBUG_CONSOLE};

use crate::instructions::{inb, outb};

/// Line status register of a 16550, relative to its first port.
const LINE_STATUS: u16 = 5;
/// Line status: the transmit holding register is empty.
const THR_EMPTY: u8 = 0x20;
/// Polls of the line status before a byte is sent regardless, so that a machine
/// without a serial line (which reads all ones) or with a stuck one cannot hang us.
const MAX_POLLS: u32 = 100_000;

/// A console. Both ends of a [`Console::Both`] get every byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Console {
    /// The first serial line.
    Serial,
    /// Port 0xE9.
    Debug,
    /// Both.
    Both,
}

static SELECTED: AtomicU8 = AtomicU8::new(Console::Serial as u8);

/// Chooses the console by the command line's word `console=com1|e9|both`. Without it
/// the debug console is taken where its port reads as itself, else the serial line;
/// one of them only, because a hypervisor that prints both would print everything twice.
pub fn select(argument: Option<&str>) {
    let console = match argument {
        Some("com1") => Console::Serial,
        Some("e9") => Console::Debug,
        Some("both") => Console::Both,
        _ if has_debug_console() => Console::Debug,
        _ => Console::Serial,
    };
    SELECTED.store(console as u8, Ordering::Relaxed);
}

/// Whether port 0xE9 reads as itself, as it does where something listens there.
pub fn has_debug_console() -> bool {
    u16::from(inb(DEBUG_CONSOLE)) == DEBUG_CONSOLE
}

impl Console {
    fn selected() -> Self {
        match SELECTED.load(Ordering::Relaxed) {
            value if value == Self::Debug as u8 => Self::Debug,
            value if value == Self::Both as u8 => Self::Both,
            _ => Self::Serial,
        }
    }

    fn put(self, byte: u8) {
        if self != Self::Serial {
            outb(DEBUG_CONSOLE, byte);
        }
        if self != Self::Debug {
            put_serial(byte);
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.put(byte));
        Ok(())
    }
}

fn put_serial(byte: u8) {
    if byte == b'\n' {
        put_serial(b'\r');
    }
    for _ in 0..MAX_POLLS {
        if inb(COM1 + LINE_STATUS) & THR_EMPTY != 0 {
            break;
        }
    }
    outb(COM1, byte);
}

/// Prints to the selected console. [`crate::print!`] and [`crate::println!`] call it.
pub fn print(arguments: fmt::Arguments) {
    // A console's `write_str` never fails; a `Display` that does loses its own text only.
    let _ = Console::selected().write_fmt(arguments);
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => { $crate::console::print(format_args!($($arguments)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arguments:tt)*) => { $crate::print!("{}\n", format_args!($($arguments)*)) };
}
