//! The reference walker: address translation written down from the manuals.
//!
//! It shares nothing with the engine, on purpose: own types, own masks, own
//! arithmetic, integers for addresses. It is slow and plain, one step at a time,
//! so that each line can be held against the manual:
//!
//! - Intel SDM vol. 3, chapter 4 "Paging" (revision 084): 4.3 "32-Bit Paging",
//!   4.4 "PAE Paging", 4.5 "4-Level Paging and 5-Level Paging", 4.6 "Access
//!   Rights", 4.7 "Page-Fault Exceptions", 4.8 "Accessed and Dirty Flags".
//! - AMD APM vol. 2, chapter 5 "Page Translation and Protection" (revision 3.41).
//!
//! The walk is a machine that is fed entries ([`Walker::feed`]) instead of a
//! function that reads memory, so that the oracle can also walk through *former*
//! values of an entry: that is what a TLB may legally have cached.

/// CR0.WP: supervisor writes respect read-only pages.
pub const CR0_WP: u64 = 1 << 16;
/// CR0.PG: paging.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.PSE: 4 MiB pages in 32-bit paging.
pub const CR4_PSE: u64 = 1 << 4;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.PGE: global pages.
pub const CR4_PGE: u64 = 1 << 7;
/// CR4.LA57: five levels.
pub const CR4_LA57: u64 = 1 << 12;
/// CR4.PCIDE: process-context identifiers.
pub const CR4_PCIDE: u64 = 1 << 17;
/// CR4.SMEP.
pub const CR4_SMEP: u64 = 1 << 20;
/// CR4.SMAP.
pub const CR4_SMAP: u64 = 1 << 21;
/// CR4.PKE: protection keys for user pages.
pub const CR4_PKE: u64 = 1 << 22;
/// EFER.LME.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.NXE.
pub const EFER_NXE: u64 = 1 << 11;

/// Page-fault error code bits. SDM vol. 3, 4.7, figure 4-12.
pub const PF_P: u32 = 1 << 0;
/// The access was a write.
pub const PF_W: u32 = 1 << 1;
/// The access was a user-mode access.
pub const PF_U: u32 = 1 << 2;
/// A reserved bit was set in a present entry.
pub const PF_RSVD: u32 = 1 << 3;
/// The access was an instruction fetch.
pub const PF_I: u32 = 1 << 4;
/// A protection key forbade the access.
pub const PF_PK: u32 = 1 << 5;

/// Entry bits, the same in all formats.
pub const P: u64 = 1 << 0;
/// Writable.
pub const RW: u64 = 1 << 1;
/// User.
pub const US: u64 = 1 << 2;
/// Accessed.
pub const A: u64 = 1 << 5;
/// Dirty.
pub const D: u64 = 1 << 6;
/// Page size.
pub const PS: u64 = 1 << 7;
/// Global.
pub const G: u64 = 1 << 8;
/// Execute disable.
pub const XD: u64 = 1 << 63;

/// The control state that a translation depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub pkru: u32,
    /// The PDPTE registers of PAE paging, loaded by MOV CR3 (SDM 4.4.1).
    pub pdptes: [u64; 4],
    /// CPUID.80000008H:EAX\[7:0\].
    pub maxphyaddr: u32,
    /// CPUID.80000001H:EDX.Page1GB.
    pub gib_pages: bool,
    /// CPUID.1:EDX.PSE-36.
    pub pse36: bool,
    /// AMD: bit 8 of a PML4E and PML5E must be zero (APM vol. 2, 5.3.3, figures 5-18, 5-20).
    pub amd_mbz: bool,
}

/// SDM vol. 3, 4.1.1 "Four Paging Modes".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Off,
    Bits32,
    Pae,
    Level4,
    Level5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    Write,
    Fetch,
}

/// One access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub op: Op,
    /// CPL = 3.
    pub cpl3: bool,
    /// The processor accesses a system structure: a supervisor access at any CPL (SDM 4.6).
    pub implicit: bool,
    /// EFLAGS.AC.
    pub ac: bool,
}

