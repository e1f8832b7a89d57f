//! What is intercepted, and what the guest's control registers become in hardware.
//!
//! Source: APM vol. 2, 15.9 "Instruction Intercepts", 15.13 "Miscellaneous
//! Intercepts", 15.19 "Paged Real Mode"; appendix B, table B-1.

use crate::capabilities::RawCapabilities;
use anchorite_vcpu::root::ShadowFormat;
use anchorite_vcpu::{Cr0, Cr4, Efer, Instructions, Root, Vector};

/// An intercept and why it is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// The bit, as a mask.
    pub bit: u32,
    /// Why it is set.
    pub reason: &'static str,
}

const fn want(bit: u32, reason: &'static str) -> Control {
    Control { bit: 1 << bit, reason }
}

/// VINTR in the vector at 0x00c: the guest is about to take a virtual interrupt.
pub const VIRTUAL_INTERRUPT: u32 = 1 << 4;
/// IRET in the vector at 0x00c.
pub const IRET: u32 = 1 << 20;

/// The vector at 0x00c, under any root.
///
/// Left out on purpose: SMI, which firmware handles; RDTSC and PAUSE, which guests
/// execute by the million; VINTR and IRET, which come with a window.
pub const MISC_1: &[Control] = &[
    want(0, "INTR: the host takes its interrupts"),
    want(1, "NMI: the host takes its NMIs"),
    want(3, "INIT: the guest must not reset the CPU"),
    want(15, "RDPMC: the counters are the host's"),
    want(18, "CPUID: the guest is shown what the machine offers"),
    want(22, "INVD: it would drop the host's dirty lines"),
    want(24, "HLT: an idle guest gives the CPU back"),
    want(26, "INVLPGA: the guest is not shown SVM"),
    want(27, "IOIO_PROT: ports are the machine's, by the map"),
    want(28, "MSR_PROT: MSRs are the machine's, by the map"),
    want(29, "task switch: the hardware's one would escape shadow tables"),
    want(30, "FERR_FREEZE: the legacy wait for an x87 error would freeze the CPU"),
    want(31, "SHUTDOWN: a triple fault ends the guest, not the machine"),
];

/// The vector at 0x010, under any root.
pub const MISC_2: &[Control] = &[
    want(0, "VMRUN: entry demands it; the guest is not shown SVM"),
    want(1, "VMMCALL: hypercalls"),
    want(2, "VMLOAD: the guest is not shown SVM"),
    want(3, "VMSAVE: the guest is not shown SVM"),
    want(4, "STGI: the guest is not shown SVM"),
    want(5, "CLGI: the guest is not shown SVM"),
    want(6, "SKINIT: the guest is not shown SVM"),
    want(9, "WBINVD: a guest must not flush everybody's caches"),
    want(10, "MONITOR: the guest is not shown it"),
    want(11, "MWAIT: it would idle the CPU without an exit"),
    want(13, "XSETBV: only states that are carried along. QEMU 7.2 ignores it"),
];

/// What a shadow root adds to the vector at 0x00c.
pub const SHADOW_MISC_1: &[Control] =
    &[want(25, "INVLPG: the tables it concerns are the guest's, not the hardware's")];

/// What a guest without RDTSCP adds to the vector at 0x010. QEMU 7.2 ignores it.
pub const NO_RDTSCP: &[Control] = &[want(7, "RDTSCP: the guest is not shown it")];

/// What a shadow root, or a guest without INVPCID, adds to the vector at 0x014 where the CPU has INVPCID.
pub const SHADOW_MISC_3: &[Control] =
    &[want(2, "INVPCID: the tables it concerns are the guest's, not the hardware's")];

/// Accesses to control registers that exit under any root.
pub const CR_WRITES: &[Control] =
    &[want(4, "CR4: unsupported bits must be refused by us (QEMU 7.2 hangs on them)")];

/// Reads of control registers that exit under a shadow root.
pub const SHADOW_CR_READS: &[Control] = &[
    want(0, "CR0: the hardware's PG and WP are forced"),
    want(3, "CR3: the hardware's is the shadow root"),
    want(4, "CR4: the hardware's PAE is forced"),
];

/// Writes that exit under a shadow root besides [`CR_WRITES`].
pub const SHADOW_CR_WRITES: &[Control] =
    &[want(0, "CR0: PG and WP change the paging mode"), want(3, "CR3: another root, and a flush")];

/// Writes that exit under a nested root where the machine follows the guest's paging.
pub const PAGING_CR_WRITES: &[Control] = &[want(0, "CR0: PG decides which root translates")];

/// The union of a table's bits.
pub const fn union(mut table: &[Control]) -> u32 {
    let mut bits = 0;
    while let [first, rest @ ..] = table {
        bits |= first.bit;
        table = rest;
    }
    bits
}

/// The intercept vectors at 0x000 to 0x017, windows and chosen exceptions apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlSet {
    /// Reads of control registers, by number.
    pub cr_reads: u16,
    /// Writes of control registers, by number.
    pub cr_writes: u16,
    /// Exceptions, by vector.
    pub exceptions: u32,
    /// The vector at 0x00c.
    pub misc_1: u32,
    /// The vector at 0x010.
    pub misc_2: u32,
    /// The vector at 0x014.
    pub misc_3: u32,
}

