//! `bench`: a guest that measures itself, or the shadow engine on the host, counted in
//! instructions, against the baseline.

mod baseline;
mod callgrind;
mod engine;
mod results;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use crate::cli::{BenchArgs, GuestArgs, RunArgs};
use crate::cmdline::{DeviceSet, Mmu, ResetIs};
use crate::emulator::{self, Boot, Cpu, On};
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::matrix::Matrix;
use crate::run;
use crate::setup;
use crate::verdict::Verdict;
use crate::workspace::Workspace;
use baseline::Baseline;
use results::Measured;

/// A benchmark's limit by the image's clock: as many times a thousand million instructions.
const TIMEOUT_S: u32 = 60;

/// Measures, prints, and compares with the baseline or makes a new one.
pub(crate) fn bench(workspace: &Workspace, args: &BenchArgs, from: &Path) -> Result<()> {
    match args.guest.as_str() {
        engine::ENGINE => return engine::bench(workspace, args, from),
        engine::POLICIES => return engine::compare_policies(workspace, args),
        _ => {}
    }
    let guest = Guest::find(&args.guest, &Matrix::read()?, from)?;
    setup::ensure(workspace, run::needs(On::Qemu, Boot::Direct))?;
    run::build(workspace, &guest, args.bare)?;
    let measured = measure(args, &guest, from)?;
    if let Some(file) = &args.json {
        append(&from.join(file), &measured)?;
    }
    if args.bare {
        return Ok(());
    }
    let baseline = Baseline::of(&guest.name(), args.mmu.name());
    match &args.reason {
        Some(reason) if args.accept => baseline.accept(&measured, reason),
        _ => baseline.compare(&measured),
    }
}

fn measure(args: &BenchArgs, guest: &Guest, from: &Path) -> Result<Vec<Measured>> {
    let machine = run::machine(&arguments(args), guest, (Cpu::Amd, On::Qemu), from)?;
    let announce = |command: &str| eprintln!("emulator: {command}");
    let outcome = emulator::run(&machine, announce, emulator::show_live)?;
    run::tidy(&machine.scratch);
    println!("{}", outcome.verdict);
    succeeded(&outcome.verdict)?;
    let (mmu, policy) = match args.mmu {
        _ if args.bare => ("bare", "none"),
        Mmu::Nested => (args.mmu.name(), "none"),
        Mmu::Shadow => (args.mmu.name(), args.zap.as_deref().unwrap_or("tagged")),
    };
    let common = results::Common {
        policy: policy.into(),
        cpu: "amd".into(),
        mmu: mmu.into(),
        commit: Workspace::commit(),
    };
    results::parse(&outcome.text, &common)
}

fn arguments(args: &BenchArgs) -> RunArgs {
    RunArgs {
        guest: GuestArgs {
            guest: args.guest.clone(),
            mmu: args.mmu,
            mem: Some(args.mem),
            append: None,
            kind: None,
            devices: DeviceSet::default(),
            reset_is: ResetIs::default(),
            module: Vec::new(),
            zap: args.zap.clone(),
            shadow_pages: args.shadow_pages,
            zap_rate: 0,
        },
        cpu: Some(Cpu::Amd),
        on: Some(On::Qemu),
        boot: Boot::Direct,
        machine_mem: None,
        icount: true,
        timeout: Some(TIMEOUT_S),
        json: None,
        gdb: false,
        interactive: false,
        bare: args.bare,
    }
}

/// Figures of a run that failed mean nothing.
fn succeeded(verdict: &Verdict) -> Result<()> {
    match verdict {
        Verdict::Pass => Ok(()),
        _ => Err(Error::malformed("the benchmark's run", verdict)),
    }
}

fn append(file: &Path, measured: &[Measured]) -> Result<()> {
    let mut out =
        OpenOptions::new().create(true).append(true).open(file).map_err(Error::io(file))?;
    for one in measured {
        writeln!(out, "{}", one.line()).map_err(Error::io(file))?;
    }
    Ok(())
}
