//! Memory: the map makes sense, every page of RAM holds what is written to it, and a
//! read-only slot keeps what it has.
#![no_std]
#![no_main]

use anchorite_guests::abi::mmio::{READ_ONLY_PAGE, read_only_byte};
use anchorite_guests::boot::{self, BootInfo};
use anchorite_guests::memory::{MAPPED_END, Region, read, write};
use anchorite_guests::{Report, Status, entry, machine, println};

entry!(run);

const PAGE: u64 = 4096;
/// Below lie the real-mode interrupt table, BIOS data and whatever else a boot loader
/// keeps for itself; it is not written.
const LOW: u64 = 1 << 20;
/// Free room left around what the boot loader told, which is not written.
const MARGIN: u64 = 1 << 20;

fn run(boot: &BootInfo) -> Status {
    let mut report = Report::new("memory");
    check_map(&mut report, boot);
    let pages = walk(&mut report, boot);
    println!("memory: {} KiB of RAM written and read back", pages * PAGE / 1024);
    check_read_only(&mut report);
    report.finish()
}

fn check_map(report: &mut Report, boot: &BootInfo) {
    let regions = boot.memory.regions();
    for Region { start, end, kind } in regions {
        println!("memory: {start:#014x}..{end:#014x} type {kind}");
        report.check(format_args!("the range at {start:#x} is not empty"), start < end);
    }
    for (index, one) in regions.iter().enumerate() {
        let apart = regions[..index].iter().all(|two| one.end <= two.start || two.end <= one.start);
        report.check(format_args!("the range at {:#x} overlaps no other", one.start), apart);
    }
    let (start, end) = boot::image();
    let inside = boot.memory.ram().any(|ram| ram.start <= start && end <= ram.end);
    report.check("the guest's own image lies in RAM", inside);
    for module in boot.modules() {
        let end = module.start + module.bytes;
        let inside = boot.memory.ram().any(|ram| ram.start <= module.start && end <= ram.end);
        report.check(format_args!("the module at {:#x} lies in RAM", module.start), inside);
    }
}

/// Writes two words of every free page, then reads all back: a page that shows up at
/// two addresses, or loses a write, is found. Gives the number of pages.
fn walk(report: &mut Report, boot: &BootInfo) -> u64 {
    let mut pages = 0;
    for page in free_pages(boot) {
        write(page, stamp(page));
        write(page + PAGE - 8, !stamp(page));
        pages += 1;
    }
    let bad = free_pages(boot)
        .filter(|&page| {
            read::<u64>(page) != stamp(page) || read::<u64>(page + PAGE - 8) != !stamp(page)
        })
        .inspect(|page| println!("memory: page {page:#x} lost what was written"))
        .count();
    report.equal("pages that lost what was written", bad, 0);
    report.check("there are free pages", pages > 0);
    pages
}

fn stamp(page: u64) -> u64 {
    page.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5a5a_5a5a_a5a5_a5a5
}

/// Pages of mapped RAM that hold neither the guest nor what it was given.
fn free_pages(boot: &BootInfo) -> impl Iterator<Item = u64> {
    let (start, end) = boot::image();
    let modules_end = boot.modules().map(|module| module.start + module.bytes).max().unwrap_or(0);
    let taken_end = u64::max(end, modules_end) + MARGIN;
    let taken = start..taken_end;
    let ram = boot.memory.ram().flat_map(|ram| {
        let first = ram.start.max(LOW).next_multiple_of(PAGE);
        (first..ram.end.min(MAPPED_END))
            .step_by(PAGE as usize)
            .filter(|page| page + PAGE <= ram.end)
    });
    ram.filter(move |page| !taken.contains(page))
}

fn check_read_only(report: &mut Report) {
    if !machine::is_anchorite() || read::<u64>(READ_ONLY_PAGE) == u64::MAX {
        return report.skip("the read-only page", "there is none");
    }
    let holds =
        || (0..4096u16).all(|at| read::<u8>(READ_ONLY_PAGE + u64::from(at)) == read_only_byte(at));
    report.check("the read-only page holds its pattern", holds());
    for at in [0, 1, 0x7f8, 0xff8] {
        write(READ_ONLY_PAGE + at, 0u64);
    }
    report.check("writes to it are dropped", holds());
}
