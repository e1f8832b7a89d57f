//! Anchorite's tooling: `cargo xtask VERB`.
//!
//! | verb | module |
//! |---|---|
//! | `setup` | [`setup`]: installs what is missing, from `ci/packages` |
//! | `build`, `image` | [`freestanding`], [`iso`] |
//! | `run` | [`run`] on [`emulator`], told by [`cmdline`], ended by a [`verdict`] |
//! | | packaged guests: [`guest`], from [`debian`], with an [`initramfs`] |
//! | `test` | [`mod@test`]: the host's tests, then [`matrix`] |
//! | `fuzz` | [`mod@fuzz`]: libFuzzer on every fuzz target |
//! | `bench` | [`mod@bench`]: instruction counts against `ci/baselines` |
//! | `peer` | [`peer`]: the same benchmark under another hypervisor |
//! | `experiment` | [`mod@experiment`]: the zap policies against each other |
//! | `lint` | [`lint`] |
#![forbid(unsafe_code)]

mod bench;
mod cli;
mod cmdline;
mod cpio;
mod cpuid;
mod debian;
mod emulator;
mod error;
mod experiment;
mod freestanding;
mod fuzz;
mod fw_cfg;
mod guest;
mod initramfs;
mod iso;
mod lint;
mod matrix;
mod peer;
mod process;
mod progress;
mod run;
mod setup;
mod status;
mod test;
mod toolchain;
mod verdict;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Verb};
use error::Result;
use setup::Need;
use workspace::Workspace;

fn main() -> ExitCode {
    let cli = Cli::parse();
    process::kill_children_on_interrupt();
    match dispatch(cli.verb) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}

/// Returns the exit status of a verb that did its work.
fn dispatch(verb: Verb) -> Result<u8> {
    let from = std::env::current_dir().map_err(error::Error::io("."))?;
    let workspace = Workspace::enter()?;
    match verb {
        Verb::Setup => setup::ensure(&workspace, &Need::ALL)?,
        Verb::Build => build(&workspace)?,
        Verb::Image(args) => run::write_image(&workspace, &args, &from)?,
        Verb::Run(args) => return run::run(&workspace, &args, &from),
        Verb::Test(args) => test::test(&workspace, &args, &from)?,
        Verb::Fuzz(args) => fuzz::fuzz(&workspace, &args)?,
        Verb::Bench(args) => bench::bench(&workspace, &args, &from)?,
        Verb::Peer(args) => peer::peer(&workspace, &args, &from)?,
        Verb::Experiment(args) => experiment::experiment(&workspace, &args, &from)?,
        Verb::Lint(args) => lint::lint(&workspace, &args.filter)?,
    }
    Ok(0)
}

fn build(workspace: &Workspace) -> Result<()> {
    setup::ensure(workspace, &[Need::Compiler])?;
    freestanding::build_image(workspace)?;
    freestanding::build_guests(workspace)?;
    freestanding::build_hermit_guests(workspace)?;
    println!("image: {}", freestanding::image_path().display());
    println!("image with symbols: {}", freestanding::image_with_symbols(workspace).display());
    for name in Workspace::bundled_guests().into_iter().chain(Workspace::hermit_guests()) {
        println!("guest: {}", freestanding::guest_path(&name).display());
    }
    Ok(())
}
