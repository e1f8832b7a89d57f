//! A guest, its processors and the engine between them; every step is judged.
//!
//! The judge holds the engine against the reference walker:
//! - a translation the hardware uses must be one that a TLB may hold at that moment;
//! - a fault that reaches the guest must be the one the guest's tables cause now;
//! - A and D bits appear where the architecture puts them, and nowhere else;
//! - after every step `audit` finds I1 to I10 intact.

use super::hardware::{Core, Format};
use super::history::{Locate, Map, Time, View};
use super::machine::{GUEST_BASE, Machine, Spy};
use super::ops::{BIG, LogAction, Op, Place, SMALL, Shape, TABLES, TAIL};
use super::reference::{
    Access, Answer, CR0_PG, CR4_LA57, CR4_PAE, CR4_PCIDE, CR4_PGE, CR4_PKE, CR4_PSE, CR4_SMAP,
    CR4_SMEP, Cpu, Mode, Op as AccessOp, Translation, translate,
};
use anchorite_addr::{Gfn, Gpa, Gva, Hfn};
use anchorite_shadow::{
    self as shadow, AccessKind, AnyMmu, Config, Cr0, Cr4, Efer, EnterError, FaultOutcome,
    FlushPromise, Invpcid, PolicyKind, RegisterFault, Registers, RootFormat, ShadowMmu, SlotId,
    SlotSpec, TlbFlush, VcpuId,
};
use std::collections::BTreeSet;

/// How a run is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    pub mode: Mode,
    pub vcpus: usize,
    pub policy: PolicyKind,
    /// Pages above the least quota.
    pub spare: u32,
    pub prefetch: u8,
    pub gib_pages: bool,
    pub start_generation: u64,
    /// The guest flushes after every edit, so that every result is determined.
    pub disciplined: bool,
    /// Steps between two audits.
    pub audit_every: u64,
    /// The guest's physical address width.
    pub physical_bits: u32,
}

/// An engine that a world can be made with.
pub trait Engine: ShadowMmu<Machine = Machine> {
    fn make(policy: PolicyKind, config: Config, machine: Machine) -> Self;
}

impl Engine for AnyMmu<Machine> {
    fn make(policy: PolicyKind, config: Config, machine: Machine) -> Self {
        Self::new(policy, machine, config).expect("the configuration is valid")
    }
}

/// What the guest saw of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    Nothing,
    /// The access reached this address, and read or wrote this value.
    Memory {
        gpa: u64,
        value: u64,
    },
    PageFault(u32),
    Device(u64),
    ReadOnly(u64),
    /// No frame was to be had; the guest stands still.
    Starved,
    /// The register write raised #GP.
    Refused,
}

/// Where one slot lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub base: u64,
    pub pages: u64,
    pub host: u64,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout(Vec<Option<Position>>);

/// Why a translation is legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Legal {
    gpa: u64,
    age: Age,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    /// The guest's tables say so now.
    Fresh,
    /// They said so since the last invalidation.
    Stale,
    /// They said so before a slot changed, and the vCPU was not told yet.
    FormerSlot,
}

struct Log {
    /// Writes count once this epoch is acknowledged.
    epoch: u64,
    written: BTreeSet<u64>,
}

#[derive(Default)]
struct SlotState {
    id: Option<SlotId>,
    log: Option<Log>,
}

struct Vcpu {
    id: VcpuId,
    core: Core,
    cpu: Cpu,
    inside: bool,
    /// What hardware walked in the guest last.
    root: Option<shadow::Root>,
    /// The guest's last invalidation of everything, and of single pages.
    since_all: Time,
    since_page: Map<u64, Time>,
}

pub struct World<E: Engine = AnyMmu<Machine>> {
    pub setup: Setup,
    pub mmu: E,
    shape: Shape,
    vcpus: Vec<Vcpu>,
    layout: Layout,
    /// Layouts that a vCPU may still use while it lags behind the epoch.
    former: Vec<(u64, Layout)>,
    slots: Vec<SlotState>,
    pending: Option<FlushPromise>,
    sweeping: bool,
    pub steps: u64,
    /// Promises stay open until the test settles them.
    pub hold: bool,
    /// Stores write their value as it is, in tables too.
    pub raw_stores: bool,
    /// Hits that needed the history, and faults of each kind: a run that reaches none of
    /// them proves nothing.
    pub coverage: Coverage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub hits: u64,
    pub stale_hits: u64,
    pub fixed: u64,
    pub spurious: u64,
    pub guest_faults: u64,
    pub emulated: u64,
    pub devices: u64,
    pub read_only: u64,
    pub retries: u64,
    pub starved: u64,
    pub refused: u64,
    pub lagging_hits: u64,
    pub dirty_frames: u64,
}

impl Coverage {
    pub fn add(&mut self, other: Self) {
        self.hits += other.hits;
        self.stale_hits += other.stale_hits;
        self.fixed += other.fixed;
        self.spurious += other.spurious;
        self.guest_faults += other.guest_faults;
        self.emulated += other.emulated;
        self.devices += other.devices;
        self.read_only += other.read_only;
        self.retries += other.retries;
        self.starved += other.starved;
        self.refused += other.refused;
        self.lagging_hits += other.lagging_hits;
        self.dirty_frames += other.dirty_frames;
    }

    /// Whether a long run in `mode` met every kind of outcome that the mode has.
    pub fn reached_everything(&self, mode: Mode) -> bool {
        let always = [self.hits, self.fixed, self.emulated, self.devices, self.read_only];
        let paged = [self.stale_hits, self.guest_faults];
        always.iter().chain([&self.lagging_hits, &self.dirty_frames]).all(|&count| count > 0)
            && (mode == Mode::Off || paged.iter().all(|&count| count > 0))
            && (mode != Mode::Pae || self.refused > 0)
    }
}

type Judged<T> = Result<T, String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(format!($($message)*));
        }
    };
}

