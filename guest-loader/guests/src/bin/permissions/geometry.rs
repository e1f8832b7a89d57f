//! Where the entries under test lie and what they lead to.

use anchorite_guests::memory::{read, write};
use anchorite_guests::oracle::Model;
use anchorite_guests::paging::bits::{A, D, FULL, KEY_SHIFT, NX, P, PS, TABLE, U, W};
use anchorite_guests::paging::{Frames, Space, index, span};
use anchorite_guests::probe::{self, Access, END_CODE, Kind, Outcome};
use anchorite_guests::segments;

/// The topmost entries in use: 0 is the kernel's, 1 + level leads to the entries of that
/// level under test, this one to the code of privilege level 3.
const USER_INDEX: u64 = 8;
/// The topmost entries under test begin here.
const TOP_FIRST: u64 = 256;

/// Offsets into the target page.
const DATA: u64 = 0x800;
const DESCRIPTOR: u64 = 0x10;
/// A data segment of privilege level 3, its accessed bit set.
const DESCRIPTOR_VALUE: u64 = 0x00cf_f300_0000_ffff;
/// The selector of that descriptor in an LDT at the page's start.
const SELECTOR: u64 = DESCRIPTOR | 4 | 3;
const UNTOUCHED: u64 = 0x1122_3344_5566_7788;
const WRITTEN: u64 = 0x0a0b_0c0d_0e0f_1011;

/// The page that all accesses are meant for.
pub(crate) struct Target {
    pub(crate) page: u64,
}

impl Target {
    pub(crate) fn new(frames: &mut Frames) -> Self {
        let page = frames.take();
        write(page, END_CODE);
        write(page + DESCRIPTOR, DESCRIPTOR_VALUE);
        Self { page }
    }

    /// `access` to the page as seen at `address`, at the place that suits its kind.
    #[expect(clippy::unused_self, reason = "the places are laid out by `Target::new`")]
    pub(crate) fn access(&self, access: Access, address: u64) -> Access {
        let (offset, value) = match access.kind {
            Kind::Fetch => (0, 0),
            Kind::Descriptor => {
                segments::load_ldt(address & !0xfff, 0xfff);
                (DESCRIPTOR, SELECTOR)
            }
            _ => (DATA, WRITTEN),
        };
        Access { address: address + offset, value, ..access }
    }

    pub(crate) fn prepare(&self) {
        write(self.page + DATA, UNTOUCHED);
    }

    /// Whether the page's data was changed as `access` would.
    pub(crate) fn moved(&self, access: &Access, outcome: &Outcome) -> bool {
        let now = read::<u64>(self.page + DATA);
        let changed = match access.kind {
            Kind::Update => UNTOUCHED.wrapping_add(WRITTEN),
            _ => WRITTEN,
        };
        let right = now == UNTOUCHED || (now == changed && outcome.is_done());
        assert!(right, "{access:x?}: the data is {now:#x} after {outcome:x?}");
        now == changed
    }
}

/// A table of each level, filled with combinations, that lead to one target page.
pub(crate) struct Geometry {
    top: u32,
    target: u64,
    /// The table under test, by its level.
    tables: [u64; 6],
    /// The table below it that leads on to the target.
    below: [u64; 6],
}

impl Geometry {
    pub(crate) fn new(frames: &mut Frames, space: Space, target: &Target) -> Self {
        let top = space.levels;
        let mut geometry = Self { top, target: target.page, tables: [0; 6], below: [0; 6] };
        for level in 1..=top {
            let at = space.make(frames, geometry.address(level, 0), level);
            geometry.tables[level as usize] = at & !0xfff;
            if level > 1 {
                geometry.below[level as usize] = chain(frames, level - 1, target.page);
            }
        }
        let user = USER_INDEX << (12 + 9 * (top - 1));
        let page = frames.take();
        space.map(frames, user, page, FULL, 1);
        probe::set_user_code(page, user, user + 0xff8);
        geometry
    }

    /// The numbers of the combinations for an entry: bits 0–7 are P, W, U, A,
    /// D, PS, NX, reserved. Of the entries that are not present a few do.
    pub(crate) fn combinations() -> impl Iterator<Item = u64> {
        (0..256u64).filter(|number| number & 1 == 1 || number % 32 == 6)
    }

    /// An address that leads through the combination's entry of `level` to the target.
    pub(crate) fn address(&self, level: u32, combination: u64) -> u64 {
        let inside = self.target & (span(level) - 1);
        if level == self.top {
            let sign = !0 << (12 + 9 * self.top - 1);
            return sign | (TOP_FIRST + combination) << (12 + 9 * (level - 1)) | inside;
        }
        let region = u64::from(1 + level) << (12 + 9 * (self.top - 1));
        region | combination << (12 + 9 * (level - 1)) | inside
    }

    /// Writes all combinations afresh; the target's own entry gets `key` as protection key.
    pub(crate) fn fill(&self, level: u32, key: u64, model: &Model) {
        for combination in Self::combinations() {
            let index = combination + if level == self.top { TOP_FIRST } else { 0 };
            let value = self.value(level, combination, model) | key << KEY_SHIFT;
            write(self.tables[level as usize] + 8 * index, value);
        }
    }

    fn value(&self, level: u32, combination: u64, model: &Model) -> u64 {
        let bit = |number: u32, flag: u64| if combination >> number & 1 == 1 { flag } else { 0 };
        let large = matches!(level, 2 | 3) && combination >> 5 & 1 == 1;
        let address = match level {
            1 => self.target,
            _ if large => self.target & !(span(level) - 1),
            _ => self.below[level as usize],
        };
        // The address bits that no processor has, or those inside a large page.
        let beyond = if model.physical_bits < 52 { 1 << 51 } else { 0 };
        let inside = span(level) >> 1;
        let odd = (combination >> 3 ^ combination >> 4) & 1 == 1;
        let reserved = if large && odd { inside } else { beyond };
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

/// A table of `level` that leads to `target`, granting everything.
fn chain(frames: &mut Frames, level: u32, target: u64) -> u64 {
    let table = frames.take();
    let entry = if level == 1 { target | FULL } else { chain(frames, level - 1, target) | TABLE };
    write(table + 8 * index(target, level), entry);
    table
}
