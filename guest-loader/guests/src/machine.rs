//! What the guest runs on.

use anchorite_abi::{CPUID_SIGNATURE, CPUID_SIGNATURE_LEAF};

use crate::instructions::{cpuid, vmcall_with, vmmcall_with};

/// The processor's vendor, as far as guests care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// `AuthenticAMD` (or `HygonGenuine`): the hypercall is VMMCALL.
    Amd,
    /// Anything else is treated as Intel: the hypercall is VMCALL.
    Intel,
}

/// The vendor by CPUID leaf 0.
pub fn vendor() -> Vendor {
    match &signature(0) {
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Intel,
    }
}

/// Whether the CPUID signature is ours, so that the ports and pages of the guest
/// protocol exist. On any other machine the checks that need them are skipped.
pub fn is_anchorite() -> bool {
    signature(CPUID_SIGNATURE_LEAF) == CPUID_SIGNATURE
}

/// The twelve bytes a signature leaf tells: EBX, EDX, ECX for leaf 0 and EBX, ECX,
/// EDX for the hypervisor's.
pub fn signature(leaf: u32) -> [u8; 12] {
    let value = cpuid(leaf, 0);
    let words = match leaf {
        0 => [value.ebx, value.edx, value.ecx],
        _ => [value.ebx, value.ecx, value.edx],
    };
    let mut text = [0; 12];
    for (part, word) in text.chunks_exact_mut(4).zip(words) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    text
}

/// Physical-address bits by CPUID 0x8000_0008, 36 where it does not tell.
pub fn physical_address_bits() -> u32 {
    match cpuid(0x8000_0000, 0).eax {
        0x8000_0008.. => cpuid(0x8000_0008, 0).eax & 0xff,
        _ => 36,
    }
}

/// The hypercall `number` with two arguments: what comes back in EAX.
///
/// # Panics
/// Where the processor does not know the instruction: ask [`is_anchorite`] first.
pub fn hypercall(number: u32, rdi: u64, rsi: u64) -> u32 {
    let answer = match vendor() {
        Vendor::Amd => vmmcall_with(number, rdi, rsi),
        Vendor::Intel => vmcall_with(number, rdi, rsi),
    };
    answer.expect("a hypervisor takes hypercalls")
}
