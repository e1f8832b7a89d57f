//! vCPUs, their registers, and the roots they walk.

use anchorite_addr::{Gva, Hpa};

use crate::api::AddVcpuError;
use crate::flush::{FlushPromise, TlbFlush, VcpuId};
use crate::install::Shortage;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::outcome::{EnterError, Entry, Root};
use crate::page::PageNo;
use crate::paging::entry::{FRAME, PRESENT};
use crate::paging::{Control, check_cr3, check_pdpte, root_frame};
use crate::policy::ZapPolicy;
use crate::pool::Pool;
use crate::registers::{Cr0, Cr4, PagingMode, RegisterFault, Registers, RootFormat};
use crate::role::{ALL_RIGHTS, Role};

/// Recent roots remembered per vCPU.
const RECENT: usize = 32;

/// One vCPU.
#[derive(Debug)]
pub(crate) struct Vcpu {
    pub(crate) registers: Registers,
    pub(crate) control: Control,
    /// Root pages in use, each pinned: one in long mode, else one per present PDPTE.
    pub(crate) roots: [PageNo; 4],
    /// Whether `roots` is what the registers ask for.
    pub(crate) loaded: bool,
    /// A frame below 4 GiB: the PDPTEs that hardware reads are its first four entries, the
    /// others stay zero. All of it is zero while it is the root of a guest without tables.
    pub(crate) low: Hpa,
    /// To be flushed at the next entry.
    pub(crate) flush: TlbFlush,
    /// Whether `roots` is loaded, and what hardware walks since the last entry.
    settled: bool,
    /// Recent long-mode roots, placed by their frame. A page found here still has to
    /// prove that it is what it was (H4).
    recent: [PageNo; RECENT],
}

impl Vcpu {
    /// The root page that translates `gva`.
    #[inline]
    pub(crate) fn root_for(&self, gva: Gva) -> Option<PageNo> {
        let at = if self.control.mode.is_long() { 0 } else { (gva.as_u64() >> 30 & 3) as usize };
        let page = self.roots[at];
        (self.loaded && !page.is_none()).then_some(page)
    }

    /// Releases the roots.
    #[inline]
    fn unload(&mut self, pool: &mut Pool) {
        let mut release = |root: &mut PageNo| {
            let page = core::mem::replace(root, PageNo::NONE);
            if !page.is_none() {
                let meta = pool.meta_mut(page);
                meta.pins = meta.pins.saturating_sub(1);
            }
        };
        let [first, others @ ..] = &mut self.roots;
        release(first);
        // In long mode there is but one: the other places were emptied when it began.
        if !self.control.mode.is_long() {
            others.iter_mut().for_each(release);
        }
        self.loaded = false;
        self.settled = false;
        self.flush = TlbFlush::All;
    }
}

/// Whether going from `old` to `new` registers loads the PDPTEs. A load of CR3 always does.
/// Intel SDM vol. 3, 4.4.1 "PDPTE Registers".
fn reloads_pdptes(old: &Registers, new: &Registers) -> bool {
    let cr0 = Cr0::PG | Cr0::CD | Cr0::NW;
    let cr4 = Cr4::PAE | Cr4::PGE | Cr4::PSE | Cr4::SMEP;
    old.mode() != PagingMode::Pae
        || old.cr3 != new.cr3
        || (old.cr0 ^ new.cr0).intersects(cr0)
        || (old.cr4 ^ new.cr4).intersects(cr4)
}

impl From<Shortage> for EnterError {
    fn from(shortage: Shortage) -> Self {
        match shortage {
            Shortage::Wait(epoch) => Self::Retry(FlushPromise { epoch }),
            Shortage::OutOfMemory => Self::OutOfMemory,
        }
    }
}

