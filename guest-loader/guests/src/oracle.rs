//! What the architecture says an access does: a walk of the guest's own tables, written
//! from the manual alone, for guests that check the machine against it.
//!
//! Source: SDM vol. 3, 4.3–4.5 "… Paging", 4.6 "Access Rights", 4.7 "Page-Fault
//! Exceptions", 4.8 "Accessed and Dirty Flags".

use crate::format::Format;
use crate::memory::read;
use crate::paging::bits::{A, ADDRESS, D, KEY_SHIFT, NX, P, PS, U, W};
use crate::probe::{Access, Kind, Outcome};

/// Error-code bits of a page fault (SDM vol. 3, figure 4-12).
pub mod code {
    /// The entry was present.
    pub const P: u32 = 1 << 0;
    /// A write.
    pub const W: u32 = 1 << 1;
    /// An access by privilege level 3.
    pub const U: u32 = 1 << 2;
    /// A reserved bit was set.
    pub const RSVD: u32 = 1 << 3;
    /// An instruction fetch.
    pub const I: u32 = 1 << 4;
    /// A protection key forbade it.
    pub const PK: u32 = 1 << 5;
}

/// The control bits that decide what an access may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// CR0.WP.
    pub wp: bool,
    /// EFER.NXE.
    pub nxe: bool,
    /// CR4.SMEP.
    pub smep: bool,
    /// CR4.SMAP.
    pub smap: bool,
    /// CR4.PSE.
    pub pse: bool,
    /// PKRU, where CR4.PKE is set.
    pub pkru: Option<u32>,
}

/// What the processor is.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// The tables' form.
    pub format: Format,
    /// Bits of a physical address.
    pub physical_bits: u32,
    /// Whether 1 GiB pages exist.
    pub gigabyte_pages: bool,
    /// The control bits.
    pub controls: Controls,
}

/// An entry that the walk read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step {
    /// Its address.
    pub at: u64,
    /// What it held before the access.
    pub before: u64,
    /// Bits that the access sets.
    pub must: u64,
    /// Bits that it may set besides: A, where a later entry made it fault.
    pub may: u64,
}

/// What an access must come to.
#[derive(Clone, Copy, Debug)]
pub struct Prediction {
    /// The physical address reached, or the error code of the page fault.
    pub result: Result<u64, u32>,
    /// The entries read, topmost first.
    pub steps: [Step; 5],
    /// How many they are.
    pub used: usize,
}

/// The rights that all entries so far grant.
struct Rights {
    write: bool,
    user: bool,
    execute: bool,
}

impl Model {
    /// What `access` does by the tables at `root` (CR3).
    pub fn predict(&self, root: u64, access: &Access) -> Prediction {
        let levels = self.format.levels();
        let mut prediction = Prediction { result: Err(0), steps: [Step::default(); 5], used: 0 };
        prediction.result =
            self.walk(root, levels, access, &mut prediction.steps, &mut prediction.used);
        prediction.mark(access, self.format == Format::Pae);
        prediction
    }

    fn walk(
        &self,
        root: u64,
        levels: u32,
        access: &Access,
        steps: &mut [Step; 5],
        used: &mut usize,
    ) -> Result<u64, u32> {
        let mut rights = Rights { write: true, user: true, execute: true };
        let mut table = root;
        for level in (1..=levels).rev() {
            let step = self.read(table, access.address, level);
            steps[*used] = step;
            *used += 1;
            let entry = step.before;
            if entry & P == 0 {
                return Err(self.error(0, access));
            }
            let page = level == 1 || self.is_large(entry, level);
            // The registers of PAE were checked when CR3 was loaded (SDM vol. 3, 4.4.1).
            let register = self.format == Format::Pae && level == 3;
            if !register && entry & self.reserved(level, page && level > 1) != 0 {
                return Err(self.error(code::P | code::RSVD, access));
            }
            if !register {
                rights.write &= entry & W != 0;
                rights.user &= entry & U != 0;
                rights.execute &= entry & NX == 0;
            }
            if page {
                self.check(&rights, entry, access)?;
                return Ok(self.target(entry, access.address, level));
            }
            table = entry & ADDRESS;
        }
        unreachable!("level 1 is always a page")
    }

    fn read(&self, table: u64, address: u64, level: u32) -> Step {
        let before;
        let at;
        if self.format == Format::TwoLevel {
            at = table + 4 * (address >> (12 + 10 * (level - 1)) & 1023);
            before = read::<u32>(at).into();
        } else {
            at = table + 8 * (address >> (12 + 9 * (level - 1)) & 511);
            before = read(at);
        }
        Step { at, before, must: 0, may: 0 }
    }

    fn is_large(&self, entry: u64, level: u32) -> bool {
        let exists = match (self.format, level) {
            (Format::TwoLevel, 2) => self.controls.pse,
            (Format::TwoLevel, _) => false,
            (_, 2) => true,
            (Format::Four | Format::Five, 3) => self.gigabyte_pages,
            _ => false,
        };
        exists && entry & PS != 0
    }

