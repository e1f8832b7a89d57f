//! ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, MADT and a DSDT that names soft-off.
//!
//! Source: ACPI Specification 6.4, 5.2 "ACPI System Description Tables", 7.4.2.6
//! "\_S5", 20.2 "AML Grammar Definition".

use super::bytes::Bytes;
use super::{IO_APIC, LOCAL_APIC};
use crate::devices::irq::{TIMER_PIN, line};
use crate::devices::{IO_APIC_ID, power};
use alloc::vec;
use alloc::vec::Vec;

/// Where the tables lie. The RSDP must be within the first 16 bytes of a paragraph of
/// the BIOS area, the FACS at a multiple of 64.
const RSDP: u32 = 0xf_0000;
const RSDT: u32 = 0xf_1000;
const XSDT: u32 = 0xf_1040;
const FACS: u32 = 0xf_1080;
const FADT: u32 = 0xf_1100;
const MADT: u32 = 0xf_1200;
const DSDT: u32 = 0xf_1300;

const HEADER_BYTES: usize = 36;
const OEM: &[u8; 6] = b"ANCHOR";
const OEM_TABLE: &[u8; 8] = b"ANCHORIT";

/// The port that resets the machine, and what is written to it.
const RESET_PORT: u16 = 0xcf9;
const RESET_VALUE: u8 = 0x06;
/// Offset in CMOS memory of the century.
const CENTURY: u8 = 0x32;
/// FADT, IA-PC boot architecture: legacy devices, keyboard controller.
const BOOT_ARCHITECTURE: u16 = 1 << 0 | 1 << 1;
/// FADT flags: WBINVD works, HLT works, no fixed power, sleep or clock event, the timer
/// has 32 bits, there is a reset register.
const FADT_FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10;
/// A latency above which a C-state does not exist.
const NO_C_STATE: u16 = 0xfff;
/// Offset of the FADT's 64-bit addresses, and its length with them (revision 3).
const FADT_WIDE: usize = 116;
const FADT_BYTES: usize = 244;
/// MADT: there is an 8259 pair as well.
const PC_AT_COMPATIBLE: u32 = 1;
/// MPS INTI flags: active high, level-triggered.
const HIGH_LEVEL: u16 = 0b1101;

/// All tables, by address.
pub(super) fn tables() -> Vec<(u32, Vec<u8>)> {
    vec![
        (RSDP, rsdp()),
        (RSDT, table(*b"RSDT", 1, &Bytes::default().u32(FADT).u32(MADT))),
        (XSDT, table(*b"XSDT", 1, &Bytes::default().u64(FADT.into()).u64(MADT.into()))),
        (FACS, facs()),
        (FADT, fadt()),
        (MADT, madt()),
        (DSDT, table(*b"DSDT", 2, &Bytes::default().put(&soft_off()))),
    ]
}

fn rsdp() -> Vec<u8> {
    let fields = Bytes::default().put(b"RSD PTR ").u8(0).put(OEM).u8(2).u32(RSDT);
    let fields = fields.u32(36).u64(XSDT.into()).u32(0);
    fields.checksum(8, 20).checksum(32, 36).0
}

fn facs() -> Vec<u8> {
    Bytes::default().put(b"FACS").u32(64).until(32).u8(1).until(64).0
}

/// `body` behind a header.
fn table(signature: [u8; 4], revision: u8, body: &Bytes) -> Vec<u8> {
    let length = HEADER_BYTES + body.0.len();
    let header = Bytes::default().put(&signature).u32(length as u32).u8(revision).u8(0);
    let header = header.put(OEM).put(OEM_TABLE).u32(1).put(b"ANCH").u32(1);
    header.put(&body.0).checksum(9, length).0
}

fn fadt() -> Vec<u8> {
    let at = |offset: usize| offset - HEADER_BYTES;
    let event = power::PORT;
    let control = power::PORT + power::CONTROL;
    let timer = power::PORT + power::TIMER;
    let fields = Bytes::default()
        .u32(FACS)
        .u32(DSDT)
        .u8(0)
        .u8(1)
        .u16(line::SCI.into())
        .until(at(56))
        .u32(event.into())
        .until(at(64))
        .u32(control.into())
        .until(at(76))
        .u32(timer.into())
        .until(at(88))
        .put(&[4, 2, 0, 4])
        .until(at(96))
        .u16(NO_C_STATE)
        .u16(NO_C_STATE)
        .until(at(108))
        .u8(CENTURY)
        .u16(BOOT_ARCHITECTURE)
        .until(at(112))
        .u32(FADT_FLAGS);
    let fields = port(fields.until(at(FADT_WIDE)), 8, RESET_PORT).u8(RESET_VALUE);
    let fields = fields.until(at(132)).u64(FACS.into()).u64(DSDT.into());
    let fields = port(fields, 32, event);
    let fields = port(fields.until(at(172)), 16, control);
    let fields = port(fields.until(at(208)), 32, timer);
    table(*b"FACP", 3, &fields.until(at(FADT_BYTES)))
}

