//! Checks on VMX controls. Source: SDM 27.2.1 "Checks on VMX Controls".

use super::Review;
use crate::FieldSource;
use crate::controls::Allowed;
use anchorite_addr::PAGE_BYTES;
use x86::vmx::vmcs::control;
use x86::vmx::vmcs::control::{PinbasedControls, PrimaryControls, SecondaryControls};

pub(super) fn check<F: FieldSource>(review: &mut Review<'_, F>) {
    words(review);
    dependencies(review);
    addresses(review);
    event(review);
}

/// Each control word against the MSR that says what this CPU allows.
fn words<F: FieldSource>(review: &mut Review<'_, F>) {
    let raw = review.raw;
    let words = [
        ("pin-based VM-execution controls", control::PINBASED_EXEC_CONTROLS, raw.pin),
        ("primary controls", control::PRIMARY_PROCBASED_EXEC_CONTROLS, raw.primary),
        ("secondary controls", control::SECONDARY_PROCBASED_EXEC_CONTROLS, raw.secondary),
        ("VM-exit controls", control::VMEXIT_CONTROLS, raw.exit),
        ("VM-entry controls", control::VMENTRY_CONTROLS, raw.entry),
    ];
    for (name, field, msr) in words {
        let value = review.read(field);
        let allowed = Allowed(msr).refused(value as u32) == 0;
        review.require(allowed, name, value, "has a bit that the capability MSR refuses");
    }
}

/// Controls that need each other. Source: SDM 27.2.1.1 "VM-Execution Control Fields".
fn dependencies<F: FieldSource>(review: &mut Review<'_, F>) {
    let pin = review.read(control::PINBASED_EXEC_CONTROLS);
    let primary = review.read(control::PRIMARY_PROCBASED_EXEC_CONTROLS);
    let secondary = review.read(control::SECONDARY_PROCBASED_EXEC_CONTROLS);
    let has = |word: u64, bit: u32| word as u32 & bit != 0;

    let virtual_nmis = has(pin, PinbasedControls::VIRTUAL_NMIS.bits());
    let nmi_exiting = has(pin, PinbasedControls::NMI_EXITING.bits());
    let nmi_window = has(primary, PrimaryControls::NMI_WINDOW_EXITING.bits());
    let ept = has(secondary, SecondaryControls::ENABLE_EPT.bits());
    let unrestricted = has(secondary, SecondaryControls::UNRESTRICTED_GUEST.bits());
    let vpid = has(secondary, SecondaryControls::ENABLE_VPID.bits());
    review.require(
        nmi_exiting || !virtual_nmis,
        "pin-based VM-execution controls",
        pin,
        "virtual NMIs need NMI exiting",
    );
    review.require(
        virtual_nmis || !nmi_window,
        "primary controls",
        primary,
        "NMI-window exiting needs virtual NMIs",
    );
    review.require(
        ept || !unrestricted,
        "secondary controls",
        secondary,
        "unrestricted guest needs EPT",
    );
    let tag = review.read(control::VPID);
    review.require(tag != 0 || !vpid, "VPID", tag, "must not be 0 with VPIDs enabled");
}

fn addresses<F: FieldSource>(review: &mut Review<'_, F>) {
    let pages = [
        ("I/O bitmap A", control::IO_BITMAP_A_ADDR_FULL),
        ("I/O bitmap B", control::IO_BITMAP_B_ADDR_FULL),
        ("MSR bitmap", control::MSR_BITMAPS_ADDR_FULL),
    ];
    for (name, field) in pages {
        let value = review.read(field);
        review.require(value % PAGE_BYTES == 0, name, value, "must be 4 KiB aligned");
    }
    let secondary = review.read(control::SECONDARY_PROCBASED_EXEC_CONTROLS) as u32;
    if secondary & SecondaryControls::ENABLE_EPT.bits() != 0 {
        let pointer = review.read(control::EPTP_FULL);
        let valid = matches!(pointer & 7, 0 | 6) && pointer >> 3 & 7 == 3 && pointer & 0xf80 == 0;
        review.require(
            valid,
            "EPT pointer",
            pointer,
            "must name a memory type and four levels; no root was set if it is 0",
        );
    }
}

/// Source: SDM 27.2.1.3 "VM-Entry Control Fields".
fn event<F: FieldSource>(review: &mut Review<'_, F>) {
    let info = review.read(control::VMENTRY_INTERRUPTION_INFO_FIELD);
    if info & 1 << 31 == 0 {
        return;
    }
    let (kind, vector) = (info >> 8 & 7, info & 0xff);
    let vector_fits = match kind {
        2 => vector == 2,
        3 => vector <= 31,
        _ => true,
    };
    let name = "VM-entry interruption information";
    review.require(kind != 1, name, info, "type 1 is reserved");
    review.require(vector_fits, name, info, "the vector does not fit the type");
    review.require(info & 0x7fff_f000 == 0, name, info, "bits 30:12 must be 0");
    if matches!(kind, 4..=6) {
        let length = review.read(control::VMENTRY_INSTRUCTION_LEN);
        let least = u64::from(!review.raw.zero_length_events());
        review.require(
            (least..=15).contains(&length),
            "VM-entry instruction length",
            length,
            "must be 1 to 15 for a software event, or 0 where IA32_VMX_MISC allows it",
        );
    }
    let pushes = matches!(vector, 8 | 10..=14 | 17) || review.raw.free_error_codes();
    let offered = info & 1 << 11 != 0;
    review.require(kind == 3 && pushes || !offered, name, info, "this event pushes no error code");
}
