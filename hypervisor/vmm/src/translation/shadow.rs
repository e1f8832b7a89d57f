//! Shadow paging: the engine of `anchorite-shadow` behind the run loop's trait.
//!
//! The machine has one vCPU, and everything here runs while it is outside the guest.
//! So a promise that every vCPU flushes is kept at once: the vCPU obeys the flush
//! that its next entry names.

use super::{Entering, FaultOutcome, OutOfTables, Translation};
use crate::memory::{GuestWrite, Memslot, Memslots, SlotChange, SlotId};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use anchorite_addr::{Gfn, Gpa, Gva};
use anchorite_shadow::{
    self as engine, Access, AddVcpuError, Cr0, EnterError, FlushPromise, Invpcid, RegisterFault,
    Registers, RootFormat, ShadowMmu, SlotSpec, TlbFlush, Usage, VcpuId, Violation,
};
use anchorite_vcpu::exit::NestedFault;
use anchorite_vcpu::root::ShadowFormat;
use anchorite_vcpu::{ControlRegister, FlushScope, Root};

/// Stale pages taken apart between two looks at what may have woken the guest: some ten
/// thousand instructions.
const IDLE_PAGES: u32 = 16;

/// The engine `E` as the translation of the machine's one vCPU.
#[derive(Debug)]
pub struct Shadow<E> {
    engine: E,
    vcpu: VcpuId,
    /// The engine's name of each of the machine's slots.
    slots: Vec<(SlotId, engine::SlotId)>,
    /// The engine has been told that the guest's paging is on. While it is off, the engine
    /// hears of no register.
    paging: bool,
    /// The engine counts the vCPU as in the guest: since the last entry nothing has been
    /// asked of it.
    inside: bool,
    quota: u32,
    /// A change of slots found no memory for its bookkeeping: the guest must stop.
    exhausted: bool,
}

impl<E: ShadowMmu> Shadow<E> {
    /// An engine without slots or vCPUs as the translation of one vCPU after reset.
    pub fn new(mut engine: E) -> Result<Self, AddVcpuError> {
        let vcpu = engine.add_vcpu(Registers::RESET)?;
        let quota = engine.usage().quota;
        Ok(Self {
            engine,
            vcpu,
            slots: Vec::new(),
            paging: false,
            inside: false,
            quota,
            exhausted: false,
        })
    }

    /// The engine, for its counters.
    pub const fn engine(&self) -> &E {
        &self.engine
    }

    /// The shadow pages by state.
    pub fn usage(&self) -> Usage {
        self.engine.usage()
    }

    /// The engine, to be changed: it must know that the vCPU has left the guest. An exit
    /// that does not concern the engine costs it nothing.
    #[inline]
    fn outside(&mut self) -> &mut E {
        if self.inside {
            self.inside = false;
            self.engine.leave(self.vcpu);
        }
        &mut self.engine
    }

    /// Enters with another root than hardware has.
    #[inline]
    fn enter_anew(&mut self, vcpu: &mut impl Entering) -> Result<(), OutOfTables> {
        let entry = match self.engine.enter(self.vcpu) {
            Ok(entry) => entry,
            Err(error) => self.enter_at_last(error)?,
        };
        self.inside = true;
        vcpu.load(root_of(entry.root));
        forget(vcpu, entry.flush);
        Ok(())
    }

    /// Tries again what failed with `error` until it succeeds or there is no memory.
    #[cold]
    fn enter_at_last(&mut self, mut error: EnterError) -> Result<engine::Entry, OutOfTables> {
        loop {
            match error {
                EnterError::Retry(promise) => self.keep(promise),
                EnterError::OutOfMemory => return Err(OutOfTables),
            }
            error = match self.engine.enter(self.vcpu) {
                Ok(entry) => return Ok(entry),
                Err(error) => error,
            };
        }
    }

    /// Keeps `promise`: the only vCPU is outside the guest.
    #[inline]
    fn keep(&mut self, promise: FlushPromise) {
        let kept = self.outside().discharge(promise, |_| {});
        debug_assert!(kept.is_ok(), "the only vCPU is outside the guest");
    }

    fn name_of(&self, id: SlotId) -> Option<engine::SlotId> {
        self.slots.iter().find(|(ours, _)| *ours == id).map(|(_, theirs)| *theirs)
    }

    fn add_slot(&mut self, slot: &Memslot) {
        match self.outside().add_slot(spec(slot)) {
            Ok(name) => self.slots.push((slot.id, name)),
            Err(_) => self.exhausted = true,
        }
    }

