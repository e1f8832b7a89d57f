//! Pages of RAM by tables of their own, looked at again and again.
#![expect(unsafe_code, reason = "the code of the user's hypercall is known by its address")]

use core::arch::global_asm;

use anchorite_guests::Report;
use anchorite_guests::instructions::invlpg;
use anchorite_guests::machine::{Vendor, vendor};
use anchorite_guests::memory::{read, write};
use anchorite_guests::paging::bits::FULL;
use anchorite_guests::paging::{Frames, PAGE, Space};
use anchorite_guests::probe::{self, Access, Kind};

/// Pages, and tables: each page has one of its own.
const PAGES: u64 = 96;
/// Pages touched between two triggers.
const TOUCHED: u64 = 7;
const BASE: u64 = 3 << 39;
const USER: u64 = 4 << 39;
/// Offset of the word that every touch adds to.
const COUNT: u64 = 8;

global_asm!(
    ".balign 16",
    "toucher_vmcall: mov eax, esi",
    "vmcall",
    "int 0x81",
    ".balign 16",
    "toucher_vmmcall: mov eax, esi",
    "vmmcall",
    "int 0x81",
    ".balign 16",
    "toucher_end:"
);

unsafe extern "C" {
    static toucher_vmcall: u8;
    static toucher_vmmcall: u8;
    static toucher_end: u8;
}

/// The pages.
pub(crate) struct Toucher {
    first: u64,
}

impl Toucher {
    pub(crate) fn new(frames: &mut Frames, space: Space) -> Self {
        let first = frames.take_aligned(PAGES * PAGE, PAGE);
        for page in 0..PAGES {
            write(first + page * PAGE, stamp(page));
            space.map(frames, address(page), first + page * PAGE, FULL, 1);
        }
        Self { first }
    }

    /// Reads some pages, and counts in them.
    pub(crate) fn touch(&self, report: &mut Report, round: u64) {
        for step in 0..TOUCHED {
            let page = (round * 13 + step * 29) % PAGES;
            let seen = Access::kernel(Kind::Read, address(page)).run();
            let right = seen.is_done() && seen.value == stamp(page);
            report.check(format_args!("round {round}: page {page}: {seen:x?}"), right);
            let before: u64 = read(self.first + page * PAGE + COUNT);
            let counted = Access::kernel(Kind::Update, address(page) + COUNT).with(1).run();
            let after: u64 = read(self.first + page * PAGE + COUNT);
            report.check(format_args!("round {round}: page {page} counts"), counted.is_done());
            report.equal("the count", after, before + 1);
        }
    }

    /// Looks at all pages.
    #[expect(clippy::unused_self, reason = "the pages are there only after `Toucher::new`")]
    pub(crate) fn look(&self, report: &mut Report, when: &str) {
        for page in 0..PAGES {
            let seen = Access::kernel(Kind::Read, address(page)).run();
            report.equal(format_args!("page {page} {when}"), seen.value, stamp(page));
        }
    }
}

fn address(page: u64) -> u64 {
    BASE + page * ((PAGE << 9) + PAGE)
}

fn stamp(page: u64) -> u64 {
    page.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// What privilege level 3 gets for hypercall `number`.
pub(crate) fn hypercall_by_user(frames: &mut Frames, space: Space, number: u32) -> u32 {
    let code = match vendor() {
        Vendor::Amd => &raw const toucher_vmmcall as u64,
        Vendor::Intel => &raw const toucher_vmcall as u64,
    };
    let page = frames.take();
    for offset in 0..&raw const toucher_end as u64 - &raw const toucher_vmcall as u64 {
        write(page + offset, read::<u8>(&raw const toucher_vmcall as u64 + offset));
    }
    space.map(frames, USER, page, FULL, 1);
    invlpg(USER);
    let at = USER + (code - &raw const toucher_vmcall as u64);
    probe::call_user(at, USER + 0xff8, 0, number.into()).value as u32
}
