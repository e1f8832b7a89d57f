//! The walk of the guest's own page tables, as the hardware does it.
//!
//! Under nested paging the hardware tells where an access lands only when the nested
//! tables stop it. Instruction bytes and further operands have to be found by hand.
//! What the hardware permits counts, not what CPUID shows: 1 GiB pages work even
//! where they are hidden.
//!
//! Source: SDM vol. 3, 4.3 "32-Bit Paging", 4.4 "PAE Paging", 4.5 "4-Level Paging
//! and 5-Level Paging", 4.6 "Access Rights", 4.7 "Page-Fault Exceptions".

use super::{AccessError, GuestMemory, HostMemory};
use anchorite_addr::{Gpa, Gva, Hpa};
use anchorite_shadow::{Access, Cr0, Cr4, Efer, ErrorCode, PageFault, PagingMode, Registers};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Entries on the longest way: five levels.
pub(crate) const LONGEST: usize = 5;

/// Why a walk did not end at a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The guest's tables forbid the access.
    Fault(PageFault),
    /// One of the guest's tables lies where there is no memory.
    NoTable(AccessError),
}

/// An entry that a walk read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: Hpa,
    pub(crate) value: u64,
    gpa: Gpa,
    /// A and D bits that the access sets there.
    marks: u64,
}

/// Where an access lands, and the entries that say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The byte accessed.
    pub gpa: Gpa,
    steps: [Step; LONGEST],
    used: u8,
    /// Entries have 8 bytes rather than 4.
    pub(crate) wide: bool,
}

impl Walk {
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps[..self.used as usize]
    }
}

/// The rights found so far: what every entry on the way grants.
#[derive(Clone, Copy)]
struct Rights {
    writable: bool,
    user: bool,
    executable: bool,
}

impl<M: HostMemory> GuestMemory<M> {
    /// Where `access` to `gva` lands by the guest's tables. Changes nothing.
    pub fn walk(
        &self,
        registers: &Registers,
        physical_bits: u32,
        gva: Gva,
        access: Access,
    ) -> Result<Walk, WalkError> {
        let mode = registers.mode();
        let gva = if mode.is_long() { gva } else { Gva::new(gva.as_u64() & 0xffff_ffff) };
        Walker { memory: self, registers, mode, physical_bits, gva, access }.walk()
    }

