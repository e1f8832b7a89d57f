//! A backend, a host and memory that play a script and record what is done to them.

extern crate std;

mod engine;
mod memory;
mod vcpu;

pub(crate) use engine::{Words, shadow, shadow_under};
pub(crate) use memory::{FakeFormat, FakeMemory, FakeTables, HOST_BASE, HOST_BYTES};
pub(crate) use vcpu::{Done, FakeVcpu, io, out};

use crate::cpuid::{Cpuid, Hidden, Leaf, Offer};
use crate::host::Host;
use crate::machine::{Config, Machine};
use crate::memory::{Memslot, SlotId};
use crate::translation::{Entry, Nested, Shadow, Translation};
use anchorite_addr::{Gfn, Gpa, Hpa};
use anchorite_shadow::AnyMmu;
use core::cell::Cell;
use core::num::NonZeroU64;
use std::collections::VecDeque;
use std::string::String;
use std::vec::Vec;

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

pub(crate) type FakeMachine = Machine<FakeVcpu, Nested<FakeFormat, FakeTables>, FakeHost>;

/// A machine with 8 MiB of RAM at 0, whose clock stands at 1000.
pub(crate) fn machine(vcpu: FakeVcpu) -> FakeMachine {
    machine_without(vcpu, "")
}

/// The same with features hidden.
pub(crate) fn machine_without(vcpu: FakeVcpu, names: &str) -> FakeMachine {
    machine_by(Nested::new(FakeTables::new(64), true).unwrap(), vcpu, names)
}

pub(crate) type ShadowMachine = Machine<FakeVcpu, Shadow<AnyMmu<Words>>, FakeHost>;

/// As [`machine`], under shadow paging. The engine sees the guest's tables in memory of its own,
/// the machine the same ones in its own.
pub(crate) fn shadow_machine(vcpu: FakeVcpu) -> ShadowMachine {
    let mut machine = machine_by(shadow(), vcpu, "");
    for (gpa, entry) in engine::tables() {
        machine.memory().place(Gpa::new(gpa), &entry.to_le_bytes()).unwrap();
    }
    while machine.memory.writes().take().is_some() {}
    machine
}

/// What `tables` ask for before an entry, asked as the run loop does.
pub(crate) fn enter(tables: &mut impl Translation) -> Entry {
    let mut entry = Entry::default();
    if !tables.is_settled() {
        tables.enter(&mut entry).expect("there is room for the tables");
    }
    entry
}

fn machine_by<T: Translation>(
    translation: T,
    vcpu: FakeVcpu,
    names: &str,
) -> Machine<FakeVcpu, T, FakeHost> {
    let host = FakeHost {
        clock: Cell::new(1_000),
        console: Vec::new(),
        typed: VecDeque::new(),
        typed_later: VecDeque::new(),
        idled: 0,
        wake: None,
    };
    let config = Config { limit_seconds: 1, ..Config::default() };
    let hidden = Hidden::parse(names).expect("hideable");
    let offer = Offer { hidden, xsetbv_exits: true, xsavec: true, ..Offer::default() };
    let cpuid = Cpuid::new(full_cpuid, host.hertz(), &offer);
    let mut machine = Machine::new(vcpu, translation, FakeMemory::default(), host, cpuid, config);
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
