//! Writes to page tables by every kind of instruction, and code that takes itself away.
#![expect(unsafe_code, reason = "the code in writes.s is known by its addresses alone")]

use core::arch::global_asm;

use anchorite_guests::instructions::{invlpg, reload_cr3};
use anchorite_guests::memory::{read, write};
use anchorite_guests::paging::bits::{A, D, FULL, TABLE};
use anchorite_guests::paging::{Frames, PAGE, Space, index};
use anchorite_guests::probe::{self, Access, Kind};
use anchorite_guests::{Report, trap::vector};

global_asm!(include_str!("writes.s"));

unsafe extern "C" {
    static writes_start: u8;
    static writes_end: u8;
    static unmaps_itself: u8;
    static unmaps_itself_by_cr3: u8;
    static flickers: u8;
    static flickers_end: u8;
    static saves: u8;
    static stores_gdtr: u8;
}

/// Bytes from one way of writing to the next.
const WAY: u64 = 64;
/// What a topmost entry of four levels maps.
const TOP: u64 = 1 << 39;
/// Has an even index at every level, neither the first nor the last.
const INSIDE: u64 = 4 << 30 | 6 << 21 | 0x122 << 12;

pub(crate) fn check(report: &mut Report, frames: &mut Frames, space: Space) {
    let (start, end) = (&raw const writes_start as u64, &raw const writes_end as u64);
    for level in 1..=space.levels() {
        let pair = Pair::new(frames, space, level);
        for way in 0..(end - start) / WAY {
            for flush in [invlpg as fn(u64), |_| reload_cr3()] {
                pair.flip(report, start + WAY * way, way, flush);
            }
        }
    }
    across_pages(report, frames, space);
    unknown_stores(report, frames, space);
    own_page(report, frames, space);
}

/// An address that leads to one of two pages, by bit 12 of its entry of `level`.
struct Pair {
    level: u32,
    address: u64,
    entry: u64,
}

impl Pair {
    fn new(frames: &mut Frames, space: Space, level: u32) -> Self {
        let address = TOP * (16 + u64::from(level)) + INSIDE;
        let entry = space.make(frames, address, level);
        let mut pages = frames.take_aligned(2 * PAGE, 2 * PAGE);
        write(pages, 1u64);
        write(pages + PAGE, 2u64);
        let mut flags = FULL;
        for below in 1..level {
            let tables = frames.take_aligned(2 * PAGE, 2 * PAGE);
            for table in [0, PAGE] {
                write(tables + table + 8 * index(address, below), pages + table | flags);
            }
            (pages, flags) = (tables, TABLE);
        }
        write(entry, pages | flags);
        Self { level, address, entry }
    }

    /// Turns the entry over by the code at `code`: the address leads to the other page.
    fn flip(&self, report: &mut Report, code: u64, way: u64, flush: fn(u64)) {
        let level = self.level;
        let seen = Access::kernel(Kind::Read, self.address).run();
        let old: u64 = read(self.entry);
        let (before, after): (u64, u64) = (read(self.entry - 8), read(self.entry + 8));
        let new = old ^ 1 << 12;
        let done = probe::call(code, self.entry, new);
        report.check(format_args!("level {level}, way {way}: {done:x?}"), done.is_done());
        let marks = A | if level == 1 { D } else { 0 };
        let now = read::<u64>(self.entry);
        report.equal(format_args!("level {level}, way {way}: entry"), now | marks, new | marks);
        let near = (read::<u64>(self.entry - 8), read::<u64>(self.entry + 8));
        report.check(format_args!("level {level}, way {way}: neighbours"), near == (before, after));
        flush(self.address);
        let other = Access::kernel(Kind::Read, self.address).run();
        let right = seen.is_done() && other.is_done() && seen.value + other.value == 3;
        report.check(format_args!("level {level}, way {way}: {seen:x?}, then {other:x?}"), right);
        let copied = Access::kernel(Kind::Copy, self.address).run();
        report.check(format_args!("level {level}, way {way}: a copy there"), copied.is_done());
    }
}

