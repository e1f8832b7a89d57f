//! Nested paging: one four-level map from guest-physical to host-physical memory.
//!
//! The map is filled as the guest touches memory, with the largest leaf that lies
//! in one slot and is aligned on both sides. So every leaf belongs to exactly one
//! slot, and dropping a slot never has to split one.

use super::{Entering, Entry, FaultOutcome, OutOfTables, Translation};
use crate::memory::{GuestWrite, Memslot, Memslots, SlotChange, SlotId};
use alloc::vec::Vec;
use anchorite_addr::{Gfn, Gpa, Gva, Hpa, HpaPage, PageSize};
use anchorite_shadow::{Access, Invpcid, RegisterFault, Registers, TableMemory, Usage};
use anchorite_vcpu::exit::{NestedAccess, NestedFault};
use anchorite_vcpu::{ControlRegister, FlushScope, NestedFormat, NestedFrame, NestedRights, Root};
use core::marker::PhantomData;
use core::ops::Range;

const LEVELS: u8 = 4;
const ENTRIES: u64 = 512;

/// Memory for nested tables; implemented by `platform`.
pub trait TableFrames: TableMemory {
    /// A zeroed 4 KiB frame, or `None` where memory is exhausted.
    fn allocate(&mut self) -> Option<HpaPage>;
    /// Takes back a frame that [`allocate`](Self::allocate) gave and no table refers to.
    fn free(&mut self, frame: HpaPage);
}

/// How much the map holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NestedStats {
    /// Tables in the map, the root included.
    pub tables: u64,
    /// Leaves written since the start, by size: 4 KiB, 2 MiB, 1 GiB.
    pub leaves: [u64; 3],
    /// Flushes asked for.
    pub flushes: u64,
}

/// The map of guest RAM in the entry format `F`, its tables in memory from `A`.
#[derive(Debug)]
pub struct Nested<F, A> {
    tables: A,
    root: HpaPage,
    gigabyte_pages: bool,
    owed: Entry,
    /// Out of the map, but the hardware may walk them until the owed flush is done.
    retired: Vec<HpaPage>,
    stats: NestedStats,
    format: PhantomData<F>,
}

impl<F: NestedFormat, A: TableFrames> Nested<F, A> {
    /// An empty map. `gigabyte_pages` permits 1 GiB leaves
    /// (`Capabilities::nested_1g_pages`).
    pub fn new(mut tables: A, gigabyte_pages: bool) -> Result<Self, OutOfTables> {
        let root = tables.allocate().ok_or(OutOfTables)?;
        let owed = Entry { root: Some(Root::Nested { table: root }), flush: Some(FlushScope::All) };
        let stats = NestedStats { tables: 1, ..NestedStats::default() };
        let retired = Vec::new();
        Ok(Self { tables, root, gigabyte_pages, owed, retired, stats, format: PhantomData })
    }

    /// Has the next entry load the root again.
    pub(super) fn reload(&mut self) {
        self.owed =
            Entry { root: Some(Root::Nested { table: self.root }), flush: Some(FlushScope::All) };
    }

    /// How much the map holds and has done.
    pub const fn stats(&self) -> &NestedStats {
        &self.stats
    }

    /// The topmost table.
    pub const fn root(&self) -> HpaPage {
        self.root
    }

    /// The memory that the tables lie in.
    pub const fn tables(&self) -> &A {
        &self.tables
    }

    #[cfg(test)]
    pub(crate) fn tables_mut(&mut self) -> &mut A {
        &mut self.tables
    }

    /// Maps the page of `slot` that holds `gfn`, with every table that takes.
    /// A failure leaves the map whole: tables made on the way are empty.
    fn map(&mut self, slot: &Memslot, gfn: Gfn) -> Result<(), OutOfTables> {
        let (mut table, mut level) = (self.root, LEVELS);
        loop {
            let at = entry_address(table, gfn.addr().table_index(level) as u64);
            let entry = self.tables.read_entry(at);

            if F::is_present(entry) {
                // A leaf there permits all that the slot does: another fault was quicker.
                let Some(child) = Self::child(entry, level) else { return Ok(()) };
                table = child;
            } else if let Some(frame) = self.leaf(slot, gfn, level) {
                self.tables.write_entry(at, F::leaf(frame));
                return Ok(());
            } else {
                table = self.add_table(at)?;
            }
            level -= 1;
        }
    }

    /// The leaf for `gfn` at `level`, where one may stand there. Always one at level 1.
    fn leaf(&mut self, slot: &Memslot, gfn: Gfn, level: u8) -> Option<NestedFrame> {
        let size = match level {
            1 => PageSize::Size4K,
            2 => PageSize::Size2M,
            3 if self.gigabyte_pages => PageSize::Size1G,
            _ => return None,
        };
        let first = gfn.align_down(size);
        let inside = first >= slot.first && first.number() + size.frames() <= slot.end();
        let host = slot.host_frame(first);
        if !inside || !host.is_aligned(size) {
            return None;
        }

        self.stats.leaves[level as usize - 1] += 1;
        let write = if slot.read_only { NestedRights::empty() } else { NestedRights::WRITE };
        let rights = NestedRights::READ | NestedRights::EXECUTE | write;
        Some(NestedFrame { page: host.page(), size, rights })
    }

    fn add_table(&mut self, at: Hpa) -> Result<HpaPage, OutOfTables> {
        let table = self.tables.allocate().ok_or(OutOfTables)?;
        self.tables.write_entry(at, F::table(table));
        self.stats.tables += 1;
        Ok(table)
    }

