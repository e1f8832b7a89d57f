//! `setup`: installs what is missing, and says what and from where before it does.
//!
//! What is needed is listed in `ci/packages`; each line there names a Debian package and what
//! proves that it is there, so a machine that has the programs from elsewhere is left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::geteuid;

use crate::error::{Error, Result};
use crate::process::{self, on_path};
use crate::progress;
use crate::toolchain::installed_nightly;
use crate::workspace::Workspace;

/// An apt-get that takes longer than this hangs.
const APT_LIMIT: Duration = Duration::from_secs(20 * 60);

/// What a verb may need from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    Compiler,
    Qemu,
    Bochs,
    Iso,
    Firmware,
    Valgrind,
    Fonts,
    Fuzz,
}

impl Need {
    pub(crate) const ALL: [Self; 8] = [
        Self::Compiler,
        Self::Qemu,
        Self::Bochs,
        Self::Iso,
        Self::Firmware,
        Self::Valgrind,
        Self::Fonts,
        Self::Fuzz,
    ];

    fn list(self) -> &'static str {
        match self {
            Self::Compiler => include_str!("../../packages/compiler.txt"),
            Self::Qemu => include_str!("../../packages/qemu.txt"),
            Self::Bochs => include_str!("../../packages/bochs.txt"),
            Self::Iso => include_str!("../../packages/iso.txt"),
            Self::Firmware => include_str!("../../packages/firmware.txt"),
            Self::Valgrind => include_str!("../../packages/valgrind.txt"),
            Self::Fonts => include_str!("../../packages/fonts.txt"),
            Self::Fuzz => include_str!("../../packages/fuzz.txt"),
        }
    }
}

/// What shows that a package is there.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    /// A path below the unpacked toolchain.
    Unpacked(PathBuf),
    /// An installed file.
    File(PathBuf),
    /// A program on PATH.
    Program(String),
}

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Package {
    name: String,
    version: Option<String>,
    proof: Proof,
}

impl Package {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split('#').next()?.split_whitespace();
        let (package, proof) = (words.next()?, words.next()?);
        let (name, version) = match package.split_once('=') {
            Some((name, version)) => (name, Some(version.to_owned())),
            None => (package, None),
        };
        let proof = match proof.strip_prefix('@') {
            Some(path) => Proof::Unpacked(path.into()),
            None if proof.starts_with('/') => Proof::File(proof.into()),
            None => Proof::Program(proof.into()),
        };
        Some(Self { name: name.into(), version, proof })
    }

    fn is_there(&self, toolchain: &Path) -> bool {
        match &self.proof {
            Proof::Unpacked(path) => toolchain.join(path).exists(),
            Proof::File(path) => path.exists(),
            Proof::Program(name) => on_path(name),
        }
    }

    /// The argument that makes apt-get take this package.
    fn argument(&self) -> String {
        match &self.version {
            Some(version) => format!("{}={version}", self.name),
            None => self.name.clone(),
        }
    }
}

/// Makes sure that everything in `needs` is there; without a change to the machine, and within
/// milliseconds, when it is.
pub(crate) fn ensure(workspace: &Workspace, needs: &[Need]) -> Result<()> {
    let toolchain = workspace.toolchain();
    let missing: Vec<Package> = needs
        .iter()
        .flat_map(|need| wanted(*need))
        .filter(|package| !package.is_there(&toolchain))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (unpacked, installed): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|package| matches!(package.proof, Proof::Unpacked(_)));
    let apt = Apt::new(&unpacked, &installed)?;
    apt.update();
    apt.announce(&installed, "by apt-get")?;
    apt.announce(&unpacked, &format!("unpacked into {}", toolchain.display()))?;
    apt.install(&installed)?;
    apt.unpack(&unpacked, &toolchain)
}

/// The packages of one need. A nightly installed through rustup replaces Debian's compiler and
/// the libraries that only that one needs.
fn wanted(need: Need) -> impl Iterator<Item = Package> {
    let nightly = need == Need::Compiler && installed_nightly().is_some();
    let packages = need.list().lines().filter_map(Package::parse);
    packages.filter(move |package| !nightly || matches!(package.proof, Proof::Program(_)))
}

/// The right to change the machine's packages.
struct Apt {
    sudo: bool,
}

impl Apt {
    /// Refuses, naming the packages, where apt-get cannot be used.
    fn new(unpacked: &[Package], installed: &[Package]) -> Result<Self> {
        let names = || unpacked.iter().chain(installed).map(Package::argument).collect();
        if !on_path("apt-get") || !on_path("dpkg") {
            return Err(Error::Package {
                names: names(),
                why: "this is no Debian system (no apt-get); get the same programs another way \
                      and put them on PATH"
                    .into(),
            });
        }
        let root = geteuid().is_root();
        if !root && !installed.is_empty() && !on_path("sudo") {
            return Err(Error::Package {
                names: names(),
                why: "not root and no sudo here; ask whoever may install packages".into(),
            });
        }
        if !root && !installed.is_empty() && !may_use_sudo() {
            let why = "sudo does not let us install packages".into();
            return Err(Error::Package { names: names(), why });
        }
        Ok(Self { sudo: !root })
    }

