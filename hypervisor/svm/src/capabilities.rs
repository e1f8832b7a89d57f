//! What this CPU's SVM offers, or why it cannot be used.
//!
//! Source: APM vol. 2, 15.4 "Enabling SVM"; APM vol. 3, E.4.9 "Function 8000_000Ah —
//! SVM Features".

use anchorite_vcpu::{Capabilities, Cr4, Efer, Unavailable};
use bitflags::bitflags;

/// The extension's name in messages.
const EXTENSION: &str = "SVM";
/// CPUID leaf whose ECX shows SVM.
const FEATURE_LEAF: u32 = 0x8000_0001;
/// CPUID leaf that shows what SVM offers.
const SVM_LEAF: u32 = 0x8000_000a;
/// CPUID leaf whose EAX holds the widths of addresses.
const ADDRESS_LEAF: u32 = 0x8000_0008;
/// CPUID.8000_0001:ECX bit 2.
const CPUID_SVM: u32 = 1 << 2;
/// CPUID.8000_0001:EDX bit 20: no-execute.
const CPUID_NX: u32 = 1 << 20;
/// CPUID.8000_0001:EDX bit 26: 1 GiB pages.
const CPUID_PAGE_1G: u32 = 1 << 26;
/// CPUID.7:EBX bit 10.
const CPUID_INVPCID: u32 = 1 << 10;

/// CPUID.1:ECX bit 31: leaf 0x4000_0000 names a hypervisor.
const CPUID_HYPERVISOR: u32 = 1 << 31;
/// CPUID leaf that names it in EBX, ECX, EDX.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// "TCGTCGTCGTCG": QEMU without KVM.
const QEMU_EMULATOR: [u32; 3] = [0x5447_4354, 0x4354_4743, 0x4743_5447];

/// VM_CR: whether SVM may be enabled.
pub const VM_CR: u32 = 0xc001_0114;
/// VM_CR bit 4: EFER.SVME cannot be set.
const VM_CR_SVMDIS: u64 = 1 << 4;

/// Where a register stands in the result of CPUID.
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Physical address bits where CPUID does not tell.
const DEFAULT_PHYSICAL_BITS: u32 = 36;

bitflags! {
    /// CPUID.8000_000A:EDX.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SvmFeatures: u32 {
        /// Nested paging.
        const NESTED_PAGING = 1 << 0;
        /// The firmware's lock of SVMDIS can be opened with a key.
        const SVM_LOCK = 1 << 2;
        /// The next-RIP field.
        const NEXT_RIP = 1 << 3;
        /// VMCB clean bits.
        const CLEAN_BITS = 1 << 5;
        /// TLB_CONTROL can flush one ASID.
        const FLUSH_BY_ASID = 1 << 6;
        /// Decode assists.
        const DECODE_ASSISTS = 1 << 7;
    }
}

/// What CPUID and VM_CR say, unjudged.
///
/// A leaf or MSR that this CPU does not have is 0 here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawCapabilities {
    /// CPUID.1:ECX.
    pub cpuid_1_ecx: u32,
    /// CPUID.7:EBX.
    pub cpuid_7_ebx: u32,
    /// CPUID.7:ECX.
    pub cpuid_7_ecx: u32,
    /// CPUID.8000_0001:ECX.
    pub extended_ecx: u32,
    /// CPUID.8000_0001:EDX.
    pub extended_edx: u32,
    /// CPUID.8000_0008:EAX.
    pub address_sizes: u32,
    /// CPUID.8000_000A:EAX, the revision in bits 0–7.
    pub svm_eax: u32,
    /// CPUID.8000_000A:EBX, the number of ASIDs.
    pub asids: u32,
    /// CPUID.8000_000A:EDX.
    pub features: SvmFeatures,
    /// VM_CR.
    pub vm_cr: u64,
    /// CPUID.4000_0000 names QEMU's emulator, whose EVENTINJ must not be used for
    /// interrupts.
    pub emulated_by_qemu: bool,
}

impl RawCapabilities {
    /// Asks only for leaves and MSRs that the CPU has: another MSR would be a #GP.
    ///
    /// `cpuid` gives EAX, EBX, ECX, EDX of a leaf and subleaf 0; `rdmsr` reads one MSR.
    pub fn collect(cpuid: impl Fn(u32) -> [u32; 4], mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        let [highest, ..] = cpuid(0);
        let [highest_extended, ..] = cpuid(0x8000_0000);
        let ask = |leaf: u32| {
            let limit = if leaf < 0x8000_0000 { highest } else { highest_extended };
            if leaf <= limit { cpuid(leaf) } else { [0; 4] }
        };
        let (basic, structured, extended) = (ask(1), ask(7), ask(FEATURE_LEAF));
        let (addresses, svm) = (ask(ADDRESS_LEAF), ask(SVM_LEAF));
        let emulated =
            basic[ECX] & CPUID_HYPERVISOR != 0 && cpuid(HYPERVISOR_LEAF)[EBX..] == QEMU_EMULATOR;
        let has_svm = extended[ECX] & CPUID_SVM != 0;
        Self {
            cpuid_1_ecx: basic[ECX],
            cpuid_7_ebx: structured[EBX],
            cpuid_7_ecx: structured[ECX],
            extended_ecx: extended[ECX],
            extended_edx: extended[EDX],
            address_sizes: addresses[EAX],
            svm_eax: svm[EAX],
            asids: svm[EBX],
            features: SvmFeatures::from_bits_retain(svm[EDX]),
            vm_cr: if has_svm { rdmsr(VM_CR) } else { 0 },
            emulated_by_qemu: emulated,
        }
    }

