//! Debian's cloud kernel, its modules, and a static busybox: unpacked, never installed.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::read;
use crate::debian::{Archive, matching};
use crate::error::{Error, Result};
use crate::process;

/// The package that names the newest kernel package.
const NEWEST: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";
const ARCHITECTURE: &str = "amd64";
/// No decompressor takes longer.
const LIMIT: Duration = Duration::from_secs(120);

/// A kernel below `out`.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// The bzImage.
    pub(super) image: PathBuf,
    /// The folder with its modules.
    modules: PathBuf,
}

/// A module, decompressed.
#[derive(Clone, Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The program `busybox`.
pub(super) fn busybox() -> Result<PathBuf> {
    matching(&Archive::of(ARCHITECTURE)?.unpacked(BUSYBOX, false)?, "bin/busybox")
}

impl Kernel {
    /// The newest one that this system's package sources offer; fetched once.
    pub(super) fn fetch() -> Result<Self> {
        let folder = Archive::of(ARCHITECTURE)?.unpacked(NEWEST, true)?;
        Ok(Self {
            image: matching(&folder, "boot/vmlinuz-*")?,
            modules: matching(&folder, "lib/modules/*")?,
        })
    }

    /// These modules and what they need, in an order in which each can be loaded.
    pub(super) fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut files = HashMap::new();
        find_modules(&self.modules.join("kernel"), &mut files)?;
        let mut ordered = Vec::new();
        for name in names {
            add(name, &files, &mut ordered)?;
        }
        Ok(ordered)
    }
}

/// Adds a module behind those that it needs. The package has no `modules.dep`, which depmod
/// makes at installation; a module says itself what it needs.
fn add(name: &str, files: &HashMap<String, PathBuf>, ordered: &mut Vec<Module>) -> Result<()> {
    if ordered.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let path = files.get(name).ok_or_else(|| Error::malformed(name, "no such kernel module"))?;
    let bytes = decompressed(path)?;
    for needed in needs(&bytes) {
        add(&needed, files, ordered)?;
    }
    ordered.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

/// What the module's information section lists as `depends=a,b`.
fn needs(module: &[u8]) -> Vec<String> {
    let fields = module.split(|byte| *byte == 0);
    let depends = fields.filter_map(|field| field.strip_prefix(b"depends=")).next_back();
    let text = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    text.split(',').filter(|name| !name.is_empty()).map(dashed).collect()
}

/// Module names are compared with `_` for `-`.
fn dashed(name: &str) -> String {
    name.replace('_', "-")
}

fn find_modules(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() {
            find_modules(&path, files)?;
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((stem, _)) = name.split_once(".ko") {
            files.insert(dashed(stem), path);
        }
    }
    Ok(())
}

/// Newer kernels compress their modules.
fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return read(path),
    };
    let plain = path.with_extension("plain");
    process::capture(
        Command::new("sh")
            .args(["-c", "\"$0\" -dc \"$1\" > \"$2\"", program])
            .arg(path)
            .arg(&plain),
        LIMIT,
    )?;
    read(&plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_those_it_needs() {
        let module = b"\x7fELF\0license=GPL\0depends=kvm,irq_bypass\0name=kvm_amd\0";
        assert_eq!(needs(module), ["kvm", "irq-bypass"]);
        assert!(needs(b"\x7fELF\0depends=\0").is_empty());
        assert!(needs(b"no field at all").is_empty());
    }
}
