//! Checks on the guest's segment registers.
//!
//! Source: SDM 27.3.1.2 "Checks on Guest Segment Registers".

use super::guest_state::Mode;
use super::{Review, is_canonical};
use crate::FieldSource;
use crate::segments;
use anchorite_vcpu::{Cr0, Segment, SegmentAttributes, SegmentRegister};

/// The names of one register's fields.
struct Names {
    selector: &'static str,
    base: &'static str,
    limit: &'static str,
    rights: &'static str,
}

macro_rules! names {
    ($name:literal) => {
        Names {
            selector: concat!("guest ", $name, " selector"),
            base: concat!("guest ", $name, " base"),
            limit: concat!("guest ", $name, " limit"),
            rights: concat!("guest ", $name, " access rights"),
        }
    };
}

/// In the order of [`SegmentRegister::ALL`].
const NAMES: [Names; 8] = [
    names!("ES"),
    names!("CS"),
    names!("SS"),
    names!("DS"),
    names!("FS"),
    names!("GS"),
    names!("LDTR"),
    names!("TR"),
];

/// Access rights of every segment in virtual-8086 mode.
const VIRTUAL_8086_RIGHTS: u32 = 0xf3;
/// Bits of an access-rights field that must be 0.
const RESERVED: u32 = !0x1_f0ff;

pub(super) fn check<F: FieldSource>(review: &mut Review<'_, F>, mode: Mode) {
    for register in SegmentRegister::ALL {
        let segment = read(review, register);
        let names = &NAMES[register as usize];
        match register {
            SegmentRegister::Tr => task_register(review, names, segment, mode),
            SegmentRegister::Ldtr => local_table(review, names, segment),
            _ if mode.virtual_8086() => virtual_8086(review, names, segment),
            _ => code_or_data(review, names, register, segment),
        }
    }
    if !mode.virtual_8086() {
        code_segment(review, mode);
        stack_segment(review, mode);
    }
}

fn read<F: FieldSource>(review: &Review<'_, F>, register: SegmentRegister) -> Segment {
    let fields = segments::fields(register);
    Segment {
        selector: review.read(fields.selector) as u16,
        base: review.read(fields.base),
        limit: review.read(fields.limit) as u32,
        attributes: SegmentAttributes::from_bits_retain(review.read(fields.rights) as u32),
    }
}

fn usable(segment: Segment) -> bool {
    !segment.attributes.contains(SegmentAttributes::UNUSABLE)
}

fn kind(segment: Segment) -> u32 {
    segment.attributes.bits() & 0xf
}

fn rights(segment: Segment) -> u64 {
    u64::from(segment.attributes.bits())
}

/// The granularity bit agrees with the limit.
fn granularity_fits(segment: Segment) -> bool {
    let pages = segment.attributes.contains(SegmentAttributes::GRANULARITY);
    let needs_bytes = segment.limit & 0xfff != 0xfff;
    let needs_pages = segment.limit >> 20 != 0;
    !(pages && needs_bytes) && (pages || !needs_pages)
}

fn task_register<F: FieldSource>(
    review: &mut Review<'_, F>,
    names: &Names,
    segment: Segment,
    mode: Mode,
) {
    review.require(
        segment.selector & 4 == 0,
        names.selector,
        segment.selector.into(),
        "TI must be 0",
    );
    review.require_canonical(names.base, segment.base);
    let busy = kind(segment) == 11 || kind(segment) == 3 && !mode.ia32e;
    review.require(
        busy,
        names.rights,
        rights(segment),
        "must be a busy TSS, 64-bit in IA-32e mode",
    );
    system(review, names, segment);
    review.require(usable(segment), names.rights, rights(segment), "must be usable");
}

fn local_table<F: FieldSource>(review: &mut Review<'_, F>, names: &Names, segment: Segment) {
    if !usable(segment) {
        return;
    }
    review.require(
        segment.selector & 4 == 0,
        names.selector,
        segment.selector.into(),
        "TI must be 0",
    );
    review.require_canonical(names.base, segment.base);
    review.require(kind(segment) == 2, names.rights, rights(segment), "must be an LDT");
    system(review, names, segment);
}

