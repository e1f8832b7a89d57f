//! The trait's methods.
#![expect(unsafe_code, reason = "the bitmaps are shared with the hardware")]

use super::VmxVcpu;
use super::turn::{BLOCKED_BY_MOV_SS, BLOCKED_BY_NMI, BLOCKED_BY_STI};
use crate::bitmaps::{self, PORT_BYTES};
use crate::fields::{self, MsrHome, msr_home};
use crate::instructions::{self as cpu, CurrentVmcs, Invvpid};
use crate::passive::XCR0_RESET;
use crate::{FieldSource, entry_check};
use anchorite_vcpu::{
    Capabilities, ControlRegister, Cr0, Cr4, DescriptorTable, Efer, EntryFailure, Event,
    FlushScope, GuestMsr, Instructions, Registers, Rflags, Root, Segment, SegmentAttributes,
    SegmentRegister, Vcpu, VmExit,
};
use core::fmt;
use x86::msr::{IA32_EFER, IA32_TSC_AUX};
use x86::vmx::vmcs::control::PrimaryControls;
use x86::vmx::vmcs::{control, guest};

impl Vcpu for VmxVcpu {
    #[inline]
    fn run(&mut self) -> VmExit {
        self.take_turn()
    }

    #[inline]
    fn regs(&self) -> &Registers {
        &self.regs
    }

    #[inline]
    fn regs_mut(&mut self) -> &mut Registers {
        &mut self.regs
    }

    fn control(&self, register: ControlRegister) -> u64 {
        match register {
            ControlRegister::Cr0 => self.control_view().cr0.bits(),
            ControlRegister::Cr2 => self.access(|_| cpu::cr2()),
            ControlRegister::Cr3 => self.guest_cr3(),
            ControlRegister::Cr4 => self.control_view().cr4.bits(),
            ControlRegister::Cr8 => self.cr8,
            ControlRegister::Efer => self.control_view().visible_efer().bits(),
            ControlRegister::Xcr0 if self.extended.states == 0 => XCR0_RESET,
            ControlRegister::Xcr0 => self.access(|_| cpu::xcr0()),
        }
    }

    fn set_control(&mut self, register: ControlRegister, value: u64) {
        let mut view = match register {
            ControlRegister::Cr2 => return self.access(|_| cpu::set_cr2(value)),
            ControlRegister::Cr3 => return self.set_guest_cr3(value),
            ControlRegister::Cr8 => return self.cr8 = value,
            ControlRegister::Xcr0 if self.extended.states == 0 => return,
            ControlRegister::Xcr0 => return self.access(|_| cpu::set_xcr0(value)),
            _ => self.control_view(),
        };
        match register {
            ControlRegister::Cr0 => view.cr0 = Cr0::from_bits_retain(value),
            ControlRegister::Cr4 => view.cr4 = Cr4::from_bits_retain(value),
            _ => view.efer = Efer::from_bits_retain(value),
        }
        self.apply(view);
    }

    fn set_pdptes(&mut self, entries: [u64; 4]) {
        let fields =
            [guest::PDPTE0_FULL, guest::PDPTE1_FULL, guest::PDPTE2_FULL, guest::PDPTE3_FULL];
        for (field, entry) in fields.into_iter().zip(entries) {
            self.write(field, entry);
        }
    }

    fn segment(&self, register: SegmentRegister) -> Segment {
        self.read_segment(register)
    }

    fn set_segment(&mut self, register: SegmentRegister, segment: Segment) {
        self.write_segment(register, segment);
    }

    fn gdtr(&self) -> DescriptorTable {
        let base = self.read(guest::GDTR_BASE);
        DescriptorTable { base, limit: self.read(guest::GDTR_LIMIT) as u16 }
    }

    fn set_gdtr(&mut self, table: DescriptorTable) {
        self.write(guest::GDTR_BASE, table.base);
        self.write(guest::GDTR_LIMIT, u64::from(table.limit));
    }

    fn idtr(&self) -> DescriptorTable {
        let base = self.read(guest::IDTR_BASE);
        DescriptorTable { base, limit: self.read(guest::IDTR_LIMIT) as u16 }
    }

    fn set_idtr(&mut self, table: DescriptorTable) {
        self.write(guest::IDTR_BASE, table.base);
        self.write(guest::IDTR_LIMIT, u64::from(table.limit));
    }

    fn msr(&self, msr: GuestMsr) -> u64 {
        match msr_home(msr) {
            MsrHome::Cpu(IA32_TSC_AUX) if !self.extended.tsc_aux => 0,
            MsrHome::Cpu(index) => self.read_passive(index),
            MsrHome::Field(field) => self.read(field),
        }
    }

    fn set_msr(&mut self, msr: GuestMsr, value: u64) {
        match msr_home(msr) {
            MsrHome::Cpu(IA32_TSC_AUX) if !self.extended.tsc_aux => {}
            MsrHome::Cpu(index) => self.write_passive(index, value),
            MsrHome::Field(field) => self.write(field, value),
        }
    }

    fn pkru(&self) -> u32 {
        if self.extended.pkru { self.access(|_| cpu::pkru()) } else { 0 }
    }

    fn debug_register(&self, number: u8) -> u64 {
        match slot_of(number) {
            Some(slot) => self.access(|_| cpu::debug_registers()[slot]),
            None => self.read(guest::DR7),
        }
    }

