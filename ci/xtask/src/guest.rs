//! Finds the guest that a name or a file means.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cmdline::DeviceSet;
use crate::debian::{self, Archive};
use crate::error::{Error, Result};
use crate::freestanding;
use crate::matrix::{Matrix, Packaged, small};
use crate::workspace::{OUT, Workspace};

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// One of ours, by name.
    Bundled(String),
    /// One of ours that is a Hermit application.
    Hermit(String),
    /// One that a Debian package brings.
    Packaged(Packaged),
    /// Any kernel file.
    File(PathBuf),
}

impl Guest {
    /// A bundled or packaged guest of that name, or else the file. `from` is the folder that a
    /// relative file starts at.
    pub(crate) fn find(text: &str, matrix: &Matrix, from: &Path) -> Result<Self> {
        let bundled = Workspace::bundled_guests();
        if bundled.iter().any(|name| name == text) {
            return Ok(Self::Bundled(text.into()));
        }
        let hermit = Workspace::hermit_guests();
        if hermit.iter().any(|name| name == text) {
            return Ok(Self::Hermit(text.into()));
        }
        if let Some(packaged) = matrix.packages.iter().find(|package| package.name == text) {
            return Ok(Self::Packaged(packaged.clone()));
        }
        let file = from.join(text);
        if file.is_file() {
            return Ok(Self::File(file));
        }
        let packaged: Vec<_> =
            matrix.packages.iter().map(|package| package.name.as_str()).collect();
        Err(Error::refused(
            text,
            format!(
                "neither a guest nor a file; bundled guests: {}, {}; from Debian's packages: {}",
                bundled.join(", "),
                hermit.join(", "),
                packaged.join(", ")
            ),
        ))
    }

    /// What a run is called.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Bundled(name) | Self::Hermit(name) => name.clone(),
            Self::Packaged(packaged) => packaged.name.clone(),
            Self::File(path) => {
                path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into())
            }
        }
    }

    /// What it finds where the caller does not say: a Hermit kernel cannot do without an APIC.
    pub(crate) fn default_devices(&self) -> DeviceSet {
        match self {
            Self::Hermit(_) => DeviceSet::L4,
            _ => DeviceSet::default(),
        }
    }

    /// The guest's own command line where the caller gives none.
    pub(crate) fn default_arguments(&self, devices: DeviceSet) -> &str {
        match self {
            Self::Packaged(packaged) => {
                packaged.append_on.get(&devices).unwrap_or(&packaged.append)
            }
            _ => "",
        }
    }

    /// What is added to that where somebody sits at the console.
    pub(crate) fn interactive_arguments(&self) -> &'static str {
        match self {
            Self::Packaged(Packaged { initramfs: Some(_), .. }) => " then=shell",
            _ => "",
        }
    }

    /// Its memory in MiB where the caller gives none.
    pub(crate) fn default_memory(&self) -> u32 {
        match self {
            Self::Packaged(packaged) => packaged.mem,
            _ => small(),
        }
    }

    /// The modules that it comes with, made first.
    pub(crate) fn modules(&self) -> Result<Vec<PathBuf>> {
        match self {
            Self::Hermit(name) => Ok(Workspace::hermit_modules(name)),
            Self::Packaged(packaged) => packaged
                .initramfs
                .iter()
                .map(|initramfs| initramfs.build(&packaged.name, &packaged.architecture))
                .collect(),
            Self::Bundled(_) | Self::File(_) => Ok(Vec::new()),
        }
    }

    /// The kernel file, fetched first if it comes from a package that has not been unpacked yet.
    pub(crate) fn file(&self) -> Result<PathBuf> {
        match self {
            Self::Bundled(name) | Self::Hermit(name) => Ok(freestanding::guest_path(name)),
            Self::Packaged(packaged) => fetched(packaged),
            Self::File(path) => without_blanks(path),
        }
    }
}

/// Packages are unpacked below `out`, never installed.
fn fetched(packaged: &Packaged) -> Result<PathBuf> {
    let archive = Archive::of(&packaged.architecture)?;
    debian::matching(&archive.unpacked(&packaged.debian, packaged.follow)?, &packaged.path)
}

/// QEMU ends a module's name at the first blank, so a file with one is run from a copy.
pub(crate) fn without_blanks(path: &Path) -> Result<PathBuf> {
    let text = path.to_string_lossy();
    if !text.contains(char::is_whitespace) {
        return Ok(path.to_owned());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let copy = Path::new(OUT).join("files").join(name.replace(char::is_whitespace, "_"));
    fs::create_dir_all(Path::new(OUT).join("files")).map_err(Error::io(OUT))?;
    fs::copy(path, &copy).map_err(Error::io(path))?;
    Ok(copy)
}