/// Eight bytes over the end of one table into the next.
fn across_pages(report: &mut Report, frames: &mut Frames, space: Space) {
    for (level, base) in [(1, 24 * TOP), (2, 25 * TOP)] {
        let span = PAGE << (9 * (level - 1));
        let last = base + 511 * span;
        let tables = frames.take_aligned(2 * PAGE, PAGE);
        for (address, table) in [(base, tables), (base + 512 * span, tables + PAGE)] {
            write(space.make(frames, address, level + 1), table | TABLE);
        }
        let pages = [(); 3].map(|()| frames.take());
        for (page, mark) in pages.into_iter().zip(1u64..) {
            write(page, mark);
        }
        let tables_of = pages.map(|page| {
            if level == 1 {
                return page | FULL;
            }
            let table = frames.take();
            write(table, page | FULL);
            table | TABLE
        });
        let (end, next) = (tables + 511 * 8, tables + PAGE);
        write(end, tables_of[0]);
        write(next, tables_of[1]);
        let value = |address| Access::kernel(Kind::Read, address).run().value;
        report.same("before a write across tables", (value(last), value(last + span)), (1, 2));
        let word = read::<u64>(end) >> 32 | (tables_of[2] & 0xffff_ffff) << 32;
        let wrote = Access::kernel(Kind::Write, next - 4).with(word).run();
        report.check(format_args!("a write across tables: {wrote:x?}"), wrote.is_done());
        report.equal(
            "the entry behind the edge",
            read::<u64>(next) & !(A | D),
            tables_of[2] & !(A | D),
        );
        invlpg(last);
        invlpg(last + span);
        report.same("after a write across tables", (value(last), value(last + span)), (1, 3));
    }
}

/// Stores that are no plain ones reach the table and RAM alike.
fn unknown_stores(report: &mut Report, frames: &mut Frames, space: Space) {
    for level in [1, 2, 3] {
        let address = TOP * (26 + u64::from(level));
        let entry = space.make(frames, address, level);
        let page = frames.take();
        write(page, 7u64);
        let (table, flags) = (1..level).fold((page, FULL), |(below, flags), at| {
            let table = frames.take();
            write(table + 8 * index(address, at), below | flags);
            (table, TABLE)
        });
        write(entry, table | flags);
        let ram = frames.take();
        for (name, code, bytes) in
            [("FXSAVE", &raw const saves as u64, 512), ("SGDT", &raw const stores_gdtr as u64, 10)]
        {
            let seen = Access::kernel(Kind::Read, address).run();
            report.equal(format_args!("{name}: the table leads on"), seen.value, 7);
            let at = (entry & !0xfff) + 0x800;
            let done = [probe::call(code, at, 0), probe::call(code, ram, 0)];
            let ended = done.iter().all(probe::Outcome::is_done);
            report.check(format_args!("{name} to a table of level {level}: {done:x?}"), ended);
            // The last bytes of FXSAVE's image are nobody's.
            let bytes = if bytes == 512 { 416 } else { bytes };
            let same = (0..bytes).all(|byte| read::<u8>(at + byte) == read::<u8>(ram + byte));
            report.check(format_args!("{name} to a table of level {level}: its bytes"), same);
            (0..64).for_each(|word| write(at + 8 * word, 0u64));
        }
    }
}

/// Code that takes away the page it runs from, or does so for a moment.
fn own_page(report: &mut Report, frames: &mut Frames, space: Space) {
    let (start, end) = (&raw const unmaps_itself as u64, &raw const flickers_end as u64);
    let page = frames.take();
    for offset in 0..end - start {
        write(page + offset, read::<u8>(start + offset));
    }
    for level in 1..=3u32 {
        let address = TOP * (30 + u64::from(level));
        space.map(frames, address, page, FULL, 1);
        let entry = space.make(frames, address, level);
        let whole: u64 = read(entry);
        for (name, code, reached) in [
            ("INVLPG", &raw const unmaps_itself as u64, false),
            ("CR3", &raw const unmaps_itself_by_cr3 as u64, false),
            ("a flicker", &raw const flickers as u64, true),
        ] {
            write(entry, whole);
            reload_cr3();
            let done = probe::call(address + (code - start), entry, address);
            let page_of_fault = done.cr2 & !0xfff;
            let faulted = done.vector == vector::PAGE_FAULT && page_of_fault == address;
            let right = if reached { done.is_done() || faulted } else { faulted };
            report.check(format_args!("{name} at level {level}: {done:x?}"), right);
        }
        write(entry, whole);
        reload_cr3();
    }
}
