//! The hypervisor image: the composition root.
//!
//! Hermit starts [`run`]. It reads the command line, divides the memory, chooses the
//! vendor ([`vendor`]), loads the guest ([`guest`]), runs it and reports ([`report`]).
#![no_std]
#![no_main]

extern crate alloc;

mod failure;
mod guest;
mod report;
mod vendor;

use alloc::format;
use anchorite_abi::{Options, Verdict};
use anchorite_platform::boot::{self, Boot};
use anchorite_platform::host::HermitHost;
use anchorite_platform::memory::Memory;
use core::fmt::Write;
use failure::Failure;

anchorite_platform::entry!(run);

/// Runs the guest and returns the status that the run ends with.
fn run() -> u8 {
    let boot = boot::boot();
    let mut host = HermitHost::start();
    match prepare(boot, &mut host) {
        Ok((options, memory)) => vendor::run_guest(&options, memory, boot, host),
        Err(failure) => fail(&mut host, &failure),
    }
}

/// What must be right before the guest is looked at.
fn prepare<'a>(
    boot: &'a Boot,
    host: &mut HermitHost,
) -> Result<(Options<'a>, Memory), Failure<'a>> {
    if boot.information.left_out > 0 {
        let _ = writeln!(
            host.console(),
            "anchorite: {} words or modules of the boot loader did not fit and are left out",
            boot.information.left_out
        );
    }
    let options = Options::parse(boot.information.command_line.as_str())?;
    let memory = Memory::divide(&boot.layout, &options)?;
    Ok((options, memory))
}

/// Ends a run that could not begin.
fn fail(host: &mut HermitHost, failure: &Failure<'_>) -> u8 {
    let reason = format!("{failure}");
    let verdict = Verdict::Error { reason: &reason };
    let _ = writeln!(host.console(), "{}{verdict}", Verdict::PREFIX);
    verdict.exit_status()
}