/// What LDTR and TR have in common.
fn system<F: FieldSource>(review: &mut Review<'_, F>, names: &Names, segment: Segment) {
    let flags = segment.attributes;
    let valid = !flags.contains(SegmentAttributes::CODE_OR_DATA)
        && flags.contains(SegmentAttributes::PRESENT)
        && flags.bits() & RESERVED == 0;
    review.require(valid, names.rights, rights(segment), "must be a present system segment");
    let fits = granularity_fits(segment);
    review.require(fits, names.limit, segment.limit.into(), "disagrees with the granularity bit");
}

fn virtual_8086<F: FieldSource>(review: &mut Review<'_, F>, names: &Names, segment: Segment) {
    let base = u64::from(segment.selector) << 4;
    review.require(segment.base == base, names.base, segment.base, "must be selector × 16");
    review.require(
        segment.limit == 0xffff,
        names.limit,
        segment.limit.into(),
        "must be 0xffff in virtual-8086 mode",
    );
    let fits = segment.attributes.bits() == VIRTUAL_8086_RIGHTS;
    review.require(fits, names.rights, rights(segment), "must be 0xf3 in virtual-8086 mode");
}

fn code_or_data<F: FieldSource>(
    review: &mut Review<'_, F>,
    names: &Names,
    register: SegmentRegister,
    segment: Segment,
) {
    let is_code = register == SegmentRegister::Cs;
    if !usable(segment) && !is_code {
        return;
    }
    match register {
        SegmentRegister::Fs | SegmentRegister::Gs => {
            review.require(
                is_canonical(segment.base),
                names.base,
                segment.base,
                "must be canonical",
            );
        }
        _ => {
            let low = segment.base >> 32 == 0;
            review.require(low, names.base, segment.base, "bits 63:32 must be 0");
        }
    }
    let flags = segment.attributes;
    let valid = flags.contains(SegmentAttributes::CODE_OR_DATA)
        && flags.contains(SegmentAttributes::PRESENT)
        && flags.bits() & RESERVED == 0;
    review.require(valid, names.rights, rights(segment), "must be a present code or data segment");
    let type_fits = match register {
        SegmentRegister::Cs => matches!(kind(segment), 3 | 9 | 11 | 13 | 15),
        SegmentRegister::Ss => matches!(kind(segment), 3 | 7),
        _ => kind(segment) & 1 != 0 && (kind(segment) & 8 == 0 || kind(segment) & 2 != 0),
    };
    review.require(
        type_fits,
        names.rights,
        rights(segment),
        "has a type this register cannot hold",
    );
    let fits = granularity_fits(segment);
    review.require(fits, names.limit, segment.limit.into(), "disagrees with the granularity bit");
}

fn code_segment<F: FieldSource>(review: &mut Review<'_, F>, mode: Mode) {
    let names = &NAMES[SegmentRegister::Cs as usize];
    let cs = read(review, SegmentRegister::Cs);
    let ss = read(review, SegmentRegister::Ss);
    let (dpl, stack) = (cs.attributes.dpl(), ss.attributes.dpl());
    let dpl_fits = match kind(cs) {
        3 => dpl == 0,
        9 | 11 => dpl == stack,
        _ => dpl <= stack,
    };
    review.require(dpl_fits, names.rights, rights(cs), "DPL does not fit SS's");
    review.require(
        kind(cs) != 3 || mode.unrestricted,
        names.rights,
        rights(cs),
        "type 3 needs unrestricted guest",
    );
    let both = SegmentAttributes::LONG | SegmentAttributes::DEFAULT_32;
    review.require(
        !(mode.ia32e && cs.attributes.contains(both)),
        names.rights,
        rights(cs),
        "L and D exclude each other in IA-32e mode",
    );
}

fn stack_segment<F: FieldSource>(review: &mut Review<'_, F>, mode: Mode) {
    let names = &NAMES[SegmentRegister::Ss as usize];
    let cs = read(review, SegmentRegister::Cs);
    let ss = read(review, SegmentRegister::Ss);
    let dpl = ss.attributes.dpl();
    let rpl = |segment: Segment| segment.selector as u8 & 3;
    if !mode.unrestricted {
        review.require(rpl(ss) == rpl(cs), names.selector, ss.selector.into(), "RPL must be CS's");
        review.require(dpl == rpl(ss), names.rights, rights(ss), "DPL must be the selector's RPL");
    }
    let real = !mode.cr0.contains(Cr0::PE) || kind(cs) == 3;
    review.require(dpl == 0 || !real, names.rights, rights(ss), "DPL must be 0 in real mode");
}