impl ControlSet {
    /// What exits under a nested root; with `paging`, changes of CR0.PG too.
    pub const fn nested(raw: &RawCapabilities, permitted: Instructions, paging: bool) -> Self {
        let writes = if paging { union(PAGING_CR_WRITES) } else { 0 };
        let rdtscp = permitted.contains(Instructions::RDTSCP);
        let invpcid = permitted.contains(Instructions::INVPCID) || !raw.has_invpcid();
        Self {
            cr_reads: 0,
            cr_writes: (union(CR_WRITES) | writes) as u16,
            exceptions: 0,
            misc_1: union(MISC_1),
            misc_2: union(MISC_2) | if rdtscp { 0 } else { union(NO_RDTSCP) },
            misc_3: if invpcid { 0 } else { union(SHADOW_MISC_3) },
        }
    }

    /// What exits under a shadow root.
    pub const fn shadow(raw: &RawCapabilities, permitted: Instructions) -> Self {
        let nested = Self::nested(raw, permitted, false);
        Self {
            cr_reads: union(SHADOW_CR_READS) as u16,
            cr_writes: nested.cr_writes | union(SHADOW_CR_WRITES) as u16,
            exceptions: 1 << Vector::PAGE_FAULT.0,
            misc_1: nested.misc_1 | union(SHADOW_MISC_1),
            misc_3: if raw.has_invpcid() { union(SHADOW_MISC_3) } else { 0 },
            ..nested
        }
    }
}

/// CR0, CR4 and EFER as the guest reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestControl {
    /// CR0.
    pub cr0: Cr0,
    /// CR4.
    pub cr4: Cr4,
    /// EFER; LMA is derived and may hold anything.
    pub efer: Efer,
}

impl GuestControl {
    /// Whether long mode is active: enabled, and paging on.
    pub const fn long_mode(&self) -> bool {
        self.efer.contains(Efer::LME) && self.cr0.contains(Cr0::PG)
    }

    /// EFER with LMA as the guest reads it.
    pub fn visible_efer(&self) -> Efer {
        let mut efer = self.efer & VISIBLE_EFER;
        efer.set(Efer::LMA, self.long_mode());
        efer
    }
}

/// The bits of EFER that a guest has.
pub const VISIBLE_EFER: Efer = Efer::SCE.union(Efer::LME).union(Efer::LMA).union(Efer::NXE);

/// The control registers as the VMCB holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardwareControl {
    /// CR0.
    pub cr0: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER, SVME included.
    pub efer: u64,
}

/// CR0 bits that we never load: they would disable the host's caches.
const CACHING: Cr0 = Cr0::CD.union(Cr0::NW);
/// CR4 bits that govern the guest's own tables and stay off over shadow tables.
const CR4_GUEST_TABLES: Cr4 = Cr4::PSE.union(Cr4::PGE).union(Cr4::LA57).union(Cr4::PCIDE);
/// CR4 bits that restrict accesses by page rights: without effect while paging is off.
const CR4_PAGE_RIGHTS: Cr4 = Cr4::SMEP.union(Cr4::SMAP).union(Cr4::PKE);

impl HardwareControl {
    /// What the hardware must hold so that the guest sees `view` under `root`.
    ///
    /// Reserved bits that the guest managed to set are passed on, so that entry
    /// fails and [`entry_check`](crate::entry_check) names them.
    pub fn new(view: GuestControl, root: Root) -> Self {
        match root {
            Root::Nested { .. } => Self::nested(view),
            Root::Shadow { format, .. } => Self::shadow(view, format),
        }
    }

    fn nested(view: GuestControl) -> Self {
        Self {
            cr0: view.cr0.difference(CACHING).union(Cr0::ET).bits(),
            cr4: view.cr4.bits(),
            efer: (view.visible_efer() | Efer::SVME).bits(),
        }
    }

    /// PE is not forced: SVM runs real mode over tables ("paged real mode"). WP is, for
    /// write protection must bind ring 0 too; NXE is, for the tables use it. LME
    /// must be off outside long mode, since PG is on and would activate it.
    fn shadow(view: GuestControl, format: ShadowFormat) -> Self {
        let mut cr4 = view.cr4.difference(CR4_GUEST_TABLES) | Cr4::PAE;
        cr4.set(Cr4::LA57, format == ShadowFormat::FiveLevel);
        if !view.cr0.contains(Cr0::PG) {
            cr4 -= CR4_PAGE_RIGHTS;
        }
        let mut efer = view.efer & VISIBLE_EFER | Efer::NXE | Efer::SVME;
        efer.set(Efer::LME | Efer::LMA, view.long_mode());
        Self {
            cr0: (view.cr0.difference(CACHING) | Cr0::ET | Cr0::PG | Cr0::WP).bits(),
            cr4: cr4.bits(),
            efer: efer.bits(),
        }
    }
}

#[cfg(test)]
mod tests;