/// A paging-structure entry that the walk wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef {
    pub gpa: u64,
    /// 4 or 8.
    pub bytes: u32,
    /// 1 is the table that can only hold 4 KiB leaves.
    pub level: u32,
}

/// What the walk has found once it needs no further entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Leaf(Leaf),
    NotPresent,
    Reserved,
    /// The address is not canonical: #GP or #SS, never #PF.
    NonCanonical,
}

/// A translation with the rights combined over all levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub gpa: u64,
    /// log2 of the page's size.
    pub shift: u32,
    pub writable: bool,
    pub user: bool,
    pub nx: bool,
    pub global: bool,
    pub pkey: u32,
    /// D of the leaf entry as it was read.
    pub dirty: bool,
    /// A of every entry used, as they were read, combined by AND.
    pub accessed: bool,
}

/// An entry the walk has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visited {
    pub at: EntryRef,
    pub raw: u64,
    pub leaf: bool,
}

/// The walk so far.
#[derive(Clone, Copy, Debug)]
pub struct Walker {
    cpu: Cpu,
    mode: Mode,
    gva: u64,
    level: u32,
    table: u64,
    writable: bool,
    user: bool,
    nx: bool,
    accessed: bool,
    visited: [Option<Visited>; 5],
    end: Option<End>,
}

/// The architecture's answer to an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Ok(Leaf),
    /// #PF with this error code.
    PageFault(u32),
    NonCanonical,
}

/// The answer, and what the walk did to the entries.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    pub answer: Answer,
    visited: [Option<Visited>; 5],
    write: bool,
}

impl Cpu {
    pub fn mode(&self) -> Mode {
        if self.cr0 & CR0_PG == 0 {
            Mode::Off
        } else if self.cr4 & CR4_PAE == 0 {
            Mode::Bits32
        } else if self.efer & EFER_LME == 0 {
            Mode::Pae
        } else if self.cr4 & CR4_LA57 == 0 {
            Mode::Level4
        } else {
            Mode::Level5
        }
    }

    fn nxe(&self) -> bool {
        self.efer & EFER_NXE != 0
    }

    /// Bits `high:low`, empty when `high < low`.
    fn field(high: u32, low: u32) -> u64 {
        if high < low {
            return 0;
        }
        (u64::MAX >> (63 - high)) & (u64::MAX << low)
    }

    /// Whether MOV CR3 accepts the PDPTEs (SDM 4.4.1): else #GP.
    pub fn pdptes_loadable(&self, pdptes: [u64; 4]) -> bool {
        // Table 4-8: bits 2:1, 8:5 and 63:MAXPHYADDR are reserved.
        let reserved = 0b110 | Self::field(8, 5) | Self::field(63, self.maxphyaddr);
        pdptes.iter().all(|pdpte| pdpte & P == 0 || pdpte & reserved == 0)
    }
}

impl Access {
    /// SDM 4.6.1: user-mode accesses are those at CPL 3 that are not implicit.
    pub fn user(self) -> bool {
        self.cpl3 && !self.implicit
    }
}

impl Walker {
    pub fn new(cpu: &Cpu, gva: u64) -> Self {
        let mode = cpu.mode();
        let mut walker = Self {
            cpu: *cpu,
            mode,
            gva,
            level: 0,
            table: 0,
            writable: true,
            user: true,
            nx: false,
            accessed: true,
            visited: [None; 5],
            end: None,
        };
        match mode {
            Mode::Off => {
                walker.gva &= 0xffff_ffff;
                walker.end = Some(End::Leaf(Leaf {
                    gpa: walker.gva,
                    shift: 12,
                    writable: true,
                    user: true,
                    nx: false,
                    global: false,
                    pkey: 0,
                    dirty: true,
                    accessed: true,
                }));
            }
            Mode::Bits32 => {
                walker.gva &= 0xffff_ffff;
                walker.level = 2;
                walker.table = cpu.cr3 & 0xffff_f000;
            }
            Mode::Pae => {
                walker.gva &= 0xffff_ffff;
                // SDM 4.4.2: bits 31:30 choose a PDPTE register; it carries no rights.
                let pdpte = cpu.pdptes[(walker.gva >> 30) as usize];
                walker.level = 2;
                walker.table = pdpte & Cpu::field(cpu.maxphyaddr - 1, 12);
                if pdpte & P == 0 {
                    walker.end = Some(End::NotPresent);
                }
            }
            Mode::Level4 => walker.start_long(4, 47),
            Mode::Level5 => walker.start_long(5, 56),
        }
        walker
    }

