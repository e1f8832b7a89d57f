//! Control registers, segments and the root in the VMCS.
#![expect(unsafe_code, reason = "controls and the root decide what memory the guest reaches")]

use super::{CurrentVmcs, VmxVcpu, write_all};
use crate::FieldSource;
use crate::controls::{ControlSet, GuestControl, HardwareControl, IA32E_MODE_GUEST, visible};
use crate::fields;
use crate::instructions as cpu;
use crate::{ept, segments};
use anchorite_addr::{Hpa, HpaPage};
use anchorite_vcpu::{Cr0, Cr4, Efer, Root, Segment, SegmentAttributes, SegmentRegister, Vector};
use x86::vmx::vmcs::control;
use x86::vmx::vmcs::guest;

impl VmxVcpu {
    /// Loads `root`, and with the first one of its kind the controls for that kind.
    ///
    /// Linear translations are tagged by VPID, not by root, so another root means that
    /// the old one's translations must go.
    pub(super) fn load_root(&mut self, root: Root) {
        if self.root == Some(root) {
            return;
        }
        let (view, cr3) = (self.control_view(), self.guest_cr3());
        let before = self.root.replace(root);
        self.turn.flush = true;
        if before.is_none_or(|before| format_of(before) != format_of(root)) {
            self.change_format(view, cr3);
        }
        let (field, value) = match root {
            Root::Nested { table } => (control::EPTP_FULL, ept::pointer(table)),
            Root::Shadow { cr3, .. } => (guest::CR3, cr3.as_u64()),
        };
        // SAFETY: the caller of `set_root` chose the tables that confine the guest.
        self.access(|_| unsafe { cpu::vmwrite(field, value) });
    }

    /// Switches everything that depends on the kind of root, but not the root itself.
    fn change_format(&mut self, view: GuestControl, cr3: u64) {
        let windows = self.primary & !self.nested.primary & !self.shadow.primary;
        let set = *self.controls();
        self.primary = set.primary | windows;
        self.access(|_| {
            // SAFETY: these sets were built from the tables in `controls`, which
            // confine the guest; each field was written once at creation.
            let _ = unsafe { write_all(&fields::control_words(&set)) };
        });
        self.write_primary();
        self.apply(view);
        self.set_guest_cr3(cr3);
        self.write_exceptions();
    }

    /// The controls for the kind of root that is loaded.
    pub(super) fn controls(&self) -> &ControlSet {
        if self.is_nested() { &self.nested } else { &self.shadow }
    }

    /// Whether the CPU itself walks the guest's tables; so it is before the first root.
    pub(super) fn is_nested(&self) -> bool {
        !matches!(self.root, Some(Root::Shadow { .. }))
    }

    /// CR0, CR4 and EFER as the guest reads them.
    pub(super) fn control_view(&self) -> GuestControl {
        let HardwareControl { cr0_mask, cr4_mask, .. } = self.applied;
        self.access(|vmcs| GuestControl {
            cr0: Cr0::from_bits_retain(visible(
                vmcs.read(guest::CR0),
                cr0_mask,
                self.view.cr0.bits(),
            )),
            cr4: Cr4::from_bits_retain(visible(
                vmcs.read(guest::CR4),
                cr4_mask,
                self.view.cr4.bits(),
            )),
            efer: if self.is_nested() {
                Efer::from_bits_retain(vmcs.read(guest::IA32_EFER_FULL))
            } else {
                self.view.efer
            },
        })
    }

    /// Makes the guest read `view`.
    pub(super) fn apply(&mut self, view: GuestControl) {
        let root = self.root.unwrap_or(NO_ROOT);
        let hardware = HardwareControl::new(view, root, self.imposed);
        let long_mode = if hardware.long_mode { IA32E_MODE_GUEST } else { 0 };
        let entry = self.controls().entry | long_mode;
        let settings = [
            (guest::CR0, hardware.cr0),
            (control::CR0_GUEST_HOST_MASK, hardware.cr0_mask),
            (control::CR0_READ_SHADOW, view.cr0.bits()),
            (guest::CR4, hardware.cr4),
            (control::CR4_GUEST_HOST_MASK, hardware.cr4_mask),
            (control::CR4_READ_SHADOW, view.cr4.bits()),
            (guest::IA32_EFER_FULL, hardware.efer),
            (control::VMENTRY_CONTROLS, u64::from(entry)),
        ];
        self.access(|_| {
            // SAFETY: these fields concern the guest's own state; each CPU has them.
            let _ = unsafe { write_all(&settings) };
        });
        self.view = view;
        self.applied = hardware;
    }

