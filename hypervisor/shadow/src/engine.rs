//! [`ShadowMmu`] for one policy: each operation in the module that answers for it.

use alloc::sync::Arc;

use anchorite_addr::{Gfn, Gpa, Gva};

use crate::access::{Access, PageFault, Translation};
use crate::api::{AddVcpuError, ShadowMmu, Usage};
use crate::audit::Violation;
use crate::config::Config;
use crate::flush::{FlushClock, FlushPromise, TlbFlush, VcpuId};
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::outcome::{EnterError, Entry, FaultOutcome, Invpcid};
use crate::policy::{PolicyKind, Sweep, ZapPolicy};
use crate::registers::{Cr0, Cr4, Efer, RegisterFault, Registers};
use crate::slots::{SlotError, SlotId, SlotSpec};
use crate::stats::Stats;

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> ShadowMmu for Mmu<M, P, TAG_BITS> {
    type Machine = M;

    fn policy(&self) -> PolicyKind {
        self.policy.kind()
    }

    fn machine(&self) -> &M {
        &self.machine
    }

    fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn usage(&self) -> Usage {
        Usage {
            taken: self.pool.taken,
            free: self.pool.free,
            active: self.pool.active,
            stale: self.pool.stale,
            limbo: self.pool.limbo,
            quota: self.pool.quota,
            peak: self.pool.peak,
        }
    }

    fn generation(&self) -> u64 {
        self.generation.now()
    }

    fn mmio_generation(&self) -> u64 {
        self.mmio_generation
    }

    fn add_vcpu(&mut self, registers: Registers) -> Result<VcpuId, AddVcpuError> {
        self.new_vcpu(registers)
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of every zap-all and change of root")]
    fn enter(&mut self, vcpu: VcpuId) -> Result<Entry, EnterError> {
        self.prepare_entry(vcpu)
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of nearly every exit")]
    fn reenter(&mut self, vcpu: VcpuId) -> Option<TlbFlush> {
        self.prepare_reentry(vcpu)
    }

    #[inline]
    fn leave(&mut self, vcpu: VcpuId) {
        self.clock.leave(vcpu);
    }

    fn clock(&self) -> &Arc<FlushClock> {
        &self.clock
    }

    fn acknowledge(&mut self, vcpu: VcpuId) {
        if !self.clock.in_guest(vcpu) {
            self.clock.acknowledge(vcpu, self.clock.now());
        }
    }

    #[inline]
    fn discharge(
        &mut self,
        promise: FlushPromise,
        kick: impl FnMut(VcpuId),
    ) -> Result<(), FlushPromise> {
        if self.clock.acknowledged(promise.epoch) { Ok(()) } else { self.wait_for(promise, kick) }
    }

    #[inline]
    fn page_fault(&mut self, vcpu: VcpuId, gva: Gva, access: Access) -> FaultOutcome {
        self.fault(vcpu, gva, access)
    }

    fn translate(&self, vcpu: VcpuId, gva: Gva, access: Access) -> Result<Translation, PageFault> {
        self.look_up(vcpu, gva, access)
    }

    fn translate_access(
        &mut self,
        vcpu: VcpuId,
        gva: Gva,
        access: Access,
    ) -> Result<Translation, PageFault> {
        self.look_up_and_mark(vcpu, gva, access)
    }

    fn registers(&self, vcpu: VcpuId) -> Registers {
        self.vcpu(vcpu).registers
    }

    fn set_registers(&mut self, vcpu: VcpuId, registers: Registers) -> Result<(), RegisterFault> {
        self.change_registers(vcpu, registers)
    }

    #[inline]
    fn set_cr3(&mut self, vcpu: VcpuId, value: u64) -> Result<(), RegisterFault> {
        self.change_cr3(vcpu, value)
    }

    fn set_cr0(&mut self, vcpu: VcpuId, value: Cr0) -> Result<(), RegisterFault> {
        let mut registers = self.vcpu(vcpu).registers;
        registers.cr0 = value;
        self.change_registers(vcpu, registers)
    }

    fn set_cr4(&mut self, vcpu: VcpuId, value: Cr4) -> Result<(), RegisterFault> {
        let mut registers = self.vcpu(vcpu).registers;
        registers.cr4 = value;
        self.change_registers(vcpu, registers)
    }

    fn set_efer(&mut self, vcpu: VcpuId, value: Efer) -> Result<(), RegisterFault> {
        let mut registers = self.vcpu(vcpu).registers;
        registers.efer = value;
        self.change_registers(vcpu, registers)
    }

    #[inline]
    fn invlpg(&mut self, vcpu: VcpuId, gva: Gva) {
        self.stats.invlpg += 1;
        self.sync_address(vcpu, gva);
        let vcpu = self.vcpu_mut(vcpu);
        vcpu.flush = vcpu.flush.and(TlbFlush::Address(gva));
    }

    fn invpcid(&mut self, vcpu: VcpuId, kind: Invpcid) {
        let registers = &self.vcpu(vcpu).registers;
        let tagged = registers.cr4.contains(Cr4::PCIDE);
        let current = if tagged { registers.cr3 & 0xfff } else { 0 } as u16;
        match kind {
            Invpcid::Address { pcid, gva } if pcid == current => self.invlpg(vcpu, gva),
            // Other contexts are brought in step when CR3 is loaded, whatever bit 63 says.
            Invpcid::Address { .. } => self.stats.invlpg += 1,
            Invpcid::Context { .. } | Invpcid::AllWithGlobal | Invpcid::All => {
                self.sync_all(vcpu);
                self.vcpu_mut(vcpu).flush = TlbFlush::All;
            }
        }
    }

    fn guest_wrote(&mut self, gpa: Gpa, bytes: u64) {
        self.note_write(gpa, bytes);
    }

    fn unshadow(&mut self, gpa: Gpa) {
        self.zap_tables_in(gpa.frame().number());
    }

    fn add_slot(&mut self, spec: SlotSpec) -> Result<SlotId, SlotError> {
        self.slots.check(&spec, self.config.physical_bits, None)?;
        if self.untracked {
            // A page shadows a table that lay nowhere and is about to lie here.
            let _nothing_mapped_there = self.zap_everything();
        }
        let id = self.slots.insert(&spec, self.generation.now())?;
        self.bump_mmio_generation();
        Ok(id)
    }

    fn delete_slot(&mut self, slot: SlotId) -> Result<FlushPromise, SlotError> {
        self.drop_slot(slot)
    }

    fn move_slot(&mut self, slot: SlotId, base: Gfn) -> Result<FlushPromise, SlotError> {
        self.relocate_slot(slot, base)
    }

    fn set_read_only(&mut self, slot: SlotId, read_only: bool) -> Result<FlushPromise, SlotError> {
        self.protect_slot(slot, read_only)
    }

    fn slot(&self, slot: SlotId) -> Option<SlotSpec> {
        Some(self.slots.get(slot).ok()?.spec())
    }

    fn slot_at(&self, gpa: Gpa) -> Option<SlotId> {
        let number = self.slots.find(gpa.frame().number())?;
        Some(SlotId(number as u16))
    }

    fn start_dirty_log(&mut self, slot: SlotId) -> Result<FlushPromise, SlotError> {
        self.log_start(slot)
    }

    fn stop_dirty_log(&mut self, slot: SlotId) -> Result<(), SlotError> {
        self.slots.get_mut(slot)?.log = None;
        self.slots.note_change();
        Ok(())
    }

    fn harvest_dirty(
        &mut self,
        slot: SlotId,
        dirty: impl FnMut(Gfn),
    ) -> Result<FlushPromise, SlotError> {
        self.log_harvest(slot, dirty)
    }

    fn clear_dirty(
        &mut self,
        slot: SlotId,
        first: Gfn,
        pages: u64,
    ) -> Result<FlushPromise, SlotError> {
        self.log_clear(slot, first, pages)
    }

    fn is_dirty(&self, gfn: Gfn) -> bool {
        let Some(slot) = self.slots.at(gfn.number()) else {
            return false;
        };
        let at = (gfn.number() - slot.base) as usize;
        let bit = slot.log.as_ref().and_then(|log| log.get(at).as_deref().copied());
        bit.unwrap_or(false)
    }

    #[inline]
    fn zap_all(&mut self) -> FlushPromise {
        self.zap_everything()
    }

    fn zap_continue(&mut self) -> bool {
        if self.policy.kind().sweep() != Sweep::Batches {
            return false;
        }
        self.sweep(u32::from(self.config.batch));
        self.pool.stale > 0
    }

    fn zap_slot(&mut self, slot: SlotId) -> Result<FlushPromise, SlotError> {
        self.zap_range_of(slot)
    }

    fn idle_slice(&mut self, pages: u32) -> u32 {
        if !self.policy.kind().has_idle_slices() {
            return 0;
        }
        let swept = self.sweep(pages);
        self.forget_dead_slots();
        swept
    }

    fn reclaim(&mut self, pages: u32) -> u32 {
        self.give_up(pages)
    }

    fn set_quota(&mut self, pages: u32) -> u32 {
        let least = Config::least_quota(self.config.max_vcpus);
        let most = self.machine.arena().pages;
        self.pool.quota = pages.max(least).min(most);
        let excess = self.pool.in_use().saturating_sub(self.pool.quota);
        if excess > 0 {
            self.give_up(excess);
        }
        self.pool.quota
    }

    fn audit(&self) -> Result<(), Violation> {
        self.check_invariants()
    }
}
