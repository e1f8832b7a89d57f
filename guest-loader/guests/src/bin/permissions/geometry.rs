//! Where the entries under test lie and what they lead to.

use anchorite_guests::format::Format;
use anchorite_guests::oracle::Model;
use anchorite_guests::paging::bits::{A, D, FULL, KEY_SHIFT, NX, P, PS, U, W};
use anchorite_guests::paging::{Frames, Space};
use anchorite_guests::script::Runner;

/// In 64-bit formats, topmost entries: 0 is the kernel's, 1 + level leads to the entries of
/// that level under test, this one to the code of privilege level 3.
const USER_INDEX: u64 = 8;
/// The topmost entries under test begin here.
const TOP_FIRST: u64 = 256;
/// In 32-bit formats: where the entries of levels 2 and 1 under test begin, and where the
/// code of privilege level 3 lies.
const LEVELS32: [u64; 2] = [0x8000_0000, 0xc000_0000];
const USER32: u64 = 0x4800_0000;

/// A table of each level, filled with combinations, that lead to one target page.
pub(crate) struct Geometry {
    space: Space,
    target: u64,
    /// The table below the one under test that leads on to the target, by the latter's level.
    below: [u64; 6],
    /// The table under test, by its level.
    tables: [u64; 6],
}

impl Geometry {
    pub(crate) fn new(frames: &mut Frames, runner: &Runner, target: u64) -> Self {
        let space = runner.space();
        let mut geometry = Self { space, target, tables: [0; 6], below: [0; 6] };
        for level in geometry.levels() {
            let at = space.make(frames, geometry.address(level, 0), level);
            geometry.tables[level as usize] = at & !0xfff;
            if level > 1 {
                geometry.below[level as usize] = chain(frames, space.format, level - 1, target);
            }
        }
        let top = space.levels();
        let long = space.format.is_long();
        let user = if long { USER_INDEX * space.format.span(top) } else { USER32 };
        let page = frames.take();
        space.map(frames, user, page, FULL, 1);
        runner.set_user_code(page, user, user + 0xff8);
        geometry
    }

    /// The levels under test: all but the registers of PAE.
    pub(crate) fn levels(&self) -> core::ops::RangeInclusive<u32> {
        1..=if self.space.format == Format::Pae { 2 } else { self.space.levels() }
    }

    /// The numbers of the combinations for an entry of `level`: bits 0–7 are P, W, U, A,
    /// D, PS, NX, reserved. Of the entries that are not present a few do. With two levels
    /// there is no NX, and page tables have no reserved bit.
    pub(crate) fn combinations(&self, level: u32) -> impl Iterator<Item = u64> + use<> {
        let without = match (self.space.format, level) {
            (Format::TwoLevel, 1) => 0xc0,
            (Format::TwoLevel, _) => 0x40,
            _ => 0,
        };
        (0..256u64)
            .filter(|number| number & 1 == 1 || number % 32 == 6)
            .filter(move |number| number & without == 0)
    }

    /// An address that leads through the combination's entry of `level` to the target.
    pub(crate) fn address(&self, level: u32, combination: u64) -> u64 {
        let format = self.space.format;
        let top = self.space.levels();
        let inside = self.target & (format.span(level) - 1);
        let offset = combination * format.span(level) | inside;
        if !format.is_long() {
            return LEVELS32[2 - level as usize] + offset;
        }
        if level == top {
            let sign = !0 << (12 + 9 * top - 1);
            return sign | (TOP_FIRST + combination) * format.span(level) | inside;
        }
        u64::from(1 + level) * format.span(top) | offset
    }

    /// Writes all combinations afresh; the target's own entry gets `key` as protection key.
    pub(crate) fn fill(&self, level: u32, key: u64, model: &Model) {
        for combination in self.combinations(level) {
            let table = self.tables[level as usize];
            let at = self.space.slot(table, self.address(level, combination), level);
            let value = self.value(level, combination, model) | key << KEY_SHIFT;
            self.space.format.write(at, value);
        }
    }

    fn value(&self, level: u32, combination: u64, model: &Model) -> u64 {
        let format = self.space.format;
        let bit = |number: u32, flag: u64| if combination >> number & 1 == 1 { flag } else { 0 };
        let tables_too = format == Format::TwoLevel && !model.controls.pse;
        let large = matches!(level, 2 | 3) && combination >> 5 & 1 == 1 && !tables_too;
        let address = match level {
            1 => self.target,
            _ if large => self.target & !(format.span(level) - 1),
            _ => self.below[level as usize],
        };
        let odd = (combination >> 3 ^ combination >> 4) & 1 == 1;
        let reserved = reserved(format, level, large, odd, model.physical_bits);
        address
            | bit(0, P)
            | bit(1, W)
            | bit(2, U)
            | bit(3, A)
            | bit(4, D)
            | bit(5, PS)
            | bit(6, NX)
            | bit(7, reserved)
    }
}

/// A reserved bit: among the address bits that no processor has, or, where it is `odd`,
/// inside a large page, or above the address where PAE has nothing.
fn reserved(format: Format, level: u32, large: bool, odd: bool, physical_bits: u32) -> u64 {
    let beyond = if physical_bits < 52 { 1 << 51 } else { 0 };
    match format {
        Format::TwoLevel if large => 1 << 21,
        Format::TwoLevel => 0,
        _ if large && odd => format.span(level) >> 1,
        Format::Pae if odd => 1 << 57,
        _ => beyond,
    }
}

/// A table of `level` that leads to `target`, granting everything.
fn chain(frames: &mut Frames, format: Format, level: u32, target: u64) -> u64 {
    let table = frames.take();
    let entry = if level == 1 {
        target | FULL
    } else {
        chain(frames, format, level - 1, target) | format.table(level)
    };
    format.write(table + format.entry_bytes() * format.index(target, level), entry);
    table
}
