//! Counters, named as `kvm_stat` names them.

use crate::profile::Recycles;

/// Events since the engine was made. They wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Page faults reported.
    pub pf_taken: u64,
    /// … that were fixed by a new mapping.
    pub pf_fixed: u64,
    /// … injected into the guest.
    pub pf_guest: u64,
    /// … that asked for emulation of a write to a page table (or of what no entry expresses).
    pub pf_emulate: u64,
    /// … where the shadow permitted the access already.
    pub pf_spurious: u64,
    /// … at an address without a slot, and how many of them needed no walk.
    pub pf_mmio: u64,
    /// MMIO faults answered from a cached entry.
    pub pf_mmio_fast: u64,
    /// Shadow pages taken out of service, however that came about.
    pub mmu_shadow_zapped: u64,
    /// Stale pages taken apart or reused for another table.
    pub mmu_recycled: u64,
    /// Stale pages reused for the table they shadowed before.
    pub mmu_revived: u64,
    /// Pages evicted at the quota while still current.
    pub mmu_evicted: u64,
    /// Tables unshadowed because they were written again and again.
    pub mmu_flooded: u64,
    /// Leaf tables that went unsync.
    pub mmu_unsync: u64,
    /// Leaf tables synced again.
    pub mmu_synced: u64,
    /// Reported writes that hit a tracked page table.
    pub mmu_pte_write: u64,
    /// Reported writes that dropped an entry.
    pub mmu_pte_updated: u64,
    /// Entries installed ahead of a fault.
    pub mmu_prefetched: u64,
    /// Guest accesses that a page-table head had to be rebased for (generation wraps).
    pub mmu_rebased: u64,
    /// Entries with `TlbFlush::All`.
    pub tlb_flush: u64,
    /// Times that vCPUs in the guest had to be kicked so that a promise could be kept.
    pub remote_tlb_flush: u64,
    /// INVLPG and single-address INVPCID.
    pub invlpg: u64,
    /// Root loads that found their root in the cache.
    pub root_hit: u64,
    /// Root loads that did not.
    pub root_miss: u64,
    /// What recycles cost, in a build that measures it.
    pub recycles: Recycles,
}

impl Stats {
    /// Every counter with its name.
    pub const fn named(&self) -> [(&'static str, u64); 23] {
        [
            ("pf_taken", self.pf_taken),
            ("pf_fixed", self.pf_fixed),
            ("pf_guest", self.pf_guest),
            ("pf_emulate", self.pf_emulate),
            ("pf_spurious", self.pf_spurious),
            ("pf_mmio", self.pf_mmio),
            ("pf_mmio_fast", self.pf_mmio_fast),
            ("mmu_shadow_zapped", self.mmu_shadow_zapped),
            ("mmu_recycled", self.mmu_recycled),
            ("mmu_revived", self.mmu_revived),
            ("mmu_evicted", self.mmu_evicted),
            ("mmu_flooded", self.mmu_flooded),
            ("mmu_unsync", self.mmu_unsync),
            ("mmu_synced", self.mmu_synced),
            ("mmu_pte_write", self.mmu_pte_write),
            ("mmu_pte_updated", self.mmu_pte_updated),
            ("mmu_prefetched", self.mmu_prefetched),
            ("mmu_rebased", self.mmu_rebased),
            ("tlb_flush", self.tlb_flush),
            ("remote_tlb_flush", self.remote_tlb_flush),
            ("invlpg", self.invlpg),
            ("root_hit", self.root_hit),
            ("root_miss", self.root_miss),
        ]
    }
}
