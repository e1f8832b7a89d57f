//! Checks on the guest-state area but the segments.
//!
//! Source: SDM 27.3.1 "Checks on the Guest State Area".

use super::{Review, is_canonical, segment_state};
use crate::FieldSource;
use crate::controls::IA32E_MODE_GUEST;
use anchorite_vcpu::{Cr0, Cr4, Efer, Rflags};
use x86::vmx::vmcs::control::SecondaryControls;
use x86::vmx::vmcs::{control, guest};

/// What several checks depend on.
#[derive(Clone, Copy)]
pub(super) struct Mode {
    pub(super) cr0: Cr0,
    pub(super) cr4: Cr4,
    pub(super) rflags: Rflags,
    pub(super) ia32e: bool,
    pub(super) unrestricted: bool,
    pub(super) ept: bool,
}

impl Mode {
    fn read<F: FieldSource>(review: &Review<'_, F>) -> Self {
        let secondary = review.read(control::SECONDARY_PROCBASED_EXEC_CONTROLS) as u32;
        Self {
            cr0: Cr0::from_bits_retain(review.read(guest::CR0)),
            cr4: Cr4::from_bits_retain(review.read(guest::CR4)),
            rflags: Rflags::from_bits_retain(review.read(guest::RFLAGS)),
            ia32e: review.read(control::VMENTRY_CONTROLS) as u32 & IA32E_MODE_GUEST != 0,
            unrestricted: secondary & SecondaryControls::UNRESTRICTED_GUEST.bits() != 0,
            ept: secondary & SecondaryControls::ENABLE_EPT.bits() != 0,
        }
    }

    pub(super) const fn virtual_8086(self) -> bool {
        self.rflags.contains(Rflags::VM)
    }
}

pub(super) fn check<F: FieldSource>(review: &mut Review<'_, F>) {
    let mode = Mode::read(review);
    control_registers(review, mode);
    efer(review, mode);
    registers_and_msrs(review);
    // Before the segments: a stray RFLAGS.VM would fill the report with them.
    rip_and_rflags(review, mode);
    segment_state::check(review, mode);
    descriptor_tables(review);
    interruptibility(review, mode);
    debug_exceptions(review, mode);
    pdptes(review, mode);
}

/// Source: SDM 27.3.1.1 "Checks on Guest Control Registers, Debug Registers, and MSRs".
fn control_registers<F: FieldSource>(review: &mut Review<'_, F>, mode: Mode) {
    let raw = review.raw;
    let Mode { cr0, cr4, ia32e, .. } = mode;
    let relaxed = if mode.unrestricted { Cr0::PE | Cr0::PG } else { Cr0::empty() };
    let cr0_ones = raw.cr0_fixed0 & !relaxed.bits();
    review.require(
        cr0.bits() & cr0_ones == cr0_ones,
        "guest CR0",
        cr0.bits(),
        "lacks a bit of IA32_VMX_CR0_FIXED0; PE and PG need EPT with unrestricted guest to be 0",
    );
    review.require(
        cr0.bits() & !raw.cr0_fixed1 == 0,
        "guest CR0",
        cr0.bits(),
        "has a bit that IA32_VMX_CR0_FIXED1 forbids",
    );
    review.require(
        !cr0.contains(Cr0::PG) || cr0.contains(Cr0::PE),
        "guest CR0",
        cr0.bits(),
        "PG needs PE",
    );
    review.require(
        cr4.bits() & raw.cr4_fixed0 == raw.cr4_fixed0 && cr4.bits() & !raw.cr4_fixed1 == 0,
        "guest CR4",
        cr4.bits(),
        "has or lacks a bit against IA32_VMX_CR4_FIXED0 and FIXED1",
    );
    let paging = cr0.contains(Cr0::PG) && cr4.contains(Cr4::PAE);
    review.require(
        paging || !ia32e,
        "guest CR4",
        cr4.bits(),
        "IA-32e mode needs CR0.PG and CR4.PAE",
    );
    review.require(
        ia32e || !cr4.contains(Cr4::PCIDE),
        "guest CR4",
        cr4.bits(),
        "PCIDE needs IA-32e mode",
    );
    let cr3 = review.read(guest::CR3);
    review.require(cr3 >> 52 == 0, "guest CR3", cr3, "must be a physical address");
}

fn efer<F: FieldSource>(review: &mut Review<'_, F>, mode: Mode) {
    let value = review.read(guest::IA32_EFER_FULL);
    let efer = Efer::from_bits_retain(value);
    let known = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE;
    let name = "guest IA32_EFER";
    review.require(value & !known.bits() == 0, name, value, "has a reserved bit");
    review.require(
        efer.contains(Efer::LMA) == mode.ia32e,
        name,
        value,
        "LMA must equal the control \"IA-32e mode guest\"",
    );
    let agree = efer.contains(Efer::LMA) == efer.contains(Efer::LME);
    review.require(
        agree || !mode.cr0.contains(Cr0::PG),
        name,
        value,
        "LMA must equal LME while paging is on",
    );
}

fn registers_and_msrs<F: FieldSource>(review: &mut Review<'_, F>) {
    let debugctl = review.read(guest::IA32_DEBUGCTL_FULL);
    review.require(debugctl & !0xffc3 == 0, "guest IA32_DEBUGCTL", debugctl, "has a reserved bit");
    let dr7 = review.read(guest::DR7);
    review.require(dr7 >> 32 == 0, "guest DR7", dr7, "bits 63:32 must be 0");
    let esp = review.read(guest::IA32_SYSENTER_ESP);
    review.require_canonical("guest IA32_SYSENTER_ESP", esp);
    let eip = review.read(guest::IA32_SYSENTER_EIP);
    review.require_canonical("guest IA32_SYSENTER_EIP", eip);
    let pat = review.read(guest::IA32_PAT_FULL);
    review.require_pat("guest IA32_PAT", pat);
}

