//! Debian's archive without the system: package lists and downloads of our own below `out`, one
//! set for each architecture, so that a guest's files come from any of them while nothing on the
//! system changes and no right to install is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process::{self, on_path};
use crate::progress;
use crate::workspace::OUT;

/// An apt-get that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// The archive for one architecture, as apt-get with folders of its own sees it.
#[derive(Debug)]
pub(crate) struct Archive {
    architecture: String,
    /// apt-get's folders; absolute, because apt-get wants them so.
    folder: PathBuf,
}

impl Archive {
    /// The archive for `architecture`, by Debian's name.
    pub(crate) fn of(architecture: &str) -> Result<Self> {
        let folder = Path::new(OUT).join("apt").join(architecture);
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(Error::io(&part))?;
        }
        // Nothing is installed, so that every dependency counts as missing.
        let status = folder.join("status");
        fs::write(&status, "").map_err(Error::io(&status))?;
        let folder = fs::canonicalize(&folder).map_err(Error::io(&folder))?;
        Ok(Self { architecture: architecture.to_owned(), folder })
    }

    /// The folder with the files of `package`; downloaded and unpacked first if it is not there.
    /// With `follow` the files are those of its only dependency: some packages do nothing but
    /// name the latest version of another.
    pub(crate) fn unpacked(&self, package: &str, follow: bool) -> Result<PathBuf> {
        let folder = self.place(package);
        if !folder.is_dir() {
            self.refresh(package)?;
            let wanted = if follow { self.dependency(package)? } else { package.to_owned() };
            let deb = self.download("download", &[&wanted])?;
            unpack(&deb, &folder)?;
        }
        Ok(folder)
    }

    /// The folder with the files of `packages` and of all that they depend on.
    pub(crate) fn unpacked_closure(&self, packages: &[String]) -> Result<PathBuf> {
        let folder = self.place(&packages.join("+"));
        if !folder.is_dir() {
            let names: Vec<&str> = packages.iter().map(String::as_str).collect();
            for name in &names {
                self.refresh(name)?;
            }
            let debs = self.download("install", &names)?;
            unpack(&debs, &folder)?;
        }
        Ok(folder)
    }

    fn place(&self, name: &str) -> PathBuf {
        Path::new(OUT).join("packages").join(&self.architecture).join(name)
    }

    /// Sees to it that the package lists know `package`; refreshes them where they do not.
    fn refresh(&self, package: &str) -> Result<()> {
        let tools = ["apt-get", "apt-cache", "dpkg"];
        if let Some(missing) = tools.into_iter().find(|tool| !on_path(tool)) {
            let why = format!(
                "this is no Debian system (no {missing}); give the kernel's file instead of its name"
            );
            return Err(Error::Package { names: vec![package.into()], why });
        }
        if self.version(package).is_none() {
            let spinner = progress::spinner("apt-get update");
            let outcome = process::capture(self.command("apt-get").args(["update", "-qq"]), LIMIT);
            spinner.finish_and_clear();
            if let Err(error) = outcome {
                eprintln!("packages: {error}; going on with the package lists that came");
            }
        }
        self.version(package).map(drop).ok_or_else(|| Error::Package {
            names: vec![format!("{package}:{}", self.architecture)],
            why: "this system's package sources do not offer it (Debian 12 does)".into(),
        })
    }

    /// The version that apt-get would take.
    fn version(&self, package: &str) -> Option<String> {
        let mut policy = self.command("apt-cache");
        let text = process::capture(policy.args(["policy", package]), LIMIT).ok()?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
        (line != "(none)").then(|| line.to_owned())
    }

    /// The first package that `package` depends on.
    fn dependency(&self, package: &str) -> Result<String> {
        let mut depends = self.command("apt-cache");
        let text = process::capture(depends.args(["depends", package]), LIMIT)?;
        let mut names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        names.next().map(str::to_owned).ok_or_else(|| Error::Package {
            names: vec![package.to_owned()],
            why: "it depends on nothing, so that there is no package to follow it to".into(),
        })
    }

    /// Downloads packages into a scratch folder: alone, or as `install` would with all they
    /// depend on.
    fn download(&self, verb: &str, packages: &[&str]) -> Result<Scratch> {
        for package in packages {
            let version = self.version(package).unwrap_or_default();
            let below = Path::new(OUT).join("packages");
            eprintln!(
                "packages: Debian package {package}:{} version {version}, unpacked into {}",
                self.architecture,
                below.display()
            );
        }
        let scratch = Scratch::new(&self.folder)?;
        let spinner = progress::spinner("apt-get download");
        let archives = format!("Dir::Cache::archives={}", scratch.path.display());
        let mut download = self.command("apt-get");
        download.current_dir(&scratch.path).args(["-qq", "-o", &archives]);
        download.args(["--yes", "--no-install-recommends", "--download-only", verb]);
        let outcome = process::capture(download.args(packages), LIMIT);
        spinner.finish_and_clear();
        outcome.map_err(|error| Error::Package {
            names: packages.iter().map(|&name| name.to_owned()).collect(),
            why: error.to_string(),
        })?;
        Ok(scratch)
    }

    /// apt-get or apt-cache on our folders. Sources and keys are the system's.
    fn command(&self, program: &str) -> Command {
        let folder = self.folder.display();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            format!("APT::Architecture={0}", self.architecture),
            format!("APT::Architectures::={0}", self.architecture),
            "Acquire::Languages=none".into(),
            // Files that apt-get's own user may not write to are ours alone.
            "APT::Sandbox::User=".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command.stderr(std::process::Stdio::null());
        command
    }
}

