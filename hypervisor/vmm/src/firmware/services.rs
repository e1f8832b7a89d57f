//! What a kernel finds that calls the BIOS in real mode: every vector has a handler, and every
//! service but two says that it is not there. Without them the call would run through an empty
//! interrupt vector table into whatever lies at address 0.
//!
//! Source: IBM Personal System/2 and Personal Computer BIOS Interface Technical Reference,
//! section 2 "Interrupts".

use alloc::vec;
use alloc::vec::Vec;

/// The handlers' segment, and their place in it, behind all tables.
const SEGMENT: u16 = 0xf000;
const HANDLERS: u16 = 0xf000;

/// Comes back at once: exceptions, and what no one calls for an answer.
const NOTHING: &[u8] = &[0xcf]; // iret
/// Ends an interrupt of the first 8259, or of both.
const FIRST: &[u8] = &[
    0x50, // push ax
    0xb0, 0x20, // mov al, 20h
    0xe6, 0x20, // out 20h, al
    0x58, // pop ax
    0xcf, // iret
];
const BOTH: &[u8] = &[
    0x50, // push ax
    0xb0, 0x20, // mov al, 20h
    0xe6, 0xa0, // out 0a0h, al
    0xe6, 0x20, // out 20h, al
    0x58, // pop ax
    0xcf, // iret
];
/// AX = the word of the data area at 410h (what is installed), or at 413h (KiB of memory).
const EQUIPMENT: &[u8] = &word_of_data_area(0x10);
const MEMORY: &[u8] = &word_of_data_area(0x13);
/// AH = 86h and the caller's CF set: no such service.
const REFUSAL: &[u8] = &[
    0xb4, 0x86, // mov ah, 86h
    0x55, // push bp
    0x8b, 0xec, // mov bp, sp
    0x80, 0x4e, 0x06, 0x01, // or byte [bp + 6], 1
    0x5d, // pop bp
    0xcf, // iret
];

const fn word_of_data_area(offset: u8) -> [u8; 11] {
    [
        0x1e, // push ds
        0xb8, 0x40, 0x00, // mov ax, 40h
        0x8e, 0xd8, // mov ds, ax
        0xa1, offset, 0x00, // mov ax, [offset]
        0x1f, // pop ds
        0xcf, // iret
    ]
}

/// In the order in which they lie in memory.
const ALL: [&[u8]; 6] = [NOTHING, FIRST, BOTH, EQUIPMENT, MEMORY, REFUSAL];

/// What a vector leads to. 8 to 0xf and 0x70 to 0x77 are the 8259s', as the firmware programs
/// them.
const fn handler(vector: usize) -> &'static [u8] {
    match vector {
        0..=7 => NOTHING,
        8..=0xf => FIRST,
        0x70..=0x77 => BOTH,
        0x11 => EQUIPMENT,
        0x12 => MEMORY,
        _ => REFUSAL,
    }
}

/// The interrupt vector table and the handlers, by address.
pub(super) fn table_and_handlers() -> Vec<(u32, Vec<u8>)> {
    let vectors = (0..256).flat_map(|vector| {
        let wanted = handler(vector);
        let before = ALL.iter().take_while(|code| **code != wanted);
        let offset = HANDLERS + before.map(|code| code.len() as u16).sum::<u16>();
        (u32::from(offset) | u32::from(SEGMENT) << 16).to_le_bytes()
    });
    let at = (u32::from(SEGMENT) << 4) + u32::from(HANDLERS);
    vec![(0, vectors.collect()), (at, ALL.concat())]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The handler's code behind a vector, up to its IRET.
    fn code(vector: usize) -> Vec<u8> {
        let [(_, table), (at, handlers)] = <[_; 2]>::try_from(table_and_handlers()).unwrap();
        let pointer = &table[vector * 4..][..4];
        let word = |at: usize| u32::from(u16::from_le_bytes([pointer[at], pointer[at + 1]]));
        let start = (word(2) * 16 + word(0) - at) as usize;
        let end = handlers[start..].iter().position(|&byte| byte == 0xcf).unwrap();
        handlers[start..=start + end].to_vec()
    }

    #[test]
    fn each_vector_leads_to_its_handler() {
        for (vectors, handler) in [
            (0..8, NOTHING),
            (8..0x10, FIRST),
            (0x10..0x11, REFUSAL),
            (0x11..0x12, EQUIPMENT),
            (0x12..0x13, MEMORY),
            (0x13..0x70, REFUSAL),
            (0x70..0x78, BOTH),
            (0x78..0x100, REFUSAL),
        ] {
            for vector in vectors {
                assert_eq!(code(vector), handler, "{vector:#x}");
            }
        }
    }
}
