//! The vendor-neutral vCPU contract.
//!
//! Two backends, `vmx` and `svm`, implement [`Vcpu`]; the machine in `vmm` is
//! generic over it and never asks which vendor it runs on. A backend decodes what
//! the hardware reports into a [`VmExit`] and obeys; every decision is the machine's.
//!
//! | file | answers |
//! |---|---|
//! | [`regs`] | which registers a guest has, and their names |
//! | [`segment`] | segments and descriptor tables in one layout for both vendors |
//! | [`control`] | bits of CR0, CR4, EFER, RFLAGS |
//! | [`exit`] | what happened: [`VmExit`], its [`ExitReason`] for counters |
//! | [`event`] | what can be injected, and what an exit interrupted |
//! | [`root`] | the root of address translation, and what a flush covers |
//! | [`extended`] | state that the hardware does not switch: XSAVE's, TSC_AUX |
//! | [`nested`] | the entry format of a nested table (NPT, EPT) |
//! | [`pages`] | memory for control structures |
//! | [`capability`] | what this CPU offers, or why it cannot be used |
//! | [`entry_failure`] | why the hardware refused to enter the guest |
#![no_std]
#![forbid(unsafe_code)]

pub mod capability;
pub mod control;
pub mod entry_failure;
pub mod event;
pub mod exit;
pub mod extended;
pub mod nested;
pub mod pages;
pub mod regs;
pub mod root;
pub mod segment;

pub use capability::{Capabilities, Unavailable};
pub use control::{Cr0, Cr4, Efer, Instructions, Rflags};
pub use entry_failure::EntryFailure;
pub use event::{Event, EventKind, Vector};
pub use exit::{ExitReason, VmExit};
pub use extended::{Extended, StateArea};
pub use nested::{NestedFormat, NestedFrame, NestedRights};
pub use pages::{HostPages, Page, PageSource};
pub use regs::{ControlRegister, Gpr, GuestMsr, Registers};
pub use root::{FlushScope, Root};
pub use segment::{DescriptorTable, Segment, SegmentAttributes, SegmentRegister};

use core::fmt;

/// One virtual CPU of some vendor, bound to the physical CPU it was created on.
///
/// Registers in [`Registers`] are copies that [`run`](Vcpu::run) loads and stores;
/// everything else is read from and written to the vendor's control structure on
/// demand. Values are always the guest's view: a backend hides the bits that the
/// hardware forces (VMX CR0.NE, CR4.VMXE; SVM EFER.SVME) on both ways.
pub trait Vcpu {
    /// Enters the guest and returns at its next exit.
    ///
    /// Called and left with host interrupts enabled; a physical interrupt that
    /// ended the guest's turn has been taken by the host when this returns.
    /// Queued events ([`inject`](Vcpu::inject)) and requested flushes are consumed.
    fn run(&mut self) -> VmExit;

    /// The general registers, RIP and RFLAGS as of the last exit.
    fn regs(&self) -> &Registers;
    /// The same, for writing; takes effect at the next entry.
    fn regs_mut(&mut self) -> &mut Registers;

    /// A control register as the guest would read it.
    fn control(&self, register: ControlRegister) -> u64;
    /// Sets a control register as if by the guest, without any checking of the value.
    ///
    /// CR0 and EFER may be written in any order on the way into long mode; the
    /// backend derives LMA and entry controls from them.
    fn set_control(&mut self, register: ControlRegister, value: u64);

    /// Sets the PDPTE registers of PAE paging, checked, as MOV to a control register
    /// loads them from memory. For CPUs that keep them in the control structure; one
    /// that reads them when it walks has nothing to set.
    ///
    /// Source: SDM vol. 3, 4.4.1 "PDPTE Registers"; 27.3.1.6 "Checks on Guest
    /// Page-Directory-Pointer-Table Entries"; APM vol. 2, 15.25.10 "Legacy PAE Mode".
    fn set_pdptes(&mut self, entries: [u64; 4]) {
        let _ = entries;
    }

    /// A segment register with its hidden part.
    fn segment(&self, register: SegmentRegister) -> Segment;
    /// Whether the guest runs 64-bit code: EFER.LMA and CS.L are set. A backend that knows
    /// without the rest of both answers more quickly.
    ///
    /// Source: SDM vol. 3, 2.2 "Modes of Operation"; APM vol. 2, 14.5 "Enabling and Activating
    /// Long Mode".
    fn runs_64_bit_code(&self) -> bool {
        let efer = Efer::from_bits_retain(self.control(ControlRegister::Efer));
        let code = self.segment(SegmentRegister::Cs).attributes;
        efer.contains(Efer::LMA) && code.contains(SegmentAttributes::LONG)
    }
    /// Sets a segment register with its hidden part.
    fn set_segment(&mut self, register: SegmentRegister, segment: Segment);

