//! The MP floating pointer and configuration table, for kernels without ACPI.
//!
//! Source: Intel MultiProcessor Specification 1.4, chapter 4 "MP Configuration Table".

use super::bytes::Bytes;
use super::{IO_APIC, LOCAL_APIC};
use crate::devices::IO_APIC_ID;
use crate::devices::irq::{TIMER_PIN, line};
use alloc::vec;
use alloc::vec::Vec;

/// Where they lie; the pointer in the BIOS area at a multiple of 16.
const POINTER: u32 = 0xf_0040;
const TABLE: u32 = 0xf_0100;

const REVISION_1_4: u8 = 4;
const HEADER_BYTES: usize = 44;
/// Kinds of entries.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;
/// Kinds of interrupts.
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;
/// Interrupt flags: as the bus has it; active high and level.
const AS_BUS: u16 = 0;
const HIGH_LEVEL: u16 = 0b1101;
/// Every local APIC.
const ALL: u8 = 0xff;
/// The line that leads to the second 8259.
const CASCADE: u8 = 2;

/// Both, by address.
pub(super) fn tables() -> Vec<(u32, Vec<u8>)> {
    vec![(POINTER, pointer()), (TABLE, configuration())]
}

fn pointer() -> Vec<u8> {
    let fields = Bytes::default().put(b"_MP_").u32(TABLE).u8(1).u8(REVISION_1_4);
    fields.until(16).checksum(10, 16).0
}

fn configuration() -> Vec<u8> {
    let (count, entries) = entries();
    let length = HEADER_BYTES + entries.0.len();
    let header = Bytes::default().put(b"PCMP").u16(length as u16).u8(REVISION_1_4).u8(0);
    let header = header.put(b"ANCHORITANCHORITE   ").u32(0).u16(0).u16(count).u32(LOCAL_APIC);
    header.until(HEADER_BYTES).put(&entries.0).checksum(7, length).0
}

fn entries() -> (u16, Bytes) {
    // The bootstrap processor, enabled; its signature and features CPUID tells better.
    let mut bytes = Bytes::default().put(&[PROCESSOR, 0, 0x14, 3]).until(20);
    bytes = bytes.put(&[BUS, 0]).put(b"ISA   ");
    bytes = bytes.put(&[IO, IO_APIC_ID as u8, 0x11, 1]).u32(IO_APIC);
    let mut count = 3;
    let mut add = |kind, what, flags, irq, to, pin| {
        let entry = core::mem::take(&mut bytes).put(&[kind, what]).u16(flags);
        bytes = entry.put(&[0, irq, to, pin]);
        count += 1;
    };
    let io = IO_APIC_ID as u8;
    add(IO_INTERRUPT, EXTERNAL, AS_BUS, 0, io, 0);
    for irq in (0..16).filter(|&irq| irq != CASCADE) {
        let pin = if irq == line::TIMER { TIMER_PIN } else { irq };
        let flags = if irq == line::SCI { HIGH_LEVEL } else { AS_BUS };
        add(IO_INTERRUPT, VECTORED, flags, irq, io, pin);
    }
    add(LOCAL_INTERRUPT, EXTERNAL, AS_BUS, 0, ALL, 0);
    add(LOCAL_INTERRUPT, NMI, AS_BUS, 0, ALL, 1);
    (count, bytes)
}

#[cfg(test)]
mod tests {
    use super::super::bytes::sum;
    use super::*;

    #[test]
    fn pointer_and_table_add_up_to_zero_and_the_entries_fill_the_table() {
        assert_eq!(sum(&pointer()), 0);
        let table = configuration();
        assert_eq!(sum(&table), 0);
        assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
        let (mut at, mut count) = (HEADER_BYTES, 0);
        while at < table.len() {
            at += if table[at] == PROCESSOR { 20 } else { 8 };
            count += 1;
        }
        assert_eq!((at, count), (table.len(), u16::from_le_bytes([table[34], table[35]])));
    }

    #[test]
    fn every_line_leads_to_one_input() {
        let table = configuration();
        let lines = table[HEADER_BYTES + 36..].chunks(8);
        let lines = lines.filter(|entry| entry[..2] == [IO_INTERRUPT, VECTORED]);
        let mut pins: Vec<u8> = lines.map(|entry| entry[7]).collect();
        pins.sort_unstable();
        assert_eq!(pins, (1..16).collect::<Vec<u8>>());
    }
}
