//! QEMU's configuration device.
#![expect(unsafe_code, reason = "hands the device the address of a buffer")]

use core::sync::atomic::{Ordering, fence};

use anchorite_guests::Report;
use anchorite_guests::instructions::{inb, inl, outl, outw};

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA_HIGH: u16 = 0x514;
const DMA_LOW: u16 = 0x518;

const SIGNATURE: u16 = 0;
const ID: u16 = 1;
const RAM_SIZE: u16 = 3;
const CPUS: u16 = 5;
const DIRECTORY: u16 = 0x19;
/// No item has this number.
const ABSENT: u16 = 0x3fff;

const ERROR: u32 = 1;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;

/// A file that the matrix adds, and its contents.
const OWN_NAME: &[u8] = b"opt/org.anchorite/test";
const OWN_TEXT: &[u8] = b"forty-two";
/// Bytes of a file that are compared.
const COMPARED: usize = 512;

pub(crate) fn is_there() -> bool {
    read(SIGNATURE) == *b"QEMU"
}

fn read<const N: usize>(key: u16) -> [u8; N] {
    outw(SELECTOR, key);
    [(); N].map(|()| inb(DATA))
}

/// A command, all big-endian.
#[repr(C, align(16))]
struct Command {
    control: u32,
    length: u32,
    address: u64,
}

/// Has the device carry out a command on `buffer`; gives what became of its control field.
fn command(control: u32, buffer: &mut [u8]) -> u32 {
    let mut command = Command {
        control: control.to_be(),
        length: (buffer.len() as u32).to_be(),
        address: (buffer.as_mut_ptr().addr() as u64).to_be(),
    };
    let at = (&raw mut command).addr() as u64;
    fence(Ordering::SeqCst);
    outl(DMA_HIGH, ((at >> 32) as u32).to_be());
    outl(DMA_LOW, (at as u32).to_be());
    fence(Ordering::SeqCst);
    // SAFETY: the field is valid; volatile, because the device has written it.
    u32::from_be(unsafe { (&raw const command.control).read_volatile() })
}

/// The same bytes of an item by DMA.
fn read_by_dma<const N: usize>(report: &mut Report, key: u16) -> [u8; N] {
    let mut bytes = [0xee; N];
    let left = command(READ | SELECT | u32::from(key) << 16, &mut bytes);
    report.equal(format_args!("a command that reads {key:#x} leaves"), left, 0);
    bytes
}

pub(crate) fn check(report: &mut Report) {
    report.equal("it offers DMA", u32::from_le_bytes(read(ID)), 3);
    report.equal("one processor, and zeroes behind", u32::from_le_bytes(read(CPUS)), 1);
    let ram = u64::from_le_bytes(read(RAM_SIZE));
    report.check("it tells of RAM", ram > 0 && ram % (1 << 20) == 0);
    let by_dma = u64::from_le_bytes(read_by_dma(report, RAM_SIZE));
    report.equal("and the same by DMA", by_dma, ram);
    report.check("what is not there reads as zeroes", read::<8>(ABSENT) == [0; 8]);
    let absent = read_by_dma::<8>(report, ABSENT);
    report.check("by DMA too", absent == [0; 8]);
    let dma = [inl(DMA_HIGH), inl(DMA_LOW)].map(u32::to_le_bytes);
    report.check("its DMA register says what it is", dma == [*b"QEMU", *b" CFG"]);
    commands(report);
    directory(report);
}

fn commands(report: &mut Report) {
    outw(SELECTOR, SIGNATURE);
    report.equal("a skip leaves", command(SKIP, &mut [0; 2]), 0);
    report.equal("and goes on to", inb(DATA), b'M');
    let refused = command(WRITE | SELECT | u32::from(SIGNATURE) << 16, &mut [0; 4]);
    report.equal("a write leaves", refused & ERROR, ERROR);
    report.check("and writes nothing", read(SIGNATURE) == *b"QEMU");
}

/// Names in order, and each file the same by ports and by DMA.
fn directory(report: &mut Report) {
    let count = u32::from_be_bytes(read(DIRECTORY));
    let mut last = [0; 56];
    for index in 0..count {
        let mut entry = [0; 64];
        outw(SELECTOR, DIRECTORY);
        let skipped = command(SKIP, &mut []);
        let offset = 4 + 64 * index;
        (0..offset).for_each(|_| {
            inb(DATA);
        });
        let listed = command(READ, &mut entry);
        report.check("the directory is read", skipped == 0 && listed == 0);
        let name: [u8; 56] = core::array::from_fn(|at| entry[8 + at]);
        report.check("names are in order", index == 0 || last < name);
        last = name;
        file(report, u16::from_be_bytes([entry[4], entry[5]]), &name);
    }
}

fn file(report: &mut Report, key: u16, name: &[u8]) {
    let by_ports = read::<COMPARED>(key);
    let by_dma = read_by_dma::<COMPARED>(report, key);
    report.check(format_args!("file {key:#x} by ports and by DMA"), by_ports == by_dma);
    if name.strip_prefix(OWN_NAME).is_some_and(|rest| rest[0] == 0) {
        anchorite_guests::println!("devices: fw_cfg has our file");
        report.check("our file", by_ports.starts_with(OWN_TEXT) && by_ports[OWN_TEXT.len()] == 0);
    }
}
