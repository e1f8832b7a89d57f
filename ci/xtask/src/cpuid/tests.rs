use super::*;

const PAGE_TEXT: &str = include_str!("../../../../hypervisor/docs/cpuid.md");

/// A processor, and what must be shown of it on a machine without a local APIC.
const BARE: &str = "cpuid: 00000000.0 00000010 68747541 444d4163 69746e65
cpuid: 00000001.0 00800f12 00010800 fed83203 178bfbff
cpuid: 00000007.0 00000000 201c01ab 00000004 00000000
cpuid: 0000000d.0 00000007 00000340 00000340 00000000
cpuid: 0000000d.1 00000007 00000000 00000000 00000000
cpuid: 0000000d.2 00000100 00000240 00000000 00000000
cpuid: 40000000.0 40000001 54474354 43544743 47435447
cpuid: 80000000.0 8000001f 68747541 444d4163 69746e65
cpuid: 80000008.0 00003030 00001000 00000000 00000000
";
const OURS: &str = "cpuid: 00000000.0 0000000d 68747541 444d4163 69746e65
cpuid: 00000001.0 00800f12 00010800 f6d83203 078bb9ff
cpuid: 00000007.0 00000000 201c01a9 00000004 00000000
cpuid: 0000000d.0 00000007 00000240 00000340 00000000
cpuid: 0000000d.1 00000007 00000000 00000000 00000000
cpuid: 0000000d.2 00000100 00000240 00000000 00000000
cpuid: 40000000.0 40000010 68636e41 7469726f 00564865
cpuid: 80000000.0 80000008 68747541 444d4163 69746e65
cpuid: 80000008.0 00003030 00000000 00000000 00000000
";

fn faults(bare: &str, ours: &str, apic: bool) -> Vec<String> {
    let declared = Declared::parse(PAGE_TEXT).unwrap();
    View { declared, bare: leaves(bare), ours: leaves(ours), apic }.faults()
}

/// What is wrong once `from` has become `to` in what is shown.
fn after(from: &str, to: &str) -> String {
    assert!(OURS.contains(from), "{from}");
    faults(BARE, &OURS.replacen(from, to, 1), false).join("\n")
}

#[test]
fn what_the_page_declares_is_no_fault() {
    assert_eq!(faults(BARE, OURS, false), Vec::<String>::new());
}

#[test]
fn a_bit_that_differs_undeclared_is_named() {
    // PCLMULQDQ hidden, though the processor has it; MOVBE shown, though it has not.
    let hidden = after("f6d83203", "f6d83201");
    assert!(hidden.contains("leaf 0x1.0 ECX bit 1 (pclmulqdq): shown 0"), "{hidden}");
    let invented = after("201c01a9", "203c01a9");
    assert!(invented.contains("EBX bit 21 (avx512ifma): shown 1"), "{invented}");
    // MONITOR must not be shown; bit 16 of leaf 1's ECX has no row.
    assert!(after("f6d83203", "f6d8320b").contains("bit 3 (monitor): shown 1"));
    assert!(after("f6d83203", "f6d93203").contains("bit 16 (without a row): shown 1"));
}

#[test]
fn what_depends_on_another_feature_or_the_machine_goes_with_it() {
    // Without AVX there is no FMA either.
    assert!(after("f6d83203", "e6d83203").contains("bit 12 (fma): shown 1"));
    // A local APIC shows bit 9 of EDX, and that x2APIC, which the processor lacks.
    assert!(faults(BARE, OURS, true).join("\n").contains("(apic): shown 0"));
    let ours = OURS.replacen("078bb9ff", "078bbbff", 1);
    assert!(faults(BARE, &ours, true).join("\n").contains("(x2apic): shown 0"));
    let ours = ours.replacen("f6d83203", "f6f83203", 1);
    assert_eq!(faults(BARE, &ours, true), Vec::<String>::new());
}

#[test]
fn numbers_must_be_the_processors_in_the_bits_that_are_kept() {
    assert!(after("00800f12", "00800f13").contains("leaf 0x1.0 EAX"));
    assert!(after("0000000d 68", "0000000e 68").contains("leaf 0x0.0 EAX: 0xe"));
    assert!(after("00003030 00000000", "00003930 00000000").contains("leaf 0x80000008.0 EAX"));
    assert!(after("00000100 00000240", "00000140 00000240").contains("leaf 0xd.2 EAX"));
    let more = format!("{OURS}cpuid: 0000000b.0 00000001 00000000 00000000 00000000\n");
    assert!(faults(BARE, &more, false).join("").contains("leaf 0xb.0 EAX: 0x1"));
}

#[test]
fn runs_that_print_nothing_agree_about_nothing() {
    assert!(!faults("", OURS, false).is_empty());
    assert!(!faults(BARE, "cpuid: no leaves from 0x0 on", false).is_empty());
}