impl Locate for Layout {
    fn locate(&self, gpa: u64) -> Option<(u64, bool)> {
        self.0.iter().flatten().find_map(|slot| {
            let frame = (gpa >> 12).checked_sub(slot.base)?;
            (frame < slot.pages)
                .then(|| (((slot.host + frame) << 12) | gpa & 0xfff, slot.read_only))
        })
    }
}

impl Layout {
    fn guest_of(&self, hpa: u64) -> Option<(u64, bool)> {
        self.0.iter().flatten().find_map(|slot| {
            let frame = (hpa >> 12).checked_sub(slot.host)?;
            (frame < slot.pages)
                .then(|| (((slot.base + frame) << 12) | hpa & 0xfff, slot.read_only))
        })
    }

    fn slot_at(&self, gpa: u64) -> Option<usize> {
        self.0.iter().position(|slot| {
            slot.is_some_and(|slot| {
                (gpa >> 12).checked_sub(slot.base).is_some_and(|frame| frame < slot.pages)
            })
        })
    }
}

fn position(slot: usize, bank: u64, read_only: bool) -> Position {
    let (base, pages) =
        [(0, SMALL), (BIG.start, BIG.end - BIG.start), (TAIL.start, TAIL.end - TAIL.start)][slot];
    // Bank 2 is not aligned as the guest side is: no large entry can map it.
    let skew = u64::from(bank == 2);
    let host = (GUEST_BASE >> 12) + ((slot as u64 * 4 + bank) << 20) + base + skew;
    // Slot 2 changes its guest address with the bank: that is a move.
    let base = if slot == 2 { base + 16 * (bank & 1) } else { base };
    Position { base, pages, host, read_only }
}

fn spec(position: Position) -> SlotSpec {
    SlotSpec {
        base: Gfn::new(position.base),
        pages: position.pages,
        host: Hfn::new(position.host),
        read_only: position.read_only,
    }
}

fn registers(cpu: &Cpu) -> Registers {
    Registers {
        cr0: Cr0::from_bits_retain(cpu.cr0),
        cr3: cpu.cr3,
        cr4: Cr4::from_bits_retain(cpu.cr4),
        efer: Efer::from_bits_retain(cpu.efer),
    }
}

impl<E: Engine> World<E> {
    /// A guest in the setup's mode with a tree of tables in place.
    pub fn new(setup: Setup, initial: &[(u64, u64)]) -> Self {
        let shape = Shape::new(setup.mode, setup.vcpus);
        let max_vcpus = setup.vcpus as u16;
        let quota = Config::least_quota(max_vcpus) + setup.spare;
        let config = Config {
            quota,
            max_vcpus,
            start_generation: setup.start_generation,
            physical_bits: setup.physical_bits as u8,
            guest_gigabyte_pages: setup.gib_pages,
            host_gigabyte_pages: true,
            prefetch: setup.prefetch,
            batch: 4,
        };
        let machine = Machine::new(quota.div_ceil(64) as usize + 1, setup.vcpus + 1);
        let mmu = E::make(setup.policy, config, machine);
        let mut world = Self {
            setup,
            mmu,
            shape,
            vcpus: Vec::new(),
            layout: Layout(vec![None; 3]),
            former: Vec::new(),
            slots: (0..3).map(|_| SlotState::default()).collect(),
            pending: None,
            sweeping: false,
            steps: 0,
            hold: false,
            raw_stores: false,
            coverage: Coverage::default(),
        };
        for slot in 0..3 {
            world.place(slot, position(slot, 0, false)).expect("slots fit");
        }
        for &(gpa, value) in initial {
            let (hpa, _) = world.layout.locate(gpa).expect("tables lie in slot 0");
            let bytes = world.shape.entry_bytes() as u32;
            world.mmu.machine_mut().ram.write(hpa, bytes, value);
        }
        let (cr0, cr4, efer) = world.shape.controls();
        for _ in 0..setup.vcpus {
            world.add_vcpu(cr0, cr4, efer);
        }
        world
    }

    /// Stores an entry before anything runs.
    pub fn preset(&mut self, gpa: u64, bytes: u32, value: u64) {
        let (hpa, _) = self.layout.locate(gpa).expect("the entry lies in a slot");
        self.mmu.machine_mut().ram.write(hpa, bytes, value);
    }

    /// The engine's name for a vCPU.
    pub fn id(&self, v: usize) -> VcpuId {
        self.vcpus[v].id
    }

    /// The engine's name for a slot.
    pub fn slot_id(&self, slot: usize) -> SlotId {
        self.slots[slot].id.expect("the slot is there")
    }

    /// The processor of a vCPU.
    pub fn core(&mut self, v: usize) -> &mut Core {
        &mut self.vcpus[v].core
    }

    /// Whether the vCPU is in the guest.
    pub fn inside(&self, v: usize) -> bool {
        self.vcpus[v].inside
    }

    /// Where the tables alone lead a vCPU in the guest, without what its TLB holds.
    pub fn table_walk(&mut self, v: usize, gva: u64, write: bool) -> Result<u64, u32> {
        let op = if write { AccessOp::Write } else { AccessOp::Read };
        let access = Access { op, cpl3: true, implicit: false, ac: false };
        let mut core = self.vcpus[v].core.clone();
        core.flush_all();
        core.amnesic = true;
        core.access(self.mmu.machine_mut(), gva, access).map(|hit| hit.hpa)
    }

    /// Where the tables lead a vCPU that starts from what its paging-structure caches hold,
    /// but has lost its TLB.
    pub fn cached_walk(&mut self, v: usize, gva: u64) -> Result<u64, u32> {
        let access = Access { op: AccessOp::Read, cpl3: true, implicit: false, ac: false };
        let mut core = self.vcpus[v].core.clone();
        core.forget_pages();
        core.access(self.mmu.machine_mut(), gva, access).map(|hit| hit.hpa)
    }

    /// The host address of a guest address.
    pub fn host_of(&self, gpa: u64) -> u64 {
        self.layout.locate(gpa).expect("the address lies in a slot").0
    }

    /// What guest memory holds.
    pub fn peek(&self, gpa: u64) -> u64 {
        let (hpa, _) = self.layout.locate(gpa).expect("the address lies in a slot");
        self.mmu.machine().ram.read(hpa, self.entry_bytes())
    }

