//! The first file system of the Linux guests: our `init` and `probe`
//! (`guest-loader/guests/linux`), and programs of Debian's packages with the libraries they load.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;

use crate::cpio::Cpio;
use crate::debian::Archive;
use crate::error::{Error, Result};
use crate::process;
use crate::workspace::OUT;

const SOURCES: &str = "guest-loader/guests/linux";
const LIMIT: Duration = Duration::from_secs(60);

/// Nothing but the kernel's calls: no C library, no start-up code, one address.
const CC: [&str; 14] = [
    "-m32",
    "-Os",
    "-Wall",
    "-Wextra",
    "-ffreestanding",
    "-fno-pic",
    "-fno-pie",
    "-no-pie",
    "-nostdlib",
    "-static",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-Wl,--build-id=none",
    "-s",
];

/// Devices that our `init` and the shell use.
const DEVICES: [(&str, u32, u32); 7] = [
    ("dev/null", 1, 3),
    ("dev/zero", 1, 5),
    ("dev/kmsg", 1, 11),
    ("dev/tty", 5, 0),
    ("dev/console", 5, 1),
    ("dev/ttyS0", 4, 64),
    ("dev/urandom", 1, 9),
];

/// Where Debian's packages keep libraries; in the archive they all lie in `lib`.
const LIBRARIES: [&str; 6] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib/i386-linux-gnu",
    "usr/lib/i386-linux-gnu",
    "lib",
    "usr/lib",
];

/// What goes in beside what is ours; part of a package in `ci/matrix.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Initramfs {
    /// Packages that programs and libraries come from; with all that they depend on.
    pub(crate) packages: Vec<String>,
    /// The programs, by their path in the packages.
    pub(crate) programs: Vec<String>,
}

impl Initramfs {
    /// The archive for a kernel of `architecture`, compressed, in a file of its own.
    pub(crate) fn build(&self, name: &str, architecture: &str) -> Result<PathBuf> {
        let tree = Archive::of(architecture)?.unpacked_closure(&self.packages)?;
        let mut cpio = Cpio::default();
        for (path, major, minor) in DEVICES {
            cpio.device(path, major, minor);
        }
        cpio.program("init", &read(&Path::new(SOURCES).join("init"))?);
        cpio.program("bin/probe", &read(&probe()?)?);
        for program in &self.programs {
            cpio.program(program, &read(&tree.join(program))?);
        }
        for library in libraries(&tree, &self.programs)? {
            cpio.program(&library.inside, &read(&library.file)?);
        }
        write(&Path::new(OUT).join("initramfs").join(format!("{name}.cpio.gz")), &cpio.finish())
    }
}

/// Compiles `probe` where its source has changed.
fn probe() -> Result<PathBuf> {
    let source = Path::new(SOURCES).join("probe.c");
    let program = Path::new(OUT).join("initramfs/probe");
    let written = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    if written(&program) > written(&source) {
        return Ok(program);
    }
    let folder = Path::new(OUT).join("initramfs");
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let scratch = program.with_extension(std::process::id().to_string());
    process::run(Command::new("cc").args(CC).arg("-o").arg(&scratch).arg(&source), LIMIT)?;
    fs::rename(&scratch, &program).map_err(Error::io(&program))?;
    Ok(program)
}

/// A library, or the program that loads them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Library {
    file: PathBuf,
    inside: String,
}

/// All that the programs load, and what that loads in turn.
fn libraries(tree: &Path, programs: &[String]) -> Result<BTreeSet<Library>> {
    let mut found = BTreeSet::new();
    let mut open: Vec<PathBuf> = programs.iter().map(|program| tree.join(program)).collect();
    while let Some(file) = open.pop() {
        for wanted in wanted_by(&file)? {
            let library = find(tree, &wanted).ok_or_else(|| {
                let what = format!("wants {wanted}, which no package of the guest has");
                Error::malformed(&file, what)
            })?;
            if found.insert(library.clone()) {
                open.push(library.file);
            }
        }
    }
    Ok(found)
}

/// The names of the libraries that an ELF file wants, and the path of the program that loads
/// them; nothing for a static one.
fn wanted_by(file: &Path) -> Result<Vec<String>> {
    let mut readelf = Command::new("readelf");
    let text = process::capture(
        readelf.args(["--wide", "--dynamic", "--program-headers"]).arg(file),
        LIMIT,
    )?;
    Ok(parse(&text))
}

fn parse(readelf: &str) -> Vec<String> {
    let bracketed = |line: &str, mark: &str| {
        let rest = &line[line.find(mark)? + mark.len()..];
        Some(rest[..rest.find(']')?].to_owned())
    };
    let names = readelf.lines().filter_map(|line| {
        bracketed(line, "Shared library: [")
            .or_else(|| bracketed(line, "Requesting program interpreter: /"))
    });
    names.collect()
}

fn find(tree: &Path, wanted: &str) -> Option<Library> {
    // The loader of libraries is named by its path, and must lie there.
    if wanted.contains('/') {
        let name = wanted.rsplit('/').next()?;
        let paths = std::iter::once(tree.join(wanted));
        let file = paths
            .chain(LIBRARIES.map(|folder| tree.join(folder).join(name)))
            .find(|path| path.is_file())?;
        return Some(Library { file, inside: wanted.to_owned() });
    }
    let file = LIBRARIES
        .map(|folder| tree.join(folder).join(wanted))
        .into_iter()
        .find(|path| path.is_file())?;
    Some(Library { file, inside: format!("lib/{wanted}") })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io(path))
}

/// Compresses into a file that appears when it is complete.
fn write(path: &Path, contents: &[u8]) -> Result<PathBuf> {
    let scratch = path.with_extension(std::process::id().to_string());
    let file = File::create(&scratch).map_err(Error::io(&scratch))?;
    let mut encoder = GzEncoder::new(file, Compression::fast());
    encoder.write_all(contents).map_err(Error::io(&scratch))?;
    encoder.finish().map_err(Error::io(&scratch))?;
    fs::rename(&scratch, path).map_err(Error::io(path))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_their_loader_are_found_in_what_readelf_prints() {
        let text = "\
      [Requesting program interpreter: /lib64/ld-linux-x86-64.so.2]\n\
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n\
 0x000000000000000e (SONAME)             Library soname: [libm.so.6]\n";
        assert_eq!(parse(text), ["lib64/ld-linux-x86-64.so.2", "libc.so.6"]);
    }
}
