//! `bench`: guests that measure themselves, or the shadow engine on the host, counted in
//! instructions, against the baseline; and the race against KVM.

mod baseline;
mod callgrind;
mod engine;
mod gate;
mod plot;
mod policies;
mod race;
mod recorded;
pub(crate) mod results;
mod wall;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use crate::cli::{BenchArgs, GuestArgs, RunArgs};
use crate::cmdline::{DeviceSet, EndIs, Mmu};
use crate::emulator::{self, Boot, Cpu, On, Outcome};
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::matrix::Matrix;
use crate::run;
use crate::setup;
use crate::verdict::Verdict;
use crate::workspace::Workspace;
use baseline::Baseline;
pub(crate) use gate::gate;
pub(crate) use recorded::Recorded;
use results::{Common, Measured, Results};

/// A benchmark's limit by the image's clock: as many times a thousand million instructions.
const TIMEOUT_S: u32 = 60;

/// Memory of a guest that was written to the benchmark's protocol.
const BENCH_MIB: u32 = 768;
/// … and of the smaller ones.
const SMALL_MIB: u32 = 64;

/// The bundled benchmark of the memory management.
const BENCH: &str = "bench";

/// One benchmark to run.
#[derive(Clone, Debug)]
struct Bench {
    guest: String,
    append: Option<String>,
    mmu: Mmu,
    mem: u32,
    zap: Option<String>,
    shadow_pages: u32,
    bare: bool,
}

/// Measures, prints, and compares with the baseline or makes a new one.
pub(crate) fn bench(workspace: &Workspace, args: &BenchArgs, from: &Path) -> Result<()> {
    match args.guest.as_deref() {
        None => gate(workspace, args.accept.then_some(args.reason.as_deref()).flatten()),
        Some(engine::ENGINE) => engine::bench(workspace, args, from),
        Some(policies::POLICIES) => policies::compare(workspace, args),
        Some(race::RACE) => race::race(workspace, args, from),
        Some(guest) if args.wall => wall::wall(workspace, guest, args, from),
        Some(guest) => one(workspace, guest, args, from),
    }
}

fn one(workspace: &Workspace, guest: &str, args: &BenchArgs, from: &Path) -> Result<()> {
    let bench = Bench {
        guest: guest.to_owned(),
        append: args.append.clone(),
        mmu: args.mmu,
        mem: args.mem.unwrap_or(default_mib(guest)),
        zap: args.zap.clone(),
        shadow_pages: args.shadow_pages,
        bare: args.bare,
    };
    let (outcome, common) = bench.run(workspace, from, emulator::show_live)?;
    println!("{}", outcome.verdict);
    succeeded(&outcome.verdict)?;
    results::parse(&outcome.text, &common)?;
    let results = results::collect(&outcome.text, &outcome.json, &common);
    if let Some(file) = &args.json {
        append(&from.join(file), &results)?;
    }
    if args.bare {
        return Ok(());
    }
    let baseline = Baseline::of(&name(guest, from)?, args.mmu.name());
    match &args.reason {
        Some(reason) if args.accept => baseline.accept(&results.measured, reason),
        _ => baseline.compare(&results.measured),
    }
}

/// What a guest's baseline is called: a file's never takes a bundled guest's place.
fn name(guest: &str, from: &Path) -> Result<String> {
    let guest = Guest::find(guest, &Matrix::read()?, from)?;
    Ok(match &guest {
        Guest::File(_) => format!("file-{}", guest.name()),
        _ => guest.name(),
    })
}

fn default_mib(guest: &str) -> u32 {
    let bundled = Workspace::bundled_guests().iter().any(|name| name == guest);
    if bundled && guest != BENCH { SMALL_MIB } else { BENCH_MIB }
}

impl Bench {
    /// The bundled benchmark with all its sections.
    fn bundled(guest: &str, mmu: Mmu, bare: bool) -> Self {
        Self {
            guest: guest.into(),
            append: None,
            mmu,
            mem: default_mib(guest),
            zap: None,
            shadow_pages: 0,
            bare,
        }
    }

    /// Builds and runs it; what became of it, whatever the verdict.
    fn run(
        &self,
        workspace: &Workspace,
        from: &Path,
        show: impl FnMut(&[u8]),
    ) -> Result<(Outcome, Common)> {
        let guest = Guest::find(&self.guest, &Matrix::read()?, from)?;
        setup::ensure(workspace, run::needs(On::Qemu, Boot::Direct))?;
        run::build(workspace, &guest, self.bare)?;
        let args = self.arguments();
        let machine = run::machine(&args, &guest, (Cpu::Amd, On::Qemu), from)?;
        let announce = |command: &str| eprintln!("emulator: {command}");
        let outcome = emulator::run(&machine, announce, show)?;
        run::tidy(&machine.scratch);
        Ok((outcome, run::common(&args, Cpu::Amd)))
    }

    fn arguments(&self) -> RunArgs {
        RunArgs {
            guest: GuestArgs {
                guest: self.guest.clone(),
                mmu: self.mmu,
                mem: Some(self.mem),
                append: self.append.clone(),
                kind: None,
                fw_cfg: Vec::new(),
                devices: Some(DeviceSet::default()),
                until: None,
                reset_is: EndIs::default(),
                triple_fault_is: EndIs::default(),
                module: Vec::new(),
                hide: None,
                zap: self.zap.clone(),
                shadow_pages: self.shadow_pages,
                zap_rate: 0,
                audit: false,
            },
            cpu: Some(Cpu::Amd),
            on: Some(On::Qemu),
            boot: Boot::Direct,
            machine_mem: None,
            cpu_flags: None,
            icount: true,
            timeout: Some(TIMEOUT_S),
            // The image tells its records only where somebody wants them.
            json: Some(std::path::PathBuf::new()),
            gdb: false,
            interactive: false,
            bare: self.bare,
        }
    }
}

/// Figures of a run that failed mean nothing.
fn succeeded(verdict: &Verdict) -> Result<()> {
    match verdict {
        Verdict::Pass => Ok(()),
        _ => Err(Error::malformed("the benchmark's run", verdict)),
    }
}

/// Appends everything to a file, one JSON object a line.
pub(crate) fn append(file: &Path, results: &Results) -> Result<()> {
    let mut out =
        OpenOptions::new().create(true).append(true).open(file).map_err(Error::io(file))?;
    let figures = results.measured.iter().map(Measured::line);
    let sections = results.sections.iter().map(ToString::to_string);
    for line in figures.chain(sections) {
        writeln!(out, "{line}").map_err(Error::io(file))?;
    }
    Ok(())
}
