//! Text to standard output.

#![expect(unsafe_code, reason = "hands a buffer to the kernel")]

use core::fmt::{self, Write};

/// Standard output.
pub struct Stdout;

impl Write for Stdout {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const STDOUT: i32 = 1;
        // SAFETY: the slice is valid for reads of its length, and the kernel only reads it.
        let written = unsafe { hermit::syscalls::sys_write(STDOUT, text.as_ptr(), text.len()) };
        if written == text.len() as isize { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Prints a line. The kernel holds text back until a line ends, so a line is the least.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => {{
        use core::fmt::Write;
        // There is nobody to tell that the console took nothing.
        let _ = writeln!($crate::text::Stdout, $($text)*);
    }};
}
