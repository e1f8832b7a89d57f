//! The VGA text screen, as text.
//!
//! Text memory is plain guest RAM: a character and an attribute a cell, 25 rows of 80.

use crate::memory::{GuestMemory, HostMemory};
use anchorite_addr::Gpa;
use core::fmt;

/// Where colour text modes keep the screen.
const TEXT_MEMORY: u64 = 0xb_8000;
const COLUMNS: usize = 80;
const ROWS: usize = 25;
/// A character and its attribute.
const CELL_BYTES: usize = 2;

/// Writes the screen to `out`, framed, without blank lines at its end; nothing where
/// it is blank or has no memory.
pub fn write<M: HostMemory>(memory: &GuestMemory<M>, out: &mut impl fmt::Write) -> fmt::Result {
    let mut cells = [0; COLUMNS * ROWS * CELL_BYTES];
    if memory.read(Gpa::new(TEXT_MEMORY), &mut cells).is_err() {
        return Ok(());
    }
    let rows = cells.chunks_exact(COLUMNS * CELL_BYTES);
    let Some(last) = rows.clone().rposition(|row| !is_blank(row)) else { return Ok(()) };
    writeln!(out, "+{:-<80}+ screen", "")?;
    for row in rows.take(last + 1) {
        out.write_char('|')?;
        row.chunks_exact(CELL_BYTES).try_for_each(|cell| out.write_char(shown(cell[0])))?;
        out.write_str("|\n")?;
    }
    writeln!(out, "+{:-<80}+", "")
}

fn is_blank(row: &[u8]) -> bool {
    row.chunks_exact(CELL_BYTES).all(|cell| shown(cell[0]) == ' ')
}

/// A character of code page 437 as near as ASCII comes.
fn shown(character: u8) -> char {
    match character {
        0 | 0x20 | 0xff => ' ',
        0x21..=0x7e => character.into(),
        0xb3..=0xda => '+',
        _ => '#',
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::fake::{FakeMemory, HOST_BASE};
    use crate::memory::{Memslot, SlotId};
    use anchorite_addr::{Gfn, Hfn};
    use std::string::String;

    /// RAM from 0 up to 1 MiB.
    fn memory() -> GuestMemory<FakeMemory> {
        let mut memory = GuestMemory::new(FakeMemory::default());
        let slot = Memslot {
            id: SlotId(0),
            first: Gfn::new(0),
            frames: 0x100,
            host: Hfn::new(HOST_BASE >> 12),
            read_only: false,
        };
        memory.add_slot(slot).expect("fits");
        memory
    }

    #[test]
    fn a_blank_screen_is_not_shown() {
        let mut text = String::new();
        write(&memory(), &mut text).expect("a string takes all");
        assert_eq!(text, "");
    }

    #[test]
    fn the_screen_ends_with_its_last_line() {
        let mut memory = memory();
        for (column, character) in b"Hi \xdb".iter().enumerate() {
            let at = Gpa::new(0xb_8000 + 160 + column as u64 * 2);
            memory.write(at, &[*character, 7]).expect("RAM");
        }
        let mut text = String::new();
        write(&memory, &mut text).expect("a string takes all");
        let lines: std::vec::Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1].trim_matches('|').trim(), "");
        assert!(lines[2].starts_with("|Hi #  "), "{}", lines[2]);
        assert_eq!(lines[2].len(), 82);
    }
}
