//! The topmost entries of PAE paging are registers: loads of CR3 check and copy them.
//!
//! Source: SDM vol. 3, 4.4.1 "PDPTE Registers". Under nested paging an AMD processor may read
//! them from memory at any time (APM vol. 2, 15.25.10 "Legacy PAE Mode").

use anchorite_guests::Report;
use anchorite_guests::deviations::{Deviations, PDPTES_IN_MEMORY, UNCHECKED_PDPTES};
use anchorite_guests::paging::Frames;
use anchorite_guests::paging::bits::{FULL, P};
use anchorite_guests::plan::Plan;
use anchorite_guests::probe::{END, Kind, Outcome};
use anchorite_guests::script::{Runner, Step};
use anchorite_guests::trap::vector;

/// Reserved bits of a PDPTE that is present.
const RESERVED: [u64; 4] = [1 << 1, 1 << 2, 1 << 8, 1 << 63];

pub(crate) fn check(
    report: &mut Report,
    deviations: &mut Deviations,
    runner: &Runner,
    frames: &mut Frames,
    page: u64,
) {
    let space = runner.space();
    let address = space.region(8);
    space.map(frames, address, page, FULL, 1);
    let at = space.make(frames, address, 3);
    let mut plan = Plan::new(runner);
    plan.read(address, 1).entry(at, 0).root(space.root).fault(Kind::Read, address, 0);
    plan.entry(at, space.format.read(at)).root(space.root).read(address, 1);
    plan.run(report, "PDPTEs by a load of CR3");
    in_memory(report, deviations, runner, at, address);
    for bit in RESERVED {
        unchecked(report, deviations, runner, at, bit);
        // Nobody looks into an entry that is not present.
        let whole = space.format.read(at);
        plan.entry(at, bit | whole & !P).root(space.root).fault(Kind::Read, address, 0);
        plan.entry(at, whole).root(space.root).read(address, 1);
        plan.run(report, format_args!("a PDPTE that is not present with {bit:#x}"));
    }
}

/// A PDPTE that changes in memory does not matter before CR3 is loaded.
fn in_memory(
    report: &mut Report,
    deviations: &mut Deviations,
    runner: &Runner,
    at: u64,
    address: u64,
) {
    let whole = runner.space().format.read(at);
    let steps = [
        Step::Entry(at, 0),
        Step::Invalidate(address),
        Step::read(address),
        Step::Entry(at, whole),
    ];
    let mut seen = [Outcome::default(); 4];
    runner.run(&steps, &mut seen);
    let kept = seen[2].is_done() && seen[2].value == 1;
    let walked = seen[2].page_fault_at(address) == Some(0);
    let declared = !kept && walked && deviations.see(PDPTES_IN_MEMORY);
    report.check(format_args!("a PDPTE changed in memory alone: {:x?}", seen[2]), kept || declared);
}

/// A load of CR3 with a reserved bit in a PDPTE is refused, and CR3 stays.
fn unchecked(report: &mut Report, deviations: &mut Deviations, runner: &Runner, at: u64, bit: u64) {
    let space = runner.space();
    let whole = space.format.read(at);
    let steps = [
        Step::Entry(at, whole | bit),
        Step::Root(space.root),
        Step::Entry(at, whole),
        Step::Root(space.root),
    ];
    let mut seen = [Outcome::default(); 4];
    runner.run(&steps, &mut seen);
    let refused = (seen[1].vector, seen[1].error) == (vector::PROTECTION, 0);
    let declared = !refused && seen[1].vector == END && deviations.see(UNCHECKED_PDPTES);
    report.check(format_args!("CR3 with {bit:#x} in a PDPTE: {:x?}", seen[1]), refused || declared);
    report.check("CR3 with all well again", seen[3].is_done());
}