    /// Goes on for another address that shares the entries fed so far, as a
    /// paging-structure cache lets a processor do.
    pub fn resume(&mut self, cpu: &Cpu, gva: u64) {
        self.cpu = *cpu;
        self.gva = match self.mode {
            Mode::Level4 | Mode::Level5 => gva,
            _ => gva & 0xffff_ffff,
        };
        self.visited = [None; 5];
    }

    fn start_long(&mut self, level: u32, sign: u32) {
        let upper = (self.gva as i64) >> sign;
        if upper != 0 && upper != -1 {
            self.end = Some(End::NonCanonical);
        }
        self.level = level;
        self.table = self.cpu.cr3 & Cpu::field(self.cpu.maxphyaddr - 1, 12);
    }

    /// The entry to feed next, or how the walk ended.
    pub fn state(&self) -> Result<EntryRef, End> {
        if let Some(end) = self.end {
            return Err(end);
        }
        let (bytes, index) = if self.mode == Mode::Bits32 {
            let shift = 12 + 10 * (self.level - 1);
            (4, (self.gva >> shift) & 0x3ff)
        } else {
            let shift = 12 + 9 * (self.level - 1);
            (8, (self.gva >> shift) & 0x1ff)
        };
        Ok(EntryRef { gpa: self.table + index * bytes, bytes: bytes as u32, level: self.level })
    }

    /// Continues with `raw` as the value of the entry that [`Self::state`] asked for.
    pub fn feed(&mut self, raw: u64) {
        let Ok(at) = self.state() else {
            panic!("the walk is over");
        };
        if raw & P == 0 {
            self.end = Some(End::NotPresent);
            return;
        }
        let leaf = self.is_leaf(raw);
        if raw & self.reserved(leaf) != 0 {
            self.end = Some(End::Reserved);
            return;
        }
        self.visited[5 - self.level as usize] = Some(Visited { at, raw, leaf });
        self.writable &= raw & RW != 0;
        self.user &= raw & US != 0;
        self.nx |= self.mode != Mode::Bits32 && self.cpu.nxe() && raw & XD != 0;
        self.accessed &= raw & A != 0;
        if leaf {
            self.end = Some(End::Leaf(self.leaf(raw)));
        } else {
            self.table = match self.mode {
                Mode::Bits32 => raw & 0xffff_f000,
                _ => raw & Cpu::field(self.cpu.maxphyaddr - 1, 12),
            };
            self.level -= 1;
        }
    }

    fn is_leaf(&self, raw: u64) -> bool {
        let ps = raw & PS != 0;
        match (self.mode, self.level) {
            (_, 1) => true,
            // SDM table 4-4: PS is ignored unless CR4.PSE = 1.
            (Mode::Bits32, 2) => ps && self.cpu.cr4 & CR4_PSE != 0,
            (Mode::Pae | Mode::Level4 | Mode::Level5, 2) => ps,
            (Mode::Level4 | Mode::Level5, 3) => ps && self.cpu.gib_pages,
            _ => false,
        }
    }

