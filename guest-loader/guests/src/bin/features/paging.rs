//! How pages are found: global ones, large ones, PCIDs, five levels.

use crate::rights::load;
use crate::tables::{
    self, GLOBAL, LARGE, PRESENT, SPARE_ROOT, SPARE_TABLE, USER, WRITABLE, map, map_quietly, mark,
};
use crate::{CR4_LA57, CR4_PAE, CR4_PCIDE, CR4_PGE, CR4_PSE, UNDEFINED, refused, shows, with_cr4};
use anchorite_guests::format::Format;
use anchorite_guests::instructions::{cpuid, invlpg, read_cr3, read_cr4, write_cr3, write_cr4};
use anchorite_guests::paging::Space;
use anchorite_guests::probe::Outcome;
use anchorite_guests::script::{Runner, Step, load_levels};
use anchorite_guests::trap::{Exception, vector};
use anchorite_guests::{Report, guarded};

/// Read by its physical address, below 4 MiB.
static MAGIC: u32 = 0x6d61_6769;

fn magic_address() -> u64 {
    &raw const MAGIC as u64
}

/// A stale translation of a global page ends with INVLPG and with a change of CR4.PGE.
pub(crate) fn global_pages(report: &mut Report) {
    with_cr4(report, CR4_PGE, |report| {
        let address = map(4, 0, WRITABLE | GLOBAL);
        report.same("a global page", load(address), Ok(mark(0)));
        map_quietly(4, 1, WRITABLE | GLOBAL);
        invlpg(address);
        report.same("after INVLPG", load(address), Ok(mark(1)));
        map_quietly(4, 2, WRITABLE | GLOBAL);
        let cr4 = read_cr4();
        // SAFETY: flushes.
        let toggled = unsafe { write_cr4(cr4 & !CR4_PGE).and(write_cr4(cr4)) };
        report.same("PGE off and on", toggled, Ok(()));
        report.same("after a change of CR4.PGE", load(address), Ok(mark(2)));
    });
    map(4, 0, WRITABLE);
}

/// Bits of CR3 from the physical width on are reserved, and bit 63 without PCIDs (Intel SDM
/// vol. 3, 4.5, "MOV to CR3"). `silent`: the processor takes them, and nobody intercepts the load.
pub(crate) fn root_width(report: &mut Report, silent: bool) {
    if silent {
        return report.skip("reserved bits of CR3", "the processor takes them");
    }
    let (before, width) = (read_cr3(), cpuid(0x8000_0008, 0).eax & 0xff);
    for bit in width..64 {
        // SAFETY: must be refused; one that is taken by mistake leads to tables in no memory.
        let written = unsafe { write_cr3(before | 1 << bit) };
        report.same(format_args!("CR3 with bit {bit}"), written, Err(Exception::PROTECTION));
        report.equal("CR3 after a refused load", read_cr3(), before);
    }
}

/// The directory's entry 256 maps 4 GiB, where there is no memory, entry 257 address 0.
pub(crate) fn pse_36(report: &mut Report) {
    const ABOVE: u64 = 256 << 22;
    const BELOW: u64 = 257 << 22;
    if magic_address() >= 4 << 20 {
        return report.check("the image lies below 4 MiB", false);
    }
    let directory = tables::frame(SPARE_ROOT);
    for index in 0..512 {
        let entry = |number: u64| match number {
            256 => 1 << 13 | 0x83,
            257 => 0x83,
            _ => number << 22 & 0xffff_ffff | 0x83,
        };
        tables::put(directory + 8 * index, entry(2 * index) | entry(2 * index + 1) << 32);
    }
    with_cr4(report, CR4_PSE, |report| {
        let runner = Runner::new(Space { root: directory, format: Format::TwoLevel });
        let mut seen = [Outcome::default(); 2];
        runner.run(&[BELOW, ABOVE].map(|base| Step::read(base + magic_address())), &mut seen);
        report.equal("a 4 MiB page", seen[0].value, MAGIC.into());
        report.equal("a 4 MiB page at 4 GiB", seen[1].value, u32::MAX.into());
    });
    report.equal("and back in long mode", read_cr4() & CR4_PAE, CR4_PAE);
}

/// Entry 2 of the PML4, with a 1 GiB page at physical address 0.
fn map_gigabyte() -> u64 {
    const ADDRESS: u64 = 2 << 39;
    let top = read_cr3() & !0xfff;
    tables::put(tables::frame(SPARE_TABLE), LARGE | WRITABLE | PRESENT);
    tables::put(top + 16, tables::frame(SPARE_TABLE) | WRITABLE | PRESENT);
    ADDRESS
}

pub(crate) fn gigabyte(report: &mut Report) {
    let read = load(map_gigabyte() + magic_address());
    report.same("a 1 GiB page", read.map(|word| word as u32), Ok(MAGIC));
}

/// `silent`: the processor walks the tables itself, and does not know what is hidden.
pub(crate) fn no_gigabyte(report: &mut Report, silent: bool) {
    if silent {
        return report.skip("1 GiB pages", "the processor takes them");
    }
    let reserved = Exception { vector: vector::PAGE_FAULT, error: 9 };
    report.same("a 1 GiB page", load(map_gigabyte() + magic_address()), Err(reserved));
}