    fn reserved(&self, level: u32, large: bool) -> u64 {
        if self.format == Format::TwoLevel {
            // Bits 20:13 hold address bits 39:32, so far as the width reaches; bit 21 is reserved.
            let used = self.physical_bits.clamp(32, 40) - 32;
            return if large { 1 << 21 | (0xff << (13 + used) & 0x001f_e000) } else { 0 };
        }
        let mut reserved = ADDRESS & !((1 << self.physical_bits) - 1);
        if !self.controls.nxe {
            reserved |= NX;
        }
        match (self.format, level) {
            (Format::Pae, _) => reserved |= 0x7ff << 52,
            (_, 4 | 5) => reserved |= PS,
            (_, 3) if !self.gigabyte_pages => reserved |= PS,
            _ => {}
        }
        match (large, level) {
            (true, 2) => reserved | 0x001f_e000,
            (true, 3) => reserved | 0x3fff_e000,
            _ => reserved,
        }
    }

    /// SDM vol. 3, 4.6.1 "Determination of Access Rights", 4.6.2 "Protection Keys".
    fn check(&self, rights: &Rights, entry: u64, access: &Access) -> Result<(), u32> {
        let Controls { wp, nxe, smep, smap, .. } = self.controls;
        let fetch = access.kind == Kind::Fetch;
        let write = access.kind.writes();
        let user = is_user(access);
        let implicit = access.kind == Kind::Descriptor;
        let forbidden = if fetch {
            user && !rights.user || !user && smep && rights.user || nxe && !rights.execute
        } else if user {
            !rights.user || write && !rights.write
        } else {
            write && wp && !rights.write || smap && rights.user && (implicit || !access.ac)
        };
        let key_forbids = !fetch && rights.user && self.key_forbids(entry, write, user);
        if !forbidden && !key_forbids {
            return Ok(());
        }
        let key = if key_forbids { code::PK } else { 0 };
        Err(self.error(code::P | key, access))
    }

    fn key_forbids(&self, entry: u64, write: bool, user: bool) -> bool {
        // Keys are an affair of 4-level and 5-level paging (SDM vol. 3, 4.6.2).
        let Some(pkru) = self.controls.pkru.filter(|_| self.format.is_long()) else {
            return false;
        };
        let rights = pkru >> (2 * (entry >> KEY_SHIFT & 15)) & 3;
        rights & 1 != 0 || write && rights & 2 != 0 && (user || self.controls.wp)
    }

    fn target(&self, entry: u64, address: u64, level: u32) -> u64 {
        let narrow = self.format == Format::TwoLevel;
        let offset = (1u64 << (12 + if narrow { 10 } else { 9 } * (level - 1))) - 1;
        if narrow && level == 2 {
            return entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32 | address & offset;
        }
        entry & ADDRESS & !offset | address & offset
    }

    fn error(&self, cause: u32, access: &Access) -> u32 {
        let Controls { nxe, smep, .. } = self.controls;
        let tells_fetches = smep || nxe && self.format != Format::TwoLevel;
        let fetch = access.kind == Kind::Fetch && tells_fetches;
        let with = |bit, holds| if holds { bit } else { 0 };
        cause
            | with(code::W, access.kind.writes())
            | with(code::U, is_user(access))
            | with(code::I, fetch)
    }
}

/// The processor reads descriptors with the kernel's rights.
fn is_user(access: &Access) -> bool {
    access.user && access.kind != Kind::Descriptor
}

impl Prediction {
    /// A in every entry used, D in the last for a write. Where the access faults, the
    /// processor may have set A in the entries that led to tables.
    fn mark(&mut self, access: &Access, topmost_are_registers: bool) {
        let last = self.used - 1;
        let reached = self.result.is_ok();
        for (index, step) in self.steps[..self.used].iter_mut().enumerate() {
            if index == 0 && topmost_are_registers {
                continue;
            }
            if reached {
                step.must |= A;
            } else if index < last {
                step.may |= A;
            }
        }
        if reached && access.kind.writes() {
            self.steps[last].must |= D;
        }
    }

    /// Whether `outcome` is what was predicted.
    pub fn agrees(&self, access: &Access, outcome: &Outcome) -> bool {
        match self.result {
            Ok(_) => outcome.is_done(),
            Err(code) => outcome.page_fault_at(access.address) == Some(code),
        }
    }

    /// The first entry that does not hold now what it must, and its value.
    pub fn wrong_entry(&self, format: Format) -> Option<(Step, u64)> {
        let now = |at| match format {
            Format::TwoLevel => read::<u32>(at).into(),
            _ => read::<u64>(at),
        };
        let steps = self.steps[..self.used].iter();
        steps.map(|step| (*step, now(step.at))).find(|(step, now)| {
            let want = step.before | step.must;
            (now | step.may) != (want | step.may) || now & want != want
        })
    }
}