    /// The bits that must be zero in this present entry.
    fn reserved(&self, leaf: bool) -> u64 {
        let m = self.cpu.maxphyaddr;
        let xd = if self.cpu.nxe() { 0 } else { XD };
        match self.mode {
            Mode::Off => 0,
            Mode::Bits32 => {
                if self.level == 2 && leaf {
                    // SDM table 4-4: bits 21:(M-19), with M = min(40, MAXPHYADDR);
                    // all of 21:13 without PSE-36.
                    let low = if self.cpu.pse36 { m.min(40) - 19 } else { 13 };
                    Cpu::field(21, low)
                } else {
                    0
                }
            }
            Mode::Pae => {
                // SDM tables 4-9, 4-10, 4-11: 62:MAXPHYADDR, and XD while NXE = 0.
                let mut mask = Cpu::field(62, m) | xd;
                if self.level == 2 && leaf {
                    mask |= Cpu::field(20, 13);
                }
                mask
            }
            Mode::Level4 | Mode::Level5 => {
                // SDM tables 4-14 to 4-20: 51:MAXPHYADDR, and XD while NXE = 0.
                let mut mask = Cpu::field(51, m) | xd;
                match self.level {
                    5 | 4 => {
                        mask |= PS;
                        if self.cpu.amd_mbz {
                            mask |= G;
                        }
                    }
                    3 if leaf => mask |= Cpu::field(29, 13),
                    3 if !self.cpu.gib_pages => mask |= PS,
                    2 if leaf => mask |= Cpu::field(20, 13),
                    _ => {}
                }
                mask
            }
        }
    }

    fn leaf(&self, raw: u64) -> Leaf {
        let m = self.cpu.maxphyaddr;
        let (shift, base) = match (self.mode, self.level) {
            (Mode::Bits32, 1) => (12, raw & 0xffff_f000),
            (Mode::Bits32, _) => {
                // SDM figure 4-3, table 4-4: bits 39:32 of the address are in bits 20:13.
                let low = raw & 0xffc0_0000;
                let high = (raw & Cpu::field(20, 13)) >> 13 << 32;
                (22, low | high)
            }
            (_, 1) => (12, raw & Cpu::field(m - 1, 12)),
            (_, 2) => (21, raw & Cpu::field(m - 1, 21)),
            (_, _) => (30, raw & Cpu::field(m - 1, 30)),
        };
        Leaf {
            gpa: base | (self.gva & ((1 << shift) - 1)),
            shift,
            writable: self.writable,
            user: self.user,
            nx: self.nx,
            global: raw & G != 0 && self.cpu.cr4 & CR4_PGE != 0,
            pkey: match self.mode {
                Mode::Level4 | Mode::Level5 => (raw >> 59 & 0xf) as u32,
                _ => 0,
            },
            dirty: raw & D != 0,
            accessed: self.accessed,
        }
    }

    /// What the architecture says to `access` at the end of the walk.
    pub fn conclude(&self, end: End, access: Access) -> Translation {
        let answer = match end {
            End::NonCanonical => Answer::NonCanonical,
            End::NotPresent => Answer::PageFault(base_code(&self.cpu, access)),
            End::Reserved => Answer::PageFault(base_code(&self.cpu, access) | PF_P | PF_RSVD),
            End::Leaf(leaf) if self.mode == Mode::Off => Answer::Ok(leaf),
            End::Leaf(leaf) => match check(&self.cpu, &leaf, access) {
                Ok(()) => Answer::Ok(leaf),
                Err(code) => Answer::PageFault(code),
            },
        };
        Translation { answer, visited: self.visited, write: access.op == Op::Write }
    }
}

impl Translation {
    /// Entries and the bits that must be set in them once the access has completed.
    ///
    /// SDM 4.8: A in every entry used, D in the leaf entry of a write.
    pub fn must_set(&self) -> impl Iterator<Item = (EntryRef, u64)> + '_ {
        let ok = matches!(self.answer, Answer::Ok(_));
        self.visited.iter().flatten().filter(move |_| ok).map(|visited| {
            let dirty = if visited.leaf && self.write { D } else { 0 };
            (visited.at, A | dirty)
        })
    }

    /// Entries and the bits that may become set because of the access: A may also be
    /// set by a walk that ends in a fault, D never.
    pub fn may_set(&self) -> impl Iterator<Item = (EntryRef, u64)> + '_ {
        let ok = matches!(self.answer, Answer::Ok(_));
        self.visited.iter().flatten().map(move |visited| {
            let dirty = if ok && visited.leaf && self.write { D } else { 0 };
            (visited.at, A | dirty)
        })
    }

    /// The entries that the walk used, from the root down.
    pub fn visited(&self) -> impl Iterator<Item = Visited> + '_ {
        self.visited.iter().flatten().copied()
    }
}

