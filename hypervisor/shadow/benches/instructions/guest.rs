//! The measured guest: four-level page tables that map `tables` ranges of 2 MiB, and the
//! engine that shadows them.

use anchorite_addr::{Gfn, Gpa, Gva, Hfn};
use anchorite_shadow::policy::ZapPolicy;
use anchorite_shadow::{
    Access, AccessKind, Config, Cr0, Cr4, Efer, FaultOutcome, Mmu, Registers, ShadowMmu, SlotSpec,
    VcpuId,
};

use crate::machine::Host;
use crate::store::{Flat, Store};

/// Present, writable, user; A and D clear, as an operating system leaves them.
pub(crate) const FRESH: u64 = 0x07;
/// The first of the root tables; all lead to the same memory.
const ROOTS: u64 = 1;
/// Root tables there are.
pub(crate) const MOST_ROOTS: u64 = 16;
/// Frames of the tables under the roots begin here.
const TABLES: u64 = ROOTS + MOST_ROOTS;
/// Where the test region begins: PML4 entry 1.
pub(crate) const REGION: u64 = 1 << 39;

/// What a guest consists of, and how many shadow pages there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) tables: u64,
    /// Present entries in each leaf table.
    pub(crate) leaves: u64,
    /// Only every so many of the tables are there.
    pub(crate) stride: u64,
    pub(crate) pages: u64,
}

impl Size {
    /// Enough pages for everything.
    pub(crate) fn of(tables: u64, leaves: u64) -> Self {
        Self { tables, leaves, stride: 1, pages: tables + tables / 512 + 320 }
    }

    pub(crate) fn spread(self, stride: u64) -> Self {
        Self { tables: self.tables * stride, stride, ..self }
    }

    pub(crate) fn limited(self, pages: u64) -> Self {
        Self { pages, ..self }
    }
}

/// An engine, its one vCPU, and the guest's tables.
pub(crate) struct Guest<P: ZapPolicy, S: Store = Flat> {
    pub(crate) mmu: Mmu<Host<S>, P>,
    pub(crate) vcpu: VcpuId,
    size: Size,
}

/// Frames of page directories, and of PDPTs.
const fn uppers(tables: u64) -> (u64, u64) {
    (tables.div_ceil(512), tables.div_ceil(512 * 512))
}

impl<P: ZapPolicy, S: Store> Guest<P, S> {
    /// A guest in four-level mode whose tables have no A bit set.
    pub(crate) fn new(policy: P, size: Size) -> Self {
        Self::with_top(policy, size, None)
    }

    /// A guest in five-level mode, otherwise the same, and the frame of its highest table, in which
    /// entry 0 leads to root 0.
    pub(crate) fn with_five_levels(policy: P, size: Size) -> (Self, u64) {
        let (directories, pdpts) = uppers(size.tables);
        let last = TABLES + pdpts + directories + size.tables + 511;
        (Self::with_top(policy, size, Some(last)), last)
    }

    fn with_top(policy: P, size: Size, top: Option<u64>) -> Self {
        let (directories, pdpts) = uppers(size.tables);
        let data = TABLES + pdpts + directories + size.tables;
        let frames = data + 512;
        let mut host: Host<S> = Host::new(size.pages as u32, frames);
        let mut link = |table: u64, index: u64, target: u64| {
            host.guest.set((table << 12) + index * 8, target << 12 | FRESH);
        };
        for index in 0..pdpts {
            (0..MOST_ROOTS).for_each(|root| link(ROOTS + root, 1 + index, TABLES + index));
        }
        for index in 0..directories {
            link(TABLES + index / 512, index % 512, TABLES + pdpts + index);
        }
        for index in (0..size.tables).step_by(size.stride as usize) {
            let directory = TABLES + pdpts + index / 512;
            let table = TABLES + pdpts + directories + index;
            link(directory, index % 512, table);
            (0..size.leaves).for_each(|leaf| link(table, leaf, data + leaf));
        }

        let mut start = registers();
        if let Some(frame) = top {
            link(frame, 0, ROOTS);
            start = Registers { cr3: frame << 12, cr4: start.cr4 | Cr4::LA57, ..start };
        }
        let config = Config { quota: size.pages as u32, ..Config::default() };
        let mut mmu = Mmu::new(policy, host, config).expect("the configuration is valid");
        let (base, host) = (Gfn::new(0), Hfn::new(0));
        mmu.add_slot(SlotSpec { base, pages: frames, host, read_only: false }).expect("it fits");
        let vcpu = mmu.add_vcpu(start).expect("room for one");
        let mut guest = Self { mmu, vcpu, size };
        guest.enter();
        guest
    }

