//! What no machine goes on from. Each ends the run with a verdict, or is survived where the
//! processor has something to say about it.

use anchorite_guests::abi::mmio::{DEVICE, READ_ONLY_PAGE};
use anchorite_guests::control::load_root;
use anchorite_guests::instructions::reload_cr3;
use anchorite_guests::memory::{read, write};
use anchorite_guests::paging::bits::{FULL, TABLE};
use anchorite_guests::paging::{Frames, Space};
use anchorite_guests::probe::{self, Access, Kind};
use anchorite_guests::segments::{self, Table};
use anchorite_guests::trap::DATA_SELECTOR;
use anchorite_guests::{Status, println};

use crate::delivery::interrupt_on;

/// Physical addresses where no RAM lies.
const NOWHERE: u64 = 0x20_0000_0000;
const REGION: u64 = 0x80_0000_0000 * 3;

pub(crate) fn run(name: &str, frames: &mut Frames, space: Space) -> Status {
    println!("hostile: {name}");
    match name {
        "cr3-nowhere" => load_root(NOWHERE),
        "cr3-device" => load_root(DEVICE),
        "cr3-rom" => load_root(READ_ONLY_PAGE),
        "cr3-garbage" => load_root(filled(frames, |slot| slot.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        "cr3-loop" => {
            let table = frames.take();
            (0..512).for_each(|slot| write(table + 8 * slot, table | FULL));
            load_root(table);
        }
        "table-nowhere" => return table_at(space, NOWHERE),
        "table-device" => return table_at(space, DEVICE),
        "code-device" => {
            let _ = probe::call(DEVICE, 0, 0);
        }
        "code-nowhere" => {
            space.map(frames, REGION, NOWHERE, FULL, 1);
            let _ = probe::call(REGION, 0, 0);
        }
        "stack-device" => interrupt_on(DEVICE + 0x800),
        "idt-device" => {
            segments::load_idt(Table { base: DEVICE, limit: 0xfff });
            interrupt_on(frames.take() + 0xff8);
        }
        "idt-unmapped" => {
            segments::load_idt(Table { base: REGION, limit: 0xfff });
            interrupt_on(frames.take() + 0xff8);
        }
        "own-table-stack" => return own_table_stack(frames, space),
        _ => println!("hostile: fatal={name} is not known"),
    }
    println!("hostile: went on after {name}");
    Status::FAIL
}

fn filled(frames: &mut Frames, value: impl Fn(u64) -> u64) -> u64 {
    let table = frames.take();
    (0..512).for_each(|slot| write(table + 8 * slot, value(slot + 1)));
    table
}

/// A table of level 3 where there is no RAM: a processor reads all ones there, or nothing.
fn table_at(space: Space, table: u64) -> Status {
    let at = space.root + 8 * 3;
    write(at, table | TABLE);
    let seen = Access::kernel(Kind::Read, REGION).run();
    let faulted = seen.page_fault_at(REGION).is_some();
    println!("hostile: an access by a table there: {seen:x?}");
    write(at, 0u64);
    reload_cr3();
    if faulted { Status::PASS } else { Status::FAIL }
}

/// An interrupt pushes its frame onto a page that is a table of upper level on the way to
/// that very stack.
fn own_table_stack(frames: &mut Frames, space: Space) -> Status {
    let page = frames.take();
    space.map(frames, REGION, page, FULL, 1);
    let table = space.make(frames, REGION, 2) & !0xfff;
    space.map(frames, REGION + 0x1000, table, FULL, 1);
    reload_cr3();
    interrupt_on(REGION + 0x1000 + 0xff8);
    let pushed: u64 = read(table + 0xfe8);
    println!("hostile: {pushed:#x} pushed");
    if pushed == DATA_SELECTOR.into() { Status::PASS } else { Status::FAIL }
}
