//! Rights of pages and of instructions: NX, SMEP, SMAP, protection keys, UMIP.

use crate::tables::{self, NO_EXECUTE, USER, WRITABLE, map, mark};
use crate::{CR4_PKE, CR4_SMAP, CR4_SMEP, CR4_UMIP, UNDEFINED, refused, shows, user, with_cr4};
use anchorite_guests::instructions::{rdmsr, read_cr0, write_cr0, wrmsr};
use anchorite_guests::trap::{Exception, vector};
use anchorite_guests::{Report, guarded};
use core::arch::asm;

const EFER: u32 = 0xc000_0080;
const EFER_NXE: u64 = 1 << 11;
const CR0_WP: u64 = 1 << 16;
/// JMP RAX.
const JUMP_BACK: u64 = 0xe0ff;

const fn page_fault(error: u32) -> Exception {
    Exception { vector: vector::PAGE_FAULT, error }
}

/// Reads a word.
pub(crate) fn load(address: u64) -> Result<u64, Exception> {
    let mut value = 0u64;
    // SAFETY: reads a word; a fault is caught.
    unsafe {
        guarded!("mov {value}, [{address}]", value = inout(reg) value, address = in(reg) address)
    }
    .map(|()| value)
}

/// Writes a word that it holds already.
fn store(address: u64, value: u64) -> Result<(), Exception> {
    // SAFETY: writes to a page of ours; a fault is caught.
    unsafe {
        guarded!("mov [{address}], {value}", value = in(reg) value, address = in(reg) address)
    }
}

/// Executes the page at `address`, which holds [`JUMP_BACK`].
fn execute(address: u64) -> Result<(), Exception> {
    // SAFETY: that instruction comes back to the label; a fault is caught.
    unsafe {
        guarded!("lea rax, [rip + 3f]\njmp {target}\n3:", target = in(reg) address, out("rax") _)
    }
}

/// A page of code.
fn code(flags: u64) -> u64 {
    tables::put(tables::page(3), JUMP_BACK);
    map(3, 3, WRITABLE | flags)
}

pub(crate) fn no_execute(report: &mut Report) {
    let before = rdmsr(EFER).unwrap_or(0);
    // SAFETY: no page in use has bit 63 set.
    report.same("EFER takes NXE", unsafe { wrmsr(EFER, before | EFER_NXE) }, Ok(()));
    report.same("a page without NX", execute(code(0)), Ok(()));
    report.same("a page with NX", execute(code(NO_EXECUTE)), Err(page_fault(0x11)));
    code(0);
    // SAFETY: as it was.
    report.same("EFER goes back", unsafe { wrmsr(EFER, before) }, Ok(()));
}

pub(crate) fn no_nxe(report: &mut Report) {
    let before = rdmsr(EFER).unwrap_or(0);
    // SAFETY: must be refused.
    let written = unsafe { wrmsr(EFER, before | EFER_NXE) };
    report.same("EFER with NXE", written, Err(Exception::PROTECTION));
}

pub(crate) fn smep(report: &mut Report) {
    let (own, users) = (code(0), map(2, 3, WRITABLE | USER));
    report.same("a user's code without SMEP", execute(users), Ok(()));
    with_cr4(report, CR4_SMEP, |report| {
        report.same("a user's code", execute(users), Err(page_fault(0x11)));
        report.same("the kernel's code", execute(own), Ok(()));
        report.check("a user's data", load(users).is_ok());
    });
    report.same("a user's code after SMEP", execute(users), Ok(()));
}

pub(crate) fn smap(report: &mut Report) {
    let (own, users) = (map(0, 0, WRITABLE), map(1, 1, WRITABLE | USER));
    report.same("a user's data without SMAP", load(users), Ok(mark(1)));
    with_cr4(report, CR4_SMAP, |report| {
        report.same("a user's data", load(users), Err(page_fault(1)));
        report.same("writing it", store(users, mark(1)), Err(page_fault(3)));
        report.same("the kernel's data", load(own), Ok(mark(0)));
        // SAFETY: SMAP is there, and so is STAC.
        unsafe { asm!("stac", options(nostack)) };
        report.same("a user's data with AC", load(users), Ok(mark(1)));
        report.same("writing it with AC", store(users, mark(1)), Ok(()));
        // SAFETY: as above.
        unsafe { asm!("clac", options(nostack)) };
        report.same("a user's data after AC", load(users), Err(page_fault(1)));
    });
    report.same("a user's data after SMAP", load(users), Ok(mark(1)));
}

