//! The BIOS data area and the extended one: where kernels look for the end of conventional
//! memory (Xen puts its trampoline below it), the serial ports and the screen.
//!
//! Source: IBM Personal System/2 and Personal Computer BIOS Interface Technical Reference,
//! section 3 "Data Areas and ROM Tables".

use super::CONVENTIONAL_END;
use super::bytes::Bytes;
use alloc::vec;
use alloc::vec::Vec;
use anchorite_abi::port::COM1;

const DATA_AREA: u32 = 0x400;
/// The extended area's size in KiB, its first byte.
const EXTENDED_KIB: u8 = 1;

/// FPU, a colour screen of 80 columns, one serial port.
const EQUIPMENT: u16 = 1 << 9 | 0b10 << 4 | 1 << 1;
/// Colour text of 80 columns and 25 rows.
const VIDEO_MODE: u8 = 3;
const COLUMNS: u16 = 80;
const ROWS: u8 = 25;
const SCREEN_BYTES: u16 = 0x1000;
const CRTC: u16 = 0x3d4;
const CHARACTER_HEIGHT: u16 = 16;

/// Both, by address.
pub(super) fn areas() -> Vec<(u32, Vec<u8>)> {
    vec![(DATA_AREA, data_area()), (CONVENTIONAL_END, vec![EXTENDED_KIB])]
}

fn data_area() -> Vec<u8> {
    let ports = Bytes::default().u16(COM1).until(0xe).u16((CONVENTIONAL_END >> 4) as u16);
    let machine = ports.u16(EQUIPMENT).until(0x13).u16((CONVENTIONAL_END >> 10) as u16);
    let screen = machine.until(0x49).u8(VIDEO_MODE).u16(COLUMNS).u16(SCREEN_BYTES);
    screen.until(0x63).u16(CRTC).until(0x84).u8(ROWS - 1).u16(CHARACTER_HEIGHT).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_kernels_read_them() {
        let area = data_area();
        let word = |at: usize| u16::from_le_bytes([area[at - 0x400], area[at - 0x3ff]]);
        assert_eq!(word(0x400), 0x3f8, "COM1");
        assert_eq!(word(0x40e), 0x9fc0, "segment of the extended area");
        assert_eq!(word(0x413), 639, "KiB of conventional memory");
        assert_eq!((area[0x49], word(0x44a), word(0x463), area[0x84]), (3, 80, 0x3d4, 24));
    }
}