    /// Width of a physical address in bits.
    pub const fn physical_bits(&self) -> u32 {
        match self.address_sizes & 0xff {
            0 => DEFAULT_PHYSICAL_BITS,
            bits if bits > 52 => 52,
            bits => bits,
        }
    }

    /// Whether INVPCID exists and can be intercepted.
    pub const fn has_invpcid(&self) -> bool {
        self.cpuid_7_ebx & CPUID_INVPCID != 0
    }

    /// CR4 bits that this CPU lets a guest have; entry refuses the others.
    pub fn cr4_bits(&self) -> Cr4 {
        let optional = [
            (self.cpuid_7_ecx, 2, Cr4::UMIP),
            (self.cpuid_7_ecx, 16, Cr4::LA57),
            (self.cpuid_7_ebx, 0, Cr4::FSGSBASE),
            (self.cpuid_1_ecx, 17, Cr4::PCIDE),
            (self.cpuid_1_ecx, 26, Cr4::OSXSAVE),
            (self.cpuid_7_ebx, 7, Cr4::SMEP),
            (self.cpuid_7_ebx, 20, Cr4::SMAP),
            (self.cpuid_7_ecx, 3, Cr4::PKE),
        ];
        let present = optional.into_iter().filter(|&(register, bit, _)| register & 1 << bit != 0);
        present.fold(CR4_EVERYWHERE, |bits, (_, _, feature)| bits | feature)
    }

    /// EFER bits that this CPU has.
    pub fn efer_bits(&self) -> u64 {
        let optional = [
            (self.extended_edx, 20, Efer::NXE.bits()),
            (self.extended_edx, 29, (Efer::LME | Efer::LMA).bits()),
            // LMSLE, FFXSR and TCE, which this hypervisor hides but firmware may set.
            (self.extended_ecx, 2, Efer::SVME.bits() | 1 << 13),
            (self.extended_edx, 25, 1 << 14),
            (self.extended_ecx, 17, 1 << 15),
        ];
        let present = optional.into_iter().filter(|&(register, bit, _)| register & 1 << bit != 0);
        present.fold(Efer::SCE.bits(), |bits, (_, _, feature)| bits | feature)
    }
}

/// CR4 bits that every CPU with SVM has.
const CR4_EVERYWHERE: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PSE)
    .union(Cr4::PAE)
    .union(Cr4::MCE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT);

/// Judges what was collected.
///
/// Nested paging is not demanded: a shadow root needs none, and SVM runs real mode
/// natively under either. NX is, since both kinds of tables withhold execution.
pub fn probe(raw: &RawCapabilities) -> Result<Capabilities, Unavailable> {
    if raw.extended_ecx & CPUID_SVM == 0 {
        return Err(Unavailable::NotInCpuid { extension: EXTENSION, leaf: FEATURE_LEAF });
    }
    check_firmware(raw)?;
    check_features(raw)?;
    Ok(Capabilities {
        extension: EXTENSION,
        revision: raw.svm_eax & 0xff,
        address_space_ids: raw.asids,
        nested_paging: raw.features.contains(SvmFeatures::NESTED_PAGING),
        unrestricted_guest: true,
        shadow_unpaged: true,
        instruction_length: raw.features.contains(SvmFeatures::NEXT_RIP),
        instruction_bytes: raw.features.contains(SvmFeatures::DECODE_ASSISTS),
        tagged_flush: raw.features.contains(SvmFeatures::FLUSH_BY_ASID),
        nested_1g_pages: raw.extended_edx & CPUID_PAGE_1G != 0,
        preemption_timer: false,
        // QEMU 7.2 knows the intercept and never takes it.
        xsetbv_exits: !raw.emulated_by_qemu,
        // Tried when SVM is turned on.
        xsavec: false,
    })
}

/// Firmware must not have set SVMDIS: we have no key to open its lock.
fn check_firmware(raw: &RawCapabilities) -> Result<(), Unavailable> {
    if raw.vm_cr & VM_CR_SVMDIS == 0 {
        return Ok(());
    }
    Err(Unavailable::LockedOff { extension: EXTENSION, msr: "VM_CR", value: raw.vm_cr })
}

fn check_features(raw: &RawCapabilities) -> Result<(), Unavailable> {
    if raw.asids < 2 {
        let (feature, register) = ("an ASID for guests", "CPUID.8000_000A:EBX");
        return Err(Unavailable::Missing { feature, register, value: u64::from(raw.asids) });
    }
    if raw.extended_edx & CPUID_NX == 0 {
        let (feature, register) = ("no-execute pages", "CPUID.8000_0001:EDX");
        return Err(Unavailable::Missing { feature, register, value: u64::from(raw.extended_edx) });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
