//! A vCPU that takes its exits from a script and logs what is done to it.

extern crate std;

use anchorite_vcpu::exit::{Direction, IoExit};
use anchorite_vcpu::{
    Capabilities, ControlRegister, DescriptorTable, Efer, EntryFailure, Event, EventKind,
    FlushScope, Gpr, GuestMsr, Instructions, Registers, Root, Segment, SegmentRegister, Vcpu,
    VmExit,
};
use core::fmt;
use std::boxed::Box;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::vec::Vec;

/// What the machine did to its vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// Entered the guest at this RIP with this event.
    Entered(u64, Option<Event>),
    Root(Root),
    Flush(FlushScope),
    InterruptWindow(bool),
    NmiWindow(bool),
    TscOffset(u64),
}

type Change = Box<dyn FnOnce(&mut FakeVcpu)>;

/// One turn of the guest: what it changes, and how it ends.
struct Turn {
    change: Change,
    exit: VmExit,
}

/// A vCPU whose guest does what a script says, and then writes 0 to the exit port.
pub(crate) struct FakeVcpu {
    pub(crate) registers: Registers,
    pub(crate) controls: HashMap<ControlRegister, u64>,
    pub(crate) segments: [Segment; 8],
    pub(crate) tables: [DescriptorTable; 2],
    pub(crate) msrs: HashMap<GuestMsr, u64>,
    pub(crate) debug: [u64; 8],
    pub(crate) xmm: [u128; 16],
    pub(crate) cpl: u8,
    /// What the CPU tells of the instruction; `None` as on a CPU without NRIPS.
    pub(crate) length: Option<u8>,
    pub(crate) shadow: bool,
    pub(crate) nmi_blocked: bool,
    pub(crate) interrupted: Option<Event>,
    pub(crate) open_msrs: BTreeSet<u32>,
    pub(crate) exceptions: u32,
    pub(crate) paging_exits: bool,
    pub(crate) permitted: Instructions,
    pub(crate) pkru: u32,
    pub(crate) log: Vec<Done>,
    pub(crate) pdptes: Option<[u64; 4]>,
    /// An interrupt of an earlier entry that the guest has not taken.
    pub(crate) untaken: Option<Event>,
    queued: Option<Event>,
    script: VecDeque<Turn>,
    capabilities: Capabilities,
}

impl fmt::Debug for FakeVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeVcpu at {:#x}", self.registers.rip)
    }
}

impl Default for FakeVcpu {
    fn default() -> Self {
        Self {
            registers: Registers { rflags: 2, ..Registers::default() },
            controls: HashMap::new(),
            segments: [Segment::unusable(); 8],
            tables: [DescriptorTable::default(); 2],
            msrs: HashMap::new(),
            debug: [0; 8],
            xmm: [0; 16],
            cpl: 0,
            length: Some(2),
            shadow: false,
            nmi_blocked: false,
            interrupted: None,
            open_msrs: BTreeSet::new(),
            exceptions: 0,
            paging_exits: false,
            permitted: Instructions::all(),
            pkru: 0,
            log: Vec::new(),
            pdptes: None,
            untaken: None,
            queued: None,
            script: VecDeque::new(),
            capabilities: Capabilities {
                extension: "fake",
                revision: 1,
                address_space_ids: 2,
                nested_paging: true,
                unrestricted_guest: true,
                shadow_unpaged: true,
                instruction_length: true,
                instruction_bytes: false,
                tagged_flush: true,
                nested_1g_pages: true,
                preemption_timer: false,
                xsetbv_exits: true,
                xsavec: true,
            },
        }
    }
}

impl FakeVcpu {
    /// Appends a turn that ends with `exit`.
    pub(crate) fn then(self, exit: VmExit) -> Self {
        self.after(|_| {}, exit)
    }

    /// Appends a turn in which the guest does `change` and that ends with `exit`.
    pub(crate) fn after(
        mut self,
        change: impl FnOnce(&mut FakeVcpu) + 'static,
        exit: VmExit,
    ) -> Self {
        self.script.push_back(Turn { change: Box::new(change), exit });
        self
    }

    /// The events that the guest was entered with.
    pub(crate) fn injected(&self) -> Vec<Event> {
        let event = |done: &Done| match done {
            Done::Entered(_, event) => *event,
            _ => None,
        };
        self.log.iter().filter_map(event).collect()
    }

    /// The RIP of every entry.
    pub(crate) fn entries(&self) -> Vec<u64> {
        let rip = |done: &Done| match done {
            Done::Entered(rip, _) => Some(*rip),
            _ => None,
        };
        self.log.iter().filter_map(rip).collect()
    }
}

/// An OUT of AL, AX or EAX.
pub(crate) fn out(port: u16, size: u8) -> VmExit {
    io(port, size, Direction::Out)
}

/// An IN or OUT.
pub(crate) fn io(port: u16, size: u8, direction: Direction) -> VmExit {
    let (string, repeat, next_rip) = (false, false, None);
    VmExit::Io(IoExit { port, size, direction, string, repeat, next_rip })
}