/// Key 1 of a page, and its two bits in PKRU.
const KEY: u64 = 1 << 59;
const ACCESS_DISABLED: u32 = 1 << 2;
const WRITE_DISABLED: u32 = 1 << 3;

fn set_pkru(value: u32) -> Result<(), Exception> {
    // SAFETY: only pages with a key obey it; a fault is caught.
    unsafe { guarded!("wrpkru", in("eax") value, in("ecx") 0, in("edx") 0) }
}

pub(crate) fn protection_keys(report: &mut Report) {
    let (keyed, plain) = (map(1, 1, WRITABLE | USER | KEY), map(2, 2, WRITABLE | USER));
    report.check("OSPKE is clear", !shows((7, 2, 4)));
    with_cr4(report, CR4_PKE, |report| {
        report.check("OSPKE is set", shows((7, 2, 4)));
        report.same("all keys open", set_pkru(0), Ok(()));
        report.same("a page with a key", load(keyed), Ok(mark(1)));
        report.same("access disabled", set_pkru(ACCESS_DISABLED), Ok(()));
        report.same("reading it", load(keyed), Err(page_fault(0x21)));
        report.same("writing it", store(keyed, mark(1)), Err(page_fault(0x23)));
        report.same("a page without a key", load(plain), Ok(mark(2)));
        report.same("writing disabled", set_pkru(WRITE_DISABLED), Ok(()));
        report.same("reading it then", load(keyed), Ok(mark(1)));
        report.same("the kernel writes it", store(keyed, mark(1)), Ok(()));
        let cr0 = read_cr0();
        // SAFETY: all pages that are written are writable.
        let written = unsafe { write_cr0(cr0 | CR0_WP) };
        report.same("CR0 takes WP", written, Ok(()));
        report.same("writing it with WP", store(keyed, mark(1)), Err(page_fault(0x23)));
        // SAFETY: as it was.
        let _ = unsafe { write_cr0(cr0) };
        report.same("all keys open again", set_pkru(0), Ok(()));
        report.same("and the page too", load(keyed), Ok(mark(1)));
    });
    map(1, 1, WRITABLE | USER);
}

pub(crate) fn no_keys(report: &mut Report) {
    refused(report, CR4_PKE);
    report.same("WRPKRU", set_pkru(0), Err(UNDEFINED));
}

pub(crate) fn umip(report: &mut Report) {
    let instructions = [
        ("SGDT", [0x0f, 0x01, 0x44, 0x24, 0xe0]),
        ("SIDT", [0x0f, 0x01, 0x4c, 0x24, 0xe0]),
        ("SLDT", [0x0f, 0x00, 0x44, 0x24, 0xe0]),
        ("STR", [0x0f, 0x00, 0x4c, 0x24, 0xe0]),
        ("SMSW", [0x0f, 0x01, 0x64, 0x24, 0xe0]),
    ];
    for (name, bytes) in instructions {
        let vector = user::vector_of(&bytes);
        report.equal(format_args!("a user's {name} without UMIP"), vector, vector::INVALID_OPCODE);
    }
    with_cr4(report, CR4_UMIP, |report| {
        for (name, bytes) in instructions {
            let vector = user::vector_of(&bytes);
            report.equal(format_args!("a user's {name}"), vector, vector::PROTECTION);
        }
        let mut word = 0u32;
        // SAFETY: stores the machine status word in a register.
        let kernel = unsafe { guarded!("smsw {word:e}", word = inout(reg) word) };
        report.same("the kernel's SMSW", kernel, Ok(()));
        report.equal("and what it stores", word & 1, 1);
    });
}

/// What a user may not execute, whatever the processor has: each is refused before it does
/// anything, and before a hypervisor that intercepts it hears of it.
pub(crate) fn privileged(report: &mut Report) {
    let instructions: [(&str, &[u8]); 8] = [
        ("INVLPG", &[0x0f, 0x01, 0x7c, 0x24, 0xe0]),
        ("read of CR3", &[0x0f, 0x20, 0xd8]),
        ("write of CR3", &[0x0f, 0x22, 0xd8]),
        ("CLTS", &[0x0f, 0x06]),
        ("HLT", &[0xf4]),
        ("RDMSR", &[0x0f, 0x32]),
        ("INVD", &[0x0f, 0x08]),
        ("WBINVD", &[0x0f, 0x09]),
    ];
    for (name, bytes) in instructions {
        let vector = user::vector_of(bytes);
        report.equal(format_args!("a user's {name}"), vector, vector::PROTECTION);
    }
}
