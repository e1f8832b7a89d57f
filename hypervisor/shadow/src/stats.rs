//! Counters, named as `kvm_stat` names them.

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
    /// INVLPG and single-address INVPCID.
    pub invlpg: u64,
    /// Root loads that found their root in the cache.
    pub root_hit: u64,
    /// Root loads that did not.
    pub root_miss: u64,
}
