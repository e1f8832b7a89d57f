//! Relocations of a position-independent Hermit kernel.
//!
//! Such a kernel is linked statically: its dynamic section holds relocations and the symbols
//! these name, and no library.
//!
//! Source: System V ABI, "Dynamic Section", "Symbol Table"; its AMD64 supplement 1.0, 4.4
//! "Relocation".

use crate::Problem;
use crate::bytes::Structure;
use crate::place::Placer;
use crate::ram::GuestRam;

use super::Kernel;

const NEEDED: u64 = 1;
const PROCEDURE_BYTES: u64 = 2;
const SYMBOLS: u64 = 6;
const RELOCATIONS: u64 = 7;
const RELOCATION_BYTES: u64 = 8;
const WITHOUT_ADDEND: u64 = 17;
const COMPACT: u64 = 36;

const ENTRY_BYTES: u64 = 16;
const RELA_BYTES: u64 = 24;
const SYMBOL_BYTES: u64 = 24;

/// S + A.
const R_X86_64_64: u32 = 1;
/// S.
const R_X86_64_GLOB_DAT: u32 = 6;
/// B + A.
const R_X86_64_RELATIVE: u32 = 8;

/// Writes every address of `kernel` that depends on its place.
pub(super) fn apply(
    kernel: &Kernel,
    file: &[u8],
    place: &mut Placer<impl GuestRam>,
) -> Result<(), Problem> {
    let Some(dynamic) = kernel.elf.dynamic.filter(|_| kernel.elf.movable) else { return Ok(()) };
    let what = "the dynamic section";
    let section = Structure::new(file, what, dynamic.offset, dynamic.file_bytes)?;
    let table = Table::read(section)?;
    let Some(rows) = kernel.contents(table.relocations, table.bytes) else {
        return Err(wrong("DT_RELA of the dynamic section", table.relocations, LOADED));
    };
    for row in rows.chunks_exact(RELA_BYTES as usize) {
        let row = Structure::new(row, "a relocation", 0, RELA_BYTES)?;
        let at = row.u64(0);
        if !kernel.holds(at, 8) {
            return Err(wrong("r_offset of a relocation", at, LOADED));
        }
        let value = value(kernel, &table, row)?;
        place.write(at + kernel.bias, &value.to_le_bytes())?;
    }
    Ok(())
}

const LOADED: &str = "it must lie in a loadable segment; link the kernel anew";

/// Where the dynamic section says the tables are, by the file's addresses.
#[derive(Default)]
struct Table {
    relocations: u64,
    bytes: u64,
    symbols: u64,
}

impl Table {
    fn read(section: Structure) -> Result<Self, Problem> {
        let mut table = Self::default();
        for entry in section.as_bytes().chunks_exact(ENTRY_BYTES as usize) {
            let entry = Structure::new(entry, "an entry of the dynamic section", 0, ENTRY_BYTES)?;
            let (tag, value) = (entry.u64(0), entry.u64(8));
            match tag {
                0 => break,
                RELOCATIONS => table.relocations = value,
                RELOCATION_BYTES => table.bytes = value,
                SYMBOLS => table.symbols = value,
                NEEDED => return Err(unsupported(tag, "link without shared libraries")),
                WITHOUT_ADDEND | COMPACT => {
                    return Err(unsupported(tag, "link with relocations in DT_RELA"));
                }
                PROCEDURE_BYTES if value > 0 => return Err(unsupported(tag, "link statically")),
                _ => {}
            }
        }
        Ok(table)
    }
}

fn value(kernel: &Kernel, table: &Table, row: Structure) -> Result<u64, Problem> {
    let (kind, index, addend) = (row.u32(8), row.u32(12), row.u64(16));
    match kind {
        R_X86_64_RELATIVE => Ok(kernel.bias.wrapping_add(addend)),
        R_X86_64_64 => Ok(symbol(kernel, table, index)?.map_or(0, |s| s.wrapping_add(addend))),
        R_X86_64_GLOB_DAT => Ok(symbol(kernel, table, index)?.unwrap_or(0)),
        _ => Err(wrong(
            "the type of a relocation",
            kind.into(),
            "1 (64), 6 (GLOB_DAT) and 8 (RELATIVE) are taken; link statically",
        )),
    }
}

/// The address of a symbol; `None` for a weak one that nothing defines, which is 0 wherever
/// the kernel lies.
fn symbol(kernel: &Kernel, table: &Table, index: u32) -> Result<Option<u64>, Problem> {
    const WEAK: u8 = 2;
    const UNDEFINED: u16 = 0;
    let at = table.symbols.wrapping_add(u64::from(index) * SYMBOL_BYTES);
    let bytes: &[u8] = kernel
        .contents(at, SYMBOL_BYTES)
        .ok_or_else(|| wrong("the symbol of a relocation", index.into(), LOADED))?;
    let symbol = Structure::new(bytes, "a symbol", 0, SYMBOL_BYTES)?;
    match (symbol.u16(6), symbol.u8(4) >> 4) {
        (UNDEFINED, WEAK) => Ok(None),
        (UNDEFINED, _) => {
            let remedy = "nothing defines it; link the kernel with what it needs";
            Err(wrong("the symbol of a relocation", index.into(), remedy))
        }
        _ => Ok(Some(symbol.u64(8).wrapping_add(kernel.bias))),
    }
}

fn unsupported(tag: u64, remedy: &'static str) -> Problem {
    wrong("a tag of the dynamic section", tag, remedy)
}

const fn wrong(field: &'static str, value: u64, remedy: &'static str) -> Problem {
    Problem::Field { field, value, remedy }
}
