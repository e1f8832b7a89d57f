//! Why the CPU refused to enter the guest.
//!
//! The CPU says only which group of checks failed. This module repeats the checks of
//! that group in the manual's order, over whatever [`FieldSource`] holds the fields.
//!
//! Source: SDM chapter 27 "VM Entries"; 31.4 "VM Instruction Error Numbers".

mod controls;
mod guest_state;
mod host_state;
mod segment_state;

use crate::FieldSource;
use crate::capabilities::RawCapabilities;
use crate::decode::{ENTRY_FAILURE, reason};
use anchorite_vcpu::EntryFailure;
use anchorite_vcpu::entry_failure::FieldViolation;

/// VM-instruction error 7: invalid control fields.
const INVALID_CONTROLS: u64 = 7;
/// VM-instruction error 8: invalid host state.
const INVALID_HOST_STATE: u64 = 8;

/// Reviews the fields after a refused entry with this `code`: a VM-instruction error,
/// or an exit reason with bit 31 set; 0 where no VMCS was current.
pub fn explain(code: u64, vmcs: &impl FieldSource, raw: &RawCapabilities) -> EntryFailure {
    let mut review = Review { vmcs, raw, found: [None; EntryFailure::MAX_FIELDS], count: 0 };
    let failed = u64::from(ENTRY_FAILURE);
    if code == failed | u64::from(reason::INVALID_GUEST_STATE) {
        guest_state::check(&mut review);
    } else if code == INVALID_CONTROLS {
        controls::check(&mut review);
    } else if code == INVALID_HOST_STATE {
        host_state::check(&mut review);
    }
    EntryFailure { code, reason: reason_text(code), fields: review.found }
}

/// A review in progress: the fields, and the violations found so far.
struct Review<'a, F> {
    vmcs: &'a F,
    raw: &'a RawCapabilities,
    found: [Option<FieldViolation>; EntryFailure::MAX_FIELDS],
    count: usize,
}

impl<F: FieldSource> Review<'_, F> {
    fn read(&self, field: u32) -> u64 {
        self.vmcs.read(field)
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

    fn require_canonical(&mut self, field: &'static str, value: u64) {
        self.require(is_canonical(value), field, value, "must be canonical");
    }

    /// Each byte of a PAT names a memory type.
    ///
    /// Source: SDM table 12-10 "Memory Types That Can Be Encoded With PAT".
    fn require_pat(&mut self, field: &'static str, value: u64) {
        let valid = value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7));
        self.require(valid, field, value, "each byte must be 0, 1, 4, 5, 6 or 7");
    }
}

/// Bits 63:47 are equal. Five-level paging allows more; hosts and guests that use it
/// are refused by the CPU itself then, never by this review.
const fn is_canonical(address: u64) -> bool {
    let top = address >> 47;
    top == 0 || top == u64::MAX >> 47
}

/// The manual's words for a refused entry.
pub const fn reason_text(code: u64) -> &'static str {
    if code & ENTRY_FAILURE as u64 != 0 {
        return match code as u32 & 0xffff {
            reason::INVALID_GUEST_STATE => "VM-entry failure due to invalid guest state",
            reason::MSR_LOADING => "VM-entry failure due to MSR loading",
            reason::MACHINE_CHECK => "VM-entry failure due to machine-check event",
            _ => "VM-entry failure",
        };
    }
    match code {
        0 => "VMfailInvalid: no VMCS is current",
        1 => "VMCALL executed in VMX root operation",
        2 => "VMCLEAR with invalid physical address",
        3 => "VMCLEAR with VMXON pointer",
        4 => "VMLAUNCH with non-clear VMCS",
        5 => "VMRESUME with non-launched VMCS",
        6 => "VMRESUME after VMXOFF",
        7 => "VM entry with invalid control field(s)",
        8 => "VM entry with invalid host-state field(s)",
        9 => "VMPTRLD with invalid physical address",
        10 => "VMPTRLD with VMXON pointer",
        11 => "VMPTRLD with incorrect VMCS revision identifier",
        12 => "VMREAD/VMWRITE from/to unsupported VMCS component",
        13 => "VMWRITE to read-only VMCS component",
        15 => "VMXON executed in VMX root operation",
        16 => "VM entry with invalid executive-VMCS pointer",
        17 => "VM entry with non-launched executive VMCS",
        18 => "VM entry with executive-VMCS pointer not VMXON pointer",
        19 => "VMCALL with non-clear VMCS",
        20 => "VMCALL with invalid VM-exit control fields",
        22 => "VMCALL with incorrect MSEG revision identifier",
        23 => "VMXOFF under dual-monitor treatment of SMIs and SMM",
        24 => "VMCALL with invalid SMM-monitor features",
        25 => "VM entry with invalid VM-execution control fields in executive VMCS",
        26 => "VM entry with events blocked by MOV SS",
        28 => "Invalid operand to INVEPT/INVVPID",
        _ => "a VM-instruction error that the manual does not list",
    }
}

#[cfg(test)]
mod tests;
