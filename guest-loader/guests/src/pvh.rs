//! The information a PVH loader passes.
//!
//! Source: Xen, public/arch-x86/hvm/start_info.h, `struct hvm_start_info` version 1.

use crate::boot::{BootInfo, Module, Protocol};
use crate::memory::{self, Region};
use crate::multiboot::word;

/// First word of the structure.
pub(crate) const MAGIC: u32 = 0x336e_c578;

/// Bytes of version 1.
const START_INFO_BYTES: u64 = 56;
const MODULE_BYTES: usize = 32;
const MEMORY_MAP_ENTRY_BYTES: usize = 24;

/// Reads the structure at `info`, or gives `None` where its magic is wrong.
pub(crate) fn read(info: u32) -> Option<BootInfo> {
    let table = memory::bytes(info.into(), START_INFO_BYTES)?;
    if word(table, 0) != MAGIC {
        return None;
    }
    let version = word(table, 4);
    let mut boot = BootInfo::new(Protocol::Pvh);
    boot.command_line = memory::text(long(table, 24));
    read_modules(&mut boot, word(table, 12), long(table, 16));
    if version >= 1 {
        read_memory_map(&mut boot, word(table, 48), long(table, 40));
    }
    Some(boot)
}

fn read_modules(boot: &mut BootInfo, count: u32, address: u64) {
    let length = u64::from(count) * MODULE_BYTES as u64;
    let Some(list) = memory::bytes(address, length) else { return };
    for entry in list.chunks_exact(MODULE_BYTES) {
        boot.add_module(Module {
            start: long(entry, 0),
            bytes: long(entry, 8),
            command_line: memory::text(long(entry, 16)),
        });
    }
}

fn read_memory_map(boot: &mut BootInfo, count: u32, address: u64) {
    let length = u64::from(count) * MEMORY_MAP_ENTRY_BYTES as u64;
    let Some(list) = memory::bytes(address, length) else { return };
    for entry in list.chunks_exact(MEMORY_MAP_ENTRY_BYTES) {
        let start = long(entry, 0);
        let end = start.saturating_add(long(entry, 8));
        boot.memory.push(Region { start, end, kind: word(entry, 16) });
    }
}

fn long(table: &[u8], offset: usize) -> u64 {
    u64::from(word(table, offset)) | u64::from(word(table, offset + 4)) << 32
}
