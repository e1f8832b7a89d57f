//! Nested tables, shadow tables, or both by turns, behind one type.
//!
//! The machine is compiled for this type alone, whichever way it goes. A CPU that runs
//! no guest without paging on a shadow root (`Capabilities::shadow_unpaged`) gets both:
//! while the guest's CR0.PG is clear, nested tables map its memory one to one.

use super::{Entering, FaultOutcome, Nested, OutOfTables, Shadow, TableFrames, Translation};
use crate::memory::{GuestWrite, Memslots, SlotChange, SlotId};
use alloc::string::String;
use alloc::vec::Vec;
use anchorite_addr::{Gfn, Gpa, Gva};
use anchorite_shadow::{Access, Cr0, Invpcid, RegisterFault, Registers, ShadowMmu, Usage};
use anchorite_vcpu::exit::NestedFault;
use anchorite_vcpu::{ControlRegister, NestedFormat};

/// One vCPU's translation by the nested format `F` in frames from `A`, by the engine `E`,
/// or by either as the guest turns paging off and on.
#[derive(Debug)]
pub struct Combined<F, A, E> {
    tables: Tables<F, A, E>,
    /// Nothing has happened since the last entry that a vCPU would have to follow.
    settled: bool,
}

/// Told apart by a byte of its own: the compiler would use a niche deep inside, and ask for it
/// at each exit.
#[derive(Debug)]
#[repr(u8)]
enum Tables<F, A, E> {
    Nested(Nested<F, A>),
    Shadow(Shadow<E>),
    Both(Both<F, A, E>),
}

#[derive(Debug)]
struct Both<F, A, E> {
    unpaged: Nested<F, A>,
    paged: Shadow<E>,
    paging: bool,
}

/// The tables that translate now.
enum Active<'a, F, A, E> {
    Shadow(&'a mut Shadow<E>),
    Nested(&'a mut Nested<F, A>),
}

/// Evaluates an expression for whichever tables translate now, about to be changed.
macro_rules! active {
    ($self:ident, $tables:ident => $operation:expr) => {
        match $self.active() {
            Active::Shadow($tables) => $operation,
            Active::Nested($tables) => $operation,
        }
    };
}

impl<F: NestedFormat, A: TableFrames, E: ShadowMmu> Combined<F, A, E> {
    /// By nested tables.
    pub const fn nested(nested: Nested<F, A>) -> Self {
        Self { tables: Tables::Nested(nested), settled: false }
    }

    /// By shadow tables, whether the guest's paging is on or off.
    pub const fn shadow(shadow: Shadow<E>) -> Self {
        Self { tables: Tables::Shadow(shadow), settled: false }
    }

    /// By shadow tables while the guest's paging is on, by nested ones while it is off.
    pub const fn both(paged: Shadow<E>, unpaged: Nested<F, A>) -> Self {
        Self { tables: Tables::Both(Both { unpaged, paged, paging: false }), settled: false }
    }

    /// The shadow tables, where there are any.
    pub const fn engine(&self) -> Option<&E> {
        match &self.tables {
            Tables::Nested(_) => None,
            Tables::Shadow(shadow) | Tables::Both(Both { paged: shadow, .. }) => {
                Some(shadow.engine())
            }
        }
    }

    /// Nested tables seldom have anything to say.
    #[cold]
    fn enter_nested(
        nested: &mut Nested<F, A>,
        vcpu: &mut impl Entering,
    ) -> Result<(), OutOfTables> {
        nested.enter(vcpu)
    }

    /// The tables in force: something is about to happen to them.
    #[inline]
    fn active(&mut self) -> Active<'_, F, A, E> {
        self.settled = false;
        match &mut self.tables {
            Tables::Shadow(shadow) | Tables::Both(Both { paged: shadow, paging: true, .. }) => {
                Active::Shadow(shadow)
            }
            Tables::Nested(nested) | Tables::Both(Both { unpaged: nested, .. }) => {
                Active::Nested(nested)
            }
        }
    }

    /// The shadow tables, whether or not they translate now.
    #[inline]
    fn shadow_mut(&mut self) -> Option<&mut Shadow<E>> {
        self.settled = false;
        match &mut self.tables {
            Tables::Nested(_) => None,
            Tables::Shadow(shadow) | Tables::Both(Both { paged: shadow, .. }) => Some(shadow),
        }
    }
}

impl<F: NestedFormat, A: TableFrames, E: ShadowMmu> Translation for Combined<F, A, E> {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of nearly every exit")]
    fn enter(&mut self, vcpu: &mut impl Entering) -> Result<(), OutOfTables> {
        match self.active() {
            Active::Shadow(shadow) => shadow.enter(vcpu)?,
            Active::Nested(nested) => Self::enter_nested(nested, vcpu)?,
        }
        self.settled = true;
        Ok(())
    }