    /// Sets the accessed and dirty bits that the access of `walk` sets. `false` where
    /// an entry has changed since: walk again.
    pub fn mark(&mut self, walk: &Walk) -> Result<bool, AccessError> {
        for step in walk.steps() {
            if step.value & step.marks == step.marks {
                continue;
            }
            let marked = step.value | step.marks;
            let size = if walk.wide { 8 } else { 4 };
            if !self.compare_exchange(step.gpa, size, step.value, marked)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

struct Walker<'a, M> {
    memory: &'a GuestMemory<M>,
    registers: &'a Registers,
    mode: PagingMode,
    physical_bits: u32,
    gva: Gva,
    access: Access,
}

impl<M: HostMemory> Walker<'_, M> {
    fn walk(&self) -> Result<Walk, WalkError> {
        let (levels, wide) = match self.mode {
            PagingMode::None => return Ok(self.unpaged()),
            PagingMode::TwoLevel => (2, false),
            PagingMode::Pae => (3, true),
            PagingMode::FourLevel => (4, true),
            PagingMode::FiveLevel => (5, true),
        };
        let mut walk = Walk { wide, ..self.unpaged() };
        let mut rights = Rights { writable: true, user: true, executable: true };
        let (mut table, mut level) = (self.root(), levels);

        loop {
            let step = self.step(table, level, wide)?;
            walk.steps[walk.used as usize] = step;
            walk.used += 1;
            let large = self.is_large(step.value, level);
            self.check_present(step.value, level, large)?;
            if !(self.mode == PagingMode::Pae && level == 3) {
                rights.restrict(step.value);
            }
            if level == 1 || large {
                self.check_rights(rights, step.value)?;
                walk.gpa = self.target(step.value, level);
                self.set_marks(&mut walk);
                return Ok(walk);
            }
            table = step.value & FRAME;
            level -= 1;
        }
    }

    fn unpaged(&self) -> Walk {
        let none = Step { at: Hpa::new(0), value: 0, gpa: Gpa::new(0), marks: 0 };
        let gpa = Gpa::new(self.gva.as_u64());
        Walk { gpa, steps: [none; LONGEST], used: 0, wide: true }
    }

    fn root(&self) -> u64 {
        match self.mode {
            PagingMode::Pae => self.registers.cr3 & 0xffff_ffe0,
            PagingMode::FourLevel | PagingMode::FiveLevel => self.registers.cr3 & FRAME,
            PagingMode::TwoLevel | PagingMode::None => self.registers.cr3 & 0xffff_f000,
        }
    }

    fn step(&self, table: u64, level: u32, wide: bool) -> Result<Step, WalkError> {
        let (bits, bytes) = if wide { (9, 8) } else { (10, 4) };
        let index = self.gva.as_u64() >> (12 + bits * (level - 1)) & ((1 << bits) - 1);
        let gpa = Gpa::new(table + index * bytes);
        let missing = WalkError::NoTable(AccessError::NoMemory { gpa });
        let at = self.memory.slots().host_address(gpa).ok_or(missing)?;
        let host = self.memory.host();
        let value = if wide { host.load_u64(at) } else { host.load_u32(at).map(u64::from) };
        let value = value.map_err(|outside| WalkError::NoTable(AccessError::Host(outside)))?;
        Ok(Step { at, value, gpa, marks: 0 })
    }

    fn is_large(&self, entry: u64, level: u32) -> bool {
        let permitted = match self.mode {
            PagingMode::TwoLevel => level == 2 && self.registers.cr4.contains(Cr4::PSE),
            PagingMode::Pae => level == 2,
            _ => level == 2 || level == 3,
        };
        permitted && entry & LARGE != 0
    }

    fn check_present(&self, entry: u64, level: u32, large: bool) -> Result<(), WalkError> {
        if entry & PRESENT == 0 {
            return Err(self.fault(ErrorCode::empty()));
        }
        if entry & self.reserved(level, large) != 0 {
            return Err(self.fault(ErrorCode::PRESENT | ErrorCode::RESERVED));
        }
        Ok(())
    }

    /// Bits that must be zero in a present entry.
    fn reserved(&self, level: u32, large: bool) -> u64 {
        if self.mode == PagingMode::TwoLevel {
            return if large { 1 << 21 | self.reserved_pse36() } else { 0 };
        }
        let mut reserved = FRAME & !((1 << self.physical_bits) - 1);
        if !self.registers.efer.contains(Efer::NXE) {
            reserved |= NO_EXECUTE;
        }
        if self.mode == PagingMode::Pae {
            reserved |= 0x7ff << 52;
            if level == 3 {
                // A (bit 5) is reserved here too, but a processor that walks PDPTEs in memory
                // under nested paging may set it (QEMU 7.2 does), and goes on with it.
                return reserved | NO_EXECUTE | 0x1c6;
            }
        }
        match (level, large) {
            (2, true) => reserved | 0x001f_e000,
            (3, true) => reserved | 0x3fff_e000,
            (4 | 5, _) => reserved | LARGE,
            _ => reserved,
        }
    }

    /// Bits 20:13 of a 4 MiB entry hold address bits 39:32, so far as the width reaches.
    fn reserved_pse36(&self) -> u64 {
        let used = self.physical_bits.clamp(32, 40) - 32;
        0x001f_e000 & !((1 << (13 + used)) - 1)
    }

    /// `leaf` is the entry that maps the page.
    fn check_rights(&self, rights: Rights, leaf: u64) -> Result<(), WalkError> {
        let access = &self.access;
        let supervisor = !access.user;
        let cr4 = self.registers.cr4;
        let write_protect = access.user || self.registers.cr0.contains(Cr0::WP);
        let smap = cr4.contains(Cr4::SMAP) && (access.implicit || !access.ac);

        let forbidden = (access.user && !rights.user)
            || (access.is_write() && !rights.writable && write_protect)
            || (access.is_fetch() && !rights.executable && self.has_no_execute())
            || (access.is_fetch() && supervisor && rights.user && cr4.contains(Cr4::SMEP))
            || (!access.is_fetch() && supervisor && rights.user && smap);
        let key = rights.user && self.key_forbids(leaf, write_protect);
        let mut code = ErrorCode::PRESENT;
        code.set(ErrorCode::KEY, key);
        if forbidden || key { Err(self.fault(code)) } else { Ok(()) }
    }

    /// Source: SDM vol. 3, 4.6.2 "Protection Keys".
    fn key_forbids(&self, leaf: u64, write_protect: bool) -> bool {
        let keys = self.mode.is_long() && self.registers.cr4.contains(Cr4::PKE);
        let bits = self.access.pkru >> (2 * (leaf >> 59 & 15)) & 3;
        let write = bits & 2 != 0 && self.access.is_write() && write_protect;
        keys && !self.access.is_fetch() && (bits & 1 != 0 || write)
    }

    /// The address in a leaf with the offset into its page.
    fn target(&self, entry: u64, level: u32) -> Gpa {
        let wide = self.mode != PagingMode::TwoLevel;
        let offset_bits = 12 + if wide { 9 } else { 10 } * (level - 1);
        let offset = (1u64 << offset_bits) - 1;
        let mut page = entry & FRAME & !offset;
        if !wide && level == 2 {
            page = entry & 0xffc0_0000 | (entry & 0x001f_e000) << 19;
        }
        Gpa::new(page | self.gva.as_u64() & offset)
    }

    fn set_marks(&self, walk: &mut Walk) {
        let last = walk.used as usize - 1;
        let first = usize::from(self.mode == PagingMode::Pae);
        for step in &mut walk.steps[first..=last] {
            step.marks = ACCESSED;
        }
        if self.access.is_write() {
            walk.steps[last].marks |= DIRTY;
        }
    }

    fn has_no_execute(&self) -> bool {
        self.mode != PagingMode::TwoLevel && self.registers.efer.contains(Efer::NXE)
    }

    fn fault(&self, mut code: ErrorCode) -> WalkError {
        let reports_fetch = self.has_no_execute() || self.registers.cr4.contains(Cr4::SMEP);
        code.set(ErrorCode::WRITE, self.access.is_write());
        code.set(ErrorCode::USER, self.access.user);
        code.set(ErrorCode::FETCH, self.access.is_fetch() && reports_fetch);
        WalkError::Fault(PageFault { code, cr2: self.gva })
    }
}

impl Rights {
    fn restrict(&mut self, entry: u64) {
        self.writable &= entry & WRITABLE != 0;
        self.user &= entry & USER != 0;
        self.executable &= entry & NO_EXECUTE == 0;
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
