//! The opponent in the race: one guest over the raw KVM interface, with nothing around it.
//!
//! `anchorite-peer-kvm GUEST MiB [guest's command line]` runs a benchmark guest and answers its
//! ports as the image does, so that the same binary yields the same records. It is the only
//! process of a small Linux; `cargo xtask peer kvm` builds that and boots it.
//!
//! | file | answers |
//! |---|---|
//! | [`memory`] | guest memory, filled in before anything is measured |
//! | [`machine`] | the virtual machine and its one vCPU |
//! | [`ports`] | what the guest's port accesses mean |
//! | [`records`] | counters, timed zaps, and the lines that tell them |

mod machine;
mod memory;
mod ports;
mod records;

use std::process::ExitCode;

use anchorite_abi::Verdict;

/// Ends a run that could not begin or go on.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let reason;
    let verdict = match run(&arguments) {
        Ok(0) => Verdict::Pass,
        Ok(status) => Verdict::Fail { status },
        Err(error) => {
            reason = error.to_string();
            Verdict::Error { reason: &reason }
        }
    };
    println!("{}{verdict}", Verdict::PREFIX);
    ExitCode::from(verdict.exit_status())
}

/// Runs the guest to its end and returns its status.
fn run(arguments: &[String]) -> Result<u32, Failure> {
    let [guest, mib, words @ ..] = arguments else {
        return Err("usage: anchorite-peer-kvm GUEST MiB [command line]".into());
    };
    let mib: u64 = mib.parse().map_err(|_| format!("{mib}: no number of MiB"))?;
    let file = std::fs::read(guest).map_err(|error| format!("{guest}: {error}"))?;
    let mut memory = memory::Memory::new(mib << 20)?;
    let entry = memory.load(guest, &file, &words.join(" "))?;
    machine::Machine::new(&memory)?.run(&entry)
}
