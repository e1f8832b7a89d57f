extern crate std;

use super::*;
use crate::fake::full_cpuid;
use core::fmt::Write;
use features::{Condition, Feature, FeatureRegister, HIDEABLE};
use policy::RULES;
use policy::Register::{Eax, Ebx, Ecx, Edx};
use std::collections::HashSet;
use std::format;
use std::string::String;
use std::vec::Vec;

const MHZ: NonZeroU64 = NonZeroU64::new(2_500_000_000).unwrap();
const OFFER: Offer =
    Offer { hidden: Hidden::NONE, apic: LocalApic::X2, xsetbv_exits: true, xsavec: true };

fn full() -> Cpuid {
    Cpuid::new(full_cpuid, MHZ, &OFFER)
}

fn without(names: &str) -> Cpuid {
    let offer = Offer { hidden: Hidden::parse(names).expect("hideable"), ..OFFER };
    Cpuid::new(full_cpuid, MHZ, &offer)
}

/// CPUID of a guest with all of CR4 clear and XCR0 = 1.
fn read(cpuid: &Cpuid, leaf: u32, subleaf: u32) -> Leaf {
    cpuid.get(leaf, subleaf, || (Cr4::empty(), 1))
}

fn rows() -> impl Iterator<Item = (&'static FeatureRegister, &'static Feature)> {
    FEATURES.iter().flat_map(|register| register.features.iter().map(move |row| (register, row)))
}

fn shows(cpuid: &Cpuid, register: &FeatureRegister, row: &Feature) -> bool {
    let leaf = read(cpuid, register.leaf, register.subleaf);
    leaf.register(register.register) >> row.bit & 1 == 1
}

/// Names of all rows that a CPUID shows.
fn shown(cpuid: &Cpuid) -> HashSet<&'static str> {
    rows().filter(|(register, row)| shows(cpuid, register, row)).map(|(_, row)| row.name).collect()
}

#[test]
fn rows_stand_in_order_and_each_bit_has_one() {
    for register in FEATURES {
        for pair in register.features.windows(2) {
            assert!(pair[0].bit < pair[1].bit, "{} and {}", pair[0].name, pair[1].name);
        }
    }
    let registers: HashSet<_> =
        FEATURES.iter().map(|r| (r.leaf, r.subleaf, format!("{:?}", r.register))).collect();
    assert_eq!(registers.len(), FEATURES.len());
    for rule in RULES {
        let twice = FEATURES.iter().any(|r| r.leaf == rule.leaf && r.register == rule.register);
        assert!(!twice, "{:#x} {:?}", rule.leaf, rule.register);
    }
}

#[test]
fn a_cpu_that_has_everything_shows_all_that_is_not_hidden_and_nothing_unknown() {
    let cpuid = full();
    for register in FEATURES {
        let value = read(&cpuid, register.leaf, register.subleaf).register(register.register);
        let expected = register
            .features
            .iter()
            .filter(|row| !matches!(row.show, Show::Hidden | Show::Mirrors(_)));
        assert_eq!(
            value,
            expected.fold(0, |bits, row| bits | 1 << row.bit),
            "{:#x} {:?}",
            register.leaf,
            register.register
        );
    }
}

#[test]
fn what_a_guest_must_not_have_is_hidden_on_a_cpu_that_has_everything() {
    let shown = shown(&full());
    for name in ["vmx", "svm", "smx", "monitor", "mwaitx", "mca", "mpx", "xsaves", "ibrs"] {
        assert!(!shown.contains(name), "{name}");
    }
    for name in ["fpu", "tsc", "msr", "lm", "nx", "syscall", "hypervisor", "invariant-tsc"] {
        assert!(shown.contains(name), "{name}");
    }
}