    /// The frame of leaf table `index`.
    pub(crate) fn leaf_table(&self, index: u64) -> u64 {
        let (directories, pdpts) = uppers(self.size.tables);
        TABLES + pdpts + directories + index
    }

    /// The frame of the page directory above leaf table `index`.
    pub(crate) fn directory(&self, index: u64) -> u64 {
        TABLES + uppers(self.size.tables).1 + index / 512
    }

    /// The frame of the first PDPT.
    pub(crate) const fn pdpt() -> u64 {
        TABLES
    }

    /// The value of CR3 for root `index`.
    pub(crate) const fn root(index: u64) -> u64 {
        (ROOTS + index) << 12
    }

    /// The guest is entered, and left at once.
    pub(crate) fn enter(&mut self) {
        if self.mmu.reenter(self.vcpu).is_none() {
            let _entry = self.mmu.enter(self.vcpu).expect("a root can be had");
        }
        self.mmu.leave(self.vcpu);
    }

    /// One fault, whatever comes of it.
    #[inline]
    pub(crate) fn fault(&mut self, gva: u64, access: Access) -> FaultOutcome {
        self.mmu.page_fault(self.vcpu, Gva::new(gva), access)
    }

    /// Touches a page that the guest permits to read.
    pub(crate) fn touch(&mut self, table: u64, leaf: u64) {
        let outcome = self.fault(gva(table, leaf), READ);
        assert!(matches!(outcome, FaultOutcome::Fixed | FaultOutcome::Spurious), "{outcome:?}");
    }

    /// Touches the first page of every table.
    pub(crate) fn touch_all(&mut self) {
        (0..self.size.tables)
            .step_by(self.size.stride as usize)
            .for_each(|table| self.touch(table, 0));
    }

    /// The guest's entry `index` of the table in `frame`, changed without anybody's notice.
    pub(crate) fn poke(&mut self, frame: u64, index: u64, value: u64) {
        self.mmu.machine_mut().guest.set((frame << 12) + index * 8, value);
    }

    /// That entry.
    pub(crate) fn peek(&mut self, frame: u64, index: u64) -> u64 {
        self.mmu.machine_mut().guest.get((frame << 12) + index * 8)
    }

    /// A zap-all with everything that its caller waits for.
    #[inline]
    pub(crate) fn zap_all(&mut self) {
        let promise = self.mmu.zap_all();
        while self.mmu.zap_continue() {}
        self.mmu.discharge(promise, |_| ()).expect("the vCPU is outside");
    }
}

/// Supervisor accesses.
pub(crate) const READ: Access = Access::supervisor(AccessKind::Read);
pub(crate) const WRITE: Access = Access::supervisor(AccessKind::Write);

/// The address of page `leaf` under leaf table `table`.
pub(crate) const fn gva(table: u64, leaf: u64) -> u64 {
    REGION + (table << 21) + (leaf << 12)
}

/// The guest-physical address of an entry.
pub(crate) const fn entry(frame: u64, index: u64) -> Gpa {
    Gpa::new((frame << 12) + index * 8)
}

fn registers() -> Registers {
    let efer = Efer::LME | Efer::NXE;
    Registers { cr0: Cr0::PG | Cr0::WP, cr3: ROOTS << 12, cr4: Cr4::PAE, efer }
}
