//! `ci/matrix.toml`: which guest is run how, and what must come of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use serde::{Deserialize, Deserializer};

use crate::cmdline::{DeviceSet, EndIs, Mmu};
use crate::emulator::{Boot, Cpu, On, Typed, choose};
use crate::error::{Error, Result};
use crate::fw_cfg::FwCfg;
use crate::initramfs::Initramfs;
use crate::verdict::may_be_expected;

const FILE: &str = "ci/matrix.toml";

/// The file as it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matrix {
    #[serde(default, rename = "run")]
    pub(crate) runs: Vec<Run>,
    #[serde(default, rename = "package")]
    pub(crate) packages: Vec<Packaged>,
}

/// A guest, run once for each vendor and each kind of translation listed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    pub(crate) guest: String,
    /// What tells this run from others of the same guest.
    pub(crate) label: Option<String>,
    pub(crate) cpu: Vec<Cpu>,
    #[serde(default)]
    pub(crate) mmu: Vec<Mmu>,
    /// The guest alone in QEMU, in the image's place.
    #[serde(default)]
    pub(crate) bare: bool,
    pub(crate) on: Option<On>,
    /// How the image gets into QEMU's memory.
    #[serde(default)]
    pub(crate) boot: Boot,
    /// The verdict that must come out, like `pass` or `fail status=3`.
    pub(crate) verdict: String,
    /// The guest's limit in seconds, by the image's clock.
    pub(crate) timeout: u32,
    /// Text that must occur on the console.
    #[serde(default)]
    pub(crate) console: Vec<String>,
    /// Text that must stand in the screen's dump, each within a line.
    #[serde(default)]
    pub(crate) screen: Vec<String>,
    /// The guest's command line.
    pub(crate) append: Option<String>,
    /// The guest file's kind where it should not be recognized.
    pub(crate) kind: Option<String>,
    /// What devices it finds.
    #[serde(default)]
    pub(crate) devices: DeviceSet,
    /// The run passes once the guest has printed this.
    pub(crate) until: Option<String>,
    /// What a reset by a port means.
    #[serde(default)]
    pub(crate) reset_is: EndIs,
    /// What a triple fault means.
    #[serde(default)]
    pub(crate) triple_fault_is: EndIs,
    /// Features that CPUID hides although it could show them.
    pub(crate) hide: Option<String>,
    /// Changes to QEMU's processor; without effect elsewhere.
    pub(crate) cpu_flags: Option<String>,
    /// The guest prints CPUID, which may differ from what it prints bare only as declared.
    #[serde(default)]
    pub(crate) cpuid_declared: bool,
    /// Files in the configuration device.
    #[serde(default)]
    pub(crate) fw_cfg: Vec<FwCfg>,
    /// What is typed into the guest, which makes the run an interactive one.
    #[serde(default)]
    pub(crate) typed: Vec<Typed>,
    /// The shadow engine's zap policies, one run each; the default one where none is named.
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) zap: Vec<String>,
    /// Most shadow pages the engine may hold.
    #[serde(default)]
    pub(crate) shadow_pages: u32,
    /// Zap-alls a second by the image's clock, one run for each rate; 0 where none is named.
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) zap_rate: Vec<u32>,
    /// Guest memory in MiB.
    pub(crate) mem: Option<u32>,
    #[serde(default)]
    pub(crate) icount: bool,
    /// Only run by `test --all`.
    #[serde(default)]
    pub(crate) slow: bool,
}

/// A value, or a list of values.
fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(value) => vec![value],
        OneOrMany::Many(values) => values,
    })
}

/// A guest that comes with a Debian package.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Packaged {
    pub(crate) name: String,
    /// The package.
    pub(crate) debian: String,
    /// The package only names another that has the files, in its latest version.
    #[serde(default)]
    pub(crate) follow: bool,
    /// Debian's name of the architecture whose package it is.
    #[serde(default = "amd64")]
    pub(crate) architecture: String,
    /// The kernel file inside it; its last part may hold one `*`.
    pub(crate) path: String,
    /// The guest's command line where none is given,
    #[serde(default)]
    pub(crate) append: String,
    /// and instead of it on sets of devices that want another.
    #[serde(default)]
    pub(crate) append_on: BTreeMap<DeviceSet, String>,
    /// Its memory in MiB where none is given.
    #[serde(default = "small")]
    pub(crate) mem: u32,
    /// The first file system of a Linux kernel.
    pub(crate) initramfs: Option<Initramfs>,
}

