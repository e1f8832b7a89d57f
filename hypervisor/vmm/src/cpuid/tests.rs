extern crate std;

use super::*;
use crate::fake::full_cpuid;
use policy::Register::{Eax, Ebx, Ecx, Edx};
use std::vec::Vec;

const MHZ: NonZeroU64 = NonZeroU64::new(2_500_000_000).unwrap();

fn full() -> Cpuid {
    Cpuid::new(full_cpuid, MHZ)
}

#[test]
fn what_the_design_hides_is_hidden_on_a_cpu_that_has_everything() {
    let hidden = [
        ("PCID", 1, Ecx, 17),
        ("LA57", 7, Ecx, 16),
        ("PKU", 7, Ecx, 3),
        ("SMAP", 7, Ebx, 20),
        ("SMEP", 7, Ebx, 7),
        ("PDPE1GB", 0x8000_0001, Edx, 26),
        ("XSAVE", 1, Ecx, 26),
        ("OSXSAVE", 1, Ecx, 27),
        ("AVX", 1, Ecx, 28),
        ("x2APIC", 1, Ecx, 21),
        ("TSC deadline", 1, Ecx, 24),
        ("MWAIT", 1, Ecx, 3),
        ("VMX", 1, Ecx, 5),
        ("SVM", 0x8000_0001, Ecx, 2),
        ("RDTSCP", 0x8000_0001, Edx, 27),
        ("APIC", 1, Edx, 9),
        ("APIC", 0x8000_0001, Edx, 9),
        ("INVPCID", 7, Ebx, 10),
    ];
    for (name, leaf, register, bit) in hidden {
        assert!(!full().shows(leaf, register, bit), "{name}");
    }
}

#[test]
fn what_a_guest_needs_is_shown() {
    let shown = [
        ("FPU", 1, Edx, 0),
        ("PSE", 1, Edx, 3),
        ("TSC", 1, Edx, 4),
        ("MSR", 1, Edx, 5),
        ("PAE", 1, Edx, 6),
        ("CX8", 1, Edx, 8),
        ("SEP", 1, Edx, 11),
        ("MTRR", 1, Edx, 12),
        ("PGE", 1, Edx, 13),
        ("PGE", 0x8000_0001, Edx, 13),
        ("PAT", 1, Edx, 16),
        ("FXSR", 1, Edx, 24),
        ("SSE2", 1, Edx, 26),
        ("a hypervisor", 1, Ecx, 31),
        ("SYSCALL", 0x8000_0001, Edx, 11),
        ("NX", 0x8000_0001, Edx, 20),
        ("long mode", 0x8000_0001, Edx, 29),
        ("an invariant TSC", 0x8000_0007, Edx, 8),
    ];
    for (name, leaf, register, bit) in shown {
        assert!(full().shows(leaf, register, bit), "{name}");
    }
}

#[test]
fn nothing_is_shown_that_the_cpu_does_not_have() {
    let none = |leaf, _| match leaf {
        0 => Leaf { eax: 0xd, ..Leaf::default() },
        0x8000_0000 => Leaf { eax: 0x8000_0008, ..Leaf::default() },
        _ => Leaf::default(),
    };
    let cpuid = Cpuid::new(none, MHZ);
    let set_by_rule = |leaf, register| {
        let rules = TABLE.iter().filter(|rule| rule.leaf == leaf && rule.register == register);
        rules.fold(0, |bits, rule| bits | rule.set)
    };
    for leaf in (1..=LAST_BASIC).chain(0x8000_0001..=LAST_EXTENDED) {
        for register in [Eax, Ebx, Ecx, Edx] {
            let value = cpuid.get(leaf, 0).register(register);
            assert_eq!(value, set_by_rule(leaf, register), "leaf {leaf:#x} {register:?}");
        }
    }
    assert_eq!(cpuid.cr4_bits(), Cr4::empty());
    assert!(!cpuid.no_execute() && !cpuid.long_mode());
}

#[test]
fn leaves_beyond_the_last_are_zero_even_where_the_cpu_repeats_itself() {
    let small = |leaf, _| match leaf {
        0 => Leaf { eax: 1, ..Leaf::default() },
        0x8000_0000 => Leaf { eax: 0x8000_0001, ..Leaf::default() },
        _ => Leaf { eax: !0, ebx: !0, ecx: !0, edx: !0 },
    };
    let cpuid = Cpuid::new(small, MHZ);
    assert_eq!((cpuid.get(0, 0).eax, cpuid.get(0x8000_0000, 0).eax), (1, 0x8000_0001));
    for leaf in [2, 4, 7, 0xd, 0x8000_0002, 0x8000_0008] {
        assert_eq!(cpuid.get(leaf, 0), Leaf::default(), "{leaf:#x}");
    }
    assert_eq!(cpuid.physical_bits(), 36, "the least that a CPU with PAE has");
    let more = [0x14, 0x1f, 0x3fff_ffff, 0x4000_0001, 0x4000_0011, 0x8000_0009, 0x8000_001f, !0];
    for leaf in more {
        assert_eq!(full().get(leaf, 0), Leaf::default(), "{leaf:#x}");
    }
}

#[test]
fn the_hypervisor_signs_and_tells_the_frequency() {
    let leaf = full().get(CPUID_SIGNATURE_LEAF, 0);
    let signature: Vec<u8> =
        [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(signature, CPUID_SIGNATURE);
    assert_eq!(full().get(leaf.eax, 0).eax, 2_500_000);
}

#[test]
fn subleaves_are_those_of_the_cpu_where_there_are_any_and_zero_otherwise() {
    let by_subleaf = |leaf, subleaf| match leaf {
        0 => Leaf { eax: 0xd, ..Leaf::default() },
        _ => Leaf { eax: 0xfc00_0001 + subleaf, ebx: subleaf, ecx: !0, edx: 0 },
    };
    let cpuid = Cpuid::new(by_subleaf, MHZ);
    assert_eq!((cpuid.get(4, 3).eax, cpuid.get(4, 3).ebx), (4, 3), "no neighbours share a cache");
    assert_eq!(cpuid.get(4, 8), Leaf::default());
    assert_eq!(cpuid.get(7, 1), Leaf::default());
    assert_eq!(cpuid.get(1, 77), cpuid.get(1, 0), "ECX does not matter to most leaves");
}

#[test]
fn every_rule_belongs_to_a_leaf_that_exists_and_gives_its_reason() {
    for rule in TABLE {
        let known = rule.leaf <= LAST_BASIC || (0x8000_0000..=LAST_EXTENDED).contains(&rule.leaf);
        assert!(known && !rule.reason.is_empty(), "{rule:?}");
    }
    for leaf in PASSED {
        assert!(*leaf <= LAST_BASIC || (0x8000_0000..=LAST_EXTENDED).contains(leaf), "{leaf:#x}");
    }
}
