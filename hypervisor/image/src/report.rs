//! What the image prints around a run.

use alloc::string::String;
use anchorite_abi::{Options, Verdict};
use anchorite_platform::clock;
use anchorite_platform::console::Console;
use anchorite_platform::host::HermitHost;
use anchorite_vcpu::{Capabilities, Vcpu};
use anchorite_vmm::action::Outcome;
use anchorite_vmm::bench::JSON_PREFIX;
use anchorite_vmm::counters::Counters;
use anchorite_vmm::machine::Machine;
use anchorite_vmm::samples::Samples;
use anchorite_vmm::screen;
use anchorite_vmm::translation::Translation;
use core::fmt::Write;

/// The line before the guest starts.
pub(crate) fn greet(console: &mut Console, options: &Options<'_>, cpu: &Capabilities) {
    let _ = writeln!(
        console,
        "anchorite {}: {} revision {:#x}, {} paging, {} MiB, limit {} s",
        env!("CARGO_PKG_VERSION"),
        cpu.extension,
        cpu.revision,
        options.mmu.name(),
        options.mem_mib,
        options.timeout_s
    );
}

/// The screen, the counters and the verdict; returns the status that the run ends with.
///
/// `boot_ticks` went by between the image's first instruction and the guest's.
pub(crate) fn end<B: Vcpu, T: Translation>(
    machine: &mut Machine<B, T, HermitHost>,
    outcome: &Outcome,
    options: &Options<'_>,
    boot_ticks: u64,
) -> u8 {
    let audited = if options.audit { machine.audit() } else { Ok(()) };
    let verdict = match &audited {
        Ok(()) => outcome.verdict(),
        Err(reason) => Verdict::Error { reason },
    };
    let mut text = String::new();
    let _ = screen::write(machine.memory(), &mut text);
    let translation = machine.translation().counters();
    let _ = write_table(machine.counters(), &translation, boot_ticks, &mut text);
    if options.json {
        let counted = (machine.counters(), &translation[..], machine.samples());
        let _ = write_json(counted, &verdict, boot_ticks, &mut text);
    }
    let console = machine.host().console();
    let _ = write!(console, "\n{text}");
    let _ = writeln!(console, "{}{verdict}", Verdict::PREFIX);
    verdict.exit_status()
}

fn write_table(
    counters: &Counters,
    translation: &[(&str, u64)],
    boot_ticks: u64,
    out: &mut String,
) -> core::fmt::Result {
    counters.write_table(out)?;
    Counters::write_translation(translation, out)?;
    writeln!(
        out,
        "first guest instruction {} ticks after the boot loader; {} ticks a second",
        boot_ticks,
        clock::ticks_per_second()
    )
}

fn write_json(
    (counters, translation, samples): (&Counters, &[(&str, u64)], &Samples),
    verdict: &Verdict<'_>,
    boot_ticks: u64,
    out: &mut String,
) -> core::fmt::Result {
    out.push_str(JSON_PREFIX);
    counters.write_json(0, translation, out)?;
    out.push('\n');
    samples.write_json(JSON_PREFIX, out)?;
    writeln!(
        out,
        "{JSON_PREFIX}{{\"schema\":1,\"record\":\"run\",\"status\":{},\"boot_ticks\":{},\"ticks_per_second\":{}}}",
        verdict.exit_status(),
        boot_ticks,
        clock::ticks_per_second()
    )
}