fn amd64() -> String {
    "amd64".into()
}

/// The memory of a guest that needs no more.
pub(crate) const fn small() -> u32 {
    64
}

/// One cell of the matrix: a run with everything settled.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) run: Run,
    pub(crate) cpu: Cpu,
    pub(crate) on: On,
    pub(crate) mmu: Mmu,
    pub(crate) zap: Option<String>,
    pub(crate) zap_rate: u32,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.run.guest)?;
        if let Some(label) = &self.run.label {
            write!(f, ":{label}")?;
        }
        if let ([_, _, ..], Some(zap)) = (self.run.zap.as_slice(), &self.zap) {
            write!(f, " {zap}")?;
        }
        if self.run.zap_rate.len() > 1 {
            write!(f, " {}", self.zap_rate)?;
        }
        let cpu = match self.cpu {
            Cpu::Amd => "amd",
            Cpu::Intel => "intel",
        };
        let on = match self.on {
            On::Qemu => "qemu",
            On::Bochs => "bochs",
            On::Kvm => "kvm",
        };
        let mmu = if self.run.bare { "bare" } else { self.mmu.name() };
        write!(f, " {cpu} {on} {mmu}")
    }
}

impl Matrix {
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read_to_string(FILE).map_err(Error::io(FILE))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let matrix: Self = toml::from_str(text).map_err(|error| Error::malformed(FILE, error))?;
        for run in &matrix.runs {
            run.check()?;
        }
        Ok(matrix)
    }

    /// All cells whose name contains `filter`; the slow ones only with `all`.
    pub(crate) fn cells(&self, filter: &str, all: bool) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for run in self.runs.iter().filter(|run| all || !run.slow) {
            for &cpu in &run.cpu {
                // Without the image there is one run, whatever its translation is called.
                for &mmu in if run.bare { &[Mmu::Nested][..] } else { &run.mmu } {
                    let (cpu, on) = choose(Some(cpu), run.on)?;
                    let cell =
                        |(zap, zap_rate)| Cell { run: run.clone(), cpu, on, mmu, zap, zap_rate };
                    cells.extend(run.zaps().map(cell));
                }
            }
        }
        cells.retain(|cell| cell.to_string().contains(filter));
        Ok(cells)
    }
}

