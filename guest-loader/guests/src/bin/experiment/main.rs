//! What zapping all shadow pages costs a guest afterwards, under one of several workloads.
//!
//! The command line says what to do (`plan.rs` lists its words). A run is `warm` rounds that
//! nobody looks at, so that the hypervisor's pool of shadow pages is as full as it will ever
//! be, and `rounds` measured ones. A round zaps everything and then works. Three things are
//! timed with RDTSC, and printed only when all is over:
//!
//! - each touch in the window after a zap: the memory read alone, between two RDTSCs. Those
//!   that took longer than any touch without an exit can are the faults;
//! - each zap (or move of a memory slot), from the OUT or hypercall to the next instruction,
//!   the guest's own code faulting back in included;
//! - the work of all rounds together, without choosing what to touch and without idle time.
//!
//! Every value read goes into a checksum, so that two policies can be held against each
//! other; before the end every page is read once more and must hold its own number.
//!
//! ```text
//! E total TICKS TOUCHES
//! E zaps TICKS*COUNT …
//! E faults TICKS*COUNT …      (several lines; sorted)
//! E checksum HEX
//! VERIFY OK PAGES
//! ```
#![no_std]
#![no_main]

mod aperture;
mod fork;
mod plan;
mod random;
mod samples;
mod sleep;
mod space;
mod work;

use anchorite_guests::abi::bench::Command;
use anchorite_guests::timing::command;
use anchorite_guests::{BootInfo, Report, Status, entry, machine, println};

use plan::{Plan, Workload};
use work::Work;

entry!(run);

/// The one section that is measured.
const SECTION: u32 = 1;

fn run(boot: &BootInfo) -> Status {
    command(Command::Boot);
    let plan = match Plan::read(boot) {
        Ok(plan) => plan,
        Err(wrong) => {
            println!("experiment: {wrong}");
            return Status::FAIL;
        }
    };
    if plan.workload == Workload::Remap && !machine::is_anchorite() {
        println!("experiment: workload=remap moves a memory slot, which only Anchorite offers");
        return Status::FAIL;
    }
    let mut work = Work::new(plan);
    (0..plan.warm).for_each(|_| work.round());
    work.begin();
    command(Command::Begin(SECTION));
    (0..plan.rounds).for_each(|_| work.round());
    command(Command::End(SECTION));

    let mut report = Report::new("experiment");
    let pages = work.verify(&mut report);
    work.print();
    println!("VERIFY OK {pages}");
    command(Command::Done);
    report.finish()
}