    fn add_vcpu(&mut self, cr0: u64, cr4: u64, efer: u64) {
        let mut cpu = Cpu {
            cr0,
            cr3: if self.setup.mode == Mode::Pae { TABLES << 12 } else { 0 },
            cr4,
            efer,
            pkru: 0,
            pdptes: [0; 4],
            maxphyaddr: self.setup.physical_bits,
            gib_pages: self.setup.gib_pages,
            pse36: true,
            amd_mbz: false,
        };
        cpu.pdptes = self.pdptes(&cpu);
        let id = self.mmu.add_vcpu(registers(&cpu)).expect("the vCPU is acceptable");
        self.vcpus.push(Vcpu {
            id,
            core: Core::new(),
            cpu,
            inside: false,
            root: None,
            since_all: self.mmu.machine().ram.now(),
            since_page: Map::default(),
        });
    }

    fn pdptes(&self, cpu: &Cpu) -> [u64; 4] {
        if cpu.mode() != Mode::Pae {
            return cpu.pdptes;
        }
        [0, 8, 16, 24].map(|offset| {
            let gpa = (cpu.cr3 & 0xffff_ffe0) + offset;
            self.layout.locate(gpa).map_or(0, |(hpa, _)| self.mmu.machine().ram.read(hpa, 8))
        })
    }

