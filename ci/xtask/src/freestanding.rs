//! Builds the image and the bundled guests for the bare target.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process;
use crate::toolchain::{Compiler, TARGET};
use crate::workspace::{OUT, Workspace};

/// A first build takes about two minutes on two cores.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
const STRIP_LIMIT: Duration = Duration::from_secs(60);

/// The root manifest's profile for what runs freestanding.
const PROFILE: &str = "image";

/// One static ELF, linked by lld: pages of 4 KiB, nothing that differs from build to build.
const LINKING: [&str; 4] = [
    "-Clinker-flavor=ld.lld",
    "-Ccode-model=small",
    "-Clink-arg=-zmax-page-size=4096",
    "-Clink-arg=--build-id=none",
];

/// At the address that its own linker script gives: no relocations to apply.
const FIXED: [&str; 2] = ["-Crelocation-model=static", "-Clink-arg=--no-pie"];

/// At any address, with relocations that the loader applies, as Hermit applications are.
const MOVABLE: [&str; 1] = ["-Crelocation-model=pic"];

/// What can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Image,
    /// The image with clocks in the engine, see its feature `profile`.
    ProfiledImage,
    Guests,
    /// The guests that are Hermit applications.
    HermitGuests,
}

impl Part {
    fn package(self) -> &'static str {
        match self {
            Self::Image | Self::ProfiledImage => "anchorite-image",
            Self::Guests => "anchorite-guests",
            Self::HermitGuests => "anchorite-hermit-guests",
        }
    }

    /// The name of its own target folder.
    fn folder(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::ProfiledImage => "image-profile",
            Self::Guests => "guests",
            Self::HermitGuests => "hermit-guests",
        }
    }

    fn rustflags(self) -> String {
        match self {
            Self::Image | Self::ProfiledImage | Self::Guests => [&LINKING[..], &FIXED].concat(),
            Self::HermitGuests => [&LINKING[..], &MOVABLE].concat(),
        }
        .join(" ")
    }
}

/// The finished image.
pub(crate) fn image_path() -> PathBuf {
    Path::new(OUT).join("anchorite.elf")
}

/// The image that reads the clock between the steps of a recycle.
pub(crate) fn profiled_image_path() -> PathBuf {
    Path::new(OUT).join("anchorite-profile.elf")
}

/// A finished bundled guest.
pub(crate) fn guest_path(name: &str) -> PathBuf {
    Path::new(OUT).join("guests").join(format!("{name}.elf"))
}

/// The image before it is stripped.
pub(crate) fn image_with_symbols(workspace: &Workspace) -> PathBuf {
    artifact(workspace, Part::Image, "anchorite")
}

/// Builds the image; its stripped file goes to `out`.
pub(crate) fn build_image(workspace: &Workspace) -> Result<()> {
    build(workspace, Part::Image)?;
    strip(&image_with_symbols(workspace), &image_path())
}

/// Builds [`profiled_image_path`].
pub(crate) fn build_profiled_image(workspace: &Workspace) -> Result<()> {
    build(workspace, Part::ProfiledImage)?;
    strip(&artifact(workspace, Part::ProfiledImage, "anchorite"), &profiled_image_path())
}

/// Builds all bundled guests.
pub(crate) fn build_guests(workspace: &Workspace) -> Result<()> {
    build(workspace, Part::Guests)?;
    for name in Workspace::bundled_guests() {
        strip(&artifact(workspace, Part::Guests, &name), &guest_path(&name))?;
    }
    Ok(())
}

/// Builds the guests that are Hermit applications.
pub(crate) fn build_hermit_guests(workspace: &Workspace) -> Result<()> {
    build(workspace, Part::HermitGuests)?;
    for name in Workspace::hermit_guests() {
        strip(&artifact(workspace, Part::HermitGuests, &name), &guest_path(&name))?;
    }
    Ok(())
}

fn build(workspace: &Workspace, part: Part) -> Result<()> {
    let mut cargo = cargo(workspace, part, "build")?;
    cargo.args(["--package", part.package()]);
    if part == Part::ProfiledImage {
        cargo.args(["--features", "profile"]);
    }
    process::run(&mut cargo, BUILD_LIMIT)
}

/// Cargo of the image's compiler with everything set that a freestanding build needs; the caller
/// adds what to build.
pub(crate) fn cargo(workspace: &Workspace, part: Part, subcommand: &str) -> Result<Command> {
    let compiler = Compiler::find(workspace)?;
    let mut cargo = compiler.cargo(subcommand);
    cargo
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(workspace.target_dir(part.folder()))
        .args(["-Zbuild-std=core,alloc", "-Zbuild-std-features=compiler-builtins-mem"])
        .env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "ld.lld-19")
        .env("CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS", part.rustflags())
        // The Hermit kernel reads these two while it is compiled.
        .env("HERMIT_LOG_LEVEL_FILTER", "warn")
        .env("NO_COLOR", "1");
    if part == Part::HermitGuests {
        cargo.args(["--features", "application"]);
    }
    Ok(cargo)
}

fn artifact(workspace: &Workspace, part: Part, name: &str) -> PathBuf {
    let folder = workspace.target_dir(part.folder());
    folder.join(TARGET).join(PROFILE).join(name)
}

/// Strips into a file of its own and puts that in place in one step, so that a run that starts
/// meanwhile never sees half a file. What is up to date stays.
fn strip(built: &Path, finished: &Path) -> Result<()> {
    if is_newer(finished, built) {
        return Ok(());
    }
    let folder = finished.parent().unwrap_or(finished);
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mut scratch = OsString::from(finished);
    scratch.push(format!(".{}", std::process::id()));
    let mut strip = Command::new("strip");
    strip.arg("--strip-all").arg("-o").arg(&scratch).arg(built);
    process::run(&mut strip, STRIP_LIMIT)?;
    fs::rename(&scratch, finished).map_err(Error::io(finished))
}

/// Was `this` written after `that`?
fn is_newer(this: &Path, that: &Path) -> bool {
    let written = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    match (written(this), written(that)) {
        (Some(this), Some(that)) => this > that,
        _ => false,
    }
}
