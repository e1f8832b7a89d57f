//! Segment registers as VM entry accepts them.
//!
//! The contract's attributes have the layout of a VMCS access-rights field, so the
//! work here is to repair what entry refuses although no guest could tell the
//! difference.
//!
//! Source: SDM 27.3.1.2 "Checks on Guest Segment Registers".

use anchorite_vcpu::{Segment, SegmentAttributes, SegmentRegister};
use x86::vmx::vmcs::guest;

/// Encodings of one segment register's four fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFields {
    /// The selector.
    pub selector: u32,
    /// The base.
    pub base: u32,
    /// The limit.
    pub limit: u32,
    /// The access rights.
    pub rights: u32,
}

/// The fields that hold `register`: ES comes first, the others follow by twos.
pub const fn fields(register: SegmentRegister) -> SegmentFields {
    let step = 2 * register as u32;
    SegmentFields {
        selector: guest::ES_SELECTOR + step,
        base: guest::ES_BASE + step,
        limit: guest::ES_LIMIT + step,
        rights: guest::ES_ACCESS_RIGHTS + step,
    }
}

/// Bit 0 of a code or data segment's type.
const ACCESSED: u32 = 1;
/// Bit 1 of a TSS's type.
const BUSY: u32 = 2;
/// Bits that an access-rights field may have set.
const DEFINED: u32 = 0x1_f0ff;
/// A busy 32-bit TSS, present; in IA-32e mode the same type means 64-bit.
const BUSY_TSS: SegmentAttributes = SegmentAttributes::from_bits_retain(0x8b);
/// Last offset of a TSS without I/O bitmap.
const TSS_LIMIT: u32 = 0x67;
/// Highest limit that can be counted in bytes.
const BYTE_LIMIT: u32 = 0xf_ffff;
/// Limit bits that are all ones when the limit counts pages.
const PAGE_LIMIT: u32 = 0xfff;

/// `segment` with what entry demands of `register`.
pub fn accepted(register: SegmentRegister, segment: Segment) -> Segment {
    let segment = masked(segment);
    match register {
        SegmentRegister::Tr => task_register(segment),
        SegmentRegister::Ldtr => with_granularity(segment),
        _ => with_granularity(accessed(segment)),
    }
}

/// A segment register after reset: the first instruction is at 0xffff_fff0.
///
/// Source: SDM table 10-1 "IA-32 and Intel 64 Processor States Following Power-up,
/// Reset, or INIT".
pub const fn after_reset(register: SegmentRegister) -> Segment {
    match register {
        SegmentRegister::Cs => {
            Segment { selector: 0xf000, base: 0xffff_0000, ..Segment::real_mode(0, true) }
        }
        SegmentRegister::Ldtr => Segment {
            limit: 0xffff,
            attributes: SegmentAttributes::from_bits_retain(0x82),
            ..Segment::unusable()
        },
        SegmentRegister::Tr => Segment { attributes: BUSY_TSS, ..Segment::real_mode(0, false) },
        _ => Segment::real_mode(0, false),
    }
}

fn masked(mut segment: Segment) -> Segment {
    segment.attributes &= SegmentAttributes::from_bits_retain(DEFINED);
    segment
}

/// TR is always usable and busy in hardware. A guest before its first LTR cannot
/// tell: the task register is read only through a TSS.
fn task_register(mut segment: Segment) -> Segment {
    let kind = segment.attributes & SegmentAttributes::TYPE;
    if segment.attributes.contains(SegmentAttributes::UNUSABLE) || kind.is_empty() {
        return Segment { attributes: BUSY_TSS, limit: TSS_LIMIT, ..segment };
    }
    segment.attributes |= SegmentAttributes::from_bits_retain(BUSY);
    with_granularity(segment)
}

/// The CPU marks a descriptor accessed when it loads it.
fn accessed(mut segment: Segment) -> Segment {
    if !segment.attributes.contains(SegmentAttributes::UNUSABLE) {
        segment.attributes |= SegmentAttributes::from_bits_retain(ACCESSED);
    }
    segment
}

/// The granularity bit must agree with the limit in bytes; a limit that neither
/// granularity can express is rounded up to a page.
fn with_granularity(mut segment: Segment) -> Segment {
    if segment.attributes.contains(SegmentAttributes::UNUSABLE) {
        return segment;
    }
    if segment.limit > BYTE_LIMIT {
        segment.limit |= PAGE_LIMIT;
        segment.attributes |= SegmentAttributes::GRANULARITY;
    } else if segment.limit & PAGE_LIMIT != PAGE_LIMIT {
        segment.attributes -= SegmentAttributes::GRANULARITY;
    }
    segment
}

/// The base in a 16-byte system descriptor, as the GDT holds the TSS of a 64-bit host.
///
/// Source: SDM 8.2.3 "TSS Descriptor in 64-bit mode".
pub const fn system_base([low, high]: [u64; 2]) -> u64 {
    low >> 16 & 0xff_ffff | low >> 56 << 24 | high << 32
}

#[cfg(test)]
mod tests;