impl Vcpu for FakeVcpu {
    fn run(&mut self) -> VmExit {
        let event = self.queued.take();
        self.log.push(Done::Entered(self.registers.rip, event));
        self.interrupted = None;
        let Some(turn) = self.script.pop_front() else {
            self.registers[Gpr::Rax] = 0;
            return out(anchorite_abi::port::EXIT, 4);
        };
        (turn.change)(self);
        turn.exit
    }

    fn regs(&self) -> &Registers {
        &self.registers
    }

    fn regs_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    fn control(&self, register: ControlRegister) -> u64 {
        let value = self.controls.get(&register).copied().unwrap_or(0);
        let (cr0, lme) = (self.controls.get(&ControlRegister::Cr0), Efer::LME.bits());
        let long = cr0.is_some_and(|cr0| cr0 >> 31 & 1 == 1) && value & lme != 0;
        match register {
            ControlRegister::Efer if long => value | Efer::LMA.bits(),
            ControlRegister::Efer => value & !Efer::LMA.bits(),
            _ => value,
        }
    }

    fn set_control(&mut self, register: ControlRegister, value: u64) {
        self.controls.insert(register, value);
    }

    fn set_pdptes(&mut self, entries: [u64; 4]) {
        self.pdptes = Some(entries);
    }

    fn segment(&self, register: SegmentRegister) -> Segment {
        self.segments[register as usize]
    }

    fn set_segment(&mut self, register: SegmentRegister, segment: Segment) {
        self.segments[register as usize] = segment;
    }

    fn gdtr(&self) -> DescriptorTable {
        self.tables[0]
    }

    fn set_gdtr(&mut self, table: DescriptorTable) {
        self.tables[0] = table;
    }

    fn idtr(&self) -> DescriptorTable {
        self.tables[1]
    }

    fn set_idtr(&mut self, table: DescriptorTable) {
        self.tables[1] = table;
    }

    fn msr(&self, msr: GuestMsr) -> u64 {
        self.msrs.get(&msr).copied().unwrap_or(0)
    }

    fn set_msr(&mut self, msr: GuestMsr, value: u64) {
        self.msrs.insert(msr, value);
    }

    fn pkru(&self) -> u32 {
        self.pkru
    }

    fn debug_register(&self, number: u8) -> u64 {
        self.debug[usize::from(number)]
    }

    fn set_debug_register(&mut self, number: u8, value: u64) {
        self.debug[usize::from(number)] = value;
    }

    fn xmm(&self, number: u8) -> u128 {
        self.xmm[usize::from(number)]
    }

    fn set_xmm(&mut self, number: u8, value: u128) {
        self.xmm[usize::from(number)] = value;
    }

    fn cpl(&self) -> u8 {
        self.cpl
    }

    fn instruction_length(&self) -> Option<u8> {
        self.length
    }

    fn instruction_bytes(&self) -> &[u8] {
        &[]
    }

    fn interrupt_shadow(&self) -> bool {
        self.shadow
    }

    fn set_interrupt_shadow(&mut self, blocked: bool) {
        self.shadow = blocked;
    }

    fn nmi_blocked(&self) -> bool {
        self.nmi_blocked
    }

    fn inject(&mut self, event: Event) {
        assert!(self.queued.is_none(), "{event:?} replaces {:?}", self.queued);
        let same = self.untaken.is_none_or(|untaken| untaken == event);
        assert!(event.kind != EventKind::ExternalInterrupt || same, "{event:?} is lost");
        self.queued = Some(event);
    }

    fn queued_event(&self) -> Option<Event> {
        self.queued.or(self.untaken)
    }

    fn interrupted_event(&self) -> Option<Event> {
        self.interrupted.or(self.untaken)
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.log.push(Done::InterruptWindow(wanted));
    }

    fn request_nmi_window(&mut self, wanted: bool) {
        self.log.push(Done::NmiWindow(wanted));
    }

    fn set_root(&mut self, root: Root) {
        self.log.push(Done::Root(root));
    }

    fn flush(&mut self, scope: FlushScope) {
        self.log.push(Done::Flush(scope));
    }

    fn intercept_port(&mut self, _: u16, _: bool) {}

    fn intercept_msr(&mut self, index: u32, read: bool, write: bool) {
        if !read && !write {
            self.open_msrs.insert(index);
        }
    }

    fn intercept_exceptions(&mut self, vectors: u32) {
        self.exceptions = vectors;
    }

    fn intercept_paging(&mut self, exit: bool) {
        self.paging_exits = exit;
    }

    fn permit_instructions(&mut self, permitted: Instructions) {
        self.permitted = permitted;
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.log.push(Done::TscOffset(offset));
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn explain_entry_failure(&self, code: u64) -> EntryFailure {
        let fields = [None; EntryFailure::MAX_FIELDS];
        EntryFailure { code, reason: "a scripted refusal", fields }
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "field = value")
    }
}
