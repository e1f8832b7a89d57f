//! Model-specific registers: known ones keep what is written, unknown ones and bad
//! values raise #GP(0).
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "writes MSRs; each write says why it is harmless")]

use anchorite_guests::instructions::{cpuid, rdmsr, wrmsr};
use anchorite_guests::trap::Exception;
use anchorite_guests::{BootInfo, Report, Status, entry, machine};

entry!(run);

const TSC: u32 = 0x10;
const PAT: u32 = 0x277;
const SYSENTER: [u32; 3] = [0x174, 0x175, 0x176];
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

const EFER_SCE: u64 = 1 << 0;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
/// Reserved in EFER on every processor.
const EFER_RESERVED: u64 = 1 << 9;
/// Reserved memory type in entry 0 of the PAT.
const PAT_RESERVED: u64 = 0x0007_0406_0007_0402;
/// Neither 47 nor 56 sign bits.
const NON_CANONICAL: u64 = 0x1234_5678_9abc_def0;
const CANONICAL_HIGH: u64 = 0xffff_8123_4567_89a0;

/// Numbers that no processor defines.
const UNKNOWN: [u32; 5] = [0x3fff_0000, 0x0000_1fff, 0xc000_1fff, 0x8000_0000, 0xffff_ffff];

fn run(_boot: &BootInfo) -> Status {
    let mut report = Report::new("msr");
    round_trips(&mut report);
    canonical_checks(&mut report);
    efer(&mut report);
    pat(&mut report);
    tsc(&mut report);
    unknown(&mut report);
    report.finish()
}

/// Registers that this guest's code does not depend on: segment bases (nothing uses
/// FS or GS), syscall and sysenter targets (nothing executes those).
fn round_trips(report: &mut Report) {
    let registers =
        [STAR, LSTAR, CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE, SYSENTER[1], SYSENTER[2]];
    for index in registers {
        for value in [0, 0x1122_3344, CANONICAL_HIGH] {
            round_trip(report, index, value);
        }
    }
    round_trip(report, STAR, 0xfedc_ba98_7654_3210);
    round_trip(report, SFMASK, 0x0000_0000_0004_7700);
    round_trip(report, SYSENTER[0], 0x10);
    if cpuid(0x8000_0001, 0).edx & 1 << 27 != 0 {
        round_trip(report, TSC_AUX, 0x8765_4321);
    } else {
        report.skip("TSC_AUX", "no RDTSCP");
    }
}

fn round_trip(report: &mut Report, index: u32, value: u64) {
    let Ok(before) = rdmsr(index) else {
        return report.check(format_args!("MSR {index:#x} can be read"), false);
    };
    // SAFETY: nothing here depends on these registers (see `round_trips`).
    let written = unsafe { wrmsr(index, value) };
    report.same(format_args!("write MSR {index:#x} = {value:#x}"), written, Ok(()));
    report.same(format_args!("MSR {index:#x}"), rdmsr(index), Ok(value));
    // SAFETY: the value it had.
    let restored = unsafe { wrmsr(index, before) };
    report.same(format_args!("restore MSR {index:#x}"), restored, Ok(()));
}

/// Writes `value` to `index`, which must raise #GP(0) and leave the register alone.
fn refused(report: &mut Report, index: u32, value: u64) {
    let before = rdmsr(index);
    // SAFETY: a value that the processor must refuse; a failed check restores it.
    let written = unsafe { wrmsr(index, value) };
    report.same(
        format_args!("write MSR {index:#x} = {value:#x}"),
        written,
        Err(Exception::PROTECTION),
    );
    if let (Ok(()), Ok(before)) = (written, before) {
        // SAFETY: the value it had.
        let _ = unsafe { wrmsr(index, before) };
    }
    report.same(format_args!("MSR {index:#x} after a refused write"), rdmsr(index), before);
}

fn canonical_checks(report: &mut Report) {
    if stores_anything(LSTAR) {
        let why = "this processor stores them unchecked, as QEMU's emulation does";
        return report.skip("non-canonical addresses", why);
    }
    for index in [LSTAR, CSTAR, FS_BASE, GS_BASE, KERNEL_GS_BASE] {
        refused(report, index, NON_CANONICAL);
    }
}

/// Whether a write of a non-canonical address is stored as it is: a processor that
/// does so, real or emulated, is not the hypervisor's to correct.
fn stores_anything(index: u32) -> bool {
    let before = rdmsr(index).unwrap_or(0);
    // SAFETY: nothing uses the syscall target; it is restored.
    let written = unsafe { wrmsr(index, NON_CANONICAL) };
    let stored = written.is_ok() && rdmsr(index) == Ok(NON_CANONICAL);
    // SAFETY: the value it had.
    let restored = unsafe { wrmsr(index, before) };
    stored && restored.is_ok()
}

fn efer(report: &mut Report) {
    let Ok(before) = rdmsr(EFER) else {
        return report.check("EFER can be read", false);
    };
    report.equal("EFER shows long mode", before & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
    for bit in [EFER_SCE, EFER_NXE] {
        round_trip(report, EFER, before ^ bit);
    }
    if machine::is_anchorite() {
        refused(report, EFER, before | EFER_RESERVED);
        refused(report, EFER, before & !EFER_LME);
    } else {
        report.skip("reserved bits of EFER", "bare machine, may not check them");
    }
    // SAFETY: LMA is not writable: the processor keeps it as it is.
    let _ = unsafe { wrmsr(EFER, before & !EFER_LMA) };
    report.same("EFER.LMA follows paging, not writes", rdmsr(EFER), Ok(before));
}

fn pat(report: &mut Report) {
    let Ok(before) = rdmsr(PAT) else {
        return report.skip("PAT", "not there");
    };
    // Entry 7 is used by no mapping of ours: uncacheable becomes write-combining.
    round_trip(report, PAT, before & !(0xff << 56) | 1 << 56);
    if machine::is_anchorite() {
        refused(report, PAT, PAT_RESERVED);
    }
}

fn tsc(report: &mut Report) {
    if !machine::is_anchorite() {
        return report.skip("the TSC as an MSR", "bare machine, may read it as 0");
    }
    let (first, second) = (rdmsr(TSC), rdmsr(TSC));
    report.check("the TSC can be read as an MSR", first.is_ok());
    report.check("the TSC moves forward", second.unwrap_or(0) > first.unwrap_or(u64::MAX));
}

fn unknown(report: &mut Report) {
    if !machine::is_anchorite() {
        return report.skip("unknown MSRs", "bare machine, may read them as 0");
    }
    for index in UNKNOWN {
        report.same(
            format_args!("read unknown MSR {index:#x}"),
            rdmsr(index),
            Err(Exception::PROTECTION),
        );
        // SAFETY: no processor gives these numbers a meaning.
        let written = unsafe { wrmsr(index, 0) };
        report.same(
            format_args!("write unknown MSR {index:#x}"),
            written,
            Err(Exception::PROTECTION),
        );
    }
}
