//! Memory-mapped I/O: every instruction that a driver may use on a device register
//! does to the test device what it does to RAM.
//!
//! Each instruction runs twice from the same registers and the same 128 bytes: once on
//! RAM, where the processor itself executes it, once on the device's scratch bytes,
//! where the hypervisor emulates it. Registers, flags and all 128 bytes must agree.
//! On a bare machine RAM stands in for the device, which checks the guest itself.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "executes chosen instructions on chosen addresses")]

mod operations;

use core::sync::atomic::{AtomicU64, Ordering};

use anchorite_guests::abi::mmio::{
    DEVICE, ID, ID_VALUE, LAST_ACCESS, READS, SCRATCH_BYTES, WRITES, last_access,
};
use anchorite_guests::{BootInfo, Report, Status, entry, machine, memory};
use operations::{OPERATIONS, Operation, Registers};

entry!(run);

const WORDS: usize = SCRATCH_BYTES as usize / 8;

/// RAM that an operation runs on, as large as the device's scratch.
static RAM: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// RAM that stands in for the device on a bare machine.
static STAND_IN: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// Memory contents that operations start from: mixed, all ones, all zeroes.
const FILLS: [u64; 3] = [0x8765_4321_0fed_cba9, u64::MAX, 0];

fn run(_boot: &BootInfo) -> Status {
    let mut report = Report::new("mmio");
    let device = device(&mut report);
    for operation in OPERATIONS {
        for fill in FILLS {
            for flags in [0x2, 0x3] {
                compare(&mut report, operation, device, fill, flags);
            }
        }
    }
    if device == DEVICE {
        widths(&mut report);
        counters(&mut report);
        outside_the_registers(&mut report);
    }
    report.finish()
}

/// The address of the device, or of its stand-in.
fn device(report: &mut Report) -> u64 {
    if !machine::is_anchorite() {
        report.skip("the test device", "bare machine; RAM stands in for it");
        return STAND_IN.as_ptr() as u64;
    }
    report.equal("the device's identification", memory::read(DEVICE + ID), ID_VALUE);
    DEVICE
}

/// Runs `operation` on RAM and on the device.
fn compare(report: &mut Report, operation: &Operation, device: u64, fill: u64, flags: u64) {
    let ram = RAM.as_ptr() as u64;
    let on_ram = execute(operation, ram, fill, flags);
    let on_device = execute(operation, device, fill, flags);
    let name = operation.name;
    report.same(format_args!("{name} on {fill:#x}: registers"), on_device.0, on_ram.0);
    let flags = (on_device.1 & operation.flags, on_ram.1 & operation.flags);
    report.equal(format_args!("{name} on {fill:#x}: flags"), flags.0, flags.1);
    for word in 0..WORDS {
        let (got, want) = (word_at(device, word), word_at(ram, word));
        report.equal(format_args!("{name} on {fill:#x}: word {word}"), got, want);
    }
}

/// The registers, with addresses made relative, and the flags after `operation` ran on
/// 128 bytes at `address`.
fn execute(operation: &Operation, address: u64, fill: u64, flags: u64) -> (Registers, u64) {
    for word in 0..WORDS {
        set_word(address, word, fill.rotate_left(8 * word as u32));
    }
    let mut registers = Registers::at(address, fill);
    // SAFETY: the operations touch only the 128 bytes at `address`, which are atomics
    // of this file or the device's scratch.
    let flags = unsafe { (operation.execute)(&mut registers, flags) };
    (registers.relative_to(address), flags)
}

fn word_at(address: u64, word: usize) -> u64 {
    memory::read(address + 8 * word as u64)
}

fn set_word(address: u64, word: usize, value: u64) {
    if address == DEVICE {
        memory::write(address + 8 * word as u64, value);
    } else {
        let words = if address == RAM.as_ptr() as u64 { &RAM } else { &STAND_IN };
        words[word].store(value, Ordering::SeqCst);
    }
}

/// Reads and writes of each width at each alignment, as the device saw them.
fn widths(report: &mut Report) {
    for offset in [0, 1, 3, 7, 0x40, 0x78] {
        width::<u8>(report, offset, 0x5a, 1);
        width::<u16>(report, offset, 0x5aa5, 2);
        width::<u32>(report, offset, 0x1234_5678, 4);
        width::<u64>(report, offset, 0x0123_4567_89ab_cdef, 8);
    }
}

fn width<T>(report: &mut Report, offset: u64, value: T, bytes: u64)
where
    T: memory::Plain + PartialEq + core::fmt::LowerHex,
{
    if offset + bytes > SCRATCH_BYTES {
        return;
    }
    let seen = || memory::read::<u64>(DEVICE + LAST_ACCESS);
    memory::write(DEVICE + offset, value);
    report.equal("a write as seen", seen(), last_access(offset, bytes, true));
    report.equal("a value read back", memory::read::<T>(DEVICE + offset), value);
    report.equal("a read as seen", seen(), last_access(offset, bytes, false));
}

/// Each access reaches the device exactly once.
fn counters(report: &mut Report) {
    let counts = || (memory::read::<u64>(DEVICE + READS), memory::read::<u64>(DEVICE + WRITES));
    for (name, reads, writes) in [
        ("mov eax, [rdi]", 1, 0),
        ("mov [rdi], eax", 0, 1),
        ("add [rdi], eax", 1, 1),
        ("lock xadd [rdi], eax", 1, 1),
        ("rep stosd, 4 times", 0, 4),
        ("rep movsd, 4 times", 4, 4),
    ] {
        let Some(operation) = OPERATIONS.iter().find(|operation| operation.name == name) else {
            report.check(format_args!("{name} is among the operations"), false);
            continue;
        };
        memory::write(DEVICE + READS, 0u64);
        memory::write(DEVICE + WRITES, 0u64);
        let mut registers = Registers::at(DEVICE, 0);
        // SAFETY: as in `execute`.
        unsafe { (operation.execute)(&mut registers, 0x2) };
        report.same(format_args!("{name}: reads and writes"), counts(), (reads, writes));
    }
}

/// The rest of the page reads all ones, ignores writes and counts nothing.
fn outside_the_registers(report: &mut Report) {
    memory::write(DEVICE + READS, 0u64);
    memory::write(DEVICE + 0x800, 0u32);
    report.equal("an unused register", memory::read::<u32>(DEVICE + 0x800), u32::MAX);
    report.equal("the page's last byte", memory::read::<u8>(DEVICE + 0xfff), 0xff);
    report.equal("a read across the end of scratch", memory::read::<u16>(DEVICE + 0x7f), 0xffff);
    report.equal("none of these counts", memory::read::<u64>(DEVICE + READS), 0);
    memory::write(DEVICE + ID, 0u64);
    report.equal("the identification is read-only", memory::read(DEVICE + ID), ID_VALUE);
}