    /// Carries out and judges one operation.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn step(&mut self, op: Op) -> Judged<Visible> {
        self.steps += 1;
        self.keep_promises();
        self.post_spies(op);
        let visible = self.perform(op)?;
        self.judge_sightings()?;
        if self.setup.disciplined {
            self.flush_all_vcpus()?;
        }
        if self.steps % 512 == 0 {
            let horizon = self.vcpus.iter().map(|vcpu| vcpu.since_all).min().unwrap_or(0);
            self.mmu.machine_mut().ram.forget(horizon);
        }
        if self.steps % self.setup.audit_every == 0 {
            self.audit()?;
        }
        Ok(visible)
    }

    /// # Errors
    /// The violation that `audit` found.
    pub fn audit(&self) -> Judged<()> {
        self.mmu.audit().map_err(|violation| format!("audit: {violation:?}"))
    }

    fn perform(&mut self, op: Op) -> Judged<Visible> {
        match op {
            Op::Nop => Ok(Visible::Nothing),
            Op::Access { vcpu, gva, access, value } => self.access(vcpu, gva, access, value),
            Op::Poke { gpa, value } => {
                self.poke(gpa, value);
                Ok(Visible::Nothing)
            }
            Op::Invlpg { vcpu, gva } => self.invlpg(vcpu, gva),
            Op::Cr3 { vcpu, root } => self.set_cr3(vcpu, root),
            Op::Control { vcpu, cr0, cr4, efer, pkru } => self.control(vcpu, cr0, cr4, efer, pkru),
            Op::Park { vcpu } => {
                self.leave(vcpu);
                Ok(Visible::Nothing)
            }
            Op::Slot { slot, place } => self.slot(slot, place),
            Op::ZapAll => {
                let promise = self.mmu.zap_all();
                self.sweeping = true;
                self.owe(promise);
                self.unchanged("zap_all")
            }
            Op::Reclaim { budget } => {
                self.mmu.idle_slice(budget);
                self.mmu.reclaim(budget);
                self.unchanged("reclaim")
            }
            Op::StarveFrames { after } => {
                self.mmu.machine_mut().starve_after = Some(after);
                Ok(Visible::Nothing)
            }
            Op::Quota { spare } => {
                let least = Config::least_quota(self.vcpus.len() as u16);
                let spare = spare.min(self.setup.spare);
                let quota = self.mmu.set_quota(least + spare);
                ensure!(quota == least + spare, "set_quota({}) gave {quota}", least + spare);
                self.unchanged("set_quota")
            }
            Op::DirtyLog { slot, action } => self.dirty_log(slot, action),
        }
    }

    // ---- walks in the middle of an operation -----------------------------------------

    /// Every vCPU in the guest walks the tables for one address whenever the engine
    /// writes an entry.
    fn post_spies(&mut self, op: Op) {
        let gva = match op {
            Op::Access { gva, .. } | Op::Invlpg { gva, .. } => gva,
            Op::Poke { gpa, .. } => gpa << 9,
            _ => return,
        };
        let actor = match op {
            Op::Access { vcpu, .. } | Op::Invlpg { vcpu, .. } => vcpu,
            _ => usize::MAX,
        };
        for v in 0..self.vcpus.len() {
            if v != actor && self.vcpus[v].inside {
                let spy =
                    Spy { vcpu: v, cpu: *self.vcpus[v].core.cpu(), gva: self.canonical(v, gva) };
                self.mmu.machine_mut().spies.push(spy);
            }
        }
    }

    fn judge_sightings(&mut self) -> Judged<()> {
        self.mmu.machine_mut().spies.clear();
        for (spy, leaf) in std::mem::take(&mut self.mmu.machine_mut().sightings) {
            for op in [AccessOp::Read, AccessOp::Write] {
                let access = Access { op, cpl3: leaf.user, implicit: false, ac: true };
                let usable = super::reference::check(&spy.cpu, &leaf, access).is_ok();
                if usable {
                    self.judge_hit(spy.vcpu, spy.gva, access, leaf.gpa, |_| true)
                        .map_err(|what| format!("in the middle of the operation: {what}"))?;
                }
            }
        }
        Ok(())
    }

    // ---- promises ------------------------------------------------------------------

    fn owe(&mut self, promise: FlushPromise) {
        self.pending = Some(match self.pending.take() {
            Some(older) => older.and(promise),
            None => promise,
        });
    }

    /// Promises are kept late on purpose: one kick every eighth step.
    fn keep_promises(&mut self) {
        if self.sweeping {
            self.sweeping = self.mmu.zap_continue();
        }
        if self.hold {
            return;
        }
        let Some(promise) = self.pending.take() else {
            return;
        };
        let mut lagging = Vec::new();
        self.pending = self.mmu.discharge(promise, |vcpu| lagging.push(vcpu)).err();
        if self.pending.is_none() {
            self.former.clear();
        } else if self.steps % 8 == 0 {
            self.leave(lagging[0].index());
        }
    }

    /// Keeps a promise at once.
    fn settle(&mut self, mut promise: FlushPromise) -> Judged<()> {
        for _ in 0..4 {
            let mut lagging = Vec::new();
            match self.mmu.discharge(promise, |vcpu| lagging.push(vcpu)) {
                Ok(()) => return Ok(()),
                Err(back) => promise = back,
            }
            for vcpu in lagging {
                self.leave(vcpu.index());
            }
        }
        Err("a promise cannot be discharged though every vCPU left".into())
    }

    /// Keeps all promises now.
    ///
    /// # Errors
    /// A promise that cannot be kept.
    pub fn settle_pending(&mut self) -> Judged<()> {
        if let Some(promise) = self.pending.take() {
            self.settle(promise)?;
            self.former.clear();
        }
        Ok(())
    }

    // ---- entering and leaving ------------------------------------------------------

    fn leave(&mut self, v: usize) {
        self.mmu.machine_mut().spies.retain(|spy| spy.vcpu != v);
        let vcpu = &mut self.vcpus[v];
        vcpu.inside = false;
        self.mmu.leave(vcpu.id);
    }

    /// Whether the vCPU is in the guest now; `false` where memory has run out.
    fn enter(&mut self, v: usize) -> Judged<bool> {
        if self.vcpus[v].inside {
            return Ok(true);
        }
        let id = self.vcpus[v].id;
        // Either is right where the root is still the same.
        if self.steps % 3 != 0 {
            if let Some(flush) = self.mmu.reenter(id) {
                let root = self.vcpus[v].root.ok_or("the first entry is no entry again")?;
                self.load(v, root, flush);
                self.unchanged("reenter")?;
                return Ok(true);
            }
            self.unchanged("reenter that was refused")?;
        }
        let refused = self.mmu.machine().refused;
        for _ in 0..8 {
            match self.mmu.enter(id) {
                Ok(entry) => {
                    self.load(v, entry.root, entry.flush);
                    self.unchanged("enter")?;
                    return Ok(true);
                }
                Err(EnterError::Retry(promise)) => {
                    self.coverage.retries += 1;
                    self.settle(promise)?;
                }
                Err(EnterError::OutOfMemory) => {
                    ensure!(
                        self.mmu.machine().refused > refused,
                        "enter found no memory though no request was refused: {:?}",
                        self.mmu.usage()
                    );
                    return Ok(false);
                }
            }
        }
        Err("enter asks for a retry again and again".into())
    }

    fn load(&mut self, v: usize, root: shadow::Root, flush: TlbFlush) {
        let vcpu = &mut self.vcpus[v];
        vcpu.root = Some(root);
        match flush {
            TlbFlush::None => {}
            TlbFlush::Address(gva) => vcpu.core.flush_address(gva.as_u64()),
            TlbFlush::All => vcpu.core.flush_all(),
        }
        let format = match root.format {
            RootFormat::Pae => Format::Pae,
            RootFormat::FourLevel => Format::Level4,
            RootFormat::FiveLevel => Format::Level5,
        };
        let features = match vcpu.cpu.mode() {
            Mode::Off => 0,
            Mode::Bits32 | Mode::Pae => CR4_SMEP | CR4_SMAP,
            Mode::Level4 | Mode::Level5 => CR4_SMEP | CR4_SMAP | CR4_PKE,
        };
        let features = vcpu.cpu.cr4 & features;
        let root = root.table.as_u64();
        vcpu.core.enter(self.mmu.machine(), root, format, features, vcpu.cpu.pkru);
        vcpu.inside = true;
    }

    // ---- accesses ------------------------------------------------------------------

    /// The address as a program in the vCPU's present mode can form it.
    fn canonical(&self, v: usize, gva: u64) -> u64 {
        match self.vcpus[v].cpu.mode() {
            Mode::Off | Mode::Bits32 | Mode::Pae => gva & 0xffff_ffff,
            Mode::Level4 => ((gva << 16) as i64 >> 16) as u64,
            Mode::Level5 => ((gva << 7) as i64 >> 7) as u64,
        }
    }

    fn reference(&self, v: usize, gva: u64, access: Access) -> Translation {
        let view = View { ram: &self.mmu.machine().ram, slots: &self.layout };
        translate(&self.vcpus[v].cpu, gva, access, |at| view.read(at))
    }

    fn permits(&self, v: usize, layout: &Layout, gva: u64, access: Access, gpa: u64) -> bool {
        let vcpu = &self.vcpus[v];
        let view = View { ram: &self.mmu.machine().ram, slots: layout };
        let page = vcpu.since_page.get(&(gva >> 12)).copied().unwrap_or(0);
        view.permits(&vcpu.cpu, gva, access, gpa, vcpu.since_all.max(page))
    }

    fn access(&mut self, v: usize, gva: u64, access: Access, value: u64) -> Judged<Visible> {
        let gva = self.canonical(v, gva);
        if self.steps % 8 == 0 {
            self.check_translate(v, gva, access)?;
        }
        for attempt in 0..24 {
            if !self.enter(v)? {
                self.coverage.starved += 1;
                return Ok(Visible::Starved);
            }
            let hit = self.vcpus[v].core.access(self.mmu.machine_mut(), gva, access);
            if let Ok(hit) = hit {
                return self.land(v, gva, access, value, hit.hpa);
            }
            self.leave(v);
            if let Some(visible) = self.fault(v, gva, access, value, attempt)? {
                return Ok(visible);
            }
        }
        let answer = self.reference(v, gva, access).answer;
        Err(format!("{access:?} at {gva:#x} faults for ever; the reference says {answer:?}"))
    }

    fn check_translate(&mut self, v: usize, gva: u64, access: Access) -> Judged<()> {
        let wanted = self.reference(v, gva, access).answer;
        let got =
            self.mmu.translate(self.vcpus[v].id, Gva::new(gva), self.engine_access(v, access));
        let same = match (wanted, got) {
            (Answer::Ok(leaf), Ok(translation)) => {
                translation.gpa.as_u64() == leaf.gpa && translation.size.shift() == leaf.shift
            }
            (Answer::PageFault(code), Err(fault)) => {
                fault.code.bits() == code && fault.cr2.as_u64() == gva
            }
            _ => false,
        };
        ensure!(same, "translate {access:?} at {gva:#x}: {got:?}, the reference says {wanted:x?}");
        self.unchanged("translate").map(|_| ())
    }

    fn engine_access(&self, v: usize, access: Access) -> shadow::Access {
        shadow::Access {
            kind: match access.op {
                AccessOp::Read => AccessKind::Read,
                AccessOp::Write => AccessKind::Write,
                AccessOp::Fetch => AccessKind::Execute,
            },
            user: access.user(),
            implicit: access.implicit,
            ac: access.ac,
            pkru: self.vcpus[v].cpu.pkru,
        }
    }

    /// The hardware let the access through to `hpa`.
    fn land(
        &mut self,
        v: usize,
        gva: u64,
        access: Access,
        value: u64,
        hpa: u64,
    ) -> Judged<Visible> {
        let lags = |epoch| self.mmu.clock().lags(self.vcpus[v].id, epoch);
        let Legal { gpa, age } = self.judge_hit(v, gva, access, hpa, lags)?;
        self.coverage.hits += 1;
        self.coverage.stale_hits += u64::from(age == Age::Stale);
        self.coverage.lagging_hits += u64::from(age == Age::FormerSlot);
        let now = age != Age::FormerSlot;
        let bytes = self.entry_bytes();
        let hpa = hpa & !u64::from(bytes - 1);
        if access.op == AccessOp::Write {
            let value = self.stored(gpa, value);
            self.mmu.machine_mut().ram.write(hpa, bytes, value);
            if now {
                self.expect_dirty(v, gpa)?;
            }
        }
        let value = self.mmu.machine().ram.read(hpa, bytes);
        Ok(Visible::Memory { gpa, value })
    }

    /// How a translation to `hpa` is legal; `lagging` says which former slot layouts count.
    fn judge_hit(
        &self,
        v: usize,
        gva: u64,
        access: Access,
        hpa: u64,
        lagging: impl Fn(u64) -> bool,
    ) -> Judged<Legal> {
        let write = access.op == AccessOp::Write;
        let answer = self.reference(v, gva, access).answer;
        if let Some((gpa, read_only)) = self.layout.guest_of(hpa) {
            if !(write && read_only) {
                if let Answer::Ok(leaf) = answer {
                    let bits = leaf.accessed && (!write || leaf.dirty);
                    if leaf.gpa == gpa && bits {
                        return Ok(Legal { gpa, age: Age::Fresh });
                    }
                }
                if self.permits(v, &self.layout, gva, access, gpa) {
                    return Ok(Legal { gpa, age: Age::Stale });
                }
            }
        }
        for (epoch, layout) in &self.former {
            if !lagging(*epoch) {
                continue;
            }
            if let Some((gpa, read_only)) = layout.guest_of(hpa) {
                if !(write && read_only) && self.permits(v, layout, gva, access, gpa) {
                    return Ok(Legal { gpa, age: Age::FormerSlot });
                }
            }
        }
        Err(format!(
            "vCPU {v} reached hpa {hpa:#x} (gpa {:x?}) for {access:?} at {gva:#x}; no walk since \
             its last invalidation allows that; the reference says {answer:x?}",
            self.layout.guest_of(hpa)
        ))
    }

    /// The hardware faulted. `None`: enter again.
    fn fault(
        &mut self,
        v: usize,
        gva: u64,
        access: Access,
        value: u64,
        attempt: u32,
    ) -> Judged<Option<Visible>> {
        let before = self.reference(v, gva, access);
        let refused = self.mmu.machine().refused;
        let engine_access = self.engine_access(v, access);
        let outcome = self.mmu.page_fault(self.vcpus[v].id, Gva::new(gva), engine_access);
        self.judge_bits(v, &before, "page_fault")?;
        let landed =
            |gpa: Gpa| matches!(before.answer, Answer::Ok(leaf) if leaf.gpa == gpa.as_u64());
        match outcome {
            FaultOutcome::Fixed => {
                self.coverage.fixed += 1;
                ensure!(
                    matches!(before.answer, Answer::Ok(_)),
                    "{access:?} at {gva:#x} was fixed; the reference says {:x?}",
                    before.answer
                );
                self.require_bits(v, gva, access)?;
                Ok(None)
            }
            FaultOutcome::Spurious => {
                self.coverage.spurious += 1;
                Ok(None)
            }
            FaultOutcome::Guest(fault) => {
                let code = fault.code.bits();
                ensure!(
                    before.answer == Answer::PageFault(code) && fault.cr2.as_u64() == gva,
                    "{access:?} at {gva:#x} got {fault:x?}; the reference says {:x?}",
                    before.answer
                );
                self.coverage.guest_faults += 1;
                // SDM vol. 3, 4.10.4.1: a page fault invalidates the address.
                self.invalidated(v, gva);
                Ok(Some(Visible::PageFault(code)))
            }
            FaultOutcome::EmulateWrite { gpa } => {
                ensure!(
                    landed(gpa) && access.op == AccessOp::Write,
                    "EmulateWrite of {gpa:?} for {access:?} at {gva:#x}; the reference says {:x?}",
                    before.answer
                );
                // Not again and again: a table that maps itself is shadowed again at once.
                if self.steps % 5 == 0 && attempt < 2 {
                    self.mmu.unshadow(gpa);
                    return Ok(None);
                }
                self.emulate(v, gva, access, value).map(Some)
            }
            FaultOutcome::Emulate { gpa } => {
                ensure!(
                    landed(gpa),
                    "Emulate of {gpa:?} for {access:?} at {gva:#x}; the reference says {:x?}",
                    before.answer
                );
                self.emulate(v, gva, access, value).map(Some)
            }
            FaultOutcome::Mmio { gpa } => {
                ensure!(
                    self.layout.locate(gpa.as_u64()).is_none(),
                    "Mmio at {gpa:?}, which is memory"
                );
                ensure!(
                    landed(gpa) || self.permits(v, &self.layout, gva, access, gpa.as_u64()),
                    "Mmio of {gpa:?} for {access:?} at {gva:#x}; the reference says {:x?}",
                    before.answer
                );
                self.emulate(v, gva, access, value).map(Some)
            }
            FaultOutcome::ReadOnly { gpa } => {
                let read_only = matches!(self.layout.locate(gpa.as_u64()), Some((_, true)));
                ensure!(
                    landed(gpa) && read_only && access.op == AccessOp::Write,
                    "ReadOnly at {gpa:?} for {access:?} at {gva:#x}; the reference says {:x?}",
                    before.answer
                );
                self.coverage.read_only += 1;
                Ok(Some(Visible::ReadOnly(gpa.as_u64())))
            }
            FaultOutcome::Retry(promise) => {
                self.coverage.retries += 1;
                self.settle(promise)?;
                Ok(None)
            }
            FaultOutcome::OutOfMemory => {
                ensure!(
                    self.mmu.machine().refused > refused,
                    "page_fault found no memory though no request was refused: {:?}",
                    self.mmu.usage()
                );
                self.coverage.starved += 1;
                Ok(Some(Visible::Starved))
            }
        }
    }

    /// The emulator carries the access out.
    fn emulate(&mut self, v: usize, gva: u64, access: Access, value: u64) -> Judged<Visible> {
        let before = self.reference(v, gva, access);
        let id = self.vcpus[v].id;
        let engine_access = self.engine_access(v, access);
        let got = self.mmu.translate_access(id, Gva::new(gva), engine_access);
        self.judge_bits(v, &before, "translate_access")?;
        let leaf = match (before.answer, got) {
            (Answer::Ok(leaf), Ok(translation)) if translation.gpa.as_u64() == leaf.gpa => leaf,
            (Answer::PageFault(code), Err(fault)) if fault.code.bits() == code => {
                self.invalidated(v, gva);
                return Ok(Visible::PageFault(code));
            }
            (wanted, got) => {
                return Err(format!(
                    "translate_access {access:?} at {gva:#x}: {got:?}, the reference says {wanted:x?}"
                ));
            }
        };
        self.require_bits(v, gva, access)?;
        let bytes = self.entry_bytes();
        let gpa = leaf.gpa & !u64::from(bytes - 1);
        let Some((hpa, read_only)) = self.layout.locate(gpa) else {
            self.coverage.devices += 1;
            return Ok(Visible::Device(leaf.gpa));
        };
        self.coverage.emulated += 1;
        if access.op == AccessOp::Write {
            if read_only {
                return Ok(Visible::ReadOnly(leaf.gpa));
            }
            let value = self.stored(gpa, value);
            self.mmu.machine_mut().ram.write(hpa, bytes, value);
            self.mmu.guest_wrote(Gpa::new(gpa), u64::from(bytes));
            self.unchanged("guest_wrote")?;
            self.expect_dirty(v, gpa)?;
        }
        let value = self.mmu.machine().ram.read(hpa, bytes);
        Ok(Visible::Memory { gpa: leaf.gpa, value })
    }

    // ---- A and D -------------------------------------------------------------------

    /// What the engine changed in guest memory must be A and D bits of the walk.
    fn judge_bits(&mut self, v: usize, walk: &Translation, what: &str) -> Judged<()> {
        let changed = std::mem::take(&mut self.mmu.machine_mut().changed);
        for (hpa, old, new) in changed {
            let allowed = walk
                .may_set()
                .filter(|(at, _)| self.layout.locate(at.gpa).map(|(hpa, _)| hpa) == Some(hpa))
                .fold(0, |bits, (_, more)| bits | more);
            ensure!(
                old & !new == 0 && new & !old & !allowed == 0,
                "{what} changed the guest entry at hpa {hpa:#x} from {old:#x} to {new:#x}; \
                 only {allowed:#x} may be set"
            );
            let (gpa, _) = self.layout.guest_of(hpa).ok_or("an entry outside of all slots")?;
            self.expect_dirty(v, gpa)?;
        }
        Ok(())
    }

    fn unchanged(&mut self, what: &str) -> Judged<Visible> {
        let changed = std::mem::take(&mut self.mmu.machine_mut().changed);
        ensure!(changed.is_empty(), "{what} changed guest memory: {changed:x?}");
        Ok(Visible::Nothing)
    }

    /// The walk of a completed access has set all that it must.
    fn require_bits(&self, v: usize, gva: u64, access: Access) -> Judged<()> {
        let Answer::Ok(leaf) = self.reference(v, gva, access).answer else {
            return Ok(());
        };
        let dirty = access.op != AccessOp::Write || leaf.dirty;
        ensure!(
            leaf.accessed && dirty,
            "{access:?} at {gva:#x} completed, A is {}, D is {}",
            leaf.accessed,
            leaf.dirty
        );
        Ok(())
    }

    fn expect_dirty(&mut self, v: usize, gpa: u64) -> Judged<()> {
        let Some(slot) = self.layout.slot_at(gpa) else {
            return Ok(());
        };
        let lags = |epoch| self.mmu.clock().lags(self.vcpus[v].id, epoch);
        let Some(log) = &self.slots[slot].log else {
            return Ok(());
        };
        if lags(log.epoch) {
            return Ok(());
        }
        ensure!(
            self.mmu.is_dirty(Gfn::new(gpa >> 12)),
            "frame {:#x} was written and is not in the dirty log",
            gpa >> 12
        );
        if let Some(log) = &mut self.slots[slot].log {
            log.written.insert(gpa >> 12);
        }
        Ok(())
    }

    // ---- the guest's other instructions --------------------------------------------

    fn entry_bytes(&self) -> u32 {
        if self.setup.mode == Mode::Bits32 { 4 } else { 8 }
    }

    fn stored(&self, gpa: u64, value: u64) -> u64 {
        if self.raw_stores { value } else { self.shape.stored(gpa, value) }
    }

    fn poke(&mut self, gpa: u64, value: u64) {
        let bytes = self.entry_bytes();
        let Some((hpa, _)) = self.layout.locate(gpa) else {
            return;
        };
        self.mmu.machine_mut().ram.write(hpa, bytes, value);
        self.mmu.guest_wrote(Gpa::new(gpa), u64::from(bytes));
        if let Some(slot) = self.layout.slot_at(gpa) {
            if let Some(log) = &mut self.slots[slot].log {
                log.written.insert(gpa >> 12);
            }
        }
    }

    fn invalidated(&mut self, v: usize, gva: u64) {
        let now = self.mmu.machine().ram.now();
        self.vcpus[v].since_page.insert(gva >> 12, now);
    }

    fn invalidated_all(&mut self, v: usize) {
        let now = self.mmu.machine().ram.now();
        self.vcpus[v].since_all = now;
        self.vcpus[v].since_page.clear();
    }

    fn invlpg(&mut self, v: usize, gva: u64) -> Judged<Visible> {
        let gva = self.canonical(v, gva);
        self.leave(v);
        let id = self.vcpus[v].id;
        let address = Gva::new(gva);
        // While CR4.PCIDE = 0 the current PCID is 0 whatever CR3 holds, and INVPCID of another
        // raises #GP (SDM vol. 2, "INVPCID"): it never gets to the engine.
        let tagged = self.vcpus[v].cpu.cr4 & CR4_PCIDE != 0;
        let pcid = if tagged { (self.vcpus[v].cpu.cr3 & 0xfff) as u16 } else { 0 };
        match self.steps % 16 {
            0 => {
                self.mmu.invpcid(id, Invpcid::Address { pcid, gva: address });
                self.invalidated(v, gva);
            }
            1 => {
                self.mmu.invpcid(id, Invpcid::Context { pcid });
                self.invalidated_all(v);
            }
            2 => {
                self.mmu.invpcid(id, Invpcid::All);
                self.invalidated_all(v);
            }
            3 => {
                self.mmu.invpcid(id, Invpcid::AllWithGlobal);
                self.invalidated_all(v);
            }
            // Another context's translations: nothing that this one sees.
            4 if tagged => {
                self.mmu.invpcid(id, Invpcid::Address { pcid: pcid ^ 1, gva: address });
            }
            _ => {
                self.mmu.invlpg(id, address);
                self.invalidated(v, gva);
            }
        }
        self.unchanged("invlpg")
    }

    fn set_cr3(&mut self, v: usize, root: u64) -> Judged<Visible> {
        self.leave(v);
        let mut cpu = self.vcpus[v].cpu;
        cpu.cr3 = root;
        cpu.pdptes = self.pdptes(&cpu);
        let long = matches!(cpu.mode(), Mode::Level4 | Mode::Level5);
        let acceptable = (cpu.mode() != Mode::Pae || cpu.pdptes_loadable(cpu.pdptes))
            && !(long && root >> cpu.maxphyaddr & 0x7f_ffff != 0);
        let got = self.mmu.set_cr3(self.vcpus[v].id, root);
        self.loaded(v, cpu, acceptable, true, got)
    }

    fn loaded(
        &mut self,
        v: usize,
        cpu: Cpu,
        acceptable: bool,
        flushes: bool,
        got: Result<(), RegisterFault>,
    ) -> Judged<Visible> {
        self.unchanged("a register write")?;
        ensure!(
            got.is_ok() == acceptable,
            "a register write gave {got:?}; the PDPTEs are {:x?}",
            cpu.pdptes
        );
        if !acceptable {
            self.coverage.refused += 1;
            let kept = self.mmu.registers(self.vcpus[v].id);
            ensure!(
                kept.cr3 == self.vcpus[v].cpu.cr3 && kept.cr4.bits() == self.vcpus[v].cpu.cr4,
                "a refused register write took effect"
            );
            return Ok(Visible::Refused);
        }
        self.vcpus[v].cpu = cpu;
        if flushes {
            self.invalidated_all(v);
        }
        Ok(Visible::Nothing)
    }

    fn control(&mut self, v: usize, cr0: u64, cr4: u64, efer: u64, pkru: u32) -> Judged<Visible> {
        self.leave(v);
        let old = self.vcpus[v].cpu;
        let mut cpu = Cpu { cr0, cr4, efer, pkru, ..old };
        self.vcpus[v].cpu.pkru = pkru;
        let flip = |bit| (old.cr4 ^ cr4) & bit != 0;
        let flushes = (old.cr0 ^ cr0) & CR0_PG != 0
            || flip(CR4_PAE | CR4_PGE | CR4_LA57)
            || (cr4 & !old.cr4) & CR4_SMEP != 0
            || (old.cr4 & !cr4) & CR4_PCIDE != 0;
        let id = self.vcpus[v].id;
        if cpu.mode() != old.mode() {
            cpu.pdptes = self.pdptes(&cpu);
            let long = matches!(cpu.mode(), Mode::Level4 | Mode::Level5);
            let acceptable = (cpu.mode() != Mode::Pae || cpu.pdptes_loadable(cpu.pdptes))
                && !(long && cpu.cr3 >> cpu.maxphyaddr & 0x7f_ffff != 0);
            let got = self.mmu.set_registers(id, registers(&cpu));
            return self.loaded(v, cpu, acceptable, flushes, got);
        }
        // One register after the other. MOV to CR4 reloads the PDPTEs if it changes PGE,
        // PSE or SMEP (SDM vol. 3, 4.4.1); MOV to CR0 that changes WP and WRMSR do not.
        let mut next = Cpu { cr4, pkru, ..old };
        if flip(CR4_PGE | CR4_PSE | CR4_SMEP) {
            next.pdptes = self.pdptes(&next);
        }
        let acceptable = next.mode() != Mode::Pae || next.pdptes_loadable(next.pdptes);
        let got = self.mmu.set_cr4(id, Cr4::from_bits_retain(cr4));
        if self.loaded(v, next, acceptable, flushes, got)? == Visible::Refused {
            return Ok(Visible::Refused);
        }
        next.efer = efer;
        let got = self.mmu.set_efer(id, Efer::from_bits_retain(efer));
        self.loaded(v, next, true, false, got)?;
        next.cr0 = cr0;
        let got = self.mmu.set_cr0(id, Cr0::from_bits_retain(cr0));
        self.loaded(v, next, true, false, got)
    }

    /// Every vCPU reloads CR3: nothing stale is legal any more.
    fn flush_all_vcpus(&mut self) -> Judged<()> {
        for v in 0..self.vcpus.len() {
            self.set_cr3(v, self.vcpus[v].cpu.cr3)?;
        }
        Ok(())
    }

    // ---- slots ---------------------------------------------------------------------

    fn slot(&mut self, slot: usize, place: Place) -> Judged<Visible> {
        match (place, self.layout.0[slot]) {
            (Place::Gone, None) => {}
            (Place::Gone, Some(_)) => self.delete(slot)?,
            (Place::Home { bank, read_only }, None) => {
                self.settle_pending()?;
                let position = position(slot, bank, read_only);
                self.copy_from_any_bank(slot, position);
                self.place(slot, position)?;
            }
            (Place::Home { bank, read_only }, Some(old)) => {
                let id = self.slots[slot].id.expect("a placed slot has a number");
                let wanted = position(slot, bank, read_only);
                let promise = if slot == 2 && wanted.base != old.base {
                    self.relayout(slot, Some(Position { base: wanted.base, ..old }), |mmu| {
                        mmu.move_slot(id, Gfn::new(wanted.base))
                    })
                } else if read_only != old.read_only {
                    self.relayout(slot, Some(Position { read_only, ..old }), |mmu| {
                        mmu.set_read_only(id, read_only)
                    })
                } else {
                    self.relayout(slot, Some(old), |mmu| mmu.zap_slot(id))
                }?;
                self.owe(promise);
            }
        }
        self.unchanged("a slot operation")
    }

    /// One more slot than the three of random runs.
    ///
    /// # Errors
    /// The slot is refused.
    pub fn extra_slot(&mut self, position: Position) -> Judged<usize> {
        let slot = self.slots.len();
        self.slots.push(SlotState::default());
        self.layout.0.push(None);
        self.place(slot, position)?;
        Ok(slot)
    }

    fn place(&mut self, slot: usize, position: Position) -> Judged<()> {
        let id = self.mmu.add_slot(spec(position)).map_err(|error| format!("add_slot: {error}"))?;
        self.slots[slot] = SlotState { id: Some(id), log: None };
        self.layout.0[slot] = Some(position);
        Ok(())
    }

    fn delete(&mut self, slot: usize) -> Judged<()> {
        let id = self.slots[slot].id.take().expect("a placed slot has a number");
        let promise = self.relayout(slot, None, |mmu| mmu.delete_slot(id))?;
        self.slots[slot].log = None;
        self.sweeping = true;
        self.owe(promise);
        Ok(())
    }

    fn relayout(
        &mut self,
        slot: usize,
        to: Option<Position>,
        change: impl FnOnce(&mut E) -> Result<FlushPromise, shadow::SlotError>,
    ) -> Judged<FlushPromise> {
        let promise =
            change(&mut self.mmu).map_err(|error| format!("a slot operation: {error}"))?;
        self.former.push((promise.epoch(), self.layout.clone()));
        self.layout.0[slot] = to;
        if let Some(log) = &mut self.slots[slot].log {
            // A move takes the log along; frames are named by their new numbers.
            log.written.clear();
            log.epoch = promise.epoch();
        }
        Ok(promise)
    }

    /// New memory for a slot starts with the contents of bank 0, as a loader would fill it.
    fn copy_from_any_bank(&mut self, slot: usize, to: Position) {
        let from = position(slot, 0, false);
        if from.host == to.host {
            return;
        }
        let ram = &mut self.mmu.machine_mut().ram;
        for word in 0..(TABLES + 1).min(to.pages) * 512 {
            let value = ram.read((from.host << 12) + word * 8, 8);
            ram.write((to.host << 12) + word * 8, 8, value);
        }
    }

    // ---- dirty log -----------------------------------------------------------------

    fn dirty_log(&mut self, slot: usize, action: LogAction) -> Judged<Visible> {
        let Some(id) = self.slots[slot].id else {
            return Ok(Visible::Nothing);
        };
        let words = |error| format!("the dirty log: {error}");
        match (action, self.slots[slot].log.is_some()) {
            (LogAction::On, false) => {
                let promise = self.mmu.start_dirty_log(id).map_err(words)?;
                let epoch = promise.epoch();
                self.slots[slot].log = Some(Log { epoch, written: BTreeSet::new() });
                self.owe(promise);
            }
            (LogAction::Off, true) => {
                self.mmu.stop_dirty_log(id).map_err(words)?;
                self.slots[slot].log = None;
            }
            (LogAction::Harvest, true) => {
                let mut got = BTreeSet::new();
                let harvest = self.mmu.harvest_dirty(id, |gfn| {
                    got.insert(gfn.number());
                });
                let promise = harvest.map_err(words)?;
                let log = self.slots[slot].log.as_mut().expect("it runs");
                let missing: Vec<_> = log.written.difference(&got).collect();
                ensure!(missing.is_empty(), "the dirty log misses {missing:x?}");
                self.coverage.dirty_frames += got.len() as u64;
                *log = Log { epoch: promise.epoch(), written: BTreeSet::new() };
                self.owe(promise);
            }
            _ => {}
        }
        self.unchanged("the dirty log")
    }

    /// All guest memory that tables and small data lie in, for comparing two runs.
    pub fn memory_digest(&self) -> u64 {
        let mut digest = 0u64;
        for word in 0..SMALL * 512 {
            let value = match self.layout.locate(word * 8) {
                Some((hpa, _)) => self.mmu.machine().ram.read(hpa, 8),
                None => u64::MAX,
            };
            digest = (digest.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        digest
    }
}
