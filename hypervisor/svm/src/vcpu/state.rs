//! Control registers, segments, intercepts and the root in the VMCB.

use super::SvmVcpu;
use super::attention::Attention;
use super::delivery::{NmiState, VirtualUse};
use crate::controls::{ControlSet, GuestControl, HardwareControl, IRET, VIRTUAL_INTERRUPT};
use crate::entry_check::Checked;
use crate::fields::{Clean, NESTED_PAGING, VmcbSegment, get, set};
use crate::segments;
use anchorite_addr::{Hpa, HpaPage};
use anchorite_vcpu::root::ShadowFormat;
use anchorite_vcpu::{Cr0, Cr4, Efer, Root, Segment, SegmentRegister, Vector};

impl SvmVcpu {
    /// Loads `root`, and with the first one of its kind the controls for that kind.
    ///
    /// Translations are tagged by ASID, not by root, so another root means that the
    /// old one's translations must go.
    #[inline]
    pub(super) fn load_root(&mut self, root: Root) {
        match (self.root, root) {
            (Some(Root::Shadow { cr3: old, format }), Root::Shadow { cr3, format: new })
                if format == new =>
            {
                if old != cr3 {
                    self.switch_shadow(root, cr3);
                }
            }
            _ => self.load_another(root),
        }
    }

    #[cold]
    fn load_another(&mut self, root: Root) {
        if self.root == Some(root) {
            return;
        }
        let (view, cr3) = (self.control_view(), self.guest_cr3());
        let before = self.root.replace(root);
        self.flush = true;
        self.demand(Attention::FLUSH);
        if before.is_none_or(|before| format_of(before) != format_of(root)) {
            self.apply(view);
            self.set_guest_cr3(cr3);
            self.write_intercepts();
        }
        match root {
            Root::Nested { table } => self.write_nested(NESTED_PAGING, table.as_u64()),
            Root::Shadow { cr3, .. } => {
                self.write_nested(0, 0);
                set!(self.vmcb, save.cr3, cr3.as_u64());
                self.dirty(Clean::CONTROL_REGISTERS);
            }
        }
    }

    /// Another shadow root of the format in force: the guest switched address spaces.
    #[inline]
    fn switch_shadow(&mut self, root: Root, cr3: Hpa) {
        self.root = Some(root);
        self.flush = true;
        self.demand(Attention::FLUSH);
        set!(self.vmcb, save.cr3, cr3.as_u64());
        self.checked.cr3 = cr3.as_u64();
        self.clear_clean(Clean::CONTROL_REGISTERS);
    }

    fn write_nested(&mut self, control: u64, cr3: u64) {
        set!(self.vmcb, control.nested_control, control);
        set!(self.vmcb, control.nested_cr3, cr3);
        self.dirty(Clean::NESTED_PAGING);
    }

    /// Whether the CPU itself walks the guest's tables; so it is before the first root.
    pub(super) fn is_nested(&self) -> bool {
        !matches!(self.root, Some(Root::Shadow { .. }))
    }

    /// CR0, CR4 and EFER as the guest reads them.
    pub(super) fn control_view(&self) -> GuestControl {
        if !self.is_nested() {
            return self.view;
        }
        let efer = Efer::from_bits_retain(get!(self.vmcb, save.efer)) - Efer::SVME;
        GuestControl {
            cr0: Cr0::from_bits_retain(get!(self.vmcb, save.cr0)),
            cr4: Cr4::from_bits_retain(get!(self.vmcb, save.cr4)),
            efer: efer | self.held_back,
        }
    }

    /// Makes the guest read `view`.
    pub(super) fn apply(&mut self, view: GuestControl) {
        let hardware = HardwareControl::new(view, self.root.unwrap_or(NO_ROOT));
        set!(self.vmcb, save.cr0, hardware.cr0);
        set!(self.vmcb, save.cr4, hardware.cr4);
        let far = self.long_mode_is_far(view);
        self.held_back = if far { view.efer & Efer::LME } else { Efer::empty() };
        set!(self.vmcb, save.efer, hardware.efer & !self.held_back.bits());
        self.dirty(Clean::CONTROL_REGISTERS);
        self.view = view;
    }

    /// QEMU 7.2 destroys the host's state at an exit of a guest with LME set while PG and
    /// PAE are clear. Such a guest has to set PAE, which exits, before LME matters.
    fn long_mode_is_far(&self, view: GuestControl) -> bool {
        self.raw.emulated_by_qemu
            && self.is_nested()
            && !view.cr0.contains(Cr0::PG)
            && !view.cr4.contains(Cr4::PAE)
    }

    /// CR3 as the guest reads it.
    pub(super) fn guest_cr3(&self) -> u64 {
        if self.is_nested() { get!(self.vmcb, save.cr3) } else { self.shadowed_cr3 }
    }

    /// Sets CR3 as the guest reads it.
    pub(super) fn set_guest_cr3(&mut self, value: u64) {
        if self.is_nested() {
            set!(self.vmcb, save.cr3, value);
            self.dirty(Clean::CONTROL_REGISTERS);
        } else {
            self.shadowed_cr3 = value;
        }
    }

    /// Reads a segment register; the DPL of SS is the CPL.
    pub(super) fn read_segment(&self, register: SegmentRegister) -> Segment {
        let mut segment = segments::from_vmcb(self.raw_segment(register));
        if register == SegmentRegister::Ss {
            let cpl = get!(self.vmcb, save.cpl);
            segment.attributes = segments::with_dpl(segment.attributes, cpl);
        }
        segment
    }

