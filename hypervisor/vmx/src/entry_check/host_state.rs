//! Checks on the host-state area. Source: SDM 27.2.2 to 27.2.4.

use super::Review;
use crate::FieldSource;
use x86::vmx::vmcs::host;

pub(super) fn check<F: FieldSource>(review: &mut Review<'_, F>) {
    control_registers(review);
    addresses(review);
    selectors(review);
}

fn control_registers<F: FieldSource>(review: &mut Review<'_, F>) {
    let raw = review.raw;
    let fixed = "must have the bits that VMX operation fixes";
    let cr0 = review.read(host::CR0);
    let cr4 = review.read(host::CR4);
    let allows = |value: u64, ones: u64, may: u64| value & ones == ones && value & !may == 0;
    review.require(allows(cr0, raw.cr0_fixed0, raw.cr0_fixed1), "host CR0", cr0, fixed);
    review.require(allows(cr4, raw.cr4_fixed0, raw.cr4_fixed1), "host CR4", cr4, fixed);

    let cr3 = review.read(host::CR3);
    review.require(cr3 >> 52 == 0, "host CR3", cr3, "must be a physical address");
    let pat = review.read(host::IA32_PAT_FULL);
    review.require_pat("host IA32_PAT", pat);
    let efer = review.read(host::IA32_EFER_FULL);
    let long_mode = efer & (1 << 8 | 1 << 10) == 1 << 8 | 1 << 10;
    review.require(long_mode, "host IA32_EFER", efer, "must have LMA and LME");
}

fn addresses<F: FieldSource>(review: &mut Review<'_, F>) {
    let canonical = [
        ("host FS base", host::FS_BASE),
        ("host GS base", host::GS_BASE),
        ("host TR base", host::TR_BASE),
        ("host GDTR base", host::GDTR_BASE),
        ("host IDTR base", host::IDTR_BASE),
        ("host IA32_SYSENTER_ESP", host::IA32_SYSENTER_ESP),
        ("host IA32_SYSENTER_EIP", host::IA32_SYSENTER_EIP),
        ("host RIP", host::RIP),
    ];
    for (name, field) in canonical {
        let value = review.read(field);
        review.require_canonical(name, value);
    }
}

fn selectors<F: FieldSource>(review: &mut Review<'_, F>) {
    let selectors = [
        ("host ES selector", host::ES_SELECTOR),
        ("host CS selector", host::CS_SELECTOR),
        ("host SS selector", host::SS_SELECTOR),
        ("host DS selector", host::DS_SELECTOR),
        ("host FS selector", host::FS_SELECTOR),
        ("host GS selector", host::GS_SELECTOR),
        ("host TR selector", host::TR_SELECTOR),
    ];
    for (name, field) in selectors {
        let value = review.read(field);
        review.require(value % 8 == 0, name, value, "RPL and TI must be 0");
    }
    for (name, field) in
        [("host CS selector", host::CS_SELECTOR), ("host TR selector", host::TR_SELECTOR)]
    {
        let value = review.read(field);
        review.require(value != 0, name, value, "must not be null");
    }
}
