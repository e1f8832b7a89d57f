//! The command line of xtask.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cmdline::{DeviceSet, EndIs, Mmu};
use crate::emulator::{Boot, Cpu, On};
use crate::fw_cfg::FwCfg;

/// Anchorite's tooling
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Install what is missing: compiler, emulators, ISO tools (says what, and from where)
    Setup,
    /// Build the image and the bundled guests into out/
    Build,
    /// Write out/anchorite.elf, or with --iso a BIOS and UEFI bootable out/anchorite.iso
    Image(ImageArgs),
    /// Build, boot the image in an emulator and run a guest in it
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Run the host's tests, then the guests of ci/matrix.toml
    Test(TestArgs),
    /// Give libFuzzer every fuzz target for a while
    Fuzz(FuzzArgs),
    /// Count instructions and compare with ci/baselines
    Bench(BenchArgs),
    /// Run a benchmark under another hypervisor on the same emulated machine
    Peer(PeerArgs),
    /// Run the zap policies against each other and compute the verdict
    Experiment(ExperimentArgs),
    /// Check formatting, lints, imports, budgets, unsafe opt-ins, licences, documentation
    Lint(LintArgs),
}

const RUN_HELP: &str = "\
The last line is `verdict: pass|fail|timeout|error ...`. Exit status: the guest's own (0 for a \
pass), 124 for a timeout, 120 for an error, 2 for a refused request, 69 for a missing package.";

