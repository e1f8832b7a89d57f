//! The trait's methods.
#![expect(unsafe_code, reason = "maps and instruction bytes are shared with the hardware")]

use super::SvmVcpu;
use super::attention::Attention;
use crate::bitmaps::{self, PORT_PAGES};
use crate::capabilities::SvmFeatures;
use crate::fields::{self, Clean, INTERRUPT_SHADOW, VirtualInterrupt, get, set};
use crate::instructions as cpu;
use crate::passive::{TSC_AUX, XCR0_RESET};
use crate::{entry_check, segments};
use anchorite_addr::PAGE_BYTES;
use anchorite_vcpu::{
    Capabilities, ControlRegister, Cr0, Cr4, DescriptorTable, Efer, EntryFailure, Event,
    FlushScope, GuestMsr, Instructions, Registers, Root, Segment, SegmentRegister, Vcpu, VmExit,
};
use core::fmt;
use x86::msr::IA32_EFER;

/// Bytes of the I/O permissions map.
const PORT_BYTES: usize = PORT_PAGES * PAGE_BYTES as usize;
/// The longest instruction. Source: APM vol. 3, 1.1 "Instruction Encoding Overview".
const LONGEST_INSTRUCTION: u64 = 15;

impl Vcpu for SvmVcpu {
    #[inline]
    fn run(&mut self) -> VmExit {
        if !self.enter() {
            return self.not_entered;
        }
        if self.aftermath { self.settle() } else { self.decode_exit() }
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
            ControlRegister::Cr2 => get!(self.vmcb, save.cr2),
            ControlRegister::Cr3 => self.guest_cr3(),
            ControlRegister::Cr4 => self.control_view().cr4.bits(),
            ControlRegister::Cr8 => {
                u64::from((self.virtual_interrupt() & VirtualInterrupt::TPR).bits())
            }
            ControlRegister::Efer => self.control_view().visible_efer().bits(),
            ControlRegister::Xcr0 if self.extended.states == 0 => XCR0_RESET,
            ControlRegister::Xcr0 => self.with_passive(cpu::xcr0),
        }
    }

    fn set_control(&mut self, register: ControlRegister, value: u64) {
        let mut view = match register {
            ControlRegister::Cr2 => {
                set!(self.vmcb, save.cr2, value);
                self.demand(Attention::CR2);
                return self.clear_clean(Clean::CR2);
            }
            ControlRegister::Cr3 => return self.set_guest_cr3(value),
            ControlRegister::Cr8 => {
                let rest = self.virtual_interrupt() - VirtualInterrupt::TPR;
                let priority = VirtualInterrupt::from_bits_truncate(value as u32 & 0xf);
                return self.set_virtual_interrupt(rest | priority);
            }
            ControlRegister::Xcr0 => return self.write_xcr0(value),
            _ => self.control_view(),
        };
        match register {
            ControlRegister::Cr0 => view.cr0 = Cr0::from_bits_retain(value),
            ControlRegister::Cr4 => view.cr4 = Cr4::from_bits_retain(value),
            _ => view.efer = Efer::from_bits_retain(value),
        }
        self.apply(view);
    }

    fn segment(&self, register: SegmentRegister) -> Segment {
        self.read_segment(register)
    }

    /// As the processor sees it: under a shadow root, too, it is in the guest's mode.
    #[inline]
    fn runs_64_bit_code(&self) -> bool {
        get!(self.vmcb, save.efer) & Efer::LMA.bits() != 0
            && get!(self.vmcb, save.cs.attributes) & segments::LONG != 0
    }

    fn set_segment(&mut self, register: SegmentRegister, segment: Segment) {
        self.write_segment(register, segment);
    }

    fn gdtr(&self) -> DescriptorTable {
        segments::table_from_vmcb(get!(self.vmcb, save.gdtr))
    }

    fn set_gdtr(&mut self, table: DescriptorTable) {
        set!(self.vmcb, save.gdtr, segments::table_to_vmcb(table));
        self.dirty(Clean::DESCRIPTOR_TABLES);
    }

    fn idtr(&self) -> DescriptorTable {
        segments::table_from_vmcb(get!(self.vmcb, save.idtr))
    }

    fn set_idtr(&mut self, table: DescriptorTable) {
        set!(self.vmcb, save.idtr, segments::table_to_vmcb(table));
        self.dirty(Clean::DESCRIPTOR_TABLES);
    }

    fn msr(&self, msr: GuestMsr) -> u64 {
        match msr {
            GuestMsr::Star => get!(self.vmcb, save.star),
            GuestMsr::Lstar => get!(self.vmcb, save.lstar),
            GuestMsr::Cstar => get!(self.vmcb, save.cstar),
            GuestMsr::Sfmask => get!(self.vmcb, save.sfmask),
            GuestMsr::FsBase => get!(self.vmcb, save.fs.base),
            GuestMsr::GsBase => get!(self.vmcb, save.gs.base),
            GuestMsr::KernelGsBase => get!(self.vmcb, save.kernel_gs_base),
            GuestMsr::SysenterCs => get!(self.vmcb, save.sysenter_cs),
            GuestMsr::SysenterEsp => get!(self.vmcb, save.sysenter_esp),
            GuestMsr::SysenterEip => get!(self.vmcb, save.sysenter_eip),
            GuestMsr::Pat => get!(self.vmcb, save.g_pat),
            GuestMsr::DebugCtl => get!(self.vmcb, save.debug_ctl),
            GuestMsr::TscAux => self.read_tsc_aux(),
        }
    }

    /// DEBUGCTL is remembered but has no effect: without LBR virtualization SVM does
    /// not switch it.
    fn set_msr(&mut self, msr: GuestMsr, value: u64) {
        match msr {
            GuestMsr::Star => set!(self.vmcb, save.star, value),
            GuestMsr::Lstar => set!(self.vmcb, save.lstar, value),
            GuestMsr::Cstar => set!(self.vmcb, save.cstar, value),
            GuestMsr::Sfmask => set!(self.vmcb, save.sfmask, value),
            GuestMsr::FsBase => set!(self.vmcb, save.fs.base, value),
            GuestMsr::GsBase => set!(self.vmcb, save.gs.base, value),
            GuestMsr::KernelGsBase => set!(self.vmcb, save.kernel_gs_base, value),
            GuestMsr::SysenterCs => set!(self.vmcb, save.sysenter_cs, value),
            GuestMsr::SysenterEsp => set!(self.vmcb, save.sysenter_esp, value),
            GuestMsr::SysenterEip => set!(self.vmcb, save.sysenter_eip, value),
            GuestMsr::Pat => {
                set!(self.vmcb, save.g_pat, value);
                self.dirty(Clean::NESTED_PAGING);
            }
            GuestMsr::DebugCtl => set!(self.vmcb, save.debug_ctl, value),
            GuestMsr::TscAux => self.write_tsc_aux(value),
        }
    }

    fn pkru(&self) -> u32 {
        if self.extended.pkru { self.with_passive(cpu::pkru) } else { 0 }
    }

    fn debug_register(&self, number: u8) -> u64 {
        match number {
            0..=3 => self.with_passive(|| cpu::debug_registers()[usize::from(number)]),
            6 => get!(self.vmcb, save.dr6),
            _ => get!(self.vmcb, save.dr7),
        }
    }

    fn set_debug_register(&mut self, number: u8, value: u64) {
        match number {
            0..=3 => self.with_passive(|| {
                let mut registers = cpu::debug_registers();
                registers[usize::from(number)] = value;
                cpu::set_debug_registers(registers);
            }),
            6 => set!(self.vmcb, save.dr6, value),
            _ => set!(self.vmcb, save.dr7, value),
        }
        self.dirty(Clean::DEBUG_REGISTERS);
    }

    fn xmm(&self, number: u8) -> u128 {
        self.with_passive(|| cpu::legacy_state().xmm(number))
    }

    fn set_xmm(&mut self, number: u8, value: u128) {
        self.with_passive(|| {
            let mut image = cpu::legacy_state();
            image.set_xmm(number, value);
            cpu::restore_extended(&image, 0);
        });
    }

    fn cpl(&self) -> u8 {
        get!(self.vmcb, save.cpl) & 3
    }

    /// From the next-RIP field, which holds 0 after exits that no instruction caused;
    /// for a port access from EXITINFO2 anyhow (see [`IoExit`](anchorite_vcpu::exit::IoExit)).
    #[inline]
    fn instruction_length(&self) -> Option<u8> {
        if !self.raw.features.contains(SvmFeatures::NEXT_RIP) {
            return None;
        }
        let length = get!(self.vmcb, control.next_rip).wrapping_sub(self.regs.rip);
        (1..=LONGEST_INSTRUCTION).contains(&length).then_some(length as u8)
    }

    fn instruction_bytes(&self) -> &[u8] {
        if !self.capabilities.instruction_bytes {
            return &[];
        }
        let fetched = usize::from(get!(self.vmcb, control.bytes_fetched) & 0xf);
        let vmcb = self.vmcb.as_ptr().as_raw_ptr();
        // SAFETY: the VMCB lives as long as this vCPU. The hardware writes these bytes
        // only while the guest runs, and `run` needs this vCPU exclusively; nothing in
        // this crate writes them.
        let bytes = unsafe { &(*vmcb.as_ptr()).control.instruction_bytes };
        &bytes[..fetched.min(bytes.len())]
    }

    #[inline]
    fn interrupt_shadow(&self) -> bool {
        get!(self.vmcb, control.interrupt_state) & INTERRUPT_SHADOW != 0
    }

    #[inline]
    fn set_interrupt_shadow(&mut self, blocked: bool) {
        set!(self.vmcb, control.interrupt_state, if blocked { INTERRUPT_SHADOW } else { 0 });
    }

    fn nmi_blocked(&self) -> bool {
        self.nmi != super::NmiState::Open
    }

    fn inject(&mut self, event: Event) {
        self.queue(event);
    }

    /// An interrupt that the guest has not taken yet is still queued.
    #[inline]
    fn queued_event(&self) -> Option<Event> {
        self.queued.or_else(|| self.undelivered().map(Event::interrupt))
    }

    #[inline]
    fn interrupted_event(&self) -> Option<Event> {
        if self.was_undisturbed() { None } else { self.interrupted() }
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        if self.interrupt_window != wanted {
            self.interrupt_window = wanted;
            self.demand(Attention::EVENT);
        }
    }

    fn request_nmi_window(&mut self, wanted: bool) {
        if self.nmi_window != wanted {
            self.nmi_window = wanted;
            self.demand(Attention::EVENT);
        }
    }

    /// Another root than the one loaded implies a flush.
    #[inline]
    fn set_root(&mut self, root: Root) {
        self.load_root(root);
    }

    fn flush(&mut self, scope: FlushScope) {
        match scope {
            FlushScope::Address(_) if self.flush || self.asid.number == 0 => {}
            FlushScope::Address(address) => cpu::invlpga(address.as_u64(), self.asid.number),
            FlushScope::All => {
                self.flush = true;
                self.demand(Attention::FLUSH);
            }
        }
    }

    fn intercept_port(&mut self, port: u16, exit: bool) {
        bitmaps::intercept_port(&mut self.map_bytes()[..PORT_BYTES], port, exit);
        self.dirty(Clean::PERMISSION_MAPS);
    }

    /// EFER always exits: the hardware's has SVME set, and differs under a shadow root.
    fn intercept_msr(&mut self, index: u32, read: bool, write: bool) {
        let always = index == IA32_EFER;
        let map = &mut self.map_bytes()[PORT_BYTES..];
        bitmaps::intercept_msr(map, index, read || always, write || always);
        self.dirty(Clean::PERMISSION_MAPS);
    }

    fn intercept_exceptions(&mut self, vectors: u32) {
        self.exceptions = vectors;
        self.write_intercepts();
    }

    fn intercept_paging(&mut self, exit: bool) {
        self.paging_exits = exit;
        self.write_intercepts();
    }

    fn permit_instructions(&mut self, permitted: Instructions) {
        self.permitted = permitted;
        self.write_intercepts();
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        set!(self.vmcb, control.tsc_offset, offset);
        self.dirty(Clean::INTERCEPTS);
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Reviews what was last written. Registers are as before the refused entry, but
    /// under QEMU 7.2 the rest of the state is lost with it.
    fn explain_entry_failure(&self, code: u64) -> EntryFailure {
        entry_check::explain(code, &self.checked, &self.raw)
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        fields::dump(&self.vmcb, out)
    }
}