    /// CR3 as the guest reads it.
    pub(super) fn guest_cr3(&self) -> u64 {
        if self.is_nested() { self.read(guest::CR3) } else { self.shadowed_cr3 }
    }

    /// Sets CR3 as the guest reads it.
    pub(super) fn set_guest_cr3(&mut self, value: u64) {
        if self.is_nested() {
            self.write(guest::CR3, value);
        } else {
            self.shadowed_cr3 = value;
        }
    }

    /// Reads a segment register.
    pub(super) fn read_segment(&self, register: SegmentRegister) -> Segment {
        let fields = segments::fields(register);
        self.access(|vmcs| Segment {
            selector: vmcs.read(fields.selector) as u16,
            base: vmcs.read(fields.base),
            limit: vmcs.read(fields.limit) as u32,
            attributes: SegmentAttributes::from_bits_retain(vmcs.read(fields.rights) as u32),
        })
    }

    /// Writes a segment register, repaired for entry.
    pub(super) fn write_segment(&mut self, register: SegmentRegister, segment: Segment) {
        let fields = segments::fields(register);
        let segment = segments::accepted(register, segment);
        let settings = [
            (fields.selector, u64::from(segment.selector)),
            (fields.base, segment.base),
            (fields.limit, u64::from(segment.limit)),
            (fields.rights, u64::from(segment.attributes.bits())),
        ];
        self.access(|_| {
            // SAFETY: guest state decides nothing about host memory; each CPU has
            // these fields.
            let _ = unsafe { write_all(&settings) };
        });
    }

    /// Writes which exceptions exit. Under a shadow root #PF always does.
    pub(super) fn write_exceptions(&self) {
        let page_fault = 1 << Vector::PAGE_FAULT.0;
        let vectors = if self.is_nested() { self.exceptions } else { self.exceptions | page_fault };
        // SAFETY: any choice of exits is safe for the host.
        self.access(|_| unsafe { cpu::vmwrite(control::EXCEPTION_BITMAP, u64::from(vectors)) });
    }

    /// Sets or clears a window in the primary controls.
    pub(super) fn set_window(&mut self, window: u32, wanted: bool) {
        let primary = if wanted { self.primary | window } else { self.primary & !window };
        if primary != self.primary {
            self.primary = primary;
            self.write_primary();
        }
    }

    fn write_primary(&self) {
        let primary = u64::from(self.primary);
        // SAFETY: the tables in `controls` plus windows.
        self.access(|_| unsafe {
            cpu::vmwrite(control::PRIMARY_PROCBASED_EXEC_CONTROLS, primary);
        });
    }

    /// Reads an MSR that stays in the CPU.
    pub(super) fn read_passive(&self, index: u32) -> u64 {
        // SAFETY: every CPU with long mode has these MSRs.
        self.access(|_: CurrentVmcs| unsafe { cpu::rdmsr(index) })
    }

    /// Writes an MSR that stays in the CPU.
    pub(super) fn write_passive(&mut self, index: u32, value: u64) {
        // SAFETY: the contract has the value checked, and the host does not depend on
        // these MSRs (see `passive`).
        self.access(|_: CurrentVmcs| unsafe { cpu::wrmsr(index, value) });
    }
}

/// Stands for "none yet" where only the kind counts; the EPTP field is 0 then, which
/// entry refuses.
const NO_ROOT: Root = Root::Nested { table: NO_TABLE };
const NO_TABLE: HpaPage = Hpa::new(0).page();

/// What of a root decides controls and control registers.
fn format_of(root: Root) -> Option<anchorite_vcpu::root::ShadowFormat> {
    match root {
        Root::Nested { .. } => None,
        Root::Shadow { format, .. } => Some(format),
    }
}