/// W/R, U/S and I/D: the bits that depend on the access alone (SDM 4.7).
fn base_code(cpu: &Cpu, access: Access) -> u32 {
    let mut code = 0;
    if access.op == Op::Write {
        code |= PF_W;
    }
    if access.user() {
        code |= PF_U;
    }
    let nx_possible = cpu.cr4 & CR4_PAE != 0 && cpu.nxe();
    if access.op == Op::Fetch && (cpu.cr4 & CR4_SMEP != 0 || nx_possible) {
        code |= PF_I;
    }
    code
}

/// The access rights of SDM 4.6.1 and the protection keys of 4.6.2.
///
/// # Errors
/// The error code of the page fault.
pub fn check(cpu: &Cpu, leaf: &Leaf, access: Access) -> Result<(), u32> {
    let allowed = if access.user() {
        user_access_allowed(leaf, access.op)
    } else {
        supervisor_access_allowed(cpu, leaf, access)
    };
    let key_denies = protection_key_denies(cpu, leaf, access);
    if allowed && !key_denies {
        return Ok(());
    }
    let key = if key_denies { PF_PK } else { 0 };
    Err(base_code(cpu, access) | PF_P | key)
}

fn user_access_allowed(leaf: &Leaf, op: Op) -> bool {
    match op {
        Op::Read => leaf.user,
        Op::Write => leaf.user && leaf.writable,
        Op::Fetch => leaf.user && !leaf.nx,
    }
}

fn supervisor_access_allowed(cpu: &Cpu, leaf: &Leaf, access: Access) -> bool {
    // "Data may be read (or written) from any user-mode address if SMAP = 0, or if
    // SMAP = 1, EFLAGS.AC = 1 and the access is explicit."
    let smap = cpu.cr4 & CR4_SMAP != 0;
    let data_of_user_ok = !smap || (access.ac && !access.implicit);
    match access.op {
        Op::Read => !leaf.user || data_of_user_ok,
        Op::Write => {
            let wp = cpu.cr0 & CR0_WP != 0;
            (!leaf.user || data_of_user_ok) && (!wp || leaf.writable)
        }
        Op::Fetch => {
            let smep = cpu.cr4 & CR4_SMEP != 0;
            // As the manual says it: SMEP forbids what a user page would permit.
            !leaf.nx && (!leaf.user || !smep)
        }
    }
}

fn protection_key_denies(cpu: &Cpu, leaf: &Leaf, access: Access) -> bool {
    let active = matches!(cpu.mode(), Mode::Level4 | Mode::Level5) && cpu.cr4 & CR4_PKE != 0;
    if !active || !leaf.user || access.op == Op::Fetch {
        return false;
    }
    let ad = cpu.pkru >> (2 * leaf.pkey) & 1 != 0;
    let wd = cpu.pkru >> (2 * leaf.pkey + 1) & 1 != 0;
    let write_checked = access.user() || cpu.cr0 & CR0_WP != 0;
    ad || (wd && access.op == Op::Write && write_checked)
}

/// Walks with entries read by `read`. `None` from it (no memory there) reads as zero: the
/// architecture leaves it open, and this is the engine's documented choice.
pub fn translate(
    cpu: &Cpu,
    gva: u64,
    access: Access,
    mut read: impl FnMut(EntryRef) -> Option<u64>,
) -> Translation {
    let mut walker = Walker::new(cpu, gva);
    loop {
        match walker.state() {
            Ok(at) => {
                walker.feed(read(at).unwrap_or(0));
            }
            Err(end) => return walker.conclude(end, access),
        }
    }
}