    fn command(&self, program: &str) -> Command {
        if !self.sudo {
            return Command::new(program);
        }
        let mut command = Command::new("sudo");
        command.arg(program);
        command
    }

    /// Refreshes the package lists; stale ones may do, so a failure is only noted.
    fn update(&self) {
        let spinner = progress::spinner("apt-get update");
        let mut command = self.command("apt-get");
        let outcome = process::capture(command.args(["update", "-qq"]), APT_LIMIT);
        spinner.finish_and_clear();
        if let Err(error) = outcome {
            eprintln!("setup: {error}; going on with the package lists that are here");
        }
    }

    /// Says what is about to come, or which package cannot be had.
    #[expect(clippy::unused_self, reason = "only whoever may use apt-get announces packages")]
    fn announce(&self, packages: &[Package], how: &str) -> Result<()> {
        for package in packages {
            let version = package.version.clone().or_else(|| candidate(&package.name));
            let Some(version) = version else {
                return Err(Error::Package {
                    names: vec![package.name.clone()],
                    why: "this system's package sources do not offer it (Debian 12 does)".into(),
                });
            };
            eprintln!("setup: Debian package {} version {version}, {how}", package.name);
        }
        Ok(())
    }

    fn install(&self, packages: &[Package]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        let spinner = progress::spinner("apt-get install");
        let mut command = self.command("env");
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "-qq"])
            .arg("--no-install-recommends")
            .args(packages.iter().map(Package::argument));
        let outcome = process::run_unbroken(&mut command);
        spinner.finish_and_clear();
        outcome.map_err(|error| refused(packages, &error))
    }

    /// Downloads into a scratch folder and unpacks from there.
    #[expect(clippy::unused_self, reason = "only whoever may use apt-get unpacks packages")]
    fn unpack(&self, packages: &[Package], folder: &Path) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        let scratch = folder.with_extension(format!("debs-{}", std::process::id()));
        fs::create_dir_all(&scratch).map_err(Error::io(&scratch))?;
        let spinner = progress::spinner("apt-get download");
        let mut download = Command::new("apt-get");
        download.args(["download", "-qq"]).args(packages.iter().map(Package::argument));
        let outcome = process::capture(download.current_dir(&scratch), APT_LIMIT);
        spinner.set_message("dpkg -x");
        let outcome = outcome.and_then(|_| unpack_all(&scratch, folder));
        spinner.finish_and_clear();
        // Scratch files that stay behind do no harm.
        let _ = fs::remove_dir_all(&scratch);
        outcome.map_err(|error| refused(packages, &error))
    }
}

/// Lets sudo ask for a password, as long as it can: later it runs away from the terminal.
fn may_use_sudo() -> bool {
    Command::new("sudo").arg("--validate").status().is_ok_and(|status| status.success())
}

fn unpack_all(scratch: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(scratch).map_err(Error::io(scratch))? {
        let archive = entry.map_err(Error::io(scratch))?.path();
        process::run(Command::new("dpkg").arg("-x").arg(archive).arg(folder), APT_LIMIT)?;
    }
    Ok(())
}

fn refused(packages: &[Package], error: &Error) -> Error {
    Error::Package {
        names: packages.iter().map(Package::argument).collect(),
        why: error.to_string(),
    }
}

/// The version that apt-get would take.
fn candidate(name: &str) -> Option<String> {
    let output = Command::new("apt-cache").args(["policy", name]).stderr(Stdio::null()).output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (line != "(none)").then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_every_list_names_a_package_and_a_proof() {
        for need in Need::ALL {
            let lines = need.list().lines().filter(|line| !line.starts_with('#'));
            for line in lines {
                assert!(Package::parse(line).is_some(), "{need:?}: {line}");
            }
        }
    }

    #[test]
    fn the_sigils_of_a_list_tell_the_proofs_apart() {
        let proof = |line| Package::parse(line).unwrap().proof;
        assert_eq!(proof("a @usr/bin/a"), Proof::Unpacked("usr/bin/a".into()));
        assert_eq!(proof("a /usr/bin/a"), Proof::File("/usr/bin/a".into()));
        assert_eq!(proof("a a-program"), Proof::Program("a-program".into()));
    }

    #[test]
    fn what_is_unpacked_is_pinned_to_a_version() {
        let packages: Vec<_> = Need::Compiler.list().lines().filter_map(Package::parse).collect();
        let unpacked = packages.iter().filter(|p| matches!(p.proof, Proof::Unpacked(_)));
        assert!(unpacked.clone().count() >= 5);
        for package in unpacked {
            assert!(package.argument().contains("=1.85.0"), "{}", package.name);
        }
    }
}
