//! Registers that features bring: segment bases, XCR0, TSC_AUX, MTRRs.

use crate::{CR4_FSGSBASE, CR4_OSXSAVE, UNDEFINED, area, refused, shows, with_cr4};
use anchorite_guests::instructions::{cpuid, rdmsr, wrmsr};
use anchorite_guests::trap::Exception;
use anchorite_guests::{Report, guarded};

const FS_BASE: u32 = 0xc000_0100;
const TSC_AUX: u32 = 0xc000_0103;
const MTRR_CAP: u32 = 0xfe;
const MTRR_FIRST_FIXED: u32 = 0x250;

fn write_fs_base(value: u64) -> Result<(), Exception> {
    // SAFETY: nothing uses FS; a fault is caught.
    unsafe { guarded!("wrfsbase {value}", value = in(reg) value) }
}

fn read_fs_base() -> Result<u64, Exception> {
    let mut value = 0u64;
    // SAFETY: only reads.
    unsafe { guarded!("rdfsbase {value}", value = inout(reg) value) }.map(|()| value)
}

pub(crate) fn bases(report: &mut Report) {
    report.same("WRFSBASE without FSGSBASE", write_fs_base(0), Err(UNDEFINED));
    with_cr4(report, CR4_FSGSBASE, |report| {
        report.same("WRFSBASE", write_fs_base(0x1234_5678_9abc), Ok(()));
        report.same("RDFSBASE", read_fs_base(), Ok(0x1234_5678_9abc));
        report.same("FS.base as MSR", rdmsr(FS_BASE), Ok(0x1234_5678_9abc));
        report.same("WRFSBASE back", write_fs_base(0), Ok(()));
    });
}

pub(crate) fn no_bases(report: &mut Report) {
    refused(report, CR4_FSGSBASE);
    report.same("WRFSBASE", write_fs_base(0), Err(UNDEFINED));
}

fn xgetbv() -> Result<u64, Exception> {
    let (mut low, mut high) = (0u32, 0u32);
    // SAFETY: only reads; a fault is caught.
    let read = unsafe { guarded!("xgetbv", in("ecx") 0, inout("eax") low, inout("edx") high) };
    read.map(|()| u64::from(high) << 32 | u64::from(low))
}

fn xsetbv(index: u32, value: u64) -> Result<(), Exception> {
    // SAFETY: which registers XSAVE moves concerns nobody here; a fault is caught.
    unsafe {
        guarded!("xsetbv", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
    }
}

pub(crate) fn xsave(report: &mut Report) {
    report.check("OSXSAVE is clear", !shows((1, 2, 27)));
    report.same("XGETBV without OSXSAVE", xgetbv(), Err(UNDEFINED));
    let states = cpuid(0xd, 0);
    let all = u64::from(states.edx) << 32 | u64::from(states.eax);
    with_cr4(report, CR4_OSXSAVE, |report| {
        report.check("OSXSAVE is set", shows((1, 2, 27)));
        report.same("XCR0 at first", xgetbv(), Ok(1));
        report.equal("the area at first", cpuid(0xd, 0).ebx, 576);
        report.same("all states", xsetbv(0, all), Ok(()));
        report.same("XCR0 reads back", xgetbv(), Ok(all));
        report.equal("the largest area", cpuid(0xd, 0).ebx, states.ecx);
        area::areas(report, all);
        for (index, value) in [(0, 0), (0, 2), (0, 1 | 1 << 62), (0, 1 | 1 << 4), (1, 1)] {
            let written = xsetbv(index, value);
            let refused = Err(Exception::PROTECTION);
            report.same(format_args!("XCR{index} = {value:#x}"), written, refused);
        }
        report.same("XCR0 after refused writes", xgetbv(), Ok(all));
        report.same("XCR0 goes back", xsetbv(0, 1), Ok(()));
    });
}

pub(crate) fn no_xsave(report: &mut Report) {
    refused(report, CR4_OSXSAVE);
    report.same("XGETBV", xgetbv(), Err(UNDEFINED));
    report.same("XSETBV", xsetbv(0, 1), Err(UNDEFINED));
    report.equal("leaf 0xd", cpuid(0xd, 0).eax | cpuid(0xd, 0).ecx, 0);
    report.check("AVX", !shows((1, 2, 28)));
}

/// ECX of RDTSCP.
fn read_aux() -> Result<u32, Exception> {
    let mut aux = 0u32;
    // SAFETY: only reads; a fault is caught.
    unsafe { guarded!("rdtscp", inout("ecx") aux, out("eax") _, out("edx") _) }.map(|()| aux)
}

pub(crate) fn rdtscp(report: &mut Report) {
    for value in [0x8765_4321, 0] {
        // SAFETY: only RDTSCP reads it.
        report.same("TSC_AUX", unsafe { wrmsr(TSC_AUX, value.into()) }, Ok(()));
        report.same("RDTSCP", read_aux(), Ok(value));
    }
    if anchorite_guests::machine::is_anchorite() {
        // SAFETY: must be refused.
        let wide = unsafe { wrmsr(TSC_AUX, 1 << 32) };
        report.same("TSC_AUX with 33 bits", wide, Err(Exception::PROTECTION));
    }
}

pub(crate) fn no_rdtscp(report: &mut Report, silent: bool) {
    report.same("TSC_AUX", rdmsr(TSC_AUX), Err(Exception::PROTECTION));
    if silent {
        return report.skip("RDTSCP", "this processor does not intercept it");
    }
    report.same("RDTSCP", read_aux(), Err(UNDEFINED));
}

pub(crate) fn mtrr(report: &mut Report) {
    report.check("MTRRcap", rdmsr(MTRR_CAP).is_ok());
    let fixed = rdmsr(MTRR_FIRST_FIXED);
    report.check("a fixed range", fixed.is_ok());
}

pub(crate) fn no_mtrr(report: &mut Report) {
    for index in [MTRR_CAP, MTRR_FIRST_FIXED, 0x200, 0x2ff] {
        let read = rdmsr(index);
        report.same(format_args!("MSR {index:#x}"), read, Err(Exception::PROTECTION));
    }
}

/// MONITOR of the stack.
pub(crate) fn monitor() -> Result<(), Exception> {
    let word = 0u64;
    // SAFETY: watches a word, if it does anything; a fault is caught.
    unsafe { guarded!("monitor", in("rax") &raw const word, in("ecx") 0, in("edx") 0) }
}
