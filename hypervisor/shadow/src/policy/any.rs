//! The one switch: an engine whose policy is chosen at run time.
//!
//! Each call branches once; the default's code is the same as without the switch.

use alloc::sync::Arc;

use anchorite_addr::{Gfn, Gpa, Gva};

use super::{Linked, PolicyKind, Tagged, ZapPolicy};
use crate::access::{Access, PageFault, Translation};
use crate::api::{AddVcpuError, ShadowMmu, Usage};
use crate::audit::Violation;
use crate::config::{Config, ConfigError};
use crate::flush::{FlushClock, FlushPromise, TlbFlush, VcpuId};
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::outcome::{EnterError, Entry, FaultOutcome, Invpcid};
use crate::registers::{Cr0, Cr4, Efer, RegisterFault, Registers};
use crate::slots::{SlotError, SlotId, SlotSpec};
use crate::stats::Stats;

/// An engine under any policy.
#[derive(Debug)]
pub enum AnyMmu<M: Machine, const TAG_BITS: u32 = 32> {
    /// Under [`PolicyKind::Tagged`].
    Tagged(Mmu<M, Tagged, TAG_BITS>),
    /// Under any other.
    Linked(Mmu<M, Linked, TAG_BITS>),
}

macro_rules! each {
    ($engine:expr, $mmu:ident => $result:expr) => {
        match $engine {
            Self::Tagged($mmu) => $result,
            Self::Linked($mmu) => $result,
        }
    };
}

impl<M: Machine, const TAG_BITS: u32> AnyMmu<M, TAG_BITS> {
    /// An engine under `policy`; see [`Mmu::new`].
    pub fn new(policy: PolicyKind, machine: M, config: Config) -> Result<Self, ConfigError> {
        Ok(match Linked::of(policy) {
            Some(policy) => Self::Linked(Mmu::new(policy, machine, config)?),
            None => Self::Tagged(Mmu::new(Tagged, machine, config)?),
        })
    }

    /// Takes the engine down; see [`Mmu::into_machine`].
    pub fn into_machine(self) -> M {
        each!(self, mmu => mmu.into_machine())
    }
}

/// Forwards methods to the engine inside.
macro_rules! forward {
    ($(fn $name:ident(&self $(, $arg:ident: $type:ty)*) $(-> $result:ty)?;)*) => {
        $(fn $name(&self $(, $arg: $type)*) $(-> $result)? {
            each!(self, mmu => mmu.$name($($arg),*))
        })*
    };
    ($(fn $name:ident(&mut self $(, $arg:ident: $type:ty)*) $(-> $result:ty)?;)*) => {
        $(#[inline] fn $name(&mut self $(, $arg: $type)*) $(-> $result)? {
            each!(self, mmu => mmu.$name($($arg),*))
        })*
    };
}

impl<M: Machine, const TAG_BITS: u32> ShadowMmu for AnyMmu<M, TAG_BITS> {
    type Machine = M;

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of every zap-all and change of root")]
    fn enter(&mut self, vcpu: VcpuId) -> Result<Entry, EnterError> {
        each!(self, mmu => mmu.enter(vcpu))
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of nearly every exit")]
    fn reenter(&mut self, vcpu: VcpuId) -> Option<TlbFlush> {
        each!(self, mmu => mmu.reenter(vcpu))
    }

    forward! {
        fn policy(&self) -> PolicyKind;
        fn machine(&self) -> &M;
        fn stats(&self) -> &Stats;
        fn usage(&self) -> Usage;
        fn generation(&self) -> u64;
        fn mmio_generation(&self) -> u64;
        fn clock(&self) -> &Arc<FlushClock>;
        fn translate(&self, vcpu: VcpuId, gva: Gva, access: Access) -> Result<Translation, PageFault>;
        fn registers(&self, vcpu: VcpuId) -> Registers;
        fn slot(&self, slot: SlotId) -> Option<SlotSpec>;
        fn slot_at(&self, gpa: Gpa) -> Option<SlotId>;
        fn is_dirty(&self, gfn: Gfn) -> bool;
        fn audit(&self) -> Result<(), Violation>;
    }

    forward! {
        fn machine_mut(&mut self) -> &mut M;
        fn add_vcpu(&mut self, registers: Registers) -> Result<VcpuId, AddVcpuError>;
        fn leave(&mut self, vcpu: VcpuId);
        fn acknowledge(&mut self, vcpu: VcpuId);
        fn discharge(&mut self, promise: FlushPromise, kick: impl FnMut(VcpuId)) -> Result<(), FlushPromise>;
        fn page_fault(&mut self, vcpu: VcpuId, gva: Gva, access: Access) -> FaultOutcome;
        fn translate_access(&mut self, vcpu: VcpuId, gva: Gva, access: Access) -> Result<Translation, PageFault>;
        fn set_registers(&mut self, vcpu: VcpuId, registers: Registers) -> Result<(), RegisterFault>;
        fn set_cr3(&mut self, vcpu: VcpuId, value: u64) -> Result<(), RegisterFault>;
        fn set_cr0(&mut self, vcpu: VcpuId, value: Cr0) -> Result<(), RegisterFault>;
        fn set_cr4(&mut self, vcpu: VcpuId, value: Cr4) -> Result<(), RegisterFault>;
        fn set_efer(&mut self, vcpu: VcpuId, value: Efer) -> Result<(), RegisterFault>;
        fn invlpg(&mut self, vcpu: VcpuId, gva: Gva);
        fn invpcid(&mut self, vcpu: VcpuId, kind: Invpcid);
        fn guest_wrote(&mut self, gpa: Gpa, bytes: u64);
        fn unshadow(&mut self, gpa: Gpa);
        fn add_slot(&mut self, spec: SlotSpec) -> Result<SlotId, SlotError>;
        fn delete_slot(&mut self, slot: SlotId) -> Result<FlushPromise, SlotError>;
        fn move_slot(&mut self, slot: SlotId, base: Gfn) -> Result<FlushPromise, SlotError>;
        fn set_read_only(&mut self, slot: SlotId, read_only: bool) -> Result<FlushPromise, SlotError>;
        fn start_dirty_log(&mut self, slot: SlotId) -> Result<FlushPromise, SlotError>;
        fn stop_dirty_log(&mut self, slot: SlotId) -> Result<(), SlotError>;
        fn harvest_dirty(&mut self, slot: SlotId, dirty: impl FnMut(Gfn)) -> Result<FlushPromise, SlotError>;
        fn clear_dirty(&mut self, slot: SlotId, first: Gfn, pages: u64) -> Result<FlushPromise, SlotError>;
        fn zap_all(&mut self) -> FlushPromise;
        fn zap_continue(&mut self) -> bool;
        fn zap_slot(&mut self, slot: SlotId) -> Result<FlushPromise, SlotError>;
        fn idle_slice(&mut self, pages: u32) -> u32;
        fn reclaim(&mut self, pages: u32) -> u32;
        fn set_quota(&mut self, pages: u32) -> u32;
    }
}