    /// Carries `change` over to the slot of the same name in the engine.
    fn change_slot(
        &mut self,
        id: SlotId,
        change: impl FnOnce(&mut E, engine::SlotId) -> Result<FlushPromise, engine::SlotError>,
    ) {
        let done = self.name_of(id).map(|name| change(self.outside(), name));
        match done {
            Some(Ok(promise)) => self.keep(promise),
            Some(Err(_)) | None => self.exhausted = true,
        }
    }
}

impl<E: ShadowMmu> Translation for Shadow<E> {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of nearly every exit")]
    fn enter(&mut self, vcpu: &mut impl Entering) -> Result<(), OutOfTables> {
        if self.exhausted {
            return Err(OutOfTables);
        }
        let Some(flush) = self.engine.reenter(self.vcpu) else {
            return self.enter_anew(vcpu);
        };
        self.inside = true;
        forget(vcpu, flush);
        Ok(())
    }

    /// Under a shadow root no nested tables exist, so that none can refuse.
    fn nested_fault(&mut self, _: &Memslots, fault: &NestedFault) -> FaultOutcome {
        FaultOutcome::Mmio { gpa: fault.gpa }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "one call is enough on the way to a fault")]
    fn page_fault(&mut self, _: &Memslots, gva: Gva, access: Access) -> FaultOutcome {
        let vcpu = self.vcpu;
        match self.outside().page_fault(vcpu, gva, access) {
            engine::FaultOutcome::Fixed => FaultOutcome::Resolved,
            engine::FaultOutcome::Spurious => FaultOutcome::Spurious,
            engine::FaultOutcome::Guest(fault) => FaultOutcome::Guest(fault),
            engine::FaultOutcome::EmulateWrite { gpa } | engine::FaultOutcome::Emulate { gpa } => {
                FaultOutcome::Emulate { gpa }
            }
            engine::FaultOutcome::Mmio { gpa } => FaultOutcome::Mmio { gpa },
            engine::FaultOutcome::ReadOnly { gpa } => FaultOutcome::ReadOnly { gpa },
            engine::FaultOutcome::Retry(promise) => {
                self.keep(promise);
                FaultOutcome::Resolved
            }
            engine::FaultOutcome::OutOfMemory => FaultOutcome::OutOfTables,
        }
    }

    fn slot_changed(&mut self, _: &Memslots, change: &SlotChange) {
        match change {
            SlotChange::Added(slot) => self.add_slot(slot),
            SlotChange::Deleted(slot) => {
                self.change_slot(slot.id, E::delete_slot);
                self.slots.retain(|(id, _)| *id != slot.id);
            }
            SlotChange::Moved { from, to } => {
                self.change_slot(from.id, |engine, name| engine.move_slot(name, to.first));
            }
            SlotChange::RightsChanged(slot) => {
                let read_only = slot.read_only;
                self.change_slot(slot.id, |engine, name| engine.set_read_only(name, read_only));
            }
        }
    }

    fn guest_wrote(&mut self, write: GuestWrite) {
        match write {
            GuestWrite::Range { first, bytes } => self.outside().guest_wrote(first, bytes),
            GuestWrite::Everything => self.zap_all(),
        }
    }

    fn registers_changed(
        &mut self,
        register: Option<ControlRegister>,
        registers: Registers,
    ) -> Result<(), RegisterFault> {
        let (before, vcpu) = (self.paging, self.vcpu);
        let now = registers.cr0.contains(Cr0::PG);
        if !before && !now {
            // Nothing is translated by these registers; a guest on its way to long mode
            // writes most of them.
            return Ok(());
        }
        let register = if before { register } else { None };
        let engine = self.outside();
        let taken = match register {
            Some(ControlRegister::Cr0) => engine.set_cr0(vcpu, registers.cr0),
            Some(ControlRegister::Cr3) => engine.set_cr3(vcpu, registers.cr3),
            Some(ControlRegister::Cr4) => engine.set_cr4(vcpu, registers.cr4),
            Some(ControlRegister::Efer) => engine.set_efer(vcpu, registers.efer),
            Some(ControlRegister::Cr2 | ControlRegister::Cr8 | ControlRegister::Xcr0) => Ok(()),
            None => engine.set_registers(vcpu, registers),
        };
        if taken.is_ok() {
            self.paging = now;
        }
        taken
    }

    #[inline]
    fn root_changed(&mut self, cr3: u64) -> Result<(), RegisterFault> {
        let vcpu = self.vcpu;
        self.outside().set_cr3(vcpu, cr3)
    }

    #[inline]
    fn invalidate(&mut self, gva: Gva) {
        let vcpu = self.vcpu;
        self.outside().invlpg(vcpu, gva);
    }

    fn invpcid(&mut self, kind: Invpcid) {
        let vcpu = self.vcpu;
        self.outside().invpcid(vcpu, kind);
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "one call is enough on the way to a zap-all")]
    fn zap_all(&mut self) {
        let engine = self.outside();
        let promise = engine.zap_all();
        while engine.zap_continue() {}
        self.keep(promise);
    }

    /// Under policy `background` takes stale pages apart.
    fn idle_slice(&mut self) -> bool {
        self.outside().idle_slice(IDLE_PAGES) > 0
    }

    fn usage(&self) -> Option<Usage> {
        Some(self.engine.usage())
    }

    /// 0 lifts the limit again.
    fn limit(&mut self, pages: u32) {
        let pages = if pages == 0 { self.quota } else { pages };
        self.outside().set_quota(pages);
    }

    fn start_dirty_log(&mut self, id: SlotId) -> bool {
        let Some(name) = self.name_of(id) else { return false };
        let started = self.outside().start_dirty_log(name);
        started.map(|promise| self.keep(promise)).is_ok()
    }

    fn stop_dirty_log(&mut self, id: SlotId) -> bool {
        let name = self.name_of(id);
        name.is_some_and(|name| self.outside().stop_dirty_log(name).is_ok())
    }

    fn harvest_dirty(&mut self, id: SlotId, dirty: &mut dyn FnMut(Gfn)) -> bool {
        let Some(name) = self.name_of(id) else { return false };
        let harvested = self.outside().harvest_dirty(name, dirty);
        harvested.map(|promise| self.keep(promise)).is_ok()
    }

    fn unprotect(&mut self, gpa: Gpa) {
        self.outside().unshadow(gpa);
    }

    fn audit(&mut self) -> Result<(), String> {
        self.outside().audit().map_err(|Violation { invariant, what, page, detail }| {
            format!("invariant I{invariant} of shadow paging is broken: {what}, page {page}, {detail:#x}")
        })
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let Usage { taken, free, active, stale, limbo, quota, peak } = self.engine.usage();
        let pages = [
            ("pages_taken", taken),
            ("pages_free", free),
            ("pages_active", active),
            ("pages_stale", stale),
            ("pages_limbo", limbo),
            ("pages_quota", quota),
            ("pages_peak", peak),
        ];
        let pages = pages.map(|(name, count)| (name, u64::from(count)));
        // The machine counts the exits of INVLPG and the flushes that it carries out.
        let events = self.engine.stats().named().into_iter();
        let events = events.filter(|(name, _)| !["invlpg", "tlb_flush"].contains(name));
        events.chain(pages).chain(recycles(self.engine.stats())).collect()
    }
}

