//! Why the CPU refused to enter the guest.
//!
//! The CPU says only that a check failed. This module repeats the checks in the
//! manual's order.
//!
//! Source: APM vol. 2, 15.5.1 "Basic Operation", "Canonicalization and Consistency
//! Checks"; 15.20 "Event Injection"; 15.25.4 "Nested Paging and VMRUN/#VMEXIT".

use crate::bitmaps::{MSR_PAGES, PORT_PAGES};
use crate::capabilities::{RawCapabilities, SvmFeatures};
use crate::event;
use crate::fields::NESTED_PAGING;
use anchorite_addr::PAGE_BYTES;
use anchorite_vcpu::entry_failure::FieldViolation;
use anchorite_vcpu::{Cr0, Cr4, Efer, EntryFailure};

/// The fields of a VMCB that VMRUN checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// EFER.
    pub efer: u64,
    /// The attributes of CS, in the VMCB's layout.
    pub cs_attributes: u16,
    /// The intercept vector at 0x010.
    pub misc_2: u32,
    /// Address of the I/O permissions map.
    pub iopm_base: u64,
    /// Address of the MSR permissions map.
    pub msrpm_base: u64,
    /// The ASID.
    pub asid: u32,
    /// EVENTINJ.
    pub event_injection: u64,
    /// Bit 0: nested paging.
    pub nested_control: u64,
    /// The nested root.
    pub nested_cr3: u64,
    /// The guest's PAT.
    pub g_pat: u64,
}

/// The intercept of VMRUN in the vector at 0x010.
const VMRUN: u32 = 1 << 0;
/// CS attributes L and D in the VMCB's layout.
const CODE_LONG: u16 = 1 << 9;
const CODE_DEFAULT_32: u16 = 1 << 10;
/// Bits 0–31: what DR6 and DR7 may hold.
const LOW_HALF: u64 = 0xffff_ffff;

/// Reviews the fields after a refused entry with this exit `code`.
pub fn explain(code: u64, fields: &Checked, raw: &RawCapabilities) -> EntryFailure {
    let mut review = Review { fields, raw, found: [None; EntryFailure::MAX_FIELDS], count: 0 };
    review.efer();
    review.control_registers();
    review.debug_registers();
    review.control_area();
    review.event();
    review.nested_paging();
    let reason = match review.count {
        0 => "VMEXIT_INVALID, though no check of the manual's list is violated",
        _ => "VMEXIT_INVALID: invalid state in the VMCB",
    };
    EntryFailure { code, reason, fields: review.found }
}

/// A review in progress: the fields, and the violations found so far.
struct Review<'a> {
    fields: &'a Checked,
    raw: &'a RawCapabilities,
    found: [Option<FieldViolation>; EntryFailure::MAX_FIELDS],
    count: usize,
}

impl Review<'_> {
    fn efer(&mut self) {
        let Checked { efer, cr0, cr4, cs_attributes, .. } = *self.fields;
        let known = self.raw.efer_bits();
        self.require(efer & Efer::SVME.bits() != 0, "EFER", efer, "SVME must be set");
        self.require(efer & !known & !Efer::SVME.bits() == 0, "EFER", efer, RESERVED);
        let paging_in_long_mode = efer & Efer::LME.bits() != 0 && cr0 & Cr0::PG.bits() != 0;
        if !paging_in_long_mode {
            return;
        }
        let pae = cr4 & Cr4::PAE.bits() != 0;
        self.require(pae, "CR4", cr4, "EFER.LME and CR0.PG demand PAE");
        let protected = cr0 & Cr0::PE.bits() != 0;
        self.require(protected, "CR0", cr0, "EFER.LME and CR0.PG demand PE");
        let both = CODE_LONG | CODE_DEFAULT_32;
        let ambiguous = pae && cs_attributes & both == both;
        let value = u64::from(cs_attributes);
        self.require(!ambiguous, "CS.attributes", value, "L and D must not both be set");
    }

    fn control_registers(&mut self) {
        let Checked { efer, cr0, cr3, cr4, .. } = *self.fields;
        let uncached = cr0 & Cr0::CD.bits() != 0;
        let not_through = cr0 & Cr0::NW.bits() != 0;
        self.require(uncached || !not_through, "CR0", cr0, "NW demands CD");
        self.require(cr0 <= LOW_HALF, "CR0", cr0, "bits 63:32 must be zero");
        let width = self.raw.physical_bits();
        let long = efer & Efer::LMA.bits() != 0;
        self.require(!long || cr3 >> width == 0, "CR3", cr3, "above the physical address width");
        let known = self.raw.cr4_bits().bits();
        self.require(cr4 & !known == 0, "CR4", cr4, RESERVED);
    }

    fn debug_registers(&mut self) {
        let Checked { dr6, dr7, .. } = *self.fields;
        self.require(dr6 <= LOW_HALF, "DR6", dr6, "bits 63:32 must be zero");
        self.require(dr7 <= LOW_HALF, "DR7", dr7, "bits 63:32 must be zero");
    }

    fn control_area(&mut self) {
        let Checked { misc_2, asid, iopm_base, msrpm_base, .. } = *self.fields;
        let value = u64::from(misc_2);
        self.require(misc_2 & VMRUN != 0, "intercepts at 0x010", value, "VMRUN must be set");
        self.require(asid != 0, "ASID", u64::from(asid), "0 is the host's");
        let rule = "the map must lie below the end of physical addresses";
        self.require(self.fits(iopm_base, PORT_PAGES), "IOPM_BASE_PA", iopm_base, rule);
        self.require(self.fits(msrpm_base, MSR_PAGES), "MSRPM_BASE_PA", msrpm_base, rule);
    }

    fn fits(&self, base: u64, pages: usize) -> bool {
        let end = 1u64 << self.raw.physical_bits();
        base.checked_add(pages as u64 * PAGE_BYTES).is_some_and(|last| last <= end)
    }

    /// Illegal injections: a reserved type, or an exception with a vector that is none.
    fn event(&mut self) {
        let value = self.fields.event_injection;
        if value & event::VALID == 0 {
            return;
        }
        let (kind, vector) = (event::raw_type(value), value as u8);
        let known = matches!(kind, 0 | 2 | 3 | 4);
        self.require(known, "EVENTINJ", value, "the type is reserved");
        let exception = kind != 3 || (vector != 2 && vector < 32);
        self.require(exception, "EVENTINJ", value, "an exception has a vector below 32, not 2");
    }

    fn nested_paging(&mut self) {
        let Checked { nested_control, nested_cr3, g_pat, .. } = *self.fields;
        if nested_control & NESTED_PAGING == 0 {
            return;
        }
        let available = self.raw.features.contains(SvmFeatures::NESTED_PAGING);
        let rule = "this CPU has no nested paging";
        self.require(available, "NP_ENABLE", nested_control, rule);
        let in_range = nested_cr3 >> self.raw.physical_bits() == 0;
        self.require(in_range, "nCR3", nested_cr3, "above the physical address width");
        let valid = g_pat.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7));
        self.require(valid, "G_PAT", g_pat, "each byte must be 0, 1, 4, 5, 6 or 7");
    }

    /// Notes that `field` breaks `rule`, unless it `holds`; beyond the report's room
    /// nothing is noted.
    fn require(&mut self, holds: bool, field: &'static str, value: u64, rule: &'static str) {
        if holds {
            return;
        }
        if let Some(place) = self.found.get_mut(self.count) {
            *place = Some(FieldViolation { field, value, rule });
            self.count += 1;
        }
    }
}

const RESERVED: &str = "holds bits that this CPU reserves";

#[cfg(test)]
mod tests;