const KEEP: u64 = 1 << 63;

fn set_cr3(value: u64) -> Result<(), Exception> {
    // SAFETY: the same tables under another PCID, or none.
    unsafe { write_cr3(value) }
}

pub(crate) fn pcids(report: &mut Report) {
    let top = read_cr3();
    report.equal("CR3 has no PCID yet", top & 0xfff, 0);
    report.same("CR3 with low bits", set_cr3(top | 8), Ok(()));
    refused(report, CR4_PCIDE);
    report.same("CR3 without them", set_cr3(top), Ok(()));
    with_cr4(report, CR4_PCIDE, |report| {
        let address = map(5, 0, WRITABLE);
        report.same("PCID 5", set_cr3(top | 5), Ok(()));
        report.equal("CR3 holds it", read_cr3(), top | 5);
        report.same("a page", load(address), Ok(mark(0)));
        report.same("PCID 6, keeping", set_cr3(KEEP | top | 6), Ok(()));
        report.equal("CR3 does not hold bit 63", read_cr3(), top | 6);
        map_quietly(5, 1, WRITABLE);
        report.same("PCID 5, flushing", set_cr3(top | 5), Ok(()));
        report.same("the new page", load(address), Ok(mark(1)));
        report.same("PCID 5, keeping", set_cr3(KEEP | top | 5), Ok(()));
        report.same("the same page", load(address), Ok(mark(1)));
        report.same("PCID 0", set_cr3(top), Ok(()));
    });
}

/// INVPCID of `kind` with the descriptor's two words.
fn invalidate(kind: u64, descriptor: [u64; 2]) -> Result<(), Exception> {
    let address = &raw const descriptor;
    // SAFETY: drops translations only; a fault is caught.
    unsafe {
        guarded!("invpcid {kind}, [{address}]", kind = in(reg) kind, address = in(reg) address)
    }
}

pub(crate) fn invpcid(report: &mut Report) {
    let top = read_cr3();
    with_cr4(report, CR4_PCIDE, |report| {
        report.same("PCID 7", set_cr3(top | 7), Ok(()));
        let address = map(6, 0, WRITABLE);
        report.same("a page", load(address), Ok(mark(0)));
        let kinds = [(0, [7, address]), (1, [7, 0]), (2, [0, 0]), (3, [0, 0])];
        for (kind, descriptor) in kinds {
            let index = 1 + (kind as usize & 1);
            map_quietly(6, index, WRITABLE);
            report.same(format_args!("INVPCID {kind}"), invalidate(kind, descriptor), Ok(()));
            report.same(format_args!("the page after it"), load(address), Ok(mark(index)));
        }
        let bad = [(4, [0, 0]), (1, [0x1000, 0]), (0, [7, 1 << 60])];
        for (kind, descriptor) in bad {
            let done = invalidate(kind, descriptor);
            let refused = Err(Exception::PROTECTION);
            report.same(format_args!("INVPCID {kind} of {descriptor:x?}"), done, refused);
        }
        report.same("PCID 0", set_cr3(top), Ok(()));
    });
    report.same(
        "INVPCID of PCID 1 without PCIDs",
        invalidate(1, [1, 0]),
        Err(Exception::PROTECTION),
    );
    report.same("INVPCID of all without PCIDs", invalidate(2, [0, 0]), Ok(()));
}

pub(crate) fn no_invpcid(report: &mut Report) {
    report.same("INVPCID", invalidate(2, [0, 0]), Err(UNDEFINED));
}

pub(crate) fn five_levels(report: &mut Report) {
    const ALIAS: u64 = 1 << 48;
    let (top, cr4) = (read_cr3(), read_cr4());
    refused(report, CR4_LA57);
    let root = tables::frame(SPARE_ROOT);
    (0..512).for_each(|index| tables::put(root + 8 * index, 0));
    tables::put(root, top & !0xfff | PRESENT | WRITABLE | USER);
    tables::put(root + 8, top & !0xfff | PRESENT | WRITABLE);
    let four = load(ALIAS + magic_address());
    report.same("bit 48 with four levels", four, Err(Exception::PROTECTION));
    // SAFETY: the PML5 leads to the same PML4 for all addresses in use.
    unsafe { load_levels(root, cr4 | CR4_LA57) };
    report.equal("CR4 with LA57", read_cr4(), cr4 | CR4_LA57);
    let five = load(ALIAS + magic_address());
    report.same("bit 48 with five levels", five.map(|word| word as u32), Ok(MAGIC));
    // SAFETY: must be refused, and would leave nothing mapped.
    let cleared = unsafe { write_cr4(cr4) };
    report.same("LA57 cleared in long mode", cleared, Err(Exception::PROTECTION));
    // SAFETY: back to the tables in use before.
    unsafe { load_levels(top, cr4) };
    report.equal("CR4 without LA57", read_cr4(), cr4);
    report.check("and the page table still there", load(magic_address()).is_ok());
}

pub(crate) fn four_levels(report: &mut Report) {
    refused(report, CR4_LA57);
    report.equal("linear address bits", cpuid(0x8000_0008, 0).eax >> 8 & 0xff, 48);
    report.check("LA57 is hidden", !shows((7, 2, 16)));
}