/// What recycles cost, where the engine is built to measure it.
fn recycles(stats: &engine::Stats) -> impl Iterator<Item = (&'static str, u64)> + use<> {
    let engine::Recycles { pages, lists, directory, unlinking, clearing } = stats.recycles;
    let steps = [
        ("recycle_pages", pages),
        ("recycle_lists", lists),
        ("recycle_directory", directory),
        ("recycle_unlinking", unlinking),
        ("recycle_clearing", clearing),
    ];
    steps.into_iter().filter(move |_| pages > 0)
}

const fn root_of(root: engine::Root) -> Root {
    let format = match root.format {
        RootFormat::Pae => ShadowFormat::Pae,
        RootFormat::FourLevel => ShadowFormat::FourLevel,
        RootFormat::FiveLevel => ShadowFormat::FiveLevel,
    };
    Root::Shadow { cr3: root.table, format }
}

#[inline]
fn forget(vcpu: &mut impl Entering, flush: TlbFlush) {
    match flush {
        TlbFlush::None => {}
        TlbFlush::Address(gva) => vcpu.forget(FlushScope::Address(gva)),
        TlbFlush::All => vcpu.forget(FlushScope::All),
    }
}

fn spec(slot: &Memslot) -> SlotSpec {
    SlotSpec { base: slot.first, pages: slot.frames, host: slot.host, read_only: slot.read_only }
}