#[inline]
fn place_of(root: u64) -> usize {
    (root ^ root >> 5) as usize % RECENT
}

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    pub(crate) fn new_vcpu(&mut self, registers: Registers) -> Result<VcpuId, AddVcpuError> {
        if self.vcpus.len() >= self.clock.capacity() {
            return Err(AddVcpuError::TooMany);
        }
        let control = self.control(&registers, None).map_err(AddVcpuError::Registers)?;
        let low = self.machine.take_low_frame().ok_or(AddVcpuError::OutOfMemory)?;
        self.machine.clear_lines(low, u64::MAX);
        let id = VcpuId(self.vcpus.len() as u16);
        self.vcpus.push(Vcpu {
            registers,
            control,
            roots: [PageNo::NONE; 4],
            loaded: false,
            low,
            flush: TlbFlush::All,
            settled: false,
            recent: [PageNo::NONE; RECENT],
        });
        Ok(id)
    }

    // ---- registers -----------------------------------------------------------

    /// What `registers` mean, or why they are refused. The PDPTEs are loaded unless they
    /// are `kept`.
    fn control(
        &self,
        registers: &Registers,
        kept: Option<[u64; 4]>,
    ) -> Result<Control, RegisterFault> {
        let mut control = Control::new(registers, &self.config);
        check_cr3(control.mode, registers.cr3, &self.config)?;
        if control.mode == PagingMode::Pae {
            control.pdptes = match kept {
                Some(pdptes) => pdptes,
                None => self.read_pdptes(registers.cr3)?,
            };
        }
        Ok(control)
    }

    /// Intel SDM vol. 3, 4.4.1 "PDPTE Registers". A table outside every slot reads as
    /// four entries that are not present.
    fn read_pdptes(&self, cr3: u64) -> Result<[u64; 4], RegisterFault> {
        let table = cr3 & 0xffff_ffe0;
        let mut pdptes = [0; 4];
        let Some(slot) = self.slots.at(table >> 12) else {
            return Ok(pdptes);
        };
        let host = slot.host_of(table >> 12) << 12 | table & 0xfff;
        for (index, pdpte) in pdptes.iter_mut().enumerate() {
            *pdpte = self.machine.read_u64(Hpa::new(host + index as u64 * 8));
            check_pdpte(index as u8, *pdpte, &self.config)?;
        }
        Ok(pdptes)
    }

    /// Takes new registers: everything the old ones led to may be gone.
    pub(crate) fn change_registers(
        &mut self,
        id: VcpuId,
        registers: Registers,
    ) -> Result<(), RegisterFault> {
        let vcpu = self.vcpu(id);
        let kept = (!reloads_pdptes(&vcpu.registers, &registers)).then_some(vcpu.control.pdptes);
        self.take_registers(id, registers, kept)
    }

    fn take_registers(
        &mut self,
        id: VcpuId,
        registers: Registers,
        kept: Option<[u64; 4]>,
    ) -> Result<(), RegisterFault> {
        let control = self.control(&registers, kept)?;
        self.unload(id);
        let vcpu = self.vcpu_mut(id);
        vcpu.registers = registers;
        vcpu.control = control;
        vcpu.flush = TlbFlush::All;
        self.sync_all(id);
        Ok(())
    }

    /// MOV to CR3.
    #[inline]
    pub(crate) fn change_cr3(&mut self, id: VcpuId, value: u64) -> Result<(), RegisterFault> {
        let mode = self.vcpu(id).control.mode;
        if !mode.is_long() {
            return self.change_legacy_cr3(id, value);
        }
        check_cr3(mode, value, &self.config)?;
        self.sync_all(id);
        let root = root_frame(mode, value);
        let vcpu = self.vcpu_mut(id);
        let same = vcpu.control.root == root;
        vcpu.registers.cr3 = value;
        vcpu.control.root = root;
        vcpu.flush = TlbFlush::All;
        if !same {
            self.switch_root(id, root);
        }
        Ok(())
    }

    /// The same outside long mode.
    #[inline(never)]
    fn change_legacy_cr3(&mut self, id: VcpuId, value: u64) -> Result<(), RegisterFault> {
        let registers = Registers { cr3: value, ..self.vcpu(id).registers };
        self.take_registers(id, registers, None)
    }

    /// Goes to the root remembered for frame `root`, or leaves the vCPU without one.
    #[inline]
    fn switch_root(&mut self, id: VcpuId, root: u64) {
        let role = self.root_role(id);
        let vcpu = self.vcpu(id);
        let page = vcpu.recent[place_of(root)];
        let (old, loaded) = (vcpu.roots[0], vcpu.loaded);
        let meta = self.pool.meta(page);
        let known = !page.is_none()
            && meta.gfn == root
            && meta.role == role
            && meta.generation == self.generation.now();
        if loaded && !old.is_none() {
            self.pool.meta_mut(old).pins -= 1;
        }
        if known {
            self.pool.meta_mut(page).pins += 1;
            self.stats.root_hit += 1;
        }
        let vcpu = self.vcpu_mut(id);
        vcpu.roots[0] = if known { page } else { PageNo::NONE };
        vcpu.loaded = known;
        vcpu.settled = false;
    }

    // ---- roots ---------------------------------------------------------------

    fn root_role(&self, id: VcpuId) -> Role {
        let control = &self.vcpu(id).control;
        let level = match control.mode {
            PagingMode::FiveLevel => 5,
            PagingMode::FourLevel => 4,
            PagingMode::None | PagingMode::TwoLevel | PagingMode::Pae => 2,
        };
        control.role.at(level, ALL_RIGHTS)
    }

    /// Releases the vCPU's roots.
    #[inline]
    pub(crate) fn unload(&mut self, id: VcpuId) {
        self.vcpus[id.index()].unload(&mut self.pool);
    }

    /// Releases every vCPU's roots.
    #[inline]
    pub(crate) fn unload_all(&mut self) {
        self.vcpus.iter_mut().for_each(|vcpu| vcpu.unload(&mut self.pool));
    }

    /// Takes the root away from every vCPU that has `page` as one.
    pub(crate) fn unload_root(&mut self, page: PageNo) {
        for at in 0..self.vcpus.len() {
            if self.vcpus[at].roots.contains(&page) {
                self.unload(VcpuId(at as u16));
            }
        }
    }

    /// Finds or makes the pages that the vCPU's registers ask for, and pins them (I4).
    #[inline(never)]
    pub(crate) fn load_root(&mut self, id: VcpuId) -> Result<(), Shortage> {
        self.stats.root_miss += 1;
        self.reserve()?;
        let format = self.vcpu(id).control.mode.root_format();
        let result = match format {
            RootFormat::Pae => self.load_pae_roots(id),
            RootFormat::FourLevel | RootFormat::FiveLevel => self.load_table_root(id),
        };
        match result {
            Ok(()) => self.vcpu_mut(id).loaded = true,
            Err(_) => self.unload(id),
        }
        result
    }

    fn load_table_root(&mut self, id: VcpuId) -> Result<(), Shortage> {
        let role = self.root_role(id);
        let root = self.vcpu(id).control.root;
        let page = self.page_for(root, role)?;
        self.pool.meta_mut(page).pins += 1;
        let vcpu = self.vcpu_mut(id);
        vcpu.roots[0] = page;
        vcpu.recent[place_of(root)] = page;
        Ok(())
    }

    fn load_pae_roots(&mut self, id: VcpuId) -> Result<(), Shortage> {
        let mut result = Ok(());
        for quarter in 0..4 {
            let page = match self.pae_root(id, quarter) {
                Ok(page) => page,
                Err(shortage) => {
                    result = Err(shortage);
                    PageNo::NONE
                }
            };
            let mut pdpte = 0;
            if !page.is_none() {
                self.pool.meta_mut(page).pins += 1;
                pdpte = self.pool.table(page).as_u64() & FRAME | PRESENT;
            }
            self.vcpu_mut(id).roots[quarter as usize] = page;
            let at = self.vcpu(id).low.wrapping_add(u64::from(quarter) * 8);
            self.machine.write_entry(at, pdpte);
        }
        result
    }

    /// The level-2 page for one GiB of a legacy address space, or none where the guest's
    /// PDPTE is not present.
    fn pae_root(&mut self, id: VcpuId, quarter: u8) -> Result<PageNo, Shortage> {
        let role = self.root_role(id);
        let control = &self.vcpu(id).control;
        let (gfn, role) = match control.mode {
            PagingMode::None => (u64::from(quarter) << 18, role.direct()),
            PagingMode::TwoLevel => (control.root, role.quadrant(quarter)),
            _ => {
                let pdpte = control.pdptes[usize::from(quarter)];
                if pdpte & PRESENT == 0 {
                    return Ok(PageNo::NONE);
                }
                ((pdpte & FRAME) >> 12, role)
            }
        };
        self.page_for(gfn, role)
    }

    // ---- entering ------------------------------------------------------------

    /// Enters with the root that hardware has, if that is still the one to walk. Returns what
    /// must be flushed.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of nearly every exit")]
    pub(crate) fn prepare_reentry(&mut self, id: VcpuId) -> Option<TlbFlush> {
        let vcpu = &mut self.vcpus[id.index()];
        if !vcpu.settled {
            return None;
        }
        let flush = core::mem::replace(&mut vcpu.flush, TlbFlush::None);
        Some(self.begin_entry(id, flush))
    }

    /// Counts the vCPU as in the guest. Returns `flush`, or what it must flush rather.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of nearly every exit")]
    fn begin_entry(&mut self, id: VcpuId, flush: TlbFlush) -> TlbFlush {
        self.synced = false;
        if self.clock.enter(id) {
            self.stats.tlb_flush += 1;
            return TlbFlush::All;
        }
        if matches!(flush, TlbFlush::All) {
            self.stats.tlb_flush += 1;
        }
        flush
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of every zap-all and change of root")]
    pub(crate) fn prepare_entry(&mut self, id: VcpuId) -> Result<Entry, EnterError> {
        let root = self.prepare_root(id)?;
        let flush = core::mem::replace(&mut self.vcpu_mut(id).flush, TlbFlush::None);
        Ok(Entry { root, flush: self.begin_entry(id, flush) })
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "part of every zap-all and change of root")]
    fn prepare_root(&mut self, id: VcpuId) -> Result<Root, Shortage> {
        let vcpu = self.vcpu(id);
        let format = vcpu.control.mode.root_format();
        if !vcpu.loaded {
            if self.pool.active == 0 {
                return Ok(Root { table: self.empty_root(id), format });
            }
            self.load_root(id)?;
        }
        let vcpu = self.vcpu_mut(id);
        vcpu.settled = true;
        let (low, page) = (vcpu.low, vcpu.roots[0]);
        let table = match format {
            RootFormat::Pae => low,
            RootFormat::FourLevel | RootFormat::FiveLevel => self.pool.table(page),
        };
        Ok(Root { table, format })
    }

    /// While no table is shadowed, as after every zap-all, the first access faults whatever
    /// the root is. So an empty one serves, and that fault finds the root that is asked for:
    /// a zap-all does not wait for it, and of several in a row each but the last would have
    /// found it in vain.
    #[inline]
    fn empty_root(&mut self, id: VcpuId) -> Hpa {
        let low = self.vcpu(id).low;
        (0..4).for_each(|entry| self.machine.write_entry(low.wrapping_add(entry * 8), 0));
        low
    }
}