/// A generic address: `bits` at a port.
fn port(bytes: Bytes, bits: u8, port: u16) -> Bytes {
    let access = bits.ilog2() as u8 - 2;
    bytes.u8(1).u8(bits).u8(0).u8(access).u64(port.into())
}

fn madt() -> Vec<u8> {
    let entries = Bytes::default().u32(LOCAL_APIC).u32(PC_AT_COMPATIBLE);
    // The processor: number, APIC identifier, enabled.
    let entries = entries.put(&[0, 8, 0, 0]).u32(1);
    let entries = entries.put(&[1, 12, IO_APIC_ID as u8, 0]).u32(IO_APIC).u32(0);
    // Lines whose input or trigger is not what an ISA line's is.
    let entries = entries.put(&[2, 10, 0, line::TIMER]).u32(TIMER_PIN.into()).u16(0);
    let entries = entries.put(&[2, 10, 0, line::SCI]).u32(line::SCI.into()).u16(HIGH_LEVEL);
    // NMI at LINT1 of every processor.
    table(*b"APIC", 1, &entries.put(&[4, 6, 0xff]).u16(0).u8(1))
}

/// `Name (_S5, Package () { SOFT_OFF, SOFT_OFF, 0, 0 })`.
fn soft_off() -> [u8; 16] {
    let [a, b, c, d] = *b"_S5_";
    let kind = power::SOFT_OFF;
    // NameOp, name; PackageOp, its length, four elements, each a BytePrefix and a byte.
    [0x08, a, b, c, d, 0x12, 0x0a, 4, 0x0a, kind, 0x0a, kind, 0x0a, 0, 0x0a, 0]
}

#[cfg(test)]
mod tests {
    use super::super::bytes::sum;
    use super::*;

    fn is_whole(table: &[u8]) -> bool {
        sum(table) == 0
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn every_table_is_as_long_as_it_says_and_adds_up_to_zero() {
        for (at, table) in tables() {
            if at == RSDP {
                assert!(is_whole(&table[..20]) && is_whole(&table));
                assert_eq!(word(&table, 20) as usize, table.len());
                continue;
            }
            assert_eq!(word(&table, 4) as usize, table.len(), "{at:#x}");
            assert!(at == FACS || is_whole(&table), "{at:#x}");
        }
    }

    #[test]
    fn the_pointers_lead_from_the_root_to_every_table() {
        let tables = tables();
        let signature = |at: u32| {
            let (_, table) = tables.iter().find(|(start, _)| *start == at).unwrap();
            (table[..4].to_vec(), table)
        };
        let (_, rsdp) = &tables[0];
        let (name, rsdt) = signature(word(rsdp, 16));
        assert_eq!(name, b"RSDT");
        let (name, xsdt) = signature(word(rsdp, 24));
        assert_eq!(name, b"XSDT");
        assert_eq!([36, 44].map(|at| word(xsdt, at)), [36, 40].map(|at| word(rsdt, at)));
        assert_eq!(signature(word(rsdt, 40)).0, b"APIC");
        let (name, fadt) = signature(word(rsdt, 36));
        assert_eq!(name, b"FACP");
        for (at, expected) in [(36, b"FACS"), (40, b"DSDT"), (132, b"FACS"), (140, b"DSDT")] {
            assert_eq!(signature(word(fadt, at)).0, expected);
        }
    }

    #[test]
    fn the_old_and_the_wide_addresses_of_the_fadt_agree() {
        let fadt = fadt();
        for (old, wide) in [(56, 148), (64, 172), (76, 208)] {
            assert_eq!(word(&fadt, old), word(&fadt, wide + 4), "{old}");
            assert_eq!(fadt[wide], 1, "a port");
        }
        assert_eq!((word(&fadt, 120), fadt[128]), (RESET_PORT.into(), RESET_VALUE));
    }

    #[test]
    fn the_entries_of_the_madt_fill_it() {
        let madt = madt();
        let mut at = 44;
        let mut kinds = Vec::new();
        while at < madt.len() {
            kinds.push(madt[at]);
            at += usize::from(madt[at + 1]);
        }
        assert_eq!((at, kinds.as_slice()), (madt.len(), &[0, 1, 2, 2, 4][..]));
    }
}