    /// GDTR.
    fn gdtr(&self) -> DescriptorTable;
    /// Sets GDTR.
    fn set_gdtr(&mut self, table: DescriptorTable);
    /// IDTR.
    fn idtr(&self) -> DescriptorTable;
    /// Sets IDTR.
    fn set_idtr(&mut self, table: DescriptorTable);

    /// An MSR whose guest value lives in the CPU or the control structure.
    fn msr(&self, msr: GuestMsr) -> u64;
    /// Sets such an MSR; the value has been checked (canonical where it must be).
    fn set_msr(&mut self, msr: GuestMsr, value: u64);

    /// The guest's PKRU; 0 where the CPU has none.
    fn pkru(&self) -> u32;

    /// A debug register: 0–3, 6 or 7.
    fn debug_register(&self, number: u8) -> u64;
    /// Sets a debug register: 0–3, 6 or 7.
    fn set_debug_register(&mut self, number: u8, value: u64);

    /// XMM register `number`, 0–15.
    fn xmm(&self, number: u8) -> u128;
    /// Sets the low 128 bits of it.
    fn set_xmm(&mut self, number: u8, value: u128);

    /// The guest's current privilege level, 0–3.
    fn cpl(&self) -> u8;

    /// Bytes of the instruction that caused the exit, where the hardware tells
    /// (VMX for instruction exits, SVM with NRIPS); `None` asks the machine to decode.
    fn instruction_length(&self) -> Option<u8>;

    /// The first bytes of that instruction, at most 15, where the hardware delivers
    /// them (SVM with decode assists); empty elsewhere.
    fn instruction_bytes(&self) -> &[u8];

    /// Whether STI, MOV SS or POP SS blocks interrupts for one instruction.
    fn interrupt_shadow(&self) -> bool;
    /// Ends (or starts) that blocking; skipping an instruction ends it.
    fn set_interrupt_shadow(&mut self, blocked: bool);
    /// Whether NMIs are blocked until the guest's next IRET.
    fn nmi_blocked(&self) -> bool;

    /// Queues an event for the next entry. At most one is queued at a time:
    /// a later call replaces an earlier one.
    fn inject(&mut self, event: Event);
    /// The event queued for the next entry.
    ///
    /// A backend may offer an external interrupt to the hardware rather than force it
    /// on the guest. One that the guest has not taken stays queued over exits, beside
    /// exceptions and NMIs that are injected later; only another external interrupt
    /// would replace it.
    fn queued_event(&self) -> Option<Event>;
    /// The event whose delivery the last exit interrupted; to be injected again
    /// unless the exit's own handling replaces it.
    ///
    /// Source: SDM vol. 3, 28.2.4 "Information for VM Exits During Event Delivery";
    /// APM vol. 2, 15.7.2 "Intercepts During IDT Interrupt Delivery".
    fn interrupted_event(&self) -> Option<Event>;
    /// Asks for a [`VmExit::InterruptWindow`] as soon as the guest can take an interrupt.
    fn request_interrupt_window(&mut self, wanted: bool);
    /// Asks for a [`VmExit::NmiWindow`] as soon as the guest can take an NMI.
    fn request_nmi_window(&mut self, wanted: bool);

    /// Loads a translation root for the next entry; switches between nested and
    /// shadow paging when the kind differs from the one loaded.
    fn set_root(&mut self, root: Root);
    /// Discards cached translations of this vCPU before its next instruction.
    fn flush(&mut self, scope: FlushScope);

    /// Whether IN and OUT on `port` exit; all do at first.
    fn intercept_port(&mut self, port: u16, exit: bool);
    /// Whether RDMSR (`read`) and WRMSR (`write`) of `index` exit; all do at first.
    ///
    /// Only an MSR that the hardware itself switches or that is read-only may be
    /// let through.
    fn intercept_msr(&mut self, index: u32, read: bool, write: bool);
    /// Which exception vectors exit: bit n for vector n. #PF is added by a shadow root, and
    /// a backend may add others that its CPU gets wrong: the machine raises in the guest
    /// what it did not ask for.
    fn intercept_exceptions(&mut self, vectors: u32);

    /// Whether changes of CR0.PG exit under a nested root; under a shadow root they
    /// always do. They do not at first.
    fn intercept_paging(&mut self, exit: bool);

    /// Which of the instructions that can be switched off the guest has; all at first.
    /// Without one it raises #UD by itself, or exits where the CPU can only intercept
    /// it; on a CPU that can do neither it works on.
    fn permit_instructions(&mut self, permitted: Instructions);

    /// The value added to the TSC while the guest reads it.
    fn set_tsc_offset(&mut self, offset: u64);

    /// What the CPU under this vCPU offers.
    fn capabilities(&self) -> &Capabilities;

    /// Reviews the guest state against the manual's checks after
    /// [`VmExit::EntryFailure`] with this `code`.
    fn explain_entry_failure(&self, code: u64) -> EntryFailure;

    /// Writes the whole control structure as `field = value` lines, for a dump.
    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result;
}