    fn set_debug_register(&mut self, number: u8, value: u64) {
        let Some(slot) = slot_of(number) else {
            return self.write(guest::DR7, value);
        };
        self.access(|_| {
            let mut registers = cpu::debug_registers();
            registers[slot] = value;
            cpu::set_debug_registers(registers);
        });
    }

    fn xmm(&self, number: u8) -> u128 {
        self.access(|_| cpu::legacy_state().xmm(number))
    }

    fn set_xmm(&mut self, number: u8, value: u128) {
        self.access(|_| {
            let mut image = cpu::legacy_state();
            image.set_xmm(number, value);
            cpu::restore_extended(&image, 0);
        });
    }

    fn cpl(&self) -> u8 {
        SegmentAttributes::from_bits_retain(self.read(guest::SS_ACCESS_RIGHTS) as u32).dpl()
    }

    #[inline]
    fn instruction_length(&self) -> Option<u8> {
        self.turn.instruction_length
    }

    fn instruction_bytes(&self) -> &[u8] {
        &[]
    }

    #[inline]
    fn interrupt_shadow(&self) -> bool {
        self.turn.interruptibility & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) != 0
    }

    /// Blocking by STI needs RFLAGS.IF; without it, blocking by MOV SS does the same.
    #[inline]
    fn set_interrupt_shadow(&mut self, blocked: bool) {
        self.turn.interruptibility &= !(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS);
        if blocked {
            let enabled = self.regs.rflags & Rflags::IF.bits() != 0;
            self.turn.interruptibility |= if enabled { BLOCKED_BY_STI } else { BLOCKED_BY_MOV_SS };
        }
    }

    fn nmi_blocked(&self) -> bool {
        self.turn.interruptibility & BLOCKED_BY_NMI != 0
    }

    fn inject(&mut self, event: Event) {
        self.turn.queued = Some(event);
    }

    fn queued_event(&self) -> Option<Event> {
        self.turn.queued
    }

    #[inline]
    fn interrupted_event(&self) -> Option<Event> {
        self.turn.interrupted
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.set_window(PrimaryControls::INTERRUPT_WINDOW_EXITING.bits(), wanted);
    }

    fn request_nmi_window(&mut self, wanted: bool) {
        self.set_window(PrimaryControls::NMI_WINDOW_EXITING.bits(), wanted);
    }

    /// A shadow root needs CR0.PE = 1 in the guest: real mode runs on a nested root
    /// only, and entry is refused otherwise. Another root than the one loaded implies
    /// a flush.
    fn set_root(&mut self, root: Root) {
        self.load_root(root);
    }

    fn flush(&mut self, scope: FlushScope) {
        match scope {
            FlushScope::Address(address) if self.vpid != 0 && !self.turn.flush => {
                self.turn.flush = !cpu::invvpid(Invvpid::Address(self.vpid, address.as_u64()));
            }
            // Without a VPID, each entry discards linear translations by itself.
            FlushScope::Address(_) => {}
            FlushScope::All => self.turn.flush = true,
        }
    }

    fn intercept_port(&mut self, port: u16, exit: bool) {
        bitmaps::intercept_port(&mut self.bitmap_bytes()[..PORT_BYTES], port, exit);
    }

    /// EFER always exits: the hardware's differs from the guest's under a shadow root.
    fn intercept_msr(&mut self, index: u32, read: bool, write: bool) {
        let always = index == IA32_EFER;
        let bitmap = &mut self.bitmap_bytes()[PORT_BYTES..];
        bitmaps::intercept_msr(bitmap, index, read || always, write || always);
    }

    fn intercept_exceptions(&mut self, vectors: u32) {
        self.exceptions = vectors;
        self.write_exceptions();
    }

    fn intercept_paging(&mut self, exit: bool) {
        let view = self.control_view();
        self.imposed.paging_exits = exit;
        self.apply(view);
    }

    fn permit_instructions(&mut self, permitted: Instructions) {
        self.nested.permit(permitted);
        self.shadow.permit(permitted);
        let secondary = self.controls().secondary;
        // SAFETY: fewer instructions than the CPU gave; the tables in `controls` else.
        self.access(|_| unsafe {
            cpu::vmwrite(control::SECONDARY_PROCBASED_EXEC_CONTROLS, u64::from(secondary));
        });
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.write(control::TSC_OFFSET_FULL, offset);
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn explain_entry_failure(&self, code: u64) -> EntryFailure {
        self.access(|vmcs| entry_check::explain(code, &vmcs, &self.raw))
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        for &(name, field) in fields::NAMES {
            let value = self.access(|vmcs: CurrentVmcs| vmcs.read(field));
            writeln!(out, "{name} = {value:#x}")?;
        }
        Ok(())
    }
}

impl VmxVcpu {
    /// The port bitmaps, then the MSR bitmap.
    fn bitmap_bytes(&mut self) -> &mut [u8] {
        let pages = self.bitmaps;
        // SAFETY: three pages of ours that are never freed; the hardware only reads
        // them, and only while the guest runs, when no such reference exists.
        unsafe { core::slice::from_raw_parts_mut(pages.as_ptr().cast::<u8>(), pages.len() * 4096) }
    }
}

/// Where a debug register stands in the group that VMX does not switch; `None` is DR7.
fn slot_of(number: u8) -> Option<usize> {
    match number {
        0..=3 => Some(usize::from(number)),
        6 => Some(4),
        _ => None,
    }
}
