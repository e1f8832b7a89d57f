//! The engine's state, and how it is made and taken down.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::config::{Config, ConfigError};
use crate::directory::Directory;
use crate::flush::{FlushClock, VcpuId};
use crate::generation::Generation;
use crate::memory::Machine;
use crate::page::PageNo;
use crate::policy::{Tagged, ZapPolicy};
use crate::pool::Pool;
use crate::roots::Vcpu;
use crate::slots::Slots;
use crate::stats::Stats;
use crate::unsync::UnsyncList;

/// The engine over memory `M` under zap policy `P`.
///
/// `TAG_BITS` is the width of the generation tag in heads, 2 to 32; tests narrow it so
/// that it wraps within their lifetime.
#[derive(Debug)]
pub struct Mmu<M: Machine, P: ZapPolicy = Tagged, const TAG_BITS: u32 = 32> {
    pub(crate) machine: M,
    pub(crate) config: Config,
    pub(crate) pool: Pool,
    pub(crate) directory: Directory,
    pub(crate) slots: Slots,
    pub(crate) generation: Generation,
    pub(crate) unsync: UnsyncList,
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) clock: Arc<FlushClock>,
    pub(crate) mmio_generation: u64,
    /// Whether this generation of pages holds MMIO entries.
    pub(crate) mmio_cached: bool,
    /// Whether an spte was dropped or lost rights since the clock moved last: a vCPU may
    /// then hold a writable translation that no rmap shows.
    pub(crate) tlb_dirty: bool,
    /// The epoch that covers what `tlb_dirty` spoke of last. Until it is acknowledged,
    /// no table may be read in the belief that nobody writes it.
    pub(crate) removal_epoch: u64,
    /// The epoch that the latest zap-all opened.
    pub(crate) zap_epoch: u64,
    /// Whether every unsync table is in step, and nobody can have written one since.
    pub(crate) synced: bool,
    /// Whether a page exists whose table lies outside every slot, and is not tracked.
    pub(crate) untracked: bool,
    /// The sizes of guest entries that pages of this generation shadow: bit 0 for 8 bytes,
    /// bit 1 for 4.
    pub(crate) entry_sizes: u8,
    pub(crate) stats: Stats,
    pub(crate) policy: P,
}

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    /// An engine under `policy`, without slots and vCPUs. Takes no frame yet.
    pub fn new(policy: P, machine: M, config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        if !(2..=32).contains(&TAG_BITS) {
            return Err(ConfigError::TagBits(TAG_BITS));
        }
        let arena = machine.arena();
        let pool = Pool::new(arena, config.quota)?;
        let directory = Directory::new(arena.pages as usize).ok_or(ConfigError::OutOfMemory)?;
        let mut generation = Generation::new(config.start_generation);
        generation.retag(Self::TAG_MASK);
        Ok(Self {
            machine,
            config,
            pool,
            directory,
            slots: Slots::default(),
            generation,
            unsync: UnsyncList::default(),
            vcpus: Vec::with_capacity(usize::from(config.max_vcpus)),
            clock: Arc::new(FlushClock::new(config.max_vcpus)),
            mmio_generation: 0,
            mmio_cached: false,
            tlb_dirty: false,
            removal_epoch: 0,
            zap_epoch: 0,
            synced: false,
            untracked: false,
            entry_sizes: 0,
            stats: Stats::default(),
            policy,
        })
    }

    /// The generation's bits that tag heads; none under policies that unlink.
    pub(crate) const TAG_MASK: u64 = if P::TAGGED { (1 << TAG_BITS) - 1 } else { 0 };

    /// Takes the engine down: every frame goes back to the source, and the memory to the
    /// caller. No vCPU may be in the guest.
    pub fn into_machine(mut self) -> M {
        self.pool.dissolve(&mut self.machine);
        for vcpu in &self.vcpus {
            self.machine.give_low_frame(vcpu.low);
        }
        self.machine
    }

    #[inline]
    pub(crate) fn vcpu(&self, id: VcpuId) -> &Vcpu {
        &self.vcpus[id.index()]
    }

    #[inline]
    pub(crate) fn vcpu_mut(&mut self, id: VcpuId) -> &mut Vcpu {
        &mut self.vcpus[id.index()]
    }

    /// Whether `page` shadows something in the current generation.
    #[inline]
    pub(crate) fn is_current(&self, page: PageNo) -> bool {
        self.pool.meta(page).generation == self.generation.now()
    }

    /// Whether no vCPU but `vcpu` is in the guest: nobody writes guest memory meanwhile.
    #[inline]
    pub(crate) fn is_alone(&self, vcpu: VcpuId) -> bool {
        !self.clock.anyone_else_in_guest(vcpu)
    }

    /// Opens an epoch that no vCPU has acknowledged yet: whoever still holds an older
    /// translation will have flushed once it has.
    #[inline]
    pub(crate) fn open_epoch(&mut self) -> u64 {
        let epoch = self.clock.open();
        if self.tlb_dirty {
            self.tlb_dirty = false;
            self.removal_epoch = epoch;
        }
        epoch
    }
}
