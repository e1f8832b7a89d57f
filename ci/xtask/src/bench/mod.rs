//! `bench`: a guest that measures itself, counted in instructions, against the baseline.

mod baseline;
mod results;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use crate::cli::{BenchArgs, GuestArgs, RunArgs};
use crate::emulator::{self, Cpu, On};
use crate::error::{Error, Result};
use crate::freestanding;
use crate::guest::Guest;
use crate::matrix::Matrix;
use crate::run;
use crate::setup;
use crate::verdict::{Kind, Verdict};
use crate::workspace::Workspace;
use baseline::Baseline;
use results::Measured;

/// A benchmark's limit by the image's clock: as many times a thousand million instructions.
const TIMEOUT_S: u64 = 60;

/// Measures, prints, and compares with the baseline or makes a new one.
pub(crate) fn bench(workspace: &Workspace, args: &BenchArgs, from: &Path) -> Result<()> {
    let guest = Guest::find(&args.guest, &Matrix::read()?, from)?;
    setup::ensure(workspace, run::needs(On::Qemu))?;
    freestanding::build_image(workspace)?;
    freestanding::build_guests(workspace)?;
    let measured = measure(args, &guest, from)?;
    if let Some(file) = &args.json {
        append(&from.join(file), &measured)?;
    }
    let baseline = Baseline::of(&guest.name(), &args.mmu.to_string());
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
    let policy = args.option.iter().find_map(|word| word.strip_prefix("zap="));
    let common = results::Common {
        policy: policy.unwrap_or("tagged").to_owned(),
        cpu: "amd".into(),
        mmu: args.mmu.to_string(),
        commit: Workspace::commit(),
    };
    results::parse(&outcome.text, &common)
}

fn arguments(args: &BenchArgs) -> RunArgs {
    RunArgs {
        guest: GuestArgs {
            guest: args.guest.clone(),
            mmu: args.mmu,
            mem: args.mem,
            append: None,
            module: Vec::new(),
            option: args.option.clone(),
        },
        cpu: Some(Cpu::Amd),
        on: Some(On::Qemu),
        machine_mem: None,
        icount: true,
        timeout: Some(TIMEOUT_S),
        json: None,
        gdb: false,
    }
}

/// Figures of a run that failed mean nothing.
fn succeeded(verdict: &Verdict) -> Result<()> {
    match verdict.kind {
        Kind::Pass => Ok(()),
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