#[test]
fn nothing_is_shown_that_the_cpu_does_not_have() {
    let none = |leaf, _| match leaf {
        0 => Leaf { eax: 0xd, ..Leaf::default() },
        0x8000_0000 => Leaf { eax: 0x8000_0008, ..Leaf::default() },
        _ => Leaf::default(),
    };
    let cpuid = Cpuid::new(none, MHZ, &OFFER);
    assert_eq!(shown(&cpuid), HashSet::from(["hypervisor"]));
    for leaf in (1..=LAST_BASIC).chain(0x8000_0001..=LAST_EXTENDED) {
        for register in [Eax, Ebx, Ecx, Edx] {
            let rules = RULES.iter().filter(|rule| rule.leaf == leaf && rule.register == register);
            let set = rules.fold(0, |bits, rule| bits | rule.set);
            let set = if (leaf, register) == (1, Ecx) { 1 << 31 } else { set };
            let value = read(&cpuid, leaf, 0).register(register);
            assert_eq!(value, set, "leaf {leaf:#x} {register:?}");
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
    let cpuid = Cpuid::new(small, MHZ, &OFFER);
    assert_eq!((read(&cpuid, 0, 0).eax, read(&cpuid, 0x8000_0000, 0).eax), (1, 0x8000_0001));
    for leaf in [2, 4, 7, 0xd, 0x8000_0002, 0x8000_0008] {
        assert_eq!(read(&cpuid, leaf, 0), Leaf::default(), "{leaf:#x}");
    }
    assert_eq!(cpuid.physical_bits(), 36, "the least that a CPU with PAE has");
    let more = [
        3,
        5,
        6,
        9,
        0xa,
        0xb,
        0xc,
        0x14,
        0x15,
        0x16,
        0x1f,
        0x3fff_ffff,
        0x4000_0001,
        0x4000_0011,
        0x8000_0009,
        0x8000_001e,
        0x8000_001f,
        !0,
    ];
    for leaf in more {
        assert_eq!(read(&full(), leaf, 0), Leaf::default(), "{leaf:#x}");
    }
}

#[test]
fn the_hypervisor_signs_and_tells_the_frequency() {
    let leaf = read(&full(), CPUID_SIGNATURE_LEAF, 0);
    let signature: Vec<u8> =
        [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(signature, CPUID_SIGNATURE);
    assert_eq!(read(&full(), leaf.eax, 0).eax, 2_500_000);
}

#[test]
fn subleaves_are_those_of_the_cpu_where_there_are_any_and_zero_otherwise() {
    let by_subleaf = |leaf, subleaf| match leaf {
        0 => Leaf { eax: 0xd, ..Leaf::default() },
        _ => Leaf { eax: 0xfc00_0001 + subleaf, ebx: subleaf, ecx: !0, edx: 0 },
    };
    let cpuid = Cpuid::new(by_subleaf, MHZ, &OFFER);
    for subleaf in 0..8 {
        let cache = read(&cpuid, 4, subleaf);
        assert_eq!((cache.eax, cache.ebx), (1 + subleaf, subleaf), "one core shares each cache");
    }
    assert_eq!(read(&cpuid, 4, 8), Leaf::default());
    assert_eq!(read(&cpuid, 7, 1), Leaf::default());
    assert_eq!(read(&cpuid, 1, 5), read(&cpuid, 1, 0), "leaf 1 has no subleaves");
}

#[test]
fn cr4_takes_the_bits_of_features_that_are_shown() {
    let all = full().cr4_bits();
    let optional = [
        ("pge", Cr4::PGE),
        ("umip", Cr4::UMIP),
        ("la57", Cr4::LA57),
        ("fsgsbase", Cr4::FSGSBASE),
        ("pcid", Cr4::PCIDE),
        ("xsave", Cr4::OSXSAVE),
        ("smep", Cr4::SMEP),
        ("smap", Cr4::SMAP),
        ("pku", Cr4::PKE),
    ];
    for (name, bit) in optional {
        assert_eq!(without(name).cr4_bits(), all - bit, "{name}");
    }
    assert!(!all.intersects(Cr4::VMXE | Cr4::SMXE));
}

#[test]
fn hiding_a_feature_hides_it_everywhere_and_what_needs_it() {
    let all = shown(&full());
    for name in HIDEABLE {
        let left = shown(&without(name));
        assert!(!left.contains(name), "{name}");
        assert!(left.is_subset(&all), "{name}");
    }
    let left = shown(&without("xsave"));
    for name in ["avx", "avx2", "avx512f", "avx512vl", "fma", "xsavec", "vaes"] {
        assert!(all.contains(name) && !left.contains(name), "{name}");
    }
    let gone: HashSet<_> = all.difference(&left).copied().collect();
    assert!(!gone.contains("sse2") && !gone.contains("pku") && !gone.contains("bmi2"), "{gone:?}");
    let left = shown(&without("pcid,rdtscp"));
    assert!(!left.contains("invpcid") && !left.contains("rdpid"));
    assert_eq!(without("rdtscp").instructions(), Instructions::INVPCID);
    assert_eq!(full().instructions(), Instructions::all());
}

#[test]
fn only_what_faults_when_hidden_can_be_hidden() {
    assert_eq!(Hidden::parse("smep,sse2"), Err(CannotHide { name: "sse2" }));
    assert_eq!(Hidden::parse("smep smap"), Err(CannotHide { name: "smep smap" }));
    assert_eq!(Hidden::parse(""), Ok(Hidden::default()));
    let text = format!("{}", CannotHide { name: "x" });
    assert!(text.contains("pge, smep, smap"), "{text}");
    let hidden = Hidden::parse("pge").expect("hideable");
    assert!(hidden.contains(masks::place("pge")) && !hidden.contains(masks::place("smep")));
}

#[test]
fn without_an_apic_none_is_shown() {
    let apics = |apic| {
        let shown = shown(&Cpuid::new(full_cpuid, MHZ, &Offer { apic, ..OFFER }));
        (shown.contains("apic"), shown.contains("x2apic"))
    };
    assert_eq!(apics(LocalApic::None), (false, false));
    assert_eq!(apics(LocalApic::Memory), (true, false));
    assert_eq!(apics(LocalApic::X2), (true, true));
}

#[test]
fn bits_that_mirror_cr4_follow_it() {
    let at = |cr4: Cr4| {
        let cpuid = full();
        let read = |leaf| cpuid.get(leaf, 0, || (cr4, 1)).ecx;
        (read(1) >> 27 & 1, read(7) >> 4 & 1)
    };
    assert_eq!(at(Cr4::empty()), (0, 0));
    assert_eq!(at(Cr4::OSXSAVE), (1, 0));
    assert_eq!(at(Cr4::PKE), (0, 1));
}

#[test]
fn linear_addresses_have_48_bits_where_la57_is_hidden() {
    let wide = |leaf, subleaf| match leaf {
        0x8000_0008 => Leaf { eax: 0x3934, ..Leaf::default() },
        _ => full_cpuid(leaf, subleaf),
    };
    let widths = |names| {
        let offer = Offer { hidden: Hidden::parse(names).expect("hideable"), ..OFFER };
        let cpuid = Cpuid::new(wide, MHZ, &offer);
        (read(&cpuid, 0x8000_0008, 0).eax, cpuid.linear_bits())
    };
    assert_eq!(widths(""), (0x3934, 57));
    assert_eq!(widths("la57"), (0x3034, 48));
}

/// A CPU with AVX, AVX-512 and PKRU, laid out as Intel's are.
fn with_states(leaf: u32, subleaf: u32) -> Leaf {
    let state = |eax, ebx, ecx| Leaf { eax, ebx, ecx, edx: 0 };
    match (leaf, subleaf) {
        (0xd, 0) => Leaf { eax: 0x2e7, ..Leaf::default() },
        (0xd, 1) => Leaf { eax: 0xf, ebx: !0, ecx: 0x100, edx: 0 },
        (0xd, 2) => state(256, 576, 0),
        (0xd, 5) => state(64, 1088, 0),
        (0xd, 6) => state(512, 1152, 0),
        (0xd, 7) => state(1024, 1664, 0),
        (0xd, 8) => state(128, 0, 1),
        (0xd, 9) => state(8, 2688, 2),
        (0xd, _) => Leaf::default(),
        _ => full_cpuid(leaf, subleaf),
    }
}

#[test]
fn sizes_of_xsave_areas_follow_xcr0() {
    let cpuid = Cpuid::new(with_states, MHZ, &OFFER);
    let sizes = |xcr0| {
        let [standard, compacted] = [0, 1].map(|sub| cpuid.get(0xd, sub, || (Cr4::empty(), xcr0)));
        (standard.ebx, standard.ecx, compacted.ebx)
    };
    assert_eq!(sizes(1), (576, 2696, 576));
    assert_eq!(sizes(7), (832, 2696, 832));
    assert_eq!(sizes(0xe7), (2688, 2696, 2432));
    assert_eq!(sizes(0x207), (2696, 2696, 840));
    assert_eq!(read(&cpuid, 0xd, 0).eax, 0x2e7);
    let subleaf = read(&cpuid, 0xd, 1);
    assert_eq!((subleaf.eax, subleaf.ecx), (7, 0), "no XSAVES, no supervisor states");
    assert_eq!(read(&cpuid, 0xd, 2), Leaf { eax: 256, ebx: 576, ..Leaf::default() });
    for absent in [3, 4, 8, 10, 17, 63] {
        assert_eq!(read(&cpuid, 0xd, absent), Leaf::default(), "{absent}");
    }
}

#[test]
fn an_xsavec_that_misplaces_states_is_hidden_with_its_size() {
    let cpuid = Cpuid::new(with_states, MHZ, &Offer { xsavec: false, ..OFFER });
    let leaf = read(&cpuid, 0xd, 1);
    assert_eq!((leaf.eax, leaf.ebx), (5, 0), "XSAVEOPT and XGETBV with ECX = 1 stay");
}

#[test]
fn xcr0_takes_what_the_manual_permits_of_the_states_that_are_shown() {
    let layout = *Cpuid::new(with_states, MHZ, &OFFER).layout();
    for value in [1, 3, 7, 0xe7, 0x201, 0x2e7] {
        assert!(layout.accepts(value), "{value:#x}");
    }
    for value in [0, 2, 5, 4, 0x23, 0x67, 0xe3, 0xb, 0x1f, 0x101, 0x407, 1 << 63 | 1] {
        assert!(!layout.accepts(value), "{value:#x}");
    }
    let hidden = Hidden::parse("avx,pku").expect("hideable");
    let cpuid = Cpuid::new(with_states, MHZ, &Offer { hidden, ..OFFER });
    assert_eq!(cpuid.layout().states, 3);
    assert!(!cpuid.layout().accepts(7));
}

#[test]
fn a_state_whose_size_the_cpu_does_not_tell_is_hidden_with_what_needs_it() {
    let untold = |state| {
        let cpu = move |leaf, subleaf| match (leaf, subleaf) {
            (0xd, found) if found == state => Leaf::default(),
            _ => with_states(leaf, subleaf),
        };
        let cpuid = Cpuid::new(cpu, MHZ, &OFFER);
        let shown = [(7, Ecx, 3), (1, Ecx, 28), (7, Ebx, 16), (1, Ecx, 26)];
        (cpuid.layout().states, shown.map(|(leaf, register, bit)| cpuid.shows(leaf, register, bit)))
    };
    assert_eq!(untold(63), (0x2e7, [true, true, true, true]), "all are told");
    assert_eq!(untold(9), (0xe7, [false, true, true, true]), "as Bochs 2.7 does");
    assert_eq!(untold(6), (0x2a7, [true, true, false, true]));
    assert_eq!(untold(2), (0x2e3, [true, false, false, true]));
}

#[test]
fn where_xsetbv_does_not_exit_all_states_are_shown_or_no_xsave() {
    let with = |hidden, all| {
        let cpu = move |leaf, subleaf| match (leaf, subleaf) {
            (0xd, 0) => Leaf { eax: all, ..Leaf::default() },
            _ => with_states(leaf, subleaf),
        };
        let hidden = Hidden::parse(hidden).expect("hideable");
        let cpuid = Cpuid::new(cpu, MHZ, &Offer { hidden, xsetbv_exits: false, ..OFFER });
        (cpuid.shows(1, Ecx, 26), cpuid.shows(1, Ecx, 28), cpuid.layout().states)
    };
    assert_eq!(with("", 0x2e7), (true, true, 0x2e7));
    assert_eq!(with("avx", 0x2e7), (false, false, 0), "the guest could set XCR0.AVX");
    assert_eq!(with("", 0x2ff), (false, false, 0), "MPX is not carried along");
}

#[test]
fn the_table_in_the_docs_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cpuid.md");
    let text = std::fs::read_to_string(path).expect("the docs");
    let (before, rest) = text.split_once("<!-- features -->\n").expect("its beginning");
    let (table, after) = rest.split_once("<!-- end -->").expect("its end");
    let wanted = documented();
    if std::env::var_os("ACCEPT").is_some() {
        let accepted = format!("{before}<!-- features -->\n{wanted}<!-- end -->{after}");
        return std::fs::write(path, accepted).expect("the docs can be written");
    }
    assert_eq!(table, wanted, "ACCEPT=1 writes it anew");
}

/// The tables of features and of other registers, in Markdown.
fn documented() -> String {
    let mut text = String::new();
    for register in FEATURES {
        let FeatureRegister { leaf, subleaf, register: name, features } = register;
        let name = format!("{name:?}").to_uppercase();
        write!(text, "\n### Leaf {leaf:#x}, subleaf {subleaf}, {name}\n\n").expect("a string");
        text += "| bit | feature | shown | why |\n|---:|---|---|---|\n";
        for Feature { bit, name, show, reason } in *features {
            writeln!(text, "| {bit} | {name} | {} | {reason} |", word(*show)).expect("a string");
        }
    }
    text += "\n### Other registers\n\n| leaf | register | bits kept | set | what |\n|---|---|---|---|---|\n";
    for rule in RULES {
        let name = format!("{:?}", rule.register).to_uppercase();
        let (keep, set) = (rule.keep, rule.set);
        writeln!(text, "| {:#x} | {name} | {keep:#x} | {set:#x} | {} |", rule.leaf, rule.reason)
            .expect("a string");
    }
    text
}

fn word(show: Show) -> String {
    match show {
        Show::Passed => "as the CPU".into(),
        Show::Set => "always".into(),
        Show::Emulated(conditions) => {
            let needs: Vec<_> = conditions.iter().map(need).collect();
            format!("always, with {}", needs.join(" and "))
        }
        Show::Hidden => "never".into(),
        Show::Mirrors(bit) => format!("as CR4.{}", bit.iter_names().next().expect("a name").0),
        Show::With(conditions) => {
            let needs: Vec<_> = conditions.iter().map(need).collect();
            format!("as the CPU, with {}", needs.join(" and "))
        }
    }
}

fn need(condition: &Condition) -> String {
    match condition {
        Condition::Feature(name) => (*name).into(),
        Condition::States(states) => format!("XCR0 bits {states:#x}"),
        Condition::ExtendedStates => "XCR0 confined".into(),
        Condition::Compaction => "a sound XSAVEC".into(),
        Condition::LocalApic => "a local APIC".into(),
        Condition::X2Apic => "an x2APIC".into(),
    }
}
