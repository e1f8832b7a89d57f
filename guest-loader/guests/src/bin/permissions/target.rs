//! The page that all accesses are meant for, and what they do to its data.

use anchorite_guests::memory::write;
use anchorite_guests::paging::Frames;
use anchorite_guests::probe::{Access, END_CODE, Kind, Outcome};
use anchorite_guests::script::Step;

/// Offsets into the page.
const DATA: u64 = 0x800;
const DESCRIPTOR: u64 = 0x10;
/// A data segment of privilege level 3, its accessed bit set.
const DESCRIPTOR_VALUE: u64 = 0x00cf_f300_0000_ffff;
/// The selector of that descriptor in an LDT at the page's start.
const SELECTOR: u64 = DESCRIPTOR | 4 | 3;
const UNTOUCHED: u64 = 0x1122_3344_5566_7788;
const WRITTEN: u64 = 0x0a0b_0c0d_0e0f_1011;

/// The page.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) page: u64,
    /// The bits that an access moves.
    mask: u64,
}

impl Target {
    /// Steps that [`Target::steps`] gives for an access,
    pub(crate) const STEPS: usize = 4;
    /// the access among them,
    pub(crate) const ACCESS: usize = 2;
    /// and the load of what the page then holds.
    pub(crate) const DATA: usize = 3;

    pub(crate) fn new(frames: &mut Frames) -> Self {
        let page = frames.take();
        write(page, END_CODE);
        write(page + DESCRIPTOR, DESCRIPTOR_VALUE);
        Self { page, mask: !0 }
    }

    /// The same, by accesses of 4 bytes where they are not of 64-bit mode.
    pub(crate) fn for_width(self, is_long: bool) -> Self {
        Self { mask: if is_long { !0 } else { u32::MAX.into() }, ..self }
    }

    /// `access` to the page as seen at `address`, at the place that suits its kind.
    pub(crate) fn access(access: Access, address: u64) -> Access {
        let (offset, value) = match access.kind {
            Kind::Fetch => (0, 0),
            Kind::Descriptor => (DESCRIPTOR, SELECTOR),
            _ => (DATA, WRITTEN),
        };
        Access { address: address + offset, value, ..access }
    }

    /// The access between what prepares it and a look at the data.
    pub(crate) fn steps(self, access: Access) -> [Step; Self::STEPS] {
        [
            Step::Entry(self.page + DATA, UNTOUCHED),
            Step::Descriptors(access.address & !0xfff),
            Step::Access(access),
            Step::read(self.page + DATA),
        ]
    }

    /// Whether the page's data, `now`, was changed as `access` would.
    pub(crate) fn moved(self, access: &Access, outcome: &Outcome, now: u64) -> bool {
        let changed = match access.kind {
            Kind::Update => UNTOUCHED.wrapping_add(WRITTEN),
            _ => WRITTEN,
        } & self.mask;
        let right = now == UNTOUCHED & self.mask || (now == changed && outcome.is_done());
        assert!(right, "{access:x?}: the data is {now:#x} after {outcome:x?}");
        now == changed
    }

    /// Whether a load that went well gave the data.
    pub(crate) fn was_read(self, gpa: u64, value: u64) -> bool {
        gpa == self.page + DATA && value == UNTOUCHED & self.mask
    }
}
