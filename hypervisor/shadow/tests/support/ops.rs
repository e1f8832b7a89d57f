//! The operations of a random run, and the generator that makes likely-to-hurt ones.
//!
//! Everything an operation does is fixed when it is generated, so a list of operations can
//! be replayed, cut and printed as Rust source.

use super::reference::{
    A, Access, CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, CR4_PCIDE, CR4_PGE, CR4_PKE, CR4_PSE, CR4_SMAP,
    CR4_SMEP, D, EFER_LME, EFER_NXE, G, Mode, Op as AccessOp, P, PS, RW, US, XD,
};
use super::rng::Rng;

/// One step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Nothing: what shrinking leaves behind.
    Nop,
    /// An instruction of vCPU `vcpu` touches `gva`; a write stores what [`Shape::stored`]
    /// makes of `value`.
    Access { vcpu: usize, gva: u64, access: Access, value: u64 },
    /// A device or the emulator writes guest memory through the one door.
    Poke { gpa: u64, value: u64 },
    /// INVLPG on one vCPU.
    Invlpg { vcpu: usize, gva: u64 },
    /// MOV CR3 to table frame `root`.
    Cr3 { vcpu: usize, root: u64 },
    /// New CR0, CR4, EFER and PKRU, in one step.
    Control { vcpu: usize, cr0: u64, cr4: u64, efer: u64, pkru: u32 },
    /// The vCPU leaves guest mode or enters it.
    Park { vcpu: usize },
    /// A slot goes, or comes back with the given frames and flags.
    Slot { slot: usize, place: Place },
    /// Everything goes.
    ZapAll,
    /// One slice of background work on a vCPU that is outside of the guest.
    Reclaim { budget: u32 },
    /// The next `after` frame requests succeed, the one after them fails.
    StarveFrames { after: u32 },
    /// Another quota: so many pages above the least.
    Quota { spare: u32 },
    /// Dirty log on or off, or harvest.
    DirtyLog { slot: usize, action: LogAction },
}

