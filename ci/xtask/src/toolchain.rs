//! The compiler of the image and the guests: Rust 1.85 with its unstable options opened.
//!
//! The Hermit kernel library needs this very version (newer ones reject its naked functions) and
//! `core` built from source, for no precompiled one fits the image's code model.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process;
use crate::workspace::Workspace;

/// The rustup toolchain that does as well as Debian's packages.
const NIGHTLY: &str = "nightly-2025-01-01-x86_64-unknown-linux-gnu";

/// The target of everything freestanding.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// A compiler that says its version for longer than this hangs.
const VERSION_LIMIT: Duration = Duration::from_secs(60);

/// A compiler that was found on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// Folder of `cargo`, `rustc` and `rustdoc`.
    bin: PathBuf,
    /// Folder of its shared libraries, where the system's loader does not look by itself.
    libraries: Option<PathBuf>,
}

impl Compiler {
    /// The nightly of that day if rustup has it with the library's source, else the packages
    /// unpacked in the checkout.
    pub(crate) fn find(workspace: &Workspace) -> Result<Self> {
        if let Some(nightly) = installed_nightly() {
            return Ok(Self { bin: nightly.join("bin"), libraries: None });
        }
        let usr = workspace.toolchain().join("usr");
        if !usr.join("bin/rustc").is_file() {
            return Err(Error::Package {
                names: vec!["rustc-web".into()],
                why: "the image's compiler is not there; `cargo xtask setup` gets it".into(),
            });
        }
        Ok(Self { bin: usr.join("bin"), libraries: Some(usr.join("lib/x86_64-linux-gnu")) })
    }

    /// Its cargo with a subcommand, set up so that cargo finds the fitting rustc, rustdoc and
    /// clippy and not those of the host.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(self.bin.join("cargo"));
        command
            .arg(subcommand)
            .env("PATH", prepended("PATH", &self.bin))
            .env("RUSTC", self.bin.join("rustc"))
            .env("RUSTDOC", self.bin.join("rustdoc"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTFLAGS");
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", prepended("LD_LIBRARY_PATH", libraries));
        }
        command
    }

    /// What `rustc --version` says.
    pub(crate) fn version(&self) -> Result<String> {
        let mut rustc = Command::new(self.bin.join("rustc"));
        rustc.arg("--version");
        if let Some(libraries) = &self.libraries {
            rustc.env("LD_LIBRARY_PATH", prepended("LD_LIBRARY_PATH", libraries));
        }
        Ok(process::capture(&mut rustc, VERSION_LIMIT)?.trim().to_owned())
    }

    /// Does it bring clippy along?
    pub(crate) fn has_clippy(&self) -> bool {
        self.bin.join("cargo-clippy").is_file()
    }
}

/// The folder of the rustup toolchain, if it is complete.
pub(crate) fn installed_nightly() -> Option<PathBuf> {
    let rustup = env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME")?;
        Some(Path::new(&home).join(".rustup"))
    })?;
    let folder = rustup.join("toolchains").join(NIGHTLY);
    let complete = folder.join("bin/rustc").is_file()
        && folder.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file();
    complete.then_some(folder)
}

fn prepended(variable: &str, folder: &Path) -> OsString {
    let rest = env::var_os(variable).unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(env::split_paths(&rest));
    // A folder with a colon in its name cannot be listed; then the list stays as it was.
    env::join_paths(folders).unwrap_or(rest)
}