/// A folder for downloads, gone when it is dropped.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(below: &Path) -> Result<Self> {
        let path = below.join(format!("debs-{}", std::process::id()));
        let partial = path.join("partial");
        fs::create_dir_all(&partial).map_err(Error::io(&partial))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Scratch files that stay behind do no harm.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Unpacks every package of `scratch` into one folder, which appears when it is complete.
fn unpack(scratch: &Scratch, folder: &Path) -> Result<()> {
    let tree = scratch.path.join("tree");
    fs::create_dir_all(&tree).map_err(Error::io(&tree))?;
    for entry in fs::read_dir(&scratch.path).map_err(Error::io(&scratch.path))? {
        let deb = entry.map_err(Error::io(&scratch.path))?.path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            process::run(Command::new("dpkg").arg("-x").arg(&deb).arg(&tree), LIMIT)?;
        }
    }
    let parent = folder.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    match fs::rename(&tree, folder) {
        // Another run was faster; its files are as good.
        Err(_) if folder.is_dir() => Ok(()),
        outcome => outcome.map_err(Error::io(folder)),
    }
}

/// The one file below `folder` that `pattern` names: a path whose last part may hold one `*`.
pub(crate) fn matching(folder: &Path, pattern: &str) -> Result<PathBuf> {
    let (parent, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let parent = folder.join(parent);
    let fits = |file: &str| match name.split_once('*') {
        None => file == name,
        Some((start, end)) => {
            file.len() >= start.len() + end.len() && file.starts_with(start) && file.ends_with(end)
        }
    };
    let entries = fs::read_dir(&parent).map_err(Error::io(&parent))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = names.filter(|file| fits(file)).collect();
    found.sort();
    found.pop().map(|file| parent.join(file)).ok_or_else(|| {
        Error::malformed(folder, format!("the package has no file {pattern} (see ci/matrix.toml)"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_what_changes_with_the_version() {
        let folder = std::env::temp_dir().join(format!("xtask-match-{}", std::process::id()));
        let boot = folder.join("boot");
        fs::create_dir_all(&boot).unwrap();
        for name in ["vmlinuz-6.1.0-9-x", "config-6.1.0-9-x", "vmlinuz"] {
            fs::write(boot.join(name), "").unwrap();
        }
        let found =
            |pattern| matching(&folder, pattern).map(|path| path.file_name().unwrap().to_owned());
        assert_eq!(found("boot/vmlinuz-*").unwrap(), "vmlinuz-6.1.0-9-x");
        assert_eq!(found("boot/vmlinuz").unwrap(), "vmlinuz");
        let missing = found("boot/bzImage*").unwrap_err().to_string();
        assert!(missing.contains("boot/bzImage*"), "{missing}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn apt_is_pointed_away_from_the_systems_state() {
        let archive = Archive { architecture: "i386".into(), folder: "/x/apt/i386".into() };
        let command = process::shown(&archive.command("apt-get"));
        for part in [
            "Dir::State=/x/apt/i386/state",
            "Dir::State::status=/x/apt/i386/status",
            "Dir::Cache=/x/apt/i386/cache",
            "APT::Architectures::=i386",
        ] {
            assert!(command.contains(part), "{command}");
        }
    }
}