/// The guest, and what it and the image are told.
#[derive(Clone, Debug, Args)]
pub(crate) struct GuestArgs {
    /// A bundled guest, a guest packaged by Debian (see ci/matrix.toml), or any kernel file
    #[arg(value_name = "GUEST|FILE", default_value = "hello")]
    pub(crate) guest: String,
    /// How guest memory is translated
    #[arg(long, value_enum, default_value_t)]
    pub(crate) mmu: Mmu,
    /// Guest memory [default: 64, or what a packaged guest needs]
    #[arg(long, value_name = "MiB", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) mem: Option<u32>,
    /// The guest's command line
    #[arg(long, value_name = "TEXT")]
    pub(crate) append: Option<String>,
    /// The guest file's kind where it should not be recognized, for instance flat:0:7c00
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// A module for the guest, for instance an initrd, and its command line; may be repeated
    #[arg(long, value_name = "FILE [WORDS]")]
    pub(crate) module: Vec<String>,
    /// A file in the configuration device, as QEMU's -fw_cfg takes it; may be repeated
    #[arg(long, value_name = "name=N,string=S|file=F", value_parser = FwCfg::parse)]
    pub(crate) fw_cfg: Vec<FwCfg>,
    /// What devices it finds [default: l3, and l4 for our Hermit applications]
    #[arg(long, value_enum)]
    pub(crate) devices: Option<DeviceSet>,
    /// The run passes once the guest has printed this on its serial line or debug console
    #[arg(long, value_name = "TEXT")]
    pub(crate) until: Option<String>,
    /// What a reset by the guest means: by the keyboard controller or a reset port
    #[arg(long, value_enum, default_value_t)]
    pub(crate) reset_is: EndIs,
    /// What a triple fault means, which is also how Linux resets with reboot=t
    #[arg(long, value_enum, default_value_t)]
    pub(crate) triple_fault_is: EndIs,
    /// Features that CPUID hides although it could show them, for instance smep,smap
    #[arg(long, value_name = "NAMES")]
    pub(crate) hide: Option<String>,
    /// The shadow engine's zap policy, for instance tagged or batch:64
    #[arg(long, value_name = "POLICY")]
    pub(crate) zap: Option<String>,
    /// Most shadow pages the engine may hold; 0 for as many as fit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) shadow_pages: u32,
    /// Zap all shadow pages N times a second while the guest runs
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) zap_rate: u32,
    /// Check the shadow engine's invariants when the guest has ended
    #[arg(long)]
    pub(crate) audit: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    /// Whose virtualization the image uses: amd means QEMU, intel Bochs, unless --on says more
    #[arg(long, value_enum)]
    pub(crate) cpu: Option<Cpu>,
    /// The emulator
    #[arg(long, value_enum)]
    pub(crate) on: Option<On>,
    /// How the image gets into memory (QEMU only)
    #[arg(long, value_enum, default_value_t)]
    pub(crate) boot: Boot,
    /// Memory of the whole machine [default: the guest's and what the image needs]
    #[arg(long, value_name = "MiB")]
    pub(crate) machine_mem: Option<u32>,
    /// What else QEMU's processor has or lacks, for instance +la57,-smap (QEMU only)
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true)]
    pub(crate) cpu_flags: Option<String>,
    /// Count instructions: one tick of the clock each, runs repeat exactly (QEMU only)
    #[arg(long)]
    pub(crate) icount: bool,
    /// Stop the guest after so long [default: 60; 3600 with --gdb]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub(crate) timeout: Option<u32>,
    /// Write the counters and the verdict there, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Run the guest alone, without Anchorite (QEMU only)
    #[arg(long, conflicts_with = "boot")]
    pub(crate) bare: bool,
    /// Type into the guest's serial line; Ctrl-A X ends the run (QEMU only) [time limit: a day]
    #[arg(long, conflicts_with_all = ["gdb", "icount"])]
    pub(crate) interactive: bool,
    /// Wait for gdb on port 1234 before the first instruction (QEMU only)
    #[arg(long)]
    pub(crate) gdb: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    /// Write an ISO with the guest inside
    #[arg(long)]
    pub(crate) iso: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TestArgs {
    /// Only the host's tests
    #[arg(long, conflicts_with_all = ["matrix", "all"])]
    pub(crate) host: bool,
    /// Only the guests whose line contains FILTER
    #[arg(long, value_name = "FILTER", num_args = 0..=1, default_missing_value = "")]
    pub(crate) matrix: Option<String>,
    /// The slow guests too
    #[arg(long)]
    pub(crate) all: bool,
    /// Put what came of the guests into the table in FILE
    #[arg(long, value_name = "FILE", conflicts_with = "host")]
    pub(crate) status: Option<PathBuf>,
    /// Emulators at the same time [default: up to 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: Option<u8>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Only the targets whose name contains FILTER
    #[arg(value_name = "FILTER", default_value = "")]
    pub(crate) filter: String,
    /// How long each target is tried
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub(crate) seconds: u32,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ExperimentArgs {
    /// Smaller sizes and fewer seeds: a few minutes, for a look and for CI
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only this policy (walk, batch:1|10|64|256, quota, reuse, background, tagged); may be
    /// repeated. The verdict needs quota, reuse and tagged
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Vec<String>,
    /// Take finished runs from this file of records, made at the same commit. What the same
    /// build measured here before is taken up anyway
    #[arg(long, value_name = "FILE")]
    pub(crate) resume: Option<PathBuf>,
    /// Start no further run after so long, and report on those that are done
    #[arg(long = "for", value_name = "MINUTES")]
    pub(crate) minutes: Option<u64>,
    /// Where report, records and figures go [default: out/experiment]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// Emulators at the same time [default: up to 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: Option<u8>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LintArgs {
    /// Only the checks whose name contains FILTER
    #[arg(value_name = "FILTER", default_value = "")]
    pub(crate) filter: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchArgs {
    /// The guest that measures; or `race` for the table against KVM; or `engine` for the shadow
    /// engine's operations on the host, or `policies` for what its policies cost after a zap
    /// (both counted by callgrind). Without: the set that every test run makes
    #[arg(value_name = "GUEST|FILE")]
    pub(crate) guest: Option<String>,
    /// The guest's command line
    #[arg(long, value_name = "TEXT")]
    pub(crate) append: Option<String>,
    /// How guest memory is translated
    #[arg(long, value_enum, default_value_t)]
    pub(crate) mmu: Mmu,
    /// Guest memory [default: 768, and 64 for the small bundled guests]
    #[arg(long, value_name = "MiB", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) mem: Option<u32>,
    /// The shadow engine's zap policy, for instance tagged or batch:64
    #[arg(long, value_name = "POLICY")]
    pub(crate) zap: Option<String>,
    /// Most shadow pages the engine may hold; 0 for as many as fit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) shadow_pages: u32,
    /// Measure without Anchorite, and compare with nothing
    #[arg(long, conflicts_with = "accept")]
    pub(crate) bare: bool,
    /// Measure a guest's time on plain QEMU, with nested and with shadow paging, in turns
    #[arg(long, requires = "guest", conflicts_with_all = ["accept", "bare", "large", "json", "mmu"])]
    pub(crate) wall: bool,
    /// With `--wall`: how often each has its turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// With `engine`: zap-alls of 131,072 and 1,048,576 pages instead, which take minutes
    #[arg(long)]
    pub(crate) large: bool,
    /// Append the results there, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Make the results the new baseline
    #[arg(long, requires = "reason")]
    pub(crate) accept: bool,
    /// Why the new baseline is right; kept in its file
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PeerArgs {
    /// The other hypervisor
    #[arg(value_enum)]
    pub(crate) peer: PeerKind,
    /// The guest that measures
    #[arg(long, value_name = "GUEST|FILE", default_value = "bench")]
    pub(crate) guest: String,
    /// The guest's command line, for instance quick
    #[arg(long, value_name = "TEXT")]
    pub(crate) append: Option<String>,
    /// With nested paging instead of shadow paging
    #[arg(long)]
    pub(crate) npt: bool,
    /// Append the results there, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Keep the results in ci/peer, for the race's table
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Another hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PeerKind {
    /// Linux KVM, in Debian's cloud kernel
    Kvm,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_baseline_is_not_accepted_without_a_reason() {
        assert!(Cli::try_parse_from(["xtask", "bench", "--accept"]).is_err());
        assert!(Cli::try_parse_from(["xtask", "bench", "--accept", "--reason", "x"]).is_ok());
    }

    #[test]
    fn a_matrix_without_filter_means_all_of_it() {
        let cli = Cli::try_parse_from(["xtask", "test", "--matrix"]).unwrap();
        let Verb::Test(args) = cli.verb else { panic!("{cli:?}") };
        assert_eq!(args.matrix.as_deref(), Some(""));
    }
}
