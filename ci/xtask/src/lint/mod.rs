//! `lint`: everything about the sources that a machine can judge. Each check prints what it
//! found; one that finds a fault does not keep the others from running.

mod budgets;
mod imports;
mod licences;
mod names;
mod sources;

use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::freestanding::{self, Part};
use crate::process;
use crate::setup::{self, Need};
use crate::test::host_packages;
use crate::toolchain::Compiler;
use crate::workspace::{Metadata, Workspace, cargo};

const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Runs all checks whose name contains `filter`; the quick ones first.
pub(crate) fn lint(workspace: &Workspace, filter: &str) -> Result<()> {
    setup::ensure(workspace, &[Need::Compiler])?;
    let members = Workspace::metadata(false)?;
    let mut failed = 0;
    let mut step = |name: &str, check: &dyn Fn() -> Result<()>| {
        if !name.contains(filter) {
            return;
        }
        println!("lint: {name}");
        let started = Instant::now();
        let outcome = check();
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("lint: {name}: ok ({seconds:.1} s)"),
            Err(error) => {
                println!("lint: {name}: FAILED: {error}");
                failed += 1;
            }
        }
    };
    step("names at the top level", &names::check);
    step("directions of imports", &|| imports::check(&members));
    step("budgets and unsafe opt-ins", &|| budgets::check(&members));
    step("licences and sources of dependencies", &licences::check);
    step("formatting", &formatting);
    step("clippy, host packages", &clippy_host);
    step("documentation, host packages", &documentation_host);
    step("clippy, freestanding packages", &|| clippy_freestanding(workspace, &members));
    step("documentation, freestanding packages", &|| {
        documentation_freestanding(workspace, &members)
    });
    match failed {
        0 => Ok(()),
        failed => Err(Error::Checks { failed, what: "lints" }),
    }
}

fn formatting() -> Result<()> {
    process::run(Command::new(cargo()).args(["fmt", "--all", "--check"]), LIMIT)
}

/// With the benchmark of time, which nothing else builds.
fn clippy_host() -> Result<()> {
    let mut clippy = Command::new(cargo());
    clippy.args(["clippy", "--quiet", "--all-targets"]).args(host_packages());
    clippy.args(["--features", "anchorite-shadow/time"]);
    process::run(clippy.args(["--", "-Dwarnings"]), LIMIT)
}

/// Without `platform`: most of what its pages link to exists on the bare target only.
fn documentation_host() -> Result<()> {
    let mut doc = Command::new(cargo());
    doc.args(["doc", "--quiet", "--no-deps", "--document-private-items"]).args(host_packages());
    doc.args(["--exclude", "anchorite-platform"]);
    process::run(doc.env("RUSTDOCFLAGS", "-Dwarnings"), LIMIT)
}

/// The packages with freestanding parts that are members, with the build that each belongs to.
fn freestanding(members: &Metadata) -> Vec<(&'static str, Part)> {
    let packages = [
        ("anchorite-platform", Part::Image),
        ("anchorite-image", Part::Image),
        ("anchorite-guests", Part::Guests),
        ("anchorite-hermit-guests", Part::HermitGuests),
    ];
    let packages = packages.into_iter();
    packages.filter(|(name, _)| members.packages().any(|member| member.name() == *name)).collect()
}

/// With the image's own compiler, since newer ones refuse the Hermit kernel.
fn clippy_freestanding(workspace: &Workspace, members: &Metadata) -> Result<()> {
    if !Compiler::find(workspace)?.has_clippy() {
        return Err(Error::Package {
            names: vec!["rust-web-clippy".into()],
            why: "the image's compiler has no clippy beside it".into(),
        });
    }
    for (package, part) in freestanding(members) {
        let mut clippy = freestanding::cargo(workspace, part, "clippy")?;
        clippy.args(["--quiet", "--package", package, "--", "-Dwarnings"]);
        process::run(&mut clippy, LIMIT)?;
    }
    Ok(())
}

fn documentation_freestanding(workspace: &Workspace, members: &Metadata) -> Result<()> {
    for (package, part) in freestanding(members) {
        let mut doc = freestanding::cargo(workspace, part, "doc")?;
        doc.args(["--quiet", "--no-deps", "--document-private-items", "--package", package]);
        process::run(doc.env("RUSTDOCFLAGS", "-Dwarnings"), LIMIT)?;
    }
    Ok(())
}

/// Prints the faults of one check and makes them its result.
fn verdict(faults: &[String]) -> Result<()> {
    for fault in faults {
        println!("  {fault}");
    }
    match faults.len() {
        0 => Ok(()),
        failed => Err(Error::Checks { failed, what: "checks" }),
    }
}
