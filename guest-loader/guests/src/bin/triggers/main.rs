//! What makes a hypervisor forget all shadow pages, pulled live: memory slots added, moved,
//! made read-only and deleted, a ROM and a BAR remapped in a loop, MTRRs and CR0.CD, the
//! dirty log, the hypercall. After each everything is looked at again.
//!
//! Words of the command line: `rounds=N` repeats, `gap=N` waits so many ticks between two
//! triggers, `rom-tables` has page tables in read-only memory, which nested paging cannot.
#![no_std]
#![no_main]

mod dirty;
mod toucher;
mod window;

use anchorite_guests::abi::hypercall;
use anchorite_guests::control::{load_root, toggle_caching, toggle_memory_types};
use anchorite_guests::instructions::rdtsc;
use anchorite_guests::machine::{self, hypercall};
use anchorite_guests::paging::{Frames, Space};
use anchorite_guests::random::Random;
use anchorite_guests::{BootInfo, Report, Status, entry, println};
use toucher::Toucher;
use window::Window;

entry!(run);

fn run(boot: &BootInfo) -> Status {
    let mut report = Report::new("triggers");
    let mut frames = Frames::new(boot);
    let space = Space::with_kernel(&mut frames);
    load_root(space.root);
    let number = |name| boot.argument(name).and_then(|text| text.parse::<u64>().ok());
    let (rounds, gap) = (number("rounds").unwrap_or(20), number("gap").unwrap_or(0));
    let toucher = Toucher::new(&mut frames, space);
    toucher.look(&mut report, "at first");

    if machine::is_anchorite() {
        privileges(&mut report, &mut frames, space);
        let mut window = Window::new(&mut report);
        window.lifecycle(&mut report, &toucher);
        window.tables(&mut report, &mut frames, space, boot.has_flag("rom-tables"));
        dirty::check(&mut report, &mut window, &mut frames, space, &toucher);
        mixture(&mut report, &mut window, &toucher, rounds, gap);
    } else {
        report.skip("the remap window", "this is not our hypervisor");
    }
    caching(&mut report, &toucher, rounds, gap);
    report.finish()
}

/// Privilege level 3 may not call.
fn privileges(report: &mut Report, frames: &mut Frames, space: Space) {
    let unknown = hypercall(0x7fff_ffff, 0, 0);
    report.equal("a number that nobody knows", unknown, hypercall::UNKNOWN);
    for number in [hypercall::ZAP_ALL, hypercall::WINDOW_ADD, hypercall::DIRTY_START] {
        let answer = toucher::hypercall_by_user(frames, space, number);
        report.equal(format_args!("hypercall {number} by a user"), answer, hypercall::DENIED);
    }
}

/// All triggers in random order, back to back or with a gap, beside the toucher.
fn mixture(report: &mut Report, window: &mut Window, toucher: &Toucher, rounds: u64, gap: u64) {
    let mut random = Random::new(3);
    let mut pulled = [0u32; 6];
    for round in 0..rounds * 8 {
        let which = random.below(6);
        match which {
            0 => window.move_about(report, &mut random),
            1 => window.take_away_and_back(report, &mut random),
            2 => window.as_rom(report),
            3 => toggle_memory_types(),
            4 => toggle_caching(),
            _ => report.equal("zap-all", hypercall(hypercall::ZAP_ALL, 0, 0), 0),
        }
        pulled[which as usize] += 1;
        toucher.touch(report, round);
        window.touch(report, round);
        wait(gap);
    }
    toucher.look(report, "after the mixture");
    window.look(report, "after the mixture");
    let [moves, deletions, roms, mtrrs, cds, zaps] = pulled;
    println!(
        "triggers: {moves} moves, {deletions} deletions, {roms} ROMs, {mtrrs} MTRR and {cds} \
         CR0.CD toggles, {zaps} hypercalls"
    );
}

fn caching(report: &mut Report, toucher: &Toucher, rounds: u64, gap: u64) {
    for round in 0..rounds {
        toggle_caching();
        toucher.touch(report, round);
        toggle_memory_types();
        toucher.touch(report, round);
        wait(gap);
    }
    toucher.look(report, "after MTRRs and CR0.CD");
}

fn wait(ticks: u64) {
    let start = rdtsc();
    while rdtsc().wrapping_sub(start) < ticks {}
}
