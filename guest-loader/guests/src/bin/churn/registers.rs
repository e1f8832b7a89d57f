//! The topmost entries of PAE paging are registers: loads of CR3 and some changes of control
//! bits check and copy them, nothing else does.
//!
//! Source: SDM vol. 3, 4.4.1 "PDPTE Registers". Under nested paging an AMD processor may read
//! them from memory at any time (APM vol. 2, 15.25.10 "Legacy PAE Mode").

use anchorite_guests::Report;
use anchorite_guests::control::{CD, DE, Features, NXE, PGE, PKE, PSE, SMAP, SMEP, TS, WP};
use anchorite_guests::deviations::{
    Deviations, Known, PDPTES_IN_MEMORY, PDPTES_LOADED_OFTEN, UNCHECKED_PDPTES,
};
use anchorite_guests::paging::Frames;
use anchorite_guests::paging::bits::{FULL, P, U};
use anchorite_guests::plan::{Plan, Want};
use anchorite_guests::probe::{Kind, Outcome};
use anchorite_guests::script::{Register, Runner, Step};
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
    // Not privilege level 3's, or SMAP would forbid it.
    space.map(frames, address, page, FULL & !U, 1);
    let at = space.make(frames, address, 3);
    let mut checks = Checks { report, deviations, runner, at, address };
    checks.by_cr3();
    checks.in_memory("nothing", Step::Invalidate(address), &[PDPTES_IN_MEMORY]);
    checks.by_control_bits();
    for bit in RESERVED {
        checks.unchecked("CR3", Step::Root(space.root), bit);
        checks.not_present(bit);
    }
}

/// A change of control bits: its name, the step, and whether the processor has the bits.
type Change = (&'static str, Step, bool);

/// Changes that load the PDPTEs.
fn loading(features: Features) -> [Change; 4] {
    [
        ("CR0.CD", Step::Toggle(Register::Cr0, CD), true),
        ("CR4.PSE", Step::Toggle(Register::Cr4, PSE), true),
        ("CR4.PGE", Step::Toggle(Register::Cr4, PGE), features.global),
        ("CR4.SMEP", Step::Toggle(Register::Cr4, SMEP), features.smep),
    ]
}

/// Changes that do not.
fn others(features: Features) -> [Change; 6] {
    [
        ("CR0.TS", Step::Toggle(Register::Cr0, TS), true),
        ("CR0.WP", Step::Toggle(Register::Cr0, WP), true),
        ("CR4.DE", Step::Toggle(Register::Cr4, DE), true),
        ("CR4.SMAP", Step::Toggle(Register::Cr4, SMAP), features.smap),
        ("CR4.PKE", Step::Toggle(Register::Cr4, PKE), features.pku),
        ("EFER.NXE", Step::Toggle(Register::Efer, NXE), features.no_execute),
    ]
}

struct Checks<'a> {
    report: &'a mut Report,
    deviations: &'a mut Deviations,
    runner: &'a Runner,
    /// The PDPTE, and an address that it leads to, where 1 is read.
    at: u64,
    address: u64,
}