/// Source: SDM 27.3.1.3 "Checks on Guest Descriptor-Table Registers".
fn descriptor_tables<F: FieldSource>(review: &mut Review<'_, F>) {
    let tables = [
        ("guest GDTR base", guest::GDTR_BASE, "guest GDTR limit", guest::GDTR_LIMIT),
        ("guest IDTR base", guest::IDTR_BASE, "guest IDTR limit", guest::IDTR_LIMIT),
    ];
    for (base_name, base, limit_name, limit) in tables {
        let value = review.read(base);
        review.require_canonical(base_name, value);
        let value = review.read(limit);
        review.require(value >> 16 == 0, limit_name, value, "bits 31:16 must be 0");
    }
}

/// Source: SDM 27.3.1.4 "Checks on Guest RIP, RFLAGS, and SSP".
fn rip_and_rflags<F: FieldSource>(review: &mut Review<'_, F>, mode: Mode) {
    let rip = review.read(guest::RIP);
    let long_code = mode.ia32e && review.read(guest::CS_ACCESS_RIGHTS) & 1 << 13 != 0;
    let fits = if long_code { is_canonical(rip) } else { rip >> 32 == 0 };
    review.require(fits, "guest RIP", rip, "must be canonical, below 4 GiB outside 64-bit code");

    let rflags = mode.rflags;
    let reserved = !0x3f_7fd7_u64;
    review.require(
        rflags.bits() & reserved == 0 && rflags.contains(Rflags::FIXED),
        "guest RFLAGS",
        rflags.bits(),
        "reserved bits must be 0 and bit 1 must be 1",
    );
    let may_be_virtual = !mode.ia32e && mode.cr0.contains(Cr0::PE);
    review.require(
        may_be_virtual || !mode.virtual_8086(),
        "guest RFLAGS",
        rflags.bits(),
        "VM needs CR0.PE and no IA-32e mode",
    );
    review.require(
        rflags.contains(Rflags::IF) || !injects(review, 0),
        "guest RFLAGS",
        rflags.bits(),
        "IF must be 1 to inject an external interrupt",
    );
}

/// Whether entry injects an event of this type.
fn injects<F: FieldSource>(review: &Review<'_, F>, kind: u64) -> bool {
    let info = review.read(control::VMENTRY_INTERRUPTION_INFO_FIELD);
    info & 1 << 31 != 0 && info >> 8 & 7 == kind
}

/// Source: SDM 27.3.1.5 "Checks on Guest Non-Register State".
fn interruptibility<F: FieldSource>(review: &mut Review<'_, F>, mode: Mode) {
    let activity = review.read(guest::ACTIVITY_STATE);
    review.require(activity <= 3, "guest activity state", activity, "must be 0 to 3");

    let state = review.read(guest::INTERRUPTIBILITY_STATE);
    let name = "guest interruptibility state";
    let (sti, mov_ss, nmi) = (state & 1 != 0, state & 2 != 0, state & 8 != 0);
    review.require(state & !0x1f == 0, name, state, "has a reserved bit");
    review.require(!(sti && mov_ss), name, state, "blocking by STI and MOV SS exclude each other");
    let enabled = mode.rflags.contains(Rflags::IF);
    review.require(enabled || !sti, name, state, "blocking by STI needs RFLAGS.IF");
    let interrupt = injects(review, 0);
    review.require(
        !(interrupt && (sti || mov_ss)),
        name,
        state,
        "an external interrupt cannot be injected while STI or MOV SS blocks",
    );
    let injects_nmi = injects(review, 2);
    review.require(
        !(injects_nmi && (mov_ss || nmi)),
        name,
        state,
        "an NMI cannot be injected while MOV SS or an NMI blocks",
    );
    let link = review.read(guest::LINK_PTR_FULL);
    review.require(link == u64::MAX, "VMCS link pointer", link, "must be all ones");
}

fn debug_exceptions<F: FieldSource>(review: &mut Review<'_, F>, mode: Mode) {
    let pending = review.read(guest::PENDING_DBG_EXCEPTIONS);
    let name = "guest pending debug exceptions";
    review.require(pending & !0x1_500f == 0, name, pending, "has a reserved bit");
    let blocked = review.read(guest::INTERRUPTIBILITY_STATE) & 3 != 0;
    let branches_only = review.read(guest::IA32_DEBUGCTL_FULL) & 2 != 0;
    if blocked {
        let steps = mode.rflags.contains(Rflags::TF) && !branches_only;
        let noted = pending & 1 << 14 != 0;
        review.require(steps == noted, name, pending, "BS must follow RFLAGS.TF while blocked");
    }
}

/// Source: SDM 27.3.1.6 "Checks on Guest Page-Directory-Pointer-Table Entries".
fn pdptes<F: FieldSource>(review: &mut Review<'_, F>, mode: Mode) {
    let pae = mode.cr0.contains(Cr0::PG) && mode.cr4.contains(Cr4::PAE) && !mode.ia32e;
    if !pae || !mode.ept {
        return;
    }
    let entries = [
        ("guest PDPTE0", guest::PDPTE0_FULL),
        ("guest PDPTE1", guest::PDPTE1_FULL),
        ("guest PDPTE2", guest::PDPTE2_FULL),
        ("guest PDPTE3", guest::PDPTE3_FULL),
    ];
    for (name, field) in entries {
        let value = review.read(field);
        let reserved = 0xfff0_0000_0000_01e6;
        let valid = value & 1 == 0 || value & reserved == 0;
        review.require(valid, name, value, "a present entry has a reserved bit");
    }
}
