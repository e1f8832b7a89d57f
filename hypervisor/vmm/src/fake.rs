//! A backend, a host and memory that play a script and record what is done to them.

extern crate std;

use crate::cpuid::{Cpuid, Hidden, Leaf, Offer};
use crate::host::Host;
use crate::machine::{Config, Machine};
use crate::memory::{HostMemory, Memslot, OutsideHostMemory, SlotId};
use crate::translation::{Nested, TableFrames};
use anchorite_addr::{Gfn, Hfn, Hpa, HpaPage};
use anchorite_shadow::TableMemory;
use anchorite_vcpu::exit::{Direction, IoExit};
use anchorite_vcpu::{
    Capabilities, ControlRegister, DescriptorTable, Efer, EntryFailure, Event, EventKind,
    FlushScope, Gpr, GuestMsr, Instructions, NestedFormat, NestedFrame, NestedRights, Registers,
    Root, Segment, SegmentRegister, Vcpu, VmExit,
};
use core::cell::{Cell, RefCell};
use core::fmt;
use core::num::NonZeroU64;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::string::String;
use std::vec;
use std::vec::Vec;

/// Host memory of the fake machine: 16 MiB from here, aligned to 1 GiB.
pub(crate) const HOST_BASE: u64 = 0x40_0000_0000;
pub(crate) const HOST_BYTES: u64 = 16 << 20;

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

/// A host whose clock moves by 10 ticks whenever it is read.
#[derive(Debug)]
pub(crate) struct FakeHost {
    clock: Cell<u64>,
    pub(crate) console: Vec<u8>,
    pub(crate) typed: VecDeque<u8>,
    /// Bytes that are typed while the host sleeps, one a sleep.
    pub(crate) typed_later: VecDeque<u8>,
    pub(crate) idled: u64,
    pub(crate) wake: Option<u64>,
}

/// Ticks a second of the fake host.
pub(crate) const HERTZ: u64 = 1_000_000;

impl FakeHost {
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&self.console).into_owned()
    }
}

/// The CPU under the fake host has every feature there is.
pub(crate) fn full_cpuid(leaf: u32, _: u32) -> Leaf {
    match leaf {
        0 => Leaf { eax: 0x1f, ebx: 1, ecx: 2, edx: 3 },
        0x8000_0000 => Leaf { eax: 0x8000_0021, ebx: 1, ecx: 2, edx: 3 },
        0x8000_0008 => Leaf { eax: 0x3028, ebx: !0, ecx: !0, edx: !0 },
        _ => Leaf { eax: !0, ebx: !0, ecx: !0, edx: !0 },
    }
}

impl Host for FakeHost {
    type Memory = FakeMemory;

    fn ticks(&self) -> u64 {
        self.clock.set(self.clock.get() + 10);
        self.clock.get()
    }

    fn hertz(&self) -> NonZeroU64 {
        NonZeroU64::new(HERTZ).unwrap()
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf {
        full_cpuid(leaf, subleaf)
    }

    fn console_write(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
    }

    fn console_read(&mut self) -> Option<u8> {
        self.typed.pop_front()
    }

    fn wake_at(&mut self, at: u64) {
        self.wake = Some(at);
    }

    fn idle(&mut self, until: u64) {
        assert_eq!(self.wake, Some(until), "sleeps exactly as long as was agreed");
        self.idled += 1;
        match self.typed_later.pop_front() {
            Some(byte) => self.typed.push_back(byte),
            None => self.clock.set(self.clock.get().max(until)),
        }
    }
}

/// Host memory as an array.
#[derive(Debug)]
pub(crate) struct FakeMemory(RefCell<Vec<u8>>);

impl Default for FakeMemory {
    fn default() -> Self {
        Self(RefCell::new(vec![0; HOST_BYTES as usize]))
    }
}

impl FakeMemory {
    fn at<const N: usize>(&self, at: Hpa) -> Result<[u8; N], OutsideHostMemory> {
        assert_eq!(at.as_u64() % N as u64, 0, "{at} is not aligned to {N}");
        let mut bytes = [0; N];
        self.read(at, &mut bytes).map(|()| bytes)
    }
}

impl HostMemory for FakeMemory {
    type Word = Hpa;

    fn contains(&self, first: Hpa, bytes: u64) -> bool {
        let end = HOST_BASE + HOST_BYTES;
        (HOST_BASE..=end).contains(&first.as_u64()) && bytes <= end - first.as_u64()
    }

    fn read(&self, at: Hpa, into: &mut [u8]) -> Result<(), OutsideHostMemory> {
        let bytes = into.len() as u64;
        if !self.contains(at, bytes) {
            return Err(OutsideHostMemory { at, bytes });
        }
        let start = (at.as_u64() - HOST_BASE) as usize;
        into.copy_from_slice(&self.0.borrow()[start..][..into.len()]);
        Ok(())
    }

