//! Events delivered through tables and stacks that lie in page tables, or nowhere.
#![expect(unsafe_code, reason = "the code in writes.s is known by its addresses alone")]

use anchorite_guests::instructions::{invlpg, reload_cr3};
use anchorite_guests::memory::{read, write};
use anchorite_guests::paging::bits::{FULL, TABLE};
use anchorite_guests::paging::{Frames, Space, span};
use anchorite_guests::probe::{self, Access, Kind};
use anchorite_guests::segments::{self, Table};
use anchorite_guests::trap::{DATA_SELECTOR, vector};
use anchorite_guests::{Report, println};

unsafe extern "C" {
    static interrupts_on_stack: u8;
    static faults_on_stack: u8;
    static loads_ds: u8;
}

/// A table's middle: entries on both sides of it are free.
const MIDDLE: u64 = 0x800;
/// What a topmost entry of four levels maps.
const TOP: u64 = 1 << 39;
const UNMAPPED: u64 = 60 * TOP;
/// The accessed bit of a segment descriptor.
const ACCESSED: u64 = 1 << 40;

pub(crate) fn check(report: &mut Report, frames: &mut Frames, space: Space) {
    for level in 1..=3 {
        let table = Living::new(frames, space, level);
        stack(report, &table);
        global_descriptors(report, &table);
        task_state(report, &table, space, frames);
    }
    interrupt_table(report, frames, space);
    no_stack(report, frames, space);
}

/// A page table in use: the address `seen` goes through its last entry.
struct Living {
    level: u32,
    table: u64,
    seen: u64,
}

impl Living {
    fn new(frames: &mut Frames, space: Space, level: u32) -> Self {
        let seen = TOP * (52 + u64::from(level)) + 511 * span(level);
        let page = frames.take();
        write(page, 77u64);
        let at = space.make(frames, seen, level);
        space.map(frames, seen, page, FULL, 1);
        Self { level, table: at & !0xfff, seen }
    }

    /// Has the table walked, and so shadowed; it must still lead on.
    fn touch(&self, report: &mut Report, what: &str) {
        invlpg(self.seen);
        let seen = Access::kernel(Kind::Read, self.seen).run();
        let right = seen.is_done() && seen.value == 77;
        report.check(format_args!("{what}, level {}: the way on: {seen:x?}", self.level), right);
    }

    /// Zeroes all but the entry in use.
    fn clean(&self) {
        (0..511).for_each(|slot| write(self.table + 8 * slot, 0u64));
        reload_cr3();
    }
}

fn stack(report: &mut Report, table: &Living) {
    for (name, code, number) in [
        ("an interrupt's stack", &raw const interrupts_on_stack as u64, probe::END),
        ("a fault's stack", &raw const faults_on_stack as u64, vector::INVALID_OPCODE),
    ] {
        table.touch(report, name);
        let top = table.table + MIDDLE;
        let done = probe::call(code, top, 0);
        report.equal(
            format_args!("{name} in a table of level {}", table.level),
            done.vector,
            number,
        );
        report.equal("SS there", read::<u64>(top - 8), DATA_SELECTOR.into());
        report.equal("RFLAGS there", read::<u64>(top - 24) & 2, 2);
        report.equal("the vector there", read::<u64>(top - 56), number.into());
        table.clean();
        table.touch(report, name);
    }
}

fn global_descriptors(report: &mut Report, table: &Living) {
    let old = segments::gdt();
    let new = Table { base: table.table + 0x400, limit: old.limit };
    table.touch(report, "the GDT");
    (0..=u64::from(old.limit)).for_each(|byte| write(new.base + byte, read::<u8>(old.base + byte)));
    let at = new.base + u64::from(DATA_SELECTOR);
    write(at, read::<u64>(at) & !ACCESSED);
    table.touch(report, "the GDT");
    segments::load_gdt(new);
    let done = probe::call(&raw const loads_ds as u64, 0, DATA_SELECTOR.into());
    segments::load_gdt(old);
    report.check(format_args!("DS from a GDT in a table: {done:x?}"), done.is_done());
    report.equal("its accessed bit", read::<u64>(at) & ACCESSED, ACCESSED);
    table.clean();
}

/// Privilege level 3 is left by way of a TSS in a page table.
fn task_state(report: &mut Report, table: &Living, space: Space, frames: &mut Frames) {
    let user = UNMAPPED + 0x1000_0000;
    let page = frames.take();
    space.map(frames, user, page, FULL, 1);
    invlpg(user);
    probe::set_user_code(page, user, user + 0xff8);
    table.touch(report, "the TSS");
    let old = segments::tss();
    let new = table.table + 0x600;
    (0..104).for_each(|byte| write(new + byte, read::<u8>(old + byte)));
    segments::load_tss(new);
    table.touch(report, "the TSS");
    let done = Access::user(Kind::Read, user).run();
    segments::load_tss(old);
    report.check(format_args!("an interrupt by a TSS in a table: {done:x?}"), done.is_done());
    table.clean();
}

/// The IDT is a page table whose 512 entries are not present, being gates.
fn interrupt_table(report: &mut Report, frames: &mut Frames, space: Space) {
    let old = segments::idt();
    let table = frames.take();
    (0..4096).for_each(|byte| write(table + byte, read::<u8>(old.base + byte)));
    let address = 59 * TOP;
    write(space.make(frames, address, 2), table | TABLE);
    segments::load_idt(Table { base: table, limit: old.limit });
    for page in [0, 3, 255] {
        let at = address + 0x1000 * page;
        let seen = Access::kernel(Kind::Write, at).run();
        report.same("a fault by the table that is the IDT", seen.page_fault_at(at), Some(2));
    }
    segments::load_idt(old);
    reload_cr3();
}

/// A stack that cannot be written: a double fault, on a stack of its own.
fn no_stack(report: &mut Report, frames: &mut Frames, space: Space) {
    let read_only = UNMAPPED + 0x2000_0000;
    let page = frames.take();
    space.map(frames, read_only, page, FULL & !2, 1);
    for (name, top) in [("unmapped", UNMAPPED), ("read-only", read_only + 0x800)] {
        for (how, code) in [
            ("an interrupt", &raw const interrupts_on_stack as u64),
            ("a fault", &raw const faults_on_stack as u64),
        ] {
            let done = probe::call(code, top, 0);
            let got = (done.vector, done.error);
            report.same(format_args!("{how} on a stack {name}"), got, (vector::DOUBLE_FAULT, 0));
        }
    }
    println!("hostile: double faults taken");
}

/// Has an interrupt delivered on a stack that ends at `top`.
pub(crate) fn interrupt_on(top: u64) {
    let done = probe::call(&raw const interrupts_on_stack as u64, top, 0);
    println!("hostile: an interrupt on {top:#x}: {done:x?}");
}