    fn raw_segment(&self, register: SegmentRegister) -> VmcbSegment {
        match register {
            SegmentRegister::Es => get!(self.vmcb, save.es),
            SegmentRegister::Cs => get!(self.vmcb, save.cs),
            SegmentRegister::Ss => get!(self.vmcb, save.ss),
            SegmentRegister::Ds => get!(self.vmcb, save.ds),
            SegmentRegister::Fs => get!(self.vmcb, save.fs),
            SegmentRegister::Gs => get!(self.vmcb, save.gs),
            SegmentRegister::Ldtr => get!(self.vmcb, save.ldtr),
            SegmentRegister::Tr => get!(self.vmcb, save.tr),
        }
    }

    /// Writes a segment register; the DPL of SS becomes the CPL.
    pub(super) fn write_segment(&mut self, register: SegmentRegister, segment: Segment) {
        let raw = segments::to_vmcb(&segment);
        match register {
            SegmentRegister::Es => set!(self.vmcb, save.es, raw),
            SegmentRegister::Cs => set!(self.vmcb, save.cs, raw),
            SegmentRegister::Ss => {
                set!(self.vmcb, save.ss, raw);
                set!(self.vmcb, save.cpl, segment.attributes.dpl());
            }
            SegmentRegister::Ds => set!(self.vmcb, save.ds, raw),
            SegmentRegister::Fs => set!(self.vmcb, save.fs, raw),
            SegmentRegister::Gs => set!(self.vmcb, save.gs, raw),
            SegmentRegister::Ldtr => set!(self.vmcb, save.ldtr, raw),
            SegmentRegister::Tr => set!(self.vmcb, save.tr, raw),
        }
        self.dirty(Clean::SEGMENTS);
    }

    /// The exceptions that the machine sees. Under a shadow root #PF is among them.
    pub(super) fn intercepted_exceptions(&self) -> u32 {
        let watched = if self.delivery_watched { CONTRIBUTORY } else { 0 };
        self.exceptions | self.control_set().exceptions | watched
    }

    fn control_set(&self) -> ControlSet {
        if self.is_nested() {
            ControlSet::nested(&self.raw, self.permitted, self.paging_exits)
        } else {
            ControlSet::shadow(&self.raw, self.permitted)
        }
    }

    /// Writes what exits: by the kind of root, the chosen exceptions, and the windows.
    pub(super) fn write_intercepts(&mut self) {
        let set = self.control_set();
        let mut misc_1 = set.misc_1;
        if self.virtual_use == VirtualUse::Window {
            misc_1 |= VIRTUAL_INTERRUPT;
        }
        if self.nmi == NmiState::Blocked {
            misc_1 |= IRET;
        }
        let stepping = matches!(self.nmi, NmiState::Stepping(_));
        let exceptions = if stepping { u32::MAX } else { self.intercepted_exceptions() };
        set!(self.vmcb, control.cr_reads, set.cr_reads);
        set!(self.vmcb, control.cr_writes, set.cr_writes);
        set!(self.vmcb, control.exceptions, exceptions);
        set!(self.vmcb, control.misc1, misc_1);
        set!(self.vmcb, control.misc2, set.misc_2);
        set!(self.vmcb, control.misc3, set.misc_3);
        self.dirty(Clean::INTERCEPTS);
    }

    /// The fields that entry checks.
    pub(super) fn read_checked(&self) -> Checked {
        Checked {
            cr0: get!(self.vmcb, save.cr0),
            cr3: get!(self.vmcb, save.cr3),
            cr4: get!(self.vmcb, save.cr4),
            dr6: get!(self.vmcb, save.dr6),
            dr7: get!(self.vmcb, save.dr7),
            efer: get!(self.vmcb, save.efer),
            cs_attributes: get!(self.vmcb, save.cs).attributes,
            misc_2: get!(self.vmcb, control.misc2),
            iopm_base: get!(self.vmcb, control.iopm_base),
            msrpm_base: get!(self.vmcb, control.msrpm_base),
            asid: get!(self.vmcb, control.asid),
            event_injection: get!(self.vmcb, control.event_injection),
            nested_control: get!(self.vmcb, control.nested_control),
            nested_cr3: get!(self.vmcb, control.nested_cr3),
            g_pat: get!(self.vmcb, save.g_pat),
        }
    }
}

/// The exceptions that the delivery of an event can raise, #PF apart.
const CONTRIBUTORY: u32 = 1 << Vector::INVALID_TSS.0
    | 1 << Vector::SEGMENT_NOT_PRESENT.0
    | 1 << Vector::STACK_FAULT.0
    | 1 << Vector::GENERAL_PROTECTION.0;

/// Stands for "none yet" where only the kind counts: without a root, `run` refuses to
/// enter, and the VMCB has no ASID.
const NO_ROOT: Root = Root::Nested { table: NO_TABLE };
const NO_TABLE: HpaPage = Hpa::new(0).page();

/// What of a root decides intercepts and control registers.
fn format_of(root: Root) -> Option<ShadowFormat> {
    match root {
        Root::Nested { .. } => None,
        Root::Shadow { format, .. } => Some(format),
    }
}
