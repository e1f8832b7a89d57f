//! Where things are in the checkout, and how it is split between the two compilers.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::error::{Error, Result};

/// Packages that only the freestanding target can build; everything else builds for the host.
pub(crate) const FREESTANDING: [&str; 3] =
    ["anchorite-image", "anchorite-guests", "anchorite-hermit-guests"];

/// The checkout. xtask works from its root, so the paths in it are relative and short.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

/// Where finished images, guests and the files of a run go; git ignores it.
pub(crate) const OUT: &str = "out";

impl Workspace {
    const GUESTS: &str = "guest-loader/guests/src/bin";
    const HERMIT_GUESTS: &str = "guest-loader/hermit-guests/src/bin";

    /// Goes to the root of the checkout that this xtask was built from.
    pub(crate) fn enter() -> Result<Self> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).ancestors().nth(2).unwrap_or(Path::new("."));
        env::set_current_dir(root).map_err(Error::io(root))?;
        Ok(Self { root: root.to_owned() })
    }

    /// The unpacked compiler, as an absolute path; git ignores it.
    pub(crate) fn toolchain(&self) -> PathBuf {
        self.root.join(".toolchain/rust-1.85")
    }

    /// Cargo's target folder for one kind of freestanding build: apart from the host's, so that
    /// neither build throws away what the other made.
    pub(crate) fn target_dir(&self, kind: &str) -> PathBuf {
        let base =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), Into::into);
        base.join(kind)
    }

    /// Names of the bundled guests: one folder each, sorted.
    pub(crate) fn bundled_guests() -> Vec<String> {
        Self::programs(Self::GUESTS)
    }

    /// Names of the bundled guests that are Hermit applications, sorted.
    pub(crate) fn hermit_guests() -> Vec<String> {
        Self::programs(Self::HERMIT_GUESTS)
    }

    /// The files that a Hermit application goes with, sorted.
    pub(crate) fn hermit_modules(name: &str) -> Vec<PathBuf> {
        let folder = Path::new(Self::HERMIT_GUESTS).join(name).join("modules");
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        files
    }

    fn programs(folder: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().join("main.rs").is_file())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The abbreviated commit that is checked out, with `+` where files differ from it;
    /// `unknown` outside git.
    pub(crate) fn commit() -> String {
        let describe =
            Command::new("git").args(["describe", "--always", "--dirty=+", "--exclude=*"]).output();
        match describe {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            }
            _ => "unknown".to_owned(),
        }
    }

    /// `cargo metadata` of the workspace; with `dependencies`, of everything it depends on too.
    pub(crate) fn metadata(dependencies: bool) -> Result<Metadata> {
        let mut cargo = Command::new(cargo());
        cargo.args(["metadata", "--format-version=1"]);
        if !dependencies {
            cargo.arg("--no-deps");
        }
        let output = cargo.output();
        let output =
            output.map_err(|source| Error::Spawn { program: "cargo metadata".into(), source })?;
        if !output.status.success() {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            return Err(Error::Failed { program: "cargo metadata".into(), status: output.status });
        }
        let json: Value = serde_json::from_slice(&output.stdout)
            .map_err(|source| Error::malformed("output of cargo metadata", source))?;
        Ok(Metadata { json })
    }
}

/// The cargo that runs xtask, or the one on PATH.
pub(crate) fn cargo() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The answer of `cargo metadata`.
#[derive(Debug)]
pub(crate) struct Metadata {
    json: Value,
}

impl Metadata {
    /// All packages that were listed.
    pub(crate) fn packages(&self) -> impl Iterator<Item = Package<'_>> {
        let packages = self.json["packages"].as_array();
        packages.into_iter().flatten().map(Package)
    }
}

/// One package of `cargo metadata`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package<'a>(&'a Value);

impl<'a> Package<'a> {
    pub(crate) fn name(self) -> &'a str {
        self.0["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn version(self) -> &'a str {
        self.0["version"].as_str().unwrap_or_default()
    }

    /// The SPDX expression of its manifest.
    pub(crate) fn license(self) -> Option<&'a str> {
        self.0["license"].as_str()
    }

    /// Where it comes from; `None` for a member of the workspace.
    pub(crate) fn source(self) -> Option<&'a str> {
        self.0["source"].as_str()
    }

    /// The folder of its manifest.
    pub(crate) fn folder(self) -> &'a Path {
        let manifest = Path::new(self.0["manifest_path"].as_str().unwrap_or_default());
        manifest.parent().unwrap_or(manifest)
    }

    /// Names of its dependencies; those for tests and build scripts only with `all`.
    pub(crate) fn dependencies(self, all: bool) -> impl Iterator<Item = &'a str> {
        let dependencies = self.0["dependencies"].as_array().into_iter().flatten();
        dependencies
            .filter(move |dependency| all || dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str())
    }
}
