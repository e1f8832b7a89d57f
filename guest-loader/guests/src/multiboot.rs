//! The information a multiboot 1 loader passes.
//!
//! Source: Multiboot Specification 0.6.96, 3.3 "Boot information format".

use crate::boot::{BootInfo, Module, Protocol};
use crate::memory::{self, Region};

/// EAX at the entry.
pub(crate) const MAGIC: u32 = 0x2bad_b002;

const FLAG_COMMAND_LINE: u32 = 1 << 2;
const FLAG_MODULES: u32 = 1 << 3;
const FLAG_MEMORY_MAP: u32 = 1 << 6;
const FLAG_LOADER_NAME: u32 = 1 << 9;
/// Bytes of the structure up to and including the boot loader's name.
const INFO_BYTES: u64 = 68;
const MODULE_BYTES: usize = 16;

/// Reads the structure at `info`.
pub(crate) fn read(info: u32) -> Option<BootInfo> {
    let table = memory::bytes(info.into(), INFO_BYTES)?;
    let flags = word(table, 0);
    let mut boot = BootInfo::new(Protocol::Multiboot);
    if flags & FLAG_COMMAND_LINE != 0 {
        boot.command_line = memory::text(word(table, 16).into());
    }
    if flags & FLAG_LOADER_NAME != 0 {
        boot.loader = memory::text(word(table, 64).into());
    }
    if flags & FLAG_MODULES != 0 {
        read_modules(&mut boot, word(table, 20), word(table, 24));
    }
    if flags & FLAG_MEMORY_MAP != 0 {
        read_memory_map(&mut boot, word(table, 44), word(table, 48));
    }
    Some(boot)
}

fn read_modules(boot: &mut BootInfo, count: u32, address: u32) {
    let length = u64::from(count) * MODULE_BYTES as u64;
    let Some(list) = memory::bytes(address.into(), length) else { return };
    for entry in list.chunks_exact(MODULE_BYTES) {
        let (start, end) = (word(entry, 0), word(entry, 4));
        boot.add_module(Module {
            start: start.into(),
            bytes: end.saturating_sub(start).into(),
            command_line: memory::text(word(entry, 8).into()),
        });
    }
}

/// Each entry tells its own size, not counting the size field.
fn read_memory_map(boot: &mut BootInfo, length: u32, address: u32) {
    let Some(mut rest) = memory::bytes(address.into(), length.into()) else { return };
    while rest.len() >= 24 {
        let start = u64::from(word(rest, 4)) | u64::from(word(rest, 8)) << 32;
        let bytes = u64::from(word(rest, 12)) | u64::from(word(rest, 16)) << 32;
        boot.memory.push(Region { start, end: start.saturating_add(bytes), kind: word(rest, 20) });
        let step = word(rest, 0) as usize + 4;
        rest = rest.get(step..).unwrap_or(&[]);
    }
}

/// The little-endian 32-bit field at `offset`.
pub(crate) fn word(table: &[u8], offset: usize) -> u32 {
    table[offset..offset + 4].iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}
