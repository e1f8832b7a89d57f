//! The processor's side: a walker of the shadow tables in the hardware's own format, with a
//! TLB and paging-structure caches that forget only what they are told to forget.

use super::history::Map;
use super::machine::Machine;
use super::reference::{
    Access, Answer, CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, Cpu, EFER_LME, EFER_NXE, End, Leaf, Mode,
    Op, Walker, check,
};

/// What the guest runs on while it is entered.
#[derive(Clone, Debug)]
pub struct Core {
    cpu: Cpu,
    tlb: Map<u64, Leaf>,
    /// Paging-structure caches (SDM vol. 3, 4.10.3): walks that stand before an entry of
    /// the given level, by the address bits above it.
    caches: Map<(u32, u64), Walker>,
    /// Decides which of the legal behaviours this access gets: a TLB may forget.
    dice: u64,
    /// A hardware that never caches; for tests that want the tables' own answer.
    pub amnesic: bool,
}

/// A translation as the hardware used it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub hpa: u64,
    /// Taken from the TLB without a walk.
    pub cached: bool,
}

/// How the shadow tables are walked; what a VM entry loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Pae,
    Level4,
    Level5,
}

impl Core {
    pub fn new() -> Self {
        Self {
            cpu: Cpu {
                cr0: CR0_PG | CR0_WP,
                cr3: 0,
                cr4: CR4_PAE,
                efer: EFER_NXE,
                pkru: 0,
                pdptes: [0; 4],
                maxphyaddr: 48,
                gib_pages: true,
                pse36: true,
                amd_mbz: false,
            },
            tlb: Map::default(),
            caches: Map::default(),
            dice: 0,
            amnesic: false,
        }
    }

    /// VM entry: loads the root; `features` are the CR4 bits of the guest that stay in force.
    /// Says which PDPTE is malformed, as a failed VM entry does.
    pub fn enter(&mut self, memory: &Machine, root: u64, format: Format, features: u64, pkru: u32) {
        let (cr4, efer) = match format {
            Format::Pae => (CR4_PAE, EFER_NXE),
            Format::Level4 => (CR4_PAE, EFER_NXE | EFER_LME),
            Format::Level5 => (CR4_PAE | CR4_LA57, EFER_NXE | EFER_LME),
        };
        if self.cpu.cr4 != cr4 | features || self.cpu.efer != efer {
            // MOV CR4 and WRMSR of a VM entry do not flush by themselves; a change of the
            // walk's shape makes the cached walks meaningless, so it must come with a flush.
            self.caches.clear();
        }
        self.cpu.cr3 = root;
        self.cpu.cr4 = cr4 | features;
        self.cpu.efer = efer;
        self.cpu.pkru = pkru;
        if format == Format::Pae {
            assert!(root < 1 << 32 && root % 32 == 0, "a PAE root at {root:#x}");
            let pdptes = [0, 8, 16, 24].map(|offset| memory.hardware_read(root + offset));
            assert!(self.cpu.pdptes_loadable(pdptes), "VM entry fails: PDPTEs {pdptes:x?}");
            self.cpu.pdptes = pdptes;
        }
    }

    /// Loses the TLB, keeps the paging-structure caches.
    pub fn forget_pages(&mut self) {
        self.tlb.clear();
    }

    pub fn flush_all(&mut self) {
        self.tlb.clear();
        self.caches.clear();
    }

    /// INVVPID individual-address, INVLPGA: the page's translations of any size, and all
    /// paging-structure caches (SDM vol. 3, 4.10.4.1).
    pub fn flush_address(&mut self, gva: u64) {
        self.tlb.retain(|&page, leaf| (page << 12) >> leaf.shift != gva >> leaf.shift);
        self.caches.clear();
    }

    /// Translates as the processor would.
    ///
    /// # Errors
    /// The error code of the #PF.
    pub fn access(&mut self, memory: &mut Machine, gva: u64, access: Access) -> Result<Hit, u32> {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(gva | 1);
        let dice = self.dice >> 60;
        if let Some(hit) = self.look_up(gva, access, dice) {
            return Ok(hit);
        }
        let (walker, end) = self.walk(memory, gva, dice);
        let translation = walker.conclude(end, access);
        match translation.answer {
            Answer::Ok(mut leaf) => {
                for (at, bits) in translation.must_set() {
                    if memory.hardware_read(at.gpa) & bits != bits {
                        memory.hardware_set(at.gpa, bits);
                    }
                }
                leaf.dirty |= access.op == Op::Write;
                let hpa = leaf.gpa;
                leaf.gpa &= !0xfff;
                if !self.amnesic {
                    self.tlb.insert(gva >> 12, leaf);
                }
                Ok(Hit { hpa, cached: false })
            }
            Answer::PageFault(code) => {
                self.forget_path(gva);
                Err(code)
            }
            Answer::NonCanonical => panic!("a run must not use {gva:#x}"),
        }
    }

    fn look_up(&mut self, gva: u64, access: Access, dice: u64) -> Option<Hit> {
        let leaf = *self.tlb.get(&(gva >> 12))?;
        let fits = check(&self.cpu, &leaf, access).is_ok();
        if fits && (access.op != Op::Write || leaf.dirty) && dice != 0 {
            return Some(Hit { hpa: leaf.gpa | gva & 0xfff, cached: true });
        }
        self.tlb.remove(&(gva >> 12));
        None
    }

    fn walk(&mut self, memory: &Machine, gva: u64, dice: u64) -> (Walker, End) {
        let mut walker = self.start(gva, dice);
        loop {
            let at = match walker.state() {
                Ok(at) => at,
                Err(end) => return (walker, end),
            };
            walker.feed(memory.hardware_read(at.gpa));
            if let (false, Ok(next)) = (self.amnesic, walker.state()) {
                self.caches.insert((next.level, prefix(gva, next.level)), walker);
            }
        }
    }

    fn start(&self, gva: u64, dice: u64) -> Walker {
        if dice & 3 != 1 {
            for level in 1..=4 {
                if let Some(walker) = self.caches.get(&(level, prefix(gva, level))) {
                    let mut walker = *walker;
                    // What is cached are entries, not the registers of that time: PKRU may have changed.
                    walker.resume(&self.cpu, gva);
                    return walker;
                }
            }
        }
        Walker::new(&self.cpu, gva)
    }

    /// A page fault drops what was cached for the address (SDM vol. 3, 4.10.4.1).
    fn forget_path(&mut self, gva: u64) {
        self.tlb.remove(&(gva >> 12));
        for level in 1..=4 {
            self.caches.remove(&(level, prefix(gva, level)));
        }
    }

    /// The control state in force.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    pub fn mode(&self) -> Mode {
        self.cpu.mode()
    }
}

/// The address bits that choose the table of `level`.
fn prefix(gva: u64, level: u32) -> u64 {
    gva >> (12 + 9 * level)
}
