//! Pages of RAM by tables of their own, looked at and exchanged again and again.
#![expect(unsafe_code, reason = "the code of the user's hypercall is known by its address")]

use core::arch::global_asm;
use core::cell::Cell;

use anchorite_guests::Report;
use anchorite_guests::instructions::{invlpg, reload_cr3};
use anchorite_guests::machine::{Vendor, vendor};
use anchorite_guests::memory::{read, write};
use anchorite_guests::paging::bits::FULL;
use anchorite_guests::paging::{Frames, PAGE, Space};
use anchorite_guests::probe::{self, Access, Kind, Outcome};

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
    places: [Place; PAGES as usize],
}

/// What stands behind an address: its entries of level 1 and 2, and which page the first maps.
struct Place {
    leaf: u64,
    upper: u64,
    page: Cell<u64>,
}

impl Toucher {
    pub(crate) fn new(frames: &mut Frames, space: Space) -> Self {
        let first = frames.take_aligned(PAGES * PAGE, PAGE);
        let places = core::array::from_fn(|number| {
            let page = number as u64;
            write(first + page * PAGE, stamp(page));
            let leaf = space.map(frames, address(page), first + page * PAGE, FULL, 1);
            let upper = space.make(frames, address(page), 2);
            Place { leaf, upper, page: Cell::new(page) }
        });
        Self { first, places }
    }

    /// Reads some pages, and counts in them. Then exchanges two, and takes a table away for
    /// a while.
    pub(crate) fn touch(&self, report: &mut Report, round: u64) {
        for step in 0..TOUCHED {
            let place = (round * 13 + step * 29) % PAGES;
            let page = self.place(place).page.get();
            let seen = read_at(place);
            let right = seen.is_done() && seen.value == stamp(page);
            report.check(format_args!("round {round}: page {page}: {seen:x?}"), right);
            let before: u64 = read(self.first + page * PAGE + COUNT);
            let counted = Access::kernel(Kind::Update, address(place) + COUNT).with(1).run();
            let after: u64 = read(self.first + page * PAGE + COUNT);
            report.check(format_args!("round {round}: page {page} counts"), counted.is_done());
            report.equal("the count", after, before + 1);
        }
        self.exchange(report, round);
        self.take_away(report, round);
    }

    /// Two addresses get each other's pages. What a trigger made the hypervisor forget must
    /// not hide that from it.
    fn exchange(&self, report: &mut Report, round: u64) {
        let one = round * 17 % PAGES;
        let other = (one + 1 + round % (PAGES - 1)) % PAGES;
        let places = [one, other].map(|number| self.place(number));
        let [first, second] = places.map(|place| read::<u64>(place.leaf));
        write(places[0].leaf, second);
        write(places[1].leaf, first);
        places[0].page.swap(&places[1].page);
        forget(&[one, other], round);
        for number in [one, other] {
            let seen = read_at(number);
            let right = seen.is_done() && seen.value == stamp(self.place(number).page.get());
            report.check(format_args!("round {round}: exchanged {number}: {seen:x?}"), right);
        }
    }

    /// Without its table an address has no page; with it, the same as before.
    fn take_away(&self, report: &mut Report, round: u64) {
        let number = round * 7 % PAGES;
        let place = self.place(number);
        let entry: u64 = read(place.upper);
        write(place.upper, 0u64);
        forget(&[number], round / 2);
        let gone = read_at(number);
        let absent = gone.page_fault_at(address(number)) == Some(0);
        report.check(format_args!("round {round}: no table for {number}: {gone:x?}"), absent);
        write(place.upper, entry);
        let back = read_at(number);
        let right = back.is_done() && back.value == stamp(place.page.get());
        report.check(format_args!("round {round}: a table for {number}: {back:x?}"), right);
    }

    /// Looks at all pages.
    pub(crate) fn look(&self, report: &mut Report, when: &str) {
        for number in 0..PAGES {
            let page = self.place(number).page.get();
            report.equal(format_args!("page {page} {when}"), read_at(number).value, stamp(page));
        }
    }

    fn place(&self, number: u64) -> &Place {
        &self.places[number as usize]
    }
}

fn read_at(number: u64) -> Outcome {
    Access::kernel(Kind::Read, address(number)).run()
}

/// The processor must go by the entries of the addresses as they are now: INVLPG and CR3 by
/// turns.
fn forget(numbers: &[u64], round: u64) {
    if round % 2 == 0 {
        numbers.iter().for_each(|&number| invlpg(address(number)));
    } else {
        reload_cr3();
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