    #[inline]
    fn is_settled(&self) -> bool {
        self.settled
    }

    fn nested_fault(&mut self, slots: &Memslots, fault: &NestedFault) -> FaultOutcome {
        active!(self, tables => tables.nested_fault(slots, fault))
    }

    #[inline]
    fn page_fault(&mut self, slots: &Memslots, gva: Gva, access: Access) -> FaultOutcome {
        active!(self, tables => tables.page_fault(slots, gva, access))
    }

    fn slot_changed(&mut self, slots: &Memslots, change: &SlotChange) {
        self.settled = false;
        match &mut self.tables {
            Tables::Nested(tables) => tables.slot_changed(slots, change),
            Tables::Shadow(tables) => tables.slot_changed(slots, change),
            Tables::Both(Both { unpaged, paged, .. }) => {
                unpaged.slot_changed(slots, change);
                paged.slot_changed(slots, change);
            }
        }
    }

    fn guest_wrote(&mut self, write: GuestWrite) {
        if let Some(shadow) = self.shadow_mut() {
            shadow.guest_wrote(write);
        }
    }

    fn registers_changed(
        &mut self,
        register: Option<ControlRegister>,
        registers: Registers,
    ) -> Result<(), RegisterFault> {
        self.settled = false;
        match &mut self.tables {
            Tables::Nested(tables) => tables.registers_changed(register, registers),
            Tables::Shadow(tables) => tables.registers_changed(register, registers),
            Tables::Both(both) => both.registers_changed(register, registers),
        }
    }

    #[inline]
    fn root_changed(&mut self, cr3: u64) -> Result<(), RegisterFault> {
        active!(self, tables => tables.root_changed(cr3))
    }

    #[inline]
    fn invalidate(&mut self, gva: Gva) {
        active!(self, tables => tables.invalidate(gva));
    }

    fn invpcid(&mut self, kind: Invpcid) {
        active!(self, tables => tables.invpcid(kind));
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "one call is enough on the way to a zap-all")]
    fn zap_all(&mut self) {
        if let Some(shadow) = self.shadow_mut() {
            shadow.zap_all();
        }
    }

    fn idle_slice(&mut self) -> bool {
        self.shadow_mut().is_some_and(Translation::idle_slice)
    }

    fn usage(&self) -> Option<Usage> {
        match &self.tables {
            Tables::Nested(_) => None,
            Tables::Shadow(shadow) | Tables::Both(Both { paged: shadow, .. }) => {
                Translation::usage(shadow)
            }
        }
    }

    fn limit(&mut self, pages: u32) {
        if let Some(shadow) = self.shadow_mut() {
            shadow.limit(pages);
        }
    }

    fn start_dirty_log(&mut self, id: SlotId) -> bool {
        self.shadow_mut().is_some_and(|shadow| shadow.start_dirty_log(id))
    }

    fn stop_dirty_log(&mut self, id: SlotId) -> bool {
        self.shadow_mut().is_some_and(|shadow| shadow.stop_dirty_log(id))
    }

    fn harvest_dirty(&mut self, id: SlotId, dirty: &mut dyn FnMut(Gfn)) -> bool {
        self.shadow_mut().is_some_and(|shadow| shadow.harvest_dirty(id, dirty))
    }

    fn unprotect(&mut self, gpa: Gpa) {
        if let Some(shadow) = self.shadow_mut() {
            shadow.unprotect(gpa);
        }
    }

    fn follows_paging(&self) -> bool {
        matches!(self.tables, Tables::Both(_))
    }

    fn audit(&mut self) -> Result<(), String> {
        self.shadow_mut().map_or(Ok(()), Shadow::audit)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        match &self.tables {
            Tables::Nested(tables) => tables.counters(),
            Tables::Shadow(tables) => tables.counters(),
            Tables::Both(Both { unpaged, paged, .. }) => {
                let mut counters = paged.counters();
                counters.append(&mut unpaged.counters());
                counters
            }
        }
    }
}

impl<F: NestedFormat, A: TableFrames, E: ShadowMmu> Both<F, A, E> {
    /// Paging goes on: the engine has seen nothing of what the guest wrote meanwhile, nor
    /// its registers, so it begins afresh. Paging goes off: the nested tables follow the
    /// slots all the time and need only be loaded.
    fn registers_changed(
        &mut self,
        register: Option<ControlRegister>,
        registers: Registers,
    ) -> Result<(), RegisterFault> {
        match (self.paging, registers.cr0.contains(Cr0::PG)) {
            (true, true) => self.paged.registers_changed(register, registers)?,
            (false, true) => {
                self.paged.zap_all();
                self.paged.registers_changed(None, registers)?;
                self.paging = true;
            }
            (true, false) => {
                self.unpaged.reload();
                self.paging = false;
            }
            (false, false) => self.unpaged.registers_changed(register, registers)?,
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "combined_tests.rs"]
mod tests;