impl Checks<'_> {
    fn whole(&self) -> u64 {
        self.runner.space().format.read(self.at)
    }

    fn by_cr3(&mut self) {
        let (root, at, address, whole) =
            (self.runner.space().root, self.at, self.address, self.whole());
        let mut plan = Plan::new(self.runner);
        plan.read(address, 1).entry(at, 0).root(root).fault(Kind::Read, address, 0);
        plan.entry(at, whole).root(root).read(address, 1);
        plan.run(self.report, "PDPTEs by a load of CR3");
    }

    fn by_control_bits(&mut self) {
        let features = Features::read();
        for (name, step, _) in self.shown(loading(features)) {
            self.loaded(name, step);
            self.unchecked(name, step, RESERVED[0]);
        }
        for (name, step, _) in self.shown(others(features)) {
            self.in_memory(name, step, &[PDPTES_IN_MEMORY, PDPTES_LOADED_OFTEN]);
            self.not_looked_at(name, step);
        }
    }

    /// Those that the processor has.
    fn shown<const N: usize>(
        &mut self,
        changes: [Change; N],
    ) -> impl Iterator<Item = Change> + use<N> {
        for (name, ..) in changes.iter().filter(|(.., shown)| !shown) {
            self.report.skip(name, "the CPU does not have it");
        }
        changes.into_iter().filter(|(.., shown)| *shown)
    }

    /// `step` loads the PDPTEs, both times.
    fn loaded(&mut self, name: &str, step: Step) {
        let (at, address, whole) = (self.at, self.address, self.whole());
        let mut plan = Plan::new(self.runner);
        plan.read(address, 1).entry(at, 0).step(step, Want::Done);
        plan.flush(address).fault(Kind::Read, address, 0);
        plan.entry(at, whole).step(step, Want::Done).read(address, 1);
        plan.run(self.report, format_args!("PDPTEs by a change of {name}"));
    }

    /// A PDPTE that changes in memory does not matter before it is loaded, which `step` does
    /// not do.
    fn in_memory(&mut self, name: &str, step: Step, deviations: &[Known]) {
        let (at, address, whole) = (self.at, self.address, self.whole());
        let (flush, read) = (Step::Invalidate(address), Step::read(address));
        let steps =
            [Step::Entry(at, 0), step, flush, read, step, flush, read, Step::Entry(at, whole)];
        let mut seen = [Outcome::default(); 8];
        self.runner.run(&steps, &mut seen);
        for seen in [seen[3], seen[6]] {
            let kept = seen.is_done() && seen.value == 1;
            let walked = seen.page_fault_at(address) == Some(0);
            let declared = !kept && walked && self.declared(deviations);
            self.report.check(
                format_args!("a PDPTE changed in memory, and {name}: {seen:x?}"),
                kept || declared,
            );
        }
    }

    fn declared(&mut self, deviations: &[Known]) -> bool {
        deviations.iter().any(|known| self.deviations.see(*known))
    }

    /// A load with a reserved bit in a PDPTE is refused, and the register stays.
    fn unchecked(&mut self, name: &str, load: Step, bit: u64) {
        for seen in self.twice_with(bit, load) {
            let refused = (seen.vector, seen.error) == (vector::PROTECTION, 0);
            let declared = !refused && seen.is_done() && self.declared(&[UNCHECKED_PDPTES]);
            self.report.check(
                format_args!("{name} with {bit:#x} in a PDPTE: {seen:x?}"),
                refused || declared,
            );
        }
    }

    /// What does not load the PDPTEs does not check them.
    fn not_looked_at(&mut self, name: &str, step: Step) {
        for seen in self.twice_with(RESERVED[0], step) {
            let refused = (seen.vector, seen.error) == (vector::PROTECTION, 0);
            let declared = refused && self.declared(&[PDPTES_LOADED_OFTEN]);
            self.report.check(
                format_args!("{name} with a reserved bit in a PDPTE: {seen:x?}"),
                seen.is_done() || declared,
            );
        }
    }

    /// What comes of `step` with `bit` in the PDPTE; twice, so that what is toggled is as before.
    fn twice_with(&mut self, bit: u64, step: Step) -> [Outcome; 2] {
        let (at, whole) = (self.at, self.whole());
        let steps = [Step::Entry(at, whole | bit), step, step, Step::Entry(at, whole), step, step];
        let mut seen = [Outcome::default(); 6];
        self.runner.run(&steps, &mut seen);
        self.report.check("the same with all well again", seen[4].is_done() && seen[5].is_done());
        [seen[1], seen[2]]
    }

    /// Nobody looks into an entry that is not present.
    fn not_present(&mut self, bit: u64) {
        let (root, at, address, whole) =
            (self.runner.space().root, self.at, self.address, self.whole());
        let mut plan = Plan::new(self.runner);
        plan.entry(at, bit | whole & !P).root(root).fault(Kind::Read, address, 0);
        plan.entry(at, whole).root(root).read(address, 1);
        plan.run(self.report, format_args!("a PDPTE that is not present with {bit:#x}"));
    }
}