impl SvmVcpu {
    /// Runs `body` with this vCPU's debug and floating-point registers loaded.
    fn with_passive<T>(&self, body: impl FnOnce() -> T) -> T {
        cpu::clgi();
        if self.passive.claim() {
            // The vCPU that had them may have begun a new generation of ASIDs.
            self.demand(Attention::all());
        }
        let result = body();
        cpu::stgi();
        result
    }

    fn write_xcr0(&self, value: u64) {
        if self.extended.states != 0 {
            self.with_passive(|| cpu::set_xcr0(value));
        }
    }

    fn read_tsc_aux(&self) -> u64 {
        if !self.extended.tsc_aux {
            return 0;
        }
        // SAFETY: the CPU has the MSR.
        self.with_passive(|| unsafe { cpu::rdmsr(TSC_AUX) })
    }

    fn write_tsc_aux(&self, value: u64) {
        if self.extended.tsc_aux {
            // SAFETY: the CPU has the MSR, the contract has the value checked, and the
            // host does not look at it.
            self.with_passive(|| unsafe { cpu::wrmsr(TSC_AUX, value) });
        }
    }

    /// The I/O permissions map, then the MSR permissions map.
    pub(super) fn map_bytes(&mut self) -> &mut [u8] {
        let pages = self.maps;
        let bytes = pages.len() * PAGE_BYTES as usize;
        // SAFETY: five pages of ours that are never freed; the hardware only reads
        // them, and only while the guest runs, when no such reference exists.
        unsafe { core::slice::from_raw_parts_mut(pages.as_ptr().cast::<u8>(), bytes) }
    }
}
