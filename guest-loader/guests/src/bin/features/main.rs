//! Each feature that CPUID shows works, and each that it hides faults as on a processor
//! without it.
//!
//! Command line: `shown=` and `hidden=` name features, with commas in between, that must
//! or must not be shown here, so that no check is left out unseen. `silent=` names those
//! of which this processor does not raise each fault: it neither switches off nor
//! intercepts their instructions. `only=` leaves
//! out all others.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "uses privileged features; each block says why it is harmless")]

mod area;
mod paging;
mod rights;
mod state;
mod tables;
mod user;
mod x2apic;

use anchorite_guests::instructions::{cpuid, rdmsr, read_cr4, write_cr4};
use anchorite_guests::trap::{Exception, vector};
use anchorite_guests::{BootInfo, Report, Status, entry};

entry!(run);

/// One feature.
struct Feature {
    name: &'static str,
    /// Its CPUID bit: leaf, register (0 for EAX to 3 for EDX), number.
    bit: (u32, usize, u32),
    works: fn(&mut Report, silent: bool),
    faults: fn(&mut Report, silent: bool),
}

const FEATURES: &[Feature] = &[
    feature("lm", (0x8000_0001, 3, 29), paging::root_width, |_, _| {}),
    feature("pge", (1, 3, 13), |r, _| paging::global_pages(r), |r, _| refused(r, CR4_PGE)),
    feature("pse-36", (1, 3, 17), |r, _| paging::pse_36(r), |_, _| {}),
    feature("nx", (0x8000_0001, 3, 20), |r, _| rights::no_execute(r), |r, _| rights::no_nxe(r)),
    feature("smep", (7, 1, 7), |r, _| rights::smep(r), |r, _| refused(r, CR4_SMEP)),
    feature("smap", (7, 1, 20), |r, _| rights::smap(r), |r, _| refused(r, CR4_SMAP)),
    feature("pku", (7, 2, 3), |r, _| rights::protection_keys(r), |r, _| rights::no_keys(r)),
    feature("umip", (7, 2, 2), |r, _| rights::umip(r), |r, _| refused(r, CR4_UMIP)),
    feature("fsgsbase", (7, 1, 0), |r, _| state::bases(r), |r, _| state::no_bases(r)),
    feature("xsave", (1, 2, 26), |r, _| state::xsave(r), |r, _| state::no_xsave(r)),
    feature("rdtscp", (0x8000_0001, 3, 27), |r, _| state::rdtscp(r), state::no_rdtscp),
    feature("pcid", (1, 2, 17), |r, _| paging::pcids(r), |r, _| refused(r, CR4_PCIDE)),
    feature("invpcid", (7, 1, 10), |r, _| paging::invpcid(r), |r, _| paging::no_invpcid(r)),
    feature("pdpe1gb", (0x8000_0001, 3, 26), |r, _| paging::gigabyte(r), paging::no_gigabyte),
    feature("la57", (7, 2, 16), |r, _| paging::five_levels(r), |r, _| paging::four_levels(r)),
    feature("mtrr", (1, 3, 12), |r, _| state::mtrr(r), |r, _| state::no_mtrr(r)),
    feature("x2apic", (1, 2, 21), |r, _| x2apic::works(r), |r, _| x2apic::faults(r)),
];

pub(crate) const CR4_PSE: u64 = 1 << 4;
pub(crate) const CR4_PAE: u64 = 1 << 5;
pub(crate) const CR4_PGE: u64 = 1 << 7;
pub(crate) const CR4_UMIP: u64 = 1 << 11;
pub(crate) const CR4_LA57: u64 = 1 << 12;
pub(crate) const CR4_FSGSBASE: u64 = 1 << 16;
pub(crate) const CR4_PCIDE: u64 = 1 << 17;
pub(crate) const CR4_OSXSAVE: u64 = 1 << 18;
pub(crate) const CR4_SMEP: u64 = 1 << 20;
pub(crate) const CR4_SMAP: u64 = 1 << 21;
pub(crate) const CR4_PKE: u64 = 1 << 22;

/// #UD.
pub(crate) const UNDEFINED: Exception = Exception { vector: vector::INVALID_OPCODE, error: 0 };

const fn feature(
    name: &'static str,
    bit: (u32, usize, u32),
    works: fn(&mut Report, bool),
    faults: fn(&mut Report, bool),
) -> Feature {
    Feature { name, bit, works, faults }
}

fn run(boot: &BootInfo) -> Status {
    let mut report = Report::new("features");
    tables::init();
    let listed = |list: &str, name: &str| {
        boot.argument(list).is_some_and(|names| names.split(',').any(|word| word == name))
    };
    for feature in FEATURES {
        let (name, shown) = (feature.name, shows(feature.bit));
        if boot.argument("only").is_some() && !listed("only", name) {
            continue;
        }
        if listed("shown", name) || listed("hidden", name) {
            report.same(format_args!("CPUID shows {name}"), shown, listed("shown", name));
        }
        let checks = if shown { feature.works } else { feature.faults };
        checks(&mut report, listed("silent", name));
    }
    rights::privileged(&mut report);
    never_shown(&mut report);
    report.finish()
}

/// Whether CPUID shows a bit.
pub(crate) fn shows((leaf, register, bit): (u32, usize, u32)) -> bool {
    let value = cpuid(leaf, 0);
    let last = cpuid(leaf & 0x8000_0000, 0).eax;
    leaf <= last && [value.eax, value.ebx, value.ecx, value.edx][register] >> bit & 1 == 1
}

/// Does `body` with bits of CR4 set that must be settable.
pub(crate) fn with_cr4(report: &mut Report, bits: u64, body: impl FnOnce(&mut Report)) {
    let before = read_cr4();
    // SAFETY: the caller's bits, and the pages in use are supervisor's and have no key.
    let written = unsafe { write_cr4(before | bits) };
    report.same(format_args!("CR4 takes {bits:#x}"), written, Ok(()));
    if written.is_ok() {
        report.equal("CR4 reads back", read_cr4(), before | bits);
        body(report);
    }
    // SAFETY: as it was.
    let restored = unsafe { write_cr4(before) };
    report.same("CR4 goes back", restored, Ok(()));
}

/// A bit of CR4 that is hidden.
pub(crate) fn refused(report: &mut Report, bits: u64) {
    let before = read_cr4();
    // SAFETY: must be refused; one that is taken by mistake is taken back.
    let written = unsafe { write_cr4(before | bits) };
    report.same(format_args!("CR4 with {bits:#x}"), written, Err(Exception::PROTECTION));
    report.equal("CR4 after a refused write", read_cr4(), before);
    // SAFETY: as it was.
    let _ = unsafe { write_cr4(before) };
}

/// What no guest is shown: MONITOR, IA32_XSS and the speculation controls' MSRs.
fn never_shown(report: &mut Report) {
    if !anchorite_guests::machine::is_anchorite() {
        return report.skip("what Anchorite never shows", "this is another machine");
    }
    report.check("MONITOR is hidden", !shows((1, 2, 3)));
    report.same("MONITOR", state::monitor(), Err(UNDEFINED));
    for index in [0x48, 0x49, 0x10a, 0xda0] {
        report.same(format_args!("MSR {index:#x}"), rdmsr(index), Err(Exception::PROTECTION));
    }
}
