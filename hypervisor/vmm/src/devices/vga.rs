//! The registers that programs touch on a VGA in 80×25 text mode.
//!
//! Text memory at 0xb8000 is plain RAM of the machine; here are only the CRT
//! controller (cursor, start address), the miscellaneous output register and the
//! status register whose retrace bits programs wait for.

use super::time::Now;

/// Registers of the CRT controller.
const CRTC_REGISTERS: usize = 25;
/// CRTC register 0x11, whose bit 7 protects registers 0 to 7.
const VERTICAL_RETRACE_END: usize = 0x11;
/// CRTC register 7; its bit 4 (line compare) stays writable under protection.
const OVERFLOW: usize = 0x07;
/// Values of mode 3 (80×25 text, 400 lines), as VGA firmware leaves them.
const MODE_3: [u8; CRTC_REGISTERS] = [
    0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00,
    0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
];
/// Colour addresses (0x3d0–0x3df), RAM on, 28 MHz, 400 lines.
const MISC_MODE_3: u8 = 0x67;
/// Scan lines a second: 70 pictures of 449 lines.
const LINES_PER_SECOND: u64 = 70 * LINES;
/// Scan lines of a picture, of which the first 400 are shown.
const LINES: u64 = 449;
/// The lines during which the beam returns: registers 0x10 (0x19c) and 0x11.
const RETRACE_LINES: core::ops::Range<u64> = 412..414;
/// Status bit 0: nothing is being shown.
const DISPLAY_OFF: u8 = 1 << 0;
/// Status bit 3: vertical retrace.
const RETRACE: u8 = 1 << 3;

/// The registers.
#[derive(Clone, Debug)]
pub struct Vga {
    index: u8,
    crtc: [u8; CRTC_REGISTERS],
    misc: u8,
}

impl Default for Vga {
    fn default() -> Self {
        Self { index: 0, crtc: MODE_3, misc: MISC_MODE_3 }
    }
}

impl Vga {
    /// Port 0x3d4: the selected CRTC register.
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// Port 0x3d4: selects a CRTC register.
    pub const fn select(&mut self, index: u8) {
        self.index = index;
    }

    /// Port 0x3d5: the selected CRTC register; 0 for those that do not exist.
    pub fn read_crtc(&self) -> u8 {
        self.crtc.get(usize::from(self.index)).copied().unwrap_or(0)
    }

    /// Port 0x3d5: writes the selected CRTC register.
    pub fn write_crtc(&mut self, value: u8) {
        let index = usize::from(self.index);
        let protected = self.crtc[VERTICAL_RETRACE_END] & 0x80 != 0 && index <= OVERFLOW;
        let Some(register) = self.crtc.get_mut(index) else { return };
        match (protected, index) {
            (false, _) => *register = value,
            (true, OVERFLOW) => *register = *register & !0x10 | value & 0x10,
            (true, _) => {}
        }
    }

    /// Port 0x3cc: the miscellaneous output register.
    pub const fn misc(&self) -> u8 {
        self.misc
    }

    /// Port 0x3c2: writes it.
    pub const fn set_misc(&mut self, value: u8) {
        self.misc = value;
    }

    /// Port 0x3da: input status 1 at this moment of the picture.
    pub fn status(&self, now: Now) -> u8 {
        let line = now.periods_since(0, LINES_PER_SECOND) % LINES;
        let display = if line >= 400 { DISPLAY_OFF } else { 0 };
        let retrace = if RETRACE_LINES.contains(&line) { RETRACE } else { 0 };
        display | retrace
    }

    /// Where in text memory the cursor stands, in characters.
    pub const fn cursor(&self) -> u16 {
        u16::from_be_bytes([self.crtc[0x0e], self.crtc[0x0f]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU64;

    #[test]
    fn the_cursor_follows_its_registers() {
        let mut vga = Vga::default();
        for (index, value) in [(0x0e, 0x07), (0x0f, 0xcf)] {
            vga.select(index);
            vga.write_crtc(value);
            assert_eq!((vga.index(), vga.read_crtc()), (index, value));
        }
        assert_eq!(vga.cursor(), 0x07cf);
    }

    #[test]
    fn protected_registers_keep_their_timing_but_for_line_compare() {
        let mut vga = Vga::default();
        for index in 0..8 {
            vga.select(index);
            vga.write_crtc(0);
        }
        assert_eq!(vga.crtc[..7], MODE_3[..7]);
        assert_eq!(vga.crtc[7], MODE_3[7] & !0x10);
    }

    #[test]
    fn registers_that_do_not_exist_read_zero() {
        let mut vga = Vga::default();
        for index in 25..=u8::MAX {
            vga.select(index);
            vga.write_crtc(0xff);
            assert_eq!(vga.read_crtc(), 0);
        }
    }

    #[test]
    fn who_waits_for_a_retrace_sees_it_come_and_go_seventy_times_a_second() {
        let vga = Vga::default();
        let hertz = NonZeroU64::new(1_000_000).unwrap();
        let status = |tsc| vga.status(Now::new(tsc, hertz)) & RETRACE;
        let starts = (1..1_000_000).filter(|&tsc| status(tsc) > status(tsc - 1)).count();
        assert_eq!(starts, 70);
    }
}