    fn write(&self, at: Hpa, from: &[u8]) -> Result<(), OutsideHostMemory> {
        let bytes = from.len() as u64;
        if !self.contains(at, bytes) {
            return Err(OutsideHostMemory { at, bytes });
        }
        let start = (at.as_u64() - HOST_BASE) as usize;
        self.0.borrow_mut()[start..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn zero(&self, at: Hpa, bytes: u64) -> Result<(), OutsideHostMemory> {
        self.write(at, &vec![0; bytes as usize])
    }

    fn load_u32(&self, at: Hpa) -> Result<u32, OutsideHostMemory> {
        self.at(at).map(u32::from_le_bytes)
    }

    fn load_u64(&self, at: Hpa) -> Result<u64, OutsideHostMemory> {
        self.at(at).map(u64::from_le_bytes)
    }

    fn word(&self, at: Hpa) -> Result<Hpa, OutsideHostMemory> {
        self.load_u64(at).map(|_| at)
    }

    fn read_word(&self, word: Hpa) -> u64 {
        self.load_u64(word).expect("it was checked")
    }

    fn compare_exchange_u32(&self, at: Hpa, old: u32, new: u32) -> Result<bool, OutsideHostMemory> {
        if self.load_u32(at)? != old {
            return Ok(false);
        }
        self.write(at, &new.to_le_bytes()).map(|()| true)
    }

    fn compare_exchange_u64(&self, at: Hpa, old: u64, new: u64) -> Result<bool, OutsideHostMemory> {
        if self.load_u64(at)? != old {
            return Ok(false);
        }
        self.write(at, &new.to_le_bytes()).map(|()| true)
    }
}

/// Table frames, at most `limit` of them; every misuse panics.
#[derive(Debug)]
pub(crate) struct FakeTables {
    pub(crate) frames: BTreeMap<u64, [u64; 512]>,
    pub(crate) limit: usize,
    next: u64,
}

impl FakeTables {
    pub(crate) fn new(limit: usize) -> Self {
        Self { frames: BTreeMap::new(), limit, next: 0x1000 }
    }
}

impl TableMemory for FakeTables {
    fn read_entry(&self, at: Hpa) -> u64 {
        self.frames[&at.frame().number()][at.page_offset() as usize / 8]
    }

    fn write_entry(&mut self, at: Hpa, value: u64) {
        let frame = self.frames.get_mut(&at.frame().number()).expect("a frame that is allocated");
        frame[at.page_offset() as usize / 8] = value;
    }
}

impl TableFrames for FakeTables {
    fn allocate(&mut self) -> Option<HpaPage> {
        if self.frames.len() == self.limit {
            return None;
        }
        self.next += 1;
        self.frames.insert(self.next, [0; 512]);
        Some(Hfn::new(self.next).page())
    }

    fn free(&mut self, frame: HpaPage) {
        let freed = self.frames.remove(&frame.frame().number());
        assert!(freed.is_some(), "{frame:?} is freed twice");
    }
}

/// An entry format of nobody's: bit 0 present, bit 1 leaf, bits 2–4 rights.
#[derive(Debug)]
pub(crate) enum FakeFormat {}

impl FakeFormat {
    /// The rights in a leaf.
    pub(crate) fn rights(entry: u64) -> NestedRights {
        NestedRights::from_bits_truncate((entry >> 2) as u8 & 7)
    }
}

impl NestedFormat for FakeFormat {
    fn leaf(frame: NestedFrame) -> u64 {
        assert!(frame.page.addr().is_aligned(frame.size), "{frame:?}");
        frame.page.as_u64() | u64::from(frame.rights.bits()) << 2 | 3
    }

    fn table(table: HpaPage) -> u64 {
        table.as_u64() | 1
    }

    fn child(entry: u64, _: u8) -> Option<HpaPage> {
        (entry & 3 == 1).then(|| Hpa::new(entry).page())
    }

    fn is_present(entry: u64) -> bool {
        entry & 1 == 1
    }
}

pub(crate) type FakeMachine = Machine<FakeVcpu, Nested<FakeFormat, FakeTables>, FakeHost>;

/// A machine with 8 MiB of RAM at 0, whose clock stands at 1000.
pub(crate) fn machine(vcpu: FakeVcpu) -> FakeMachine {
    machine_without(vcpu, "")
}

/// The same with features hidden.
pub(crate) fn machine_without(vcpu: FakeVcpu, names: &str) -> FakeMachine {
    let host = FakeHost {
        clock: Cell::new(1_000),
        console: Vec::new(),
        typed: VecDeque::new(),
        typed_later: VecDeque::new(),
        idled: 0,
        wake: None,
    };
    let nested = Nested::new(FakeTables::new(64), true).unwrap();
    let config = Config { limit_seconds: 1, ..Config::default() };
    let hidden = Hidden::parse(names).expect("hideable");
    let offer = Offer { hidden, xsetbv_exits: true, xsavec: true, ..Offer::default() };
    let cpuid = Cpuid::new(full_cpuid, host.hertz(), &offer);
    let mut machine = Machine::new(vcpu, nested, FakeMemory::default(), host, cpuid, config);
    let host = Hpa::new(HOST_BASE).frame();
    let (id, first, frames) = (SlotId(0), Gfn::new(0), 2048);
    machine.add_slot(Memslot { id, first, frames, host, read_only: false }).unwrap();
    machine
}

/// Has `machine` deliver its lines at vectors 0x20 to 0x27, ends of interrupts done.
pub(crate) fn program_pic(machine: &mut FakeMachine) {
    for (port, value) in [(0x20, 0x13), (0x21, 0x20), (0x21, 3)] {
        machine.devices.interrupts.write_pic(port, value);
    }
}
