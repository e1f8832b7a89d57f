//! Page tables of a guest's own making: entry bits, frames, address spaces.
//!
//! Source: SDM vol. 3, 4.3 "32-Bit Paging", 4.4 "PAE Paging", 4.5 "4-Level Paging and
//! 5-Level Paging".

use crate::boot::{self, BootInfo};
use crate::control::LA57;
use crate::format::Format;
use crate::instructions::{read_cr3, read_cr4};
use crate::memory::{MAPPED_END, Region, read, write};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Bits of a page-table entry.
pub mod bits {
    /// Present.
    pub const P: u64 = 1 << 0;
    /// Writable.
    pub const W: u64 = 1 << 1;
    /// Permitted to privilege level 3.
    pub const U: u64 = 1 << 2;
    /// Accessed.
    pub const A: u64 = 1 << 5;
    /// Dirty.
    pub const D: u64 = 1 << 6;
    /// A page rather than a table (above level 1).
    pub const PS: u64 = 1 << 7;
    /// Global.
    pub const G: u64 = 1 << 8;
    /// No instruction fetches.
    pub const NX: u64 = 1 << 63;
    /// The address in an 8-byte entry.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// Where the protection key begins.
    pub const KEY_SHIFT: u32 = 59;
    /// All that a table's entry may grant, with A set as in one that was used before.
    pub const TABLE: u64 = P | W | U | A;
    /// All that a page's entry may grant, with A and D set.
    pub const FULL: u64 = TABLE | D;
}

/// Frames of RAM that hold neither the guest nor what it was given, handed out upwards.
#[derive(Debug)]
pub struct Frames {
    next: u64,
    end: u64,
    /// The end of the range that they are of.
    ram_end: u64,
}

impl Frames {
    /// All free frames of the largest RAM range below 4 GiB.
    ///
    /// # Panics
    /// Where there is no RAM.
    pub fn new(boot: &BootInfo) -> Self {
        let modules = boot.modules().map(|module| module.start + module.bytes).max().unwrap_or(0);
        let taken = u64::max(boot::image().1, modules) + (1 << 20);
        let ram = boot.memory.ram().filter(|ram| ram.start < MAPPED_END);
        let largest = ram.max_by_key(|ram| ram.end - ram.start);
        let Region { start, end, .. } = *largest.expect("the memory map has RAM");
        let end = end.min(MAPPED_END) & !(PAGE - 1);
        Self { next: start.max(taken).next_multiple_of(PAGE), end, ram_end: end }
    }

    /// A frame of zeroes.
    pub fn take(&mut self) -> u64 {
        self.take_aligned(PAGE, PAGE)
    }

    /// `bytes` bytes of zeroes at a multiple of `alignment`.
    ///
    /// # Panics
    /// Where RAM is used up: give the guest more.
    pub fn take_aligned(&mut self, bytes: u64, alignment: u64) -> u64 {
        let start = self.next.next_multiple_of(alignment);
        self.next = start + bytes;
        assert!(self.next <= self.end, "RAM is used up; run this guest with more --mem");
        (start..self.next).step_by(8).for_each(|at| write(at, 0u64));
        start
    }

    /// Takes the last frame of RAM, as it is.
    pub fn take_last(&mut self) -> u64 {
        self.end -= PAGE;
        assert!(self.next <= self.end, "RAM is used up; run this guest with more --mem");
        self.end
    }

    /// The first byte behind the frames that are left.
    pub const fn end(&self) -> u64 {
        self.end
    }
}

/// An address space of any format.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// The topmost table.
    pub root: u64,
    /// The tables' form.
    pub format: Format,
}

impl Space {
    /// Where 32-bit formats have nothing of the kernel's.
    pub const FREE32: u64 = 0x4000_0000;

    /// The space in use, which is one of 64-bit mode.
    pub fn current() -> Self {
        let five = read_cr4() & LA57 != 0;
        let format = if five { Format::Five } else { Format::Four };
        Self { root: read_cr3() & bits::ADDRESS, format }
    }

