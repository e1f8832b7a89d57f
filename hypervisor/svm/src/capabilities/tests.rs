use super::{RawCapabilities, SvmFeatures, VM_CR, probe};
use anchorite_vcpu::{Cr4, Unavailable};

/// QEMU 7.2, `EPYC,+svm,+npt,-rdrand,-rdseed,-cx16`, as read from its CPUID.
const QEMU_EPYC: RawCapabilities = RawCapabilities {
    cpuid_1_ecx: 0xb6d8_120b,
    cpuid_7_ebx: 0x0098_01a9,
    cpuid_7_ecx: 0,
    extended_ecx: 0x75,
    extended_edx: 0x2dd3_fbfd,
    address_sizes: 0x3028,
    svm_eax: 1,
    asids: 16,
    features: SvmFeatures::NESTED_PAGING,
    vm_cr: 0,
    emulated_by_qemu: true,
};

/// Bochs 2.7, `ryzen`, as read from its CPUID.
const BOCHS_RYZEN: RawCapabilities = RawCapabilities {
    cpuid_1_ecx: 0x76d8_320b,
    cpuid_7_ebx: 0x209c_01a9,
    cpuid_7_ecx: 0,
    extended_ecx: 0x35c2_23ff,
    extended_edx: 0x2fd3_fbff,
    address_sizes: 0x3028,
    svm_eax: 1,
    asids: 0x8000,
    features: SvmFeatures::from_bits_retain(0x44f),
    vm_cr: 0,
    emulated_by_qemu: false,
};

#[test]
fn qemu_offers_nested_paging_and_nothing_more() {
    let found = probe(&QEMU_EPYC).expect("usable");
    assert!(found.nested_paging && found.unrestricted_guest && found.nested_1g_pages);
    assert!(!found.instruction_length && !found.instruction_bytes && !found.tagged_flush);
    assert_eq!((found.extension, found.revision, found.address_space_ids), ("SVM", 1, 16));
}

#[test]
fn bochs_tells_lengths_and_flushes_by_asid() {
    let found = probe(&BOCHS_RYZEN).expect("usable");
    assert!(found.instruction_length && found.tagged_flush && !found.instruction_bytes);
    assert_eq!(found.address_space_ids, 0x8000);
}

#[test]
fn a_real_cpu_offers_what_its_bits_say() {
    let features = SvmFeatures::from_bits_retain(0x0001_bcff);
    let found = probe(&RawCapabilities { features, ..BOCHS_RYZEN }).expect("usable");
    assert!(found.instruction_length && found.instruction_bytes && found.tagged_flush);
}

#[test]
fn qemu_is_told_by_its_name() {
    let collect = |ecx, name: &[u8; 12]| {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| name[at + byte]));
        let cpuid = |leaf| match leaf {
            0 => [1, 0, 0, 0],
            1 => [0, 0, ecx, 0],
            0x4000_0000 => [0x4000_0001, word(0), word(4), word(8)],
            _ => [0; 4],
        };
        RawCapabilities::collect(cpuid, |_| 0).emulated_by_qemu
    };
    assert!(collect(1 << 31, b"TCGTCGTCGTCG"));
    assert!(!collect(1 << 31, b"KVMKVMKVM\0\0\0"));
    assert!(!collect(0, b"TCGTCGTCGTCG"), "the leaf means nothing without the bit");
}

#[test]
fn without_the_cpuid_bit_there_is_no_svm() {
    let raw = RawCapabilities { extended_ecx: QEMU_EPYC.extended_ecx & !4, ..QEMU_EPYC };
    let refusal = Unavailable::NotInCpuid { extension: "SVM", leaf: 0x8000_0001 };
    assert_eq!(probe(&raw), Err(refusal));
}

#[test]
fn firmware_can_lock_svm_off() {
    let raw = RawCapabilities { vm_cr: 0x18, ..QEMU_EPYC };
    let refusal = Unavailable::LockedOff { extension: "SVM", msr: "VM_CR", value: 0x18 };
    assert_eq!(probe(&raw), Err(refusal));
    assert!(probe(&RawCapabilities { vm_cr: 0x08, ..QEMU_EPYC }).is_ok(), "locked on is fine");
}

#[test]
fn a_guest_needs_an_asid_and_no_execute() {
    assert!(matches!(
        probe(&RawCapabilities { asids: 1, ..QEMU_EPYC }),
        Err(Unavailable::Missing { register: "CPUID.8000_000A:EBX", value: 1, .. })
    ));
    let extended_edx = QEMU_EPYC.extended_edx & !(1 << 20);
    assert!(matches!(
        probe(&RawCapabilities { extended_edx, ..QEMU_EPYC }),
        Err(Unavailable::Missing { register: "CPUID.8000_0001:EDX", .. })
    ));
}

#[test]
fn collecting_asks_only_for_what_exists() {
    let old = RawCapabilities::collect(
        |leaf| match leaf {
            0 => [1, 0, 0, 0],
            1 => [0, 0, 0x1234, 0],
            0x8000_0000 => [0x8000_0001, 0, 0, 0],
            0x8000_0001 => [0, 0, 0, 1 << 20],
            _ => panic!("leaf {leaf:#x} does not exist"),
        },
        |msr| panic!("MSR {msr:#x} does not exist"),
    );
    assert_eq!((old.cpuid_1_ecx, old.extended_edx, old.asids), (0x1234, 1 << 20, 0));
    assert_eq!(old.physical_bits(), 36);

    let new = RawCapabilities::collect(
        |leaf| match leaf {
            0x8000_0000 => [0x8000_001f, 0, 0, 0],
            0x8000_0001 => [0, 0, 1 << 2, 0],
            0x8000_0008 => [0x3030, 0, 0, 0],
            0x8000_000a => [1, 0x8000, 0, 0xff],
            _ => [0; 4],
        },
        |msr| {
            assert_eq!(msr, VM_CR);
            0x10
        },
    );
    assert_eq!((new.physical_bits(), new.asids, new.vm_cr), (48, 0x8000, 0x10));
    assert_eq!(new.features.bits(), 0xff);
}

#[test]
fn cr4_and_efer_bits_follow_cpuid() {
    assert!(QEMU_EPYC.cr4_bits().contains(Cr4::PAE | Cr4::SMEP | Cr4::SMAP | Cr4::FSGSBASE));
    assert!(!QEMU_EPYC.cr4_bits().intersects(Cr4::LA57 | Cr4::PKE | Cr4::PCIDE | Cr4::VMXE));
    assert_eq!(QEMU_EPYC.efer_bits() & 0xd01, 0xd01);
    let bare = RawCapabilities::default();
    assert_eq!((bare.cr4_bits().bits(), bare.efer_bits()), (0x7ff, 1));
}