/// Where a slot's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Gone,
    /// At its home address, backed by bank `bank` of host memory.
    Home {
        bank: u64,
        read_only: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogAction {
    On,
    Off,
    Harvest,
}

/// Frames 0..TABLES of guest memory hold page tables.
pub const TABLES: u64 = 20;
/// Frames 0..SMALL are slot 0.
pub const SMALL: u64 = 64;
/// Slot 1: 4 MiB at 4 MiB, so that 2 MiB and 4 MiB pages fit.
pub const BIG: core::ops::Range<u64> = 1024..2048;
/// Slot 2: a few frames inside the 2 MiB range above slot 0.
pub const TAIL: core::ops::Range<u64> = 96..104;

/// What a generator knows about the run.
#[derive(Clone, Debug)]
pub struct Shape {
    pub mode: Mode,
    pub vcpus: usize,
    /// Addresses that most accesses go to, so that what is cached is used again.
    hot: Vec<u64>,
    /// Operations until slot 0, which holds the tables, comes back.
    absent: u32,
}

impl Shape {
    pub fn new(mode: Mode, vcpus: usize) -> Self {
        Self { mode, vcpus, hot: Vec::new(), absent: 0 }
    }

    /// Chooses the hot addresses.
    pub fn warm(&mut self, rng: &mut Rng) {
        self.hot = (0..12).map(|_| self.gva(rng)).collect();
    }

    pub fn levels(&self) -> u32 {
        match self.mode {
            Mode::Off => 0,
            Mode::Bits32 | Mode::Pae => 2,
            Mode::Level4 => 4,
            Mode::Level5 => 5,
        }
    }

    pub fn entry_bytes(&self) -> u64 {
        if self.mode == Mode::Bits32 { 4 } else { 8 }
    }

    /// Control registers of the mode with every optional feature off.
    pub fn controls(&self) -> (u64, u64, u64) {
        Self::controls_of(self.mode)
    }

    fn controls_of(mode: Mode) -> (u64, u64, u64) {
        match mode {
            Mode::Off => (1, 0, 0),
            Mode::Bits32 => (CR0_PG | 1, 0, 0),
            Mode::Pae => (CR0_PG | 1, CR4_PAE, 0),
            Mode::Level4 => (CR0_PG | 1, CR4_PAE, EFER_LME),
            Mode::Level5 => (CR0_PG | 1, CR4_PAE | CR4_LA57, EFER_LME),
        }
    }

    /// The table indices that runs use at `level`: few, so that tables collide.
    pub fn indices(&self, level: u32) -> &'static [u64] {
        match (self.mode, level) {
            (Mode::Bits32, 1) => &[0, 1, 2, 511, 512, 1023],
            (Mode::Bits32, _) => &[0, 1, 2, 255, 256, 768, 1023],
            (_, 1) => &[0, 1, 2, 3, 8, 511],
            (_, 2) => &[0, 1, 511],
            (_, 3) => &[0, 1],
            _ => &[0, 511],
        }
    }

    /// The table frames usually used at `level`; any frame may serve at any level.
    pub fn tables(&self, level: u32) -> core::ops::Range<u64> {
        let top = self.levels();
        let per = TABLES / u64::from(top.max(1));
        let first = u64::from(top - level) * per;
        first..first + per
    }

    /// An address built of the usual indices.
    pub fn gva(&self, rng: &mut Rng) -> u64 {
        let offset = self.offset(rng);
        match self.mode {
            Mode::Off => {
                rng.pick(&[0, 1, 5, 20, 63, 64, 96, 103, 1024, 1500, 2047, 2048]) << 12 | offset
            }
            Mode::Bits32 => {
                let high = rng.pick(self.indices(2));
                let low = rng.pick(self.indices(1));
                high << 22 | low << 12 | offset
            }
            Mode::Pae => {
                let top = rng.pick(&[0, 0, 1, 3]);
                let high = rng.pick(self.indices(2));
                let low = rng.pick(self.indices(1));
                top << 30 | high << 21 | low << 12 | offset
            }
            Mode::Level4 | Mode::Level5 => {
                let mut gva = offset;
                for level in 1..=self.levels() {
                    gva |= rng.pick(self.indices(level)) << (12 + 9 * (level - 1));
                }
                let sign = if self.mode == Mode::Level4 { 16 } else { 7 };
                ((gva << sign) as i64 >> sign) as u64
            }
        }
    }

    /// An offset in a page that, in a table, is an entry in use.
    fn offset(&self, rng: &mut Rng) -> u64 {
        let level = 1 + rng.below(u64::from(self.levels().max(1))) as u32;
        rng.pick(self.indices(level)) * self.entry_bytes() & 0xfff
    }

    /// An entry for a table of `level`.
    pub fn entry(&self, level: u32, rng: &mut Rng) -> u64 {
        let mut raw = 0;
        let odds = if level > 1 { 252 } else { 232 };
        for bit in [P, RW, US] {
            if rng.chance(odds, 256) {
                raw |= bit;
            }
        }
        for (bit, of_16) in [(A, 9), (D, 9), (G, 2)] {
            if rng.chance(of_16, 16) {
                raw |= bit;
            }
        }
        let large = level > 1 && level < 4 && rng.chance(1, if level == 3 { 30 } else { 8 });
        raw |= if large {
            PS | self.large_target(level, rng)
        } else if level > 1 {
            self.table_target(level, rng)
        } else {
            leaf_target(rng)
        };
        self.high_bits(raw, level, rng)
    }

    fn large_target(&self, level: u32, rng: &mut Rng) -> u64 {
        match (self.mode, level) {
            (Mode::Bits32, _) => rng.pick(&[0, 1024, 1024, 2048]) << 12,
            (_, 2) => rng.pick(&[0, 1024, 1536, 1024, 2048]) << 12,
            (_, 3) => rng.pick(&[0, 0, 0x40000]) << 12,
            _ => 0,
        }
    }

    fn table_target(&self, level: u32, rng: &mut Rng) -> u64 {
        let pool = if rng.chance(63, 64) { self.tables(level - 1) } else { 0..TABLES };
        (pool.start + rng.below(pool.end - pool.start)) << 12
    }

    fn high_bits(&self, mut raw: u64, level: u32, rng: &mut Rng) -> u64 {
        if rng.chance(1, 150) {
            // Something reserved, or ignored, or a large page where none can be.
            raw ^= rng.pick(&[PS, 1 << 13, 1 << 20, 1 << 21, 1 << 45, 1 << 51, 1 << 52, 1 << 62]);
        }
        if self.mode == Mode::Bits32 {
            return raw & 0xffff_ffff;
        }
        if rng.chance(1, if level > 1 { 40 } else { 8 }) {
            raw |= XD;
        }
        if self.mode != Mode::Pae && level <= 2 && rng.chance(1, 4) {
            raw |= rng.below(4) << 59;
        }
        raw
    }

    /// An address of an entry in use, and a value for it.
    pub fn edit(&self, rng: &mut Rng) -> (u64, u64) {
        let level = self.level(rng);
        let pool = if self.mode == Mode::Off { 0..TABLES } else { self.tables(level) };
        let frame = pool.start + rng.below(pool.end - pool.start);
        let index = rng.pick(self.indices(level));
        let raw = if rng.chance(1, 24) { 0 } else { self.entry(level, rng) };
        ((frame << 12) + index * self.entry_bytes(), raw)
    }

    /// What a store of `value` to `gpa` writes: where tables lie mostly an entry that makes
    /// sense there, made from `value` as a seed; `value` itself elsewhere.
    pub fn stored(&self, gpa: u64, value: u64) -> u64 {
        let frame = gpa >> 12;
        let mut rng = Rng::new(value);
        if rng.chance(1, 10) || self.mode == Mode::Off {
            return value;
        }
        if self.mode == Mode::Pae && frame == TABLES {
            return self.table_target(3, &mut rng) | P;
        }
        (1..=self.levels())
            .find(|&level| self.tables(level).contains(&frame))
            .map_or(value, |level| self.entry(level, &mut rng))
    }

    /// A level to change something at; half of all changes hit leaf tables.
    fn level(&self, rng: &mut Rng) -> u32 {
        if rng.chance(1, 2) { 1 } else { 1 + rng.below(u64::from(self.levels().max(1))) as u32 }
    }

    /// The edits that build a full tree of tables at the start of a run.
    pub fn initial(&self, rng: &mut Rng) -> Vec<(u64, u64)> {
        let mut edits = Vec::new();
        for level in (1..=self.levels()).rev() {
            for frame in self.tables(level) {
                for &index in self.indices(level) {
                    let at = (frame << 12) + index * self.entry_bytes();
                    edits.push((at, self.entry(level, rng) | P));
                }
            }
        }
        if self.mode == Mode::Pae {
            // Four PDPTEs in the page behind the level-2 tables' own: frame TABLES.
            for root in 0..4 {
                for index in 0..4 {
                    let target = self.table_target(3, rng);
                    edits.push(((TABLES << 12) + root * 32 + index * 8, target | P));
                }
            }
        }
        edits
    }

    /// A CR3 value.
    pub fn root(&self, rng: &mut Rng) -> u64 {
        match self.mode {
            Mode::Off => 0,
            Mode::Pae => (TABLES << 12) + rng.below(4) * 32,
            Mode::Bits32 => self.table_target(self.levels() + 1, rng),
            Mode::Level4 | Mode::Level5 => {
                let root = self.table_target(self.levels() + 1, rng);
                // A PCID, or a bit above the physical width, which is refused.
                root | rng.pick(&[0, 0, 0, 0, 0, 1, 2, 1 << 45])
            }
        }
    }

    fn access(rng: &mut Rng) -> Access {
        Access {
            op: rng.pick(&[
                AccessOp::Read,
                AccessOp::Read,
                AccessOp::Write,
                AccessOp::Write,
                AccessOp::Fetch,
            ]),
            cpl3: rng.chance(1, 2),
            implicit: rng.chance(1, 12),
            ac: rng.chance(1, 3),
        }
    }

    fn control(&self, rng: &mut Rng) -> (u64, u64, u64, u32) {
        // Now and then the guest runs in another mode on the same tables for a while.
        let mode = if rng.chance(1, 20) {
            rng.pick(&[Mode::Off, Mode::Bits32, Mode::Pae, Mode::Level4, Mode::Level5])
        } else {
            self.mode
        };
        let (mut cr0, mut cr4, mut efer) = Self::controls_of(mode);
        let mut flip = |bit: u64, of_8: u64, on: &mut u64| {
            if rng.chance(of_8, 8) {
                *on |= bit;
            }
        };
        flip(CR0_WP, 6, &mut cr0);
        flip(CR4_PSE, 6, &mut cr4);
        flip(CR4_PGE, 4, &mut cr4);
        flip(CR4_SMEP, 2, &mut cr4);
        flip(CR4_SMAP, 2, &mut cr4);
        if matches!(mode, Mode::Level4 | Mode::Level5) {
            flip(CR4_PKE, 3, &mut cr4);
            flip(CR4_PCIDE, 3, &mut cr4);
        }
        flip(EFER_NXE, 6, &mut efer);
        let pkru = rng.pick(&[0, 0, 0, 1 << 2, 1 << 3, 1 << 4, 0x5555_5554]);
        (cr0, cr4, efer, pkru)
    }

    fn hot_gva(&self, rng: &mut Rng) -> u64 {
        if self.hot.is_empty() || rng.chance(1, 5) {
            self.gva(rng)
        } else {
            self.hot[rng.below(self.hot.len() as u64) as usize]
        }
    }

    /// The next operation.
    pub fn op(&mut self, rng: &mut Rng) -> Op {
        let op = self.any_op(rng);
        if self.absent > 0 {
            self.absent -= 1;
            if self.absent == 0 {
                let place = Place::Home { bank: rng.below(3), read_only: false };
                return Op::Slot { slot: 0, place };
            }
        }
        if op == (Op::Slot { slot: 0, place: Place::Gone }) {
            self.absent = 1 + rng.below(40) as u32;
        }
        op
    }

    fn any_op(&self, rng: &mut Rng) -> Op {
        let vcpu = rng.below(self.vcpus as u64) as usize;
        match rng.below(1000) {
            0..680 => {
                let level = self.level(rng);
                Op::Access {
                    vcpu,
                    gva: self.hot_gva(rng),
                    access: Self::access(rng),
                    value: self.entry(level, rng),
                }
            }
            680..800 => {
                let (gpa, value) = self.edit(rng);
                Op::Poke { gpa, value }
            }
            800..880 => Op::Invlpg { vcpu, gva: self.hot_gva(rng) },
            880..930 => Op::Cr3 { vcpu, root: self.root(rng) },
            930..945 => {
                let (cr0, cr4, efer, pkru) = self.control(rng);
                Op::Control { vcpu, cr0, cr4, efer, pkru }
            }
            945..955 => Op::Park { vcpu },
            955..963 => Op::Slot { slot: rng.pick(&[0, 1, 1, 2, 2]), place: Self::place(rng) },
            963..970 => Op::ZapAll,
            970..980 => Op::Reclaim { budget: rng.below(8) as u32 },
            980..986 => Op::StarveFrames { after: rng.below(4) as u32 },
            986..989 => Op::Quota { spare: rng.pick(&[0, 1, 8, 24]) },
            _ => Op::DirtyLog {
                slot: rng.below(3) as usize,
                action: rng.pick(&[
                    LogAction::On,
                    LogAction::Off,
                    LogAction::Harvest,
                    LogAction::Harvest,
                ]),
            },
        }
    }

    fn place(rng: &mut Rng) -> Place {
        if rng.chance(1, 5) {
            Place::Gone
        } else {
            Place::Home { bank: rng.below(3), read_only: rng.chance(1, 5) }
        }
    }
}

fn leaf_target(rng: &mut Rng) -> u64 {
    let frame = match rng.below(16) {
        0..5 => rng.below(TABLES),
        5..11 => rng.below(SMALL),
        11..13 => BIG.start + rng.pick(&[0, 1, 511, 512, 1023]),
        13 => TAIL.start + rng.below(8),
        _ => rng.pick(&[64, 80, 95, 104, 2048, 0xfee00]),
    };
    frame << 12
}
