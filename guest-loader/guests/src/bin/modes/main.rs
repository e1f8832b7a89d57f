//! Processor modes: 64-bit, compatibility, 32-bit protected, 16-bit protected, real and
//! back again, twenty times, with a check of what each mode sees.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "leaves long mode and comes back")]

use core::arch::global_asm;

use anchorite_guests::instructions::{cpuid, rdmsr};
use anchorite_guests::{BootInfo, Report, Status, entry, memory};

entry!(run);

global_asm!(include_str!("switch.s"), options(att_syntax));

unsafe extern "C" {
    static modes_start: u8;
    static modes_results: u8;
    static modes_end: u8;
}

/// Where the code is copied to: reached from real mode, and free on a PC.
const LOW: u64 = 0x8000;
const ROUNDS: u32 = 20;
const EFER: u32 = 0xc000_0080;
const EFER_LME: u32 = 1 << 8;
const EFER_LMA: u32 = 1 << 10;
/// The first word of this guest's image at 1 MiB: its multiboot header's magic.
const IMAGE_START: u32 = 0x1bad_b002;

fn run(_boot: &BootInfo) -> Status {
    let mut report = Report::new("modes");
    let efer = rdmsr(EFER).unwrap_or(0);
    for _ in 0..ROUNDS {
        copy();
        // SAFETY: the code was just copied there; it keeps the registers that the
        // calling convention asks for and returns in 64-bit mode, interrupts off.
        unsafe { core::mem::transmute::<u64, extern "C" fn()>(LOW)() };
        check(&mut report, efer as u32);
    }
    report.finish()
}

/// Copies the code and its empty results to [`LOW`].
fn copy() {
    let start = &raw const modes_start as u64;
    for offset in 0..&raw const modes_end as u64 - start {
        memory::write(LOW + offset, memory::read::<u8>(start + offset));
    }
}

fn check(report: &mut Report, efer: u32) {
    let first = LOW + (&raw const modes_results as u64 - &raw const modes_start as u64);
    let result = |index: u64| memory::read::<u32>(first + 4 * index);
    report.equal("compatibility mode pushes 4 bytes", result(0), 0x1111_1111);
    report.equal("EFER.LMA without paging", result(1) & (EFER_LME | EFER_LMA), EFER_LME);
    report.equal("EFER without LME", result(2), efer & !(EFER_LME | EFER_LMA));
    report.equal("CR0.PE in real mode", result(3) & 1, 0);
    report.equal("a segment counts in paragraphs", result(4), 0x2222_2222);
    report.equal("interrupts in real mode", result(5), 1);
    report.equal("CPUID in real mode", result(6), cpuid(0, 0).ebx);
    report.equal("1 MiB from big real mode", result(7), IMAGE_START);
    report.equal("CR0.PG and PE in protected mode", result(8) & 0x8000_0001, 1);
    report.equal("EFER back in long mode", result(9), efer);
    report.equal("KiB of conventional memory by INT 12h", result(10), 639);
    report.equal("INT 15h without such a service: CF, AH", result(11), 0x8601);
}
