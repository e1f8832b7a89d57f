//! Prints every CPUID leaf and checks that they agree with each other and with the
//! control registers.
#![no_std]
#![expect(unsafe_code, reason = "writes CR4")]
#![no_main]

use anchorite_guests::abi::CPUID_SIGNATURE_LEAF;
use anchorite_guests::instructions::{self, Cpuid, cpuid};
use anchorite_guests::{BootInfo, Report, Status, entry, machine, println};

entry!(run);

/// Leaves of one range printed at most: a broken maximum must not print for ever.
const MAX_LEAVES: u32 = 64;
const MAX_SUBLEAVES: u32 = 16;
/// Leaves whose subleaves are enumerated: caches, features, topology, XSAVE.
const WITH_SUBLEAVES: [u32; 5] = [4, 7, 0xb, 0xd, 0x8000_001d];
const HYPERVISOR_PRESENT: u32 = 1 << 31;
const OSXSAVE: u32 = 1 << 27;
const CR4_OSXSAVE: u64 = 1 << 18;
const PGE: u32 = 1 << 13;
const CR4_PGE: u64 = 1 << 7;

fn run(_boot: &BootInfo) -> Status {
    let mut report = Report::new("cpuid");
    for first in [0, CPUID_SIGNATURE_LEAF, 0x8000_0000] {
        dump(first);
    }
    check_ranges(&mut report);
    check_features(&mut report);
    report.finish()
}

fn dump(first: u32) {
    let last = cpuid(first, 0).eax;
    if last < first || last - first >= 0x1000_0000 {
        println!("cpuid: no leaves from {first:#x} on");
        return;
    }
    for leaf in first..=last.min(first + MAX_LEAVES - 1) {
        print_leaf(leaf, 0);
        let more = if WITH_SUBLEAVES.contains(&leaf) { MAX_SUBLEAVES } else { 1 };
        (1..more).filter(|&sub| !is_zero(cpuid(leaf, sub))).for_each(|sub| print_leaf(leaf, sub));
    }
}

fn print_leaf(leaf: u32, subleaf: u32) {
    let Cpuid { eax, ebx, ecx, edx } = cpuid(leaf, subleaf);
    println!("cpuid: {leaf:08x}.{subleaf:x} {eax:08x} {ebx:08x} {ecx:08x} {edx:08x}");
}

fn is_zero(value: Cpuid) -> bool {
    value.eax | value.ebx | value.ecx | value.edx == 0
}

fn check_ranges(report: &mut Report) {
    report.check("leaf 1 exists", cpuid(0, 0).eax >= 1);
    report.check("leaf 8000_0001 exists", cpuid(0x8000_0000, 0).eax >= 0x8000_0001);
    report.check("the vendor is text", machine::signature(0).is_ascii());
    let hypervisor = cpuid(1, 0).ecx & HYPERVISOR_PRESENT != 0;
    report.check("our signature implies a hypervisor", hypervisor || !machine::is_anchorite());
    let same = cpuid(1, 0) == cpuid(1, 7);
    report.check("leaf 1 does not depend on the subleaf", same);
}

fn check_features(report: &mut Report) {
    let (basic, extended) = (cpuid(1, 0), cpuid(0x8000_0001, 0));
    report.check("long mode is shown, for we are in it", extended.edx & 1 << 29 != 0);
    report.check("PAE is shown", basic.edx & 1 << 6 != 0);
    report.check("MSRs are shown", basic.edx & 1 << 5 != 0);
    report.check("the TSC is shown", basic.edx & 1 << 4 != 0);
    let enabled = instructions::read_cr4() & CR4_OSXSAVE != 0;
    report.same("OSXSAVE mirrors CR4", basic.ecx & OSXSAVE != 0, enabled);
    report.check("PGE is shown, for 64-bit kernels set it without asking", basic.edx & PGE != 0);
    report.check("CR4.PGE can be set and cleared", takes_cr4_bit(CR4_PGE));
    let bits = machine::physical_address_bits();
    report.check(format_args!("{bits} physical address bits"), (32..=52).contains(&bits));
}

/// Whether CR4 keeps a bit that is set, and one that is cleared.
fn takes_cr4_bit(bit: u64) -> bool {
    let before = instructions::read_cr4();
    let keeps = |value| {
        // SAFETY: a bit that no page of ours depends on; a refused write changes nothing.
        let written = unsafe { instructions::write_cr4(value) };
        written.is_ok() && instructions::read_cr4() == value
    };
    keeps(before | bit) & keeps(before & !bit) & keeps(before)
}