    /// Takes the leaves of `slot` out of the map, and the tables that become empty.
    fn drop_slot(&mut self, slot: &Memslot) {
        let frames = slot.first.number()..slot.end();
        self.drop_frames(self.root, LEVELS, 0, &frames);
        self.owed.flush = Some(FlushScope::All);
        self.stats.flushes += 1;
    }

    /// Drops `frames` below `table`, whose first entry translates the guest frame `base`.
    fn drop_frames(&mut self, table: HpaPage, level: u8, base: u64, frames: &Range<u64>) {
        let span = 1u64 << (9 * (level - 1));
        let first = frames.start.saturating_sub(base) / span;
        let end = frames.end.saturating_sub(base).div_ceil(span).min(ENTRIES);
        for index in first..end {
            let at = entry_address(table, index);
            let entry = self.tables.read_entry(at);
            if !F::is_present(entry) {
                continue;
            }
            if let Some(child) = Self::child(entry, level) {
                self.drop_frames(child, level - 1, base + index * span, frames);
                if !self.is_empty(child) {
                    continue;
                }
                self.retired.push(child);
                self.stats.tables -= 1;
            }
            self.tables.write_entry(at, 0);
        }
    }

    fn is_empty(&self, table: HpaPage) -> bool {
        (0..ENTRIES)
            .all(|index| !F::is_present(self.tables.read_entry(entry_address(table, index))))
    }

    fn child(entry: u64, level: u8) -> Option<HpaPage> {
        if level == 1 { None } else { F::child(entry, level) }
    }

    #[cold]
    fn pay(&mut self, vcpu: &mut impl Entering) {
        // The caller flushes before the guest's next instruction, and only a fault of
        // the guest allocates: nothing walks these frames when they are used again.
        for frame in self.retired.drain(..) {
            self.tables.free(frame);
        }
        let Entry { root, flush } = core::mem::take(&mut self.owed);
        if let Some(root) = root {
            vcpu.load(root);
        }
        if let Some(scope) = flush {
            vcpu.forget(scope);
        }
    }
}

impl<F: NestedFormat, A: TableFrames> Translation for Nested<F, A> {
    #[inline]
    fn enter(&mut self, vcpu: &mut impl Entering) -> Result<(), OutOfTables> {
        if self.owed.flush.is_some() {
            self.pay(vcpu);
        }
        Ok(())
    }

    fn nested_fault(&mut self, slots: &Memslots, fault: &NestedFault) -> FaultOutcome {
        let gpa = fault.gpa;
        let Some(slot) = slots.find(gpa.frame()) else { return FaultOutcome::Mmio { gpa } };
        if slot.read_only && fault.access.contains(NestedAccess::WRITE) {
            return FaultOutcome::ReadOnly { gpa };
        }
        match self.map(slot, gpa.frame()) {
            Ok(()) => FaultOutcome::Resolved,
            Err(OutOfTables) => FaultOutcome::OutOfTables,
        }
    }

    /// The hardware walked the guest's own tables, so its report is right.
    fn page_fault(&mut self, _: &Memslots, _: Gva, _: Access) -> FaultOutcome {
        FaultOutcome::Reflect
    }

    fn slot_changed(&mut self, _: &Memslots, change: &SlotChange) {
        match change {
            SlotChange::Added(_) => {}
            SlotChange::Deleted(slot)
            | SlotChange::Moved { from: slot, .. }
            | SlotChange::RightsChanged(slot) => self.drop_slot(slot),
        }
    }

    fn guest_wrote(&mut self, _: GuestWrite) {}

    /// The hardware walks the guest's tables with the new registers; cached
    /// translations made with the old ones must go.
    fn registers_changed(
        &mut self,
        _: Option<ControlRegister>,
        _: Registers,
    ) -> Result<(), RegisterFault> {
        self.owed.flush = Some(FlushScope::All);
        self.stats.flushes += 1;
        Ok(())
    }

    fn root_changed(&mut self, _: u64) -> Result<(), RegisterFault> {
        self.owed.flush = Some(FlushScope::All);
        self.stats.flushes += 1;
        Ok(())
    }

    /// No flush of a single address reaches combined translations on every CPU.
    fn invalidate(&mut self, _: Gva) {
        self.owed.flush = Some(FlushScope::All);
        self.stats.flushes += 1;
    }

    /// A flush of everything includes any context.
    fn invpcid(&mut self, _: Invpcid) {
        self.owed.flush = Some(FlushScope::All);
        self.stats.flushes += 1;
    }

    fn zap_all(&mut self) {}

    fn limit(&mut self, _: u32) {}

    fn unprotect(&mut self, _: Gpa) {}

    fn idle_slice(&mut self) -> bool {
        false
    }

    fn usage(&self) -> Option<Usage> {
        None
    }

    fn start_dirty_log(&mut self, _: SlotId) -> bool {
        false
    }

    fn stop_dirty_log(&mut self, _: SlotId) -> bool {
        false
    }

    fn harvest_dirty(&mut self, _: SlotId, _: &mut dyn FnMut(Gfn)) -> bool {
        false
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let NestedStats { tables, leaves: [small, large, huge], flushes } = self.stats;
        [
            ("nested_tables", tables),
            ("nested_4k", small),
            ("nested_2m", large),
            ("nested_1g", huge),
            ("nested_flushes", flushes),
        ]
        .into()
    }
}

fn entry_address(table: HpaPage, index: u64) -> Hpa {
    table.addr().wrapping_add(index * 8)
}

#[cfg(test)]
#[path = "nested_tests.rs"]
mod tests;