    /// A space that has nothing but what the current one maps in its lowest 512 GiB: the
    /// guest itself, and physical memory one to one.
    pub fn with_kernel(frames: &mut Frames) -> Self {
        let current = Self::current();
        let space = Self { root: frames.take(), format: current.format };
        write(space.root, read::<u64>(current.root));
        space
    }

    /// A space of `format` that has nothing but the guest itself and physical memory one to
    /// one, not permitted to privilege level 3: all below 4 GiB in a format of 64-bit mode, in
    /// the others RAM below [`Self::FREE32`]. The current one must be of four levels.
    pub fn of(format: Format, frames: &mut Frames) -> Self {
        match format {
            Format::Four => Self::with_kernel(frames),
            Format::Five => {
                let four = Self::with_kernel(frames);
                let root = frames.take();
                write(root, four.root | bits::TABLE);
                Self { root, format }
            }
            Format::TwoLevel | Format::Pae => {
                let space = Self { root: frames.take(), format };
                let end = frames.ram_end.min(Self::FREE32);
                for page in (0..end).step_by(PAGE as usize) {
                    space.map(frames, page, page, bits::FULL & !bits::U, 1);
                }
                space
            }
        }
    }

    /// Another space of the same format that shares this one's tables of the kernel.
    #[must_use]
    pub fn sibling(&self, frames: &mut Frames) -> Self {
        let sibling = Self { root: frames.take(), format: self.format };
        let top = self.levels();
        let shared = if self.format.is_long() { 1 } else { self.format.index(Self::FREE32, top) };
        for index in 0..shared {
            let at = index * self.format.entry_bytes();
            self.format.write(sibling.root + at, self.format.read(self.root + at));
        }
        sibling
    }

    /// Address `number` of those that are far from each other and from the kernel, with a
    /// topmost entry of its own in 64-bit formats; up to 11 exist.
    pub const fn region(&self, number: u64) -> u64 {
        if self.format.is_long() {
            (1 + number) * self.format.span(self.levels())
        } else {
            Self::FREE32 + number * 0x1000_0000
        }
    }

    /// Levels of tables.
    pub const fn levels(&self) -> u32 {
        self.format.levels()
    }

    /// The address of the entry of `level` for `address`, if the tables above it exist.
    pub fn entry(&self, address: u64, level: u32) -> Option<u64> {
        let mut table = self.root;
        for above in (level + 1..=self.levels()).rev() {
            let entry = self.format.read(self.slot(table, address, above));
            if entry & bits::P == 0 || (entry & bits::PS != 0 && above < 4) {
                return None;
            }
            table = entry & bits::ADDRESS;
        }
        Some(self.slot(table, address, level))
    }

    /// The address of the entry of `level` for `address`; tables above it that do not
    /// exist are made, granting everything.
    pub fn make(&self, frames: &mut Frames, address: u64, level: u32) -> u64 {
        let mut table = self.root;
        for above in (level + 1..=self.levels()).rev() {
            let at = self.slot(table, address, above);
            if self.format.read(at) & bits::P == 0 {
                self.format.write(at, frames.take() | self.format.table(above));
            }
            table = self.format.read(at) & bits::ADDRESS;
        }
        self.slot(table, address, level)
    }

    /// Maps a page of `level` at `address` to `target` with the bits `flags`; gives the
    /// address of its entry.
    pub fn map(
        &self,
        frames: &mut Frames,
        address: u64,
        target: u64,
        flags: u64,
        level: u32,
    ) -> u64 {
        let at = self.make(frames, address, level);
        let large = if level > 1 { bits::PS } else { 0 };
        self.format.write(at, target | flags | large);
        at
    }

    /// The address of the entry for `address` in `table`, which is of `level`.
    pub const fn slot(&self, table: u64, address: u64, level: u32) -> u64 {
        table + self.format.entry_bytes() * self.format.index(address, level)
    }
}

/// The index of `address` in a table of 512 entries of `level`.
pub const fn index(address: u64, level: u32) -> u64 {
    address >> (12 + 9 * (level - 1)) & 511
}

/// Bytes that an entry of `level` maps, where a table has 512 entries.
pub const fn span(level: u32) -> u64 {
    PAGE << (9 * (level - 1))
}