impl Run {
    /// Each policy with each rate.
    fn zaps(&self) -> impl Iterator<Item = (Option<String>, u32)> + '_ {
        let policies = self.zap.iter().cloned().map(Some);
        let policies = policies.chain(self.zap.is_empty().then_some(None));
        policies.flat_map(|policy| {
            let rates = self.zap_rate.iter().copied();
            let rates = rates.chain(self.zap_rate.is_empty().then_some(0));
            rates.map(move |rate| (policy.clone(), rate))
        })
    }

    /// A run that could never pass, or that never happens, is a mistake in the file.
    fn check(&self) -> Result<()> {
        let fault = if self.cpu.is_empty() || (self.mmu.is_empty() && !self.bare) {
            "lists no cpu or no mmu, so it is never run".to_owned()
        } else if !may_be_expected(&self.verdict) {
            let known = "pass, fail, timeout, error";
            format!("expects the verdict {:?}; it must start with one of {known}", self.verdict)
        } else if self.bare && (!self.mmu.is_empty() || self.cpu != [Cpu::Amd] || self.on.is_some())
        {
            "is bare, which is one run in QEMU: cpu = [\"amd\"], without mmu and on".to_owned()
        } else if self.icount && self.cpu.contains(&Cpu::Intel) {
            "counts instructions on Intel; only QEMU can, and it has no VMX".to_owned()
        } else if self.boot != Boot::Direct && (self.cpu.contains(&Cpu::Intel) || self.on.is_some())
        {
            "boots QEMU another way, but does not run on QEMU alone".to_owned()
        } else if self.cpuid_declared && (self.cpu != [Cpu::Amd] || self.on.is_some() || self.bare)
        {
            "compares CPUID with the bare machine's, which only QEMU runs: cpu = [\"amd\"]"
                .to_owned()
        } else if !self.typed.is_empty() && self.cpu.contains(&Cpu::Intel) {
            "types into the guest, which only QEMU lets one do".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::malformed(FILE, format!("run of {}: {fault}", self.guest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"
        [[run]]
        guest = "hello"
        cpu = ["amd", "intel"]
        mmu = ["nested", "shadow"]
        verdict = "pass"
        timeout = 20
    "#;

    fn names(matrix: &Matrix, filter: &str, all: bool) -> Vec<String> {
        let cells = matrix.cells(filter, all).unwrap();
        cells.iter().map(ToString::to_string).collect()
    }

    fn fault(line: &str, replacement: &str) -> String {
        Matrix::parse(&RUN.replace(line, replacement)).unwrap_err().to_string()
    }

    #[test]
    fn a_run_is_multiplied_by_vendors_and_translations() {
        let matrix = Matrix::parse(RUN).unwrap();
        assert_eq!(
            names(&matrix, "", false),
            [
                "hello amd qemu nested",
                "hello amd qemu shadow",
                "hello intel bochs nested",
                "hello intel bochs shadow",
            ]
        );
    }

    #[test]
    fn a_run_is_multiplied_by_policies_and_rates_that_are_lists() {
        let line = "mmu = [\"nested\", \"shadow\"]";
        let with = |more: &str| {
            let text = RUN.replace(line, &format!("mmu = [\"shadow\"]\n{more}"));
            names(&Matrix::parse(&text).unwrap(), "amd", false)
        };
        assert_eq!(with("zap = \"walk\"\nzap_rate = 7"), ["hello amd qemu shadow"]);
        assert_eq!(
            with("zap = [\"walk\", \"tagged\"]\nzap_rate = [0, 9]"),
            [
                "hello walk 0 amd qemu shadow",
                "hello walk 9 amd qemu shadow",
                "hello tagged 0 amd qemu shadow",
                "hello tagged 9 amd qemu shadow",
            ]
        );
    }

    #[test]
    fn a_filter_picks_by_any_part_of_the_name() {
        let matrix = Matrix::parse(RUN).unwrap();
        assert_eq!(names(&matrix, "intel bochs n", false), ["hello intel bochs nested"]);
        assert!(names(&matrix, "goodbye", false).is_empty());
    }

    #[test]
    fn slow_runs_wait_to_be_asked_for() {
        let matrix =
            Matrix::parse(&RUN.replace("timeout = 20", "timeout = 20\nslow = true")).unwrap();
        assert!(names(&matrix, "", false).is_empty());
        assert_eq!(names(&matrix, "", true).len(), 4);
    }

    #[test]
    fn a_bare_run_is_one_without_translation() {
        let text = RUN.replace("[\"amd\", \"intel\"]", "[\"amd\"]");
        let text = text.replace("mmu = [\"nested\", \"shadow\"]", "bare = true");
        let matrix = Matrix::parse(&text).unwrap();
        assert_eq!(names(&matrix, "", false), ["hello amd qemu bare"]);
    }

    #[test]
    fn mistakes_are_named_with_the_file_and_the_run() {
        assert!(
            fault("\"pass\"", "\"good\"").contains("run of hello: expects the verdict \"good\"")
        );
        assert!(fault("[\"amd\", \"intel\"]", "[]").contains("never run"));
        assert!(fault("timeout = 20", "timeout = 20\nicount = true").contains("no VMX"));
        assert!(fault("timeout = 20", "timeout = 20\ntimeuot = 3").contains("timeuot"));
        assert!(fault("timeout = 20", "timeout = 20\nbare = true").contains("one run in QEMU"));
        assert!(fault("timeout = 20", "timeout = 20\ncpuid_declared = true").contains("only QEMU"));
        assert!(fault("\"amd\"", "\"arm\"").starts_with("ci/matrix.toml: "));
    }

    #[test]
    fn the_matrix_of_this_checkout_is_well_formed() {
        let matrix = Matrix::parse(include_str!("../../matrix.toml")).unwrap();
        assert!(!names(&matrix, "", false).is_empty());
    }

    #[test]
    fn every_bundled_guest_runs_on_both_vendors_in_every_test_run() {
        let matrix = Matrix::parse(include_str!("../../matrix.toml")).unwrap();
        let cells = matrix.cells("", false).unwrap();
        let runs =
            |guest: &str, cpu| cells.iter().any(|cell| cell.run.guest == guest && cell.cpu == cpu);
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-loader/guests/src/bin");
        for entry in std::fs::read_dir(folder).unwrap() {
            let guest = entry.unwrap().file_name().into_string().unwrap();
            // The experiment has its own command, and so has the race on AMD.
            let elsewhere = |cpu| guest == "experiment" || (guest == "bench" && cpu == Cpu::Amd);
            for cpu in [Cpu::Amd, Cpu::Intel] {
                assert!(elsewhere(cpu) || runs(&guest, cpu), "{guest} on {cpu:?}");
            }
        }
    }
}
