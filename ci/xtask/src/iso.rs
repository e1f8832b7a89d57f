//! A GRUB ISO that boots the image from BIOS and from UEFI.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cmdline::Module;
use crate::error::{Error, Result};
use crate::process;

/// grub-mkrescue takes about a second.
const LIMIT: Duration = Duration::from_secs(120);

/// Where GRUB finds the image.
const IMAGE: &str = "/boot/anchorite.elf";

/// Writes an ISO with the image and its modules. A folder beside it holds what goes in.
pub(crate) fn write(iso: &Path, image: &Module, modules: &[Module]) -> Result<()> {
    let tree = iso.with_extension("tree");
    let boot = tree.join("boot");
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(Error::io(&tree))?;
    }
    fs::create_dir_all(boot.join("grub")).map_err(Error::io(&boot))?;
    copy(Path::new(&image.path), &tree.join(&IMAGE[1..]))?;
    let mut inside = Vec::new();
    for (index, module) in modules.iter().enumerate() {
        let path = inside_path(index, &module.path);
        copy(Path::new(&module.path), &tree.join(&path[1..]))?;
        inside.push(Module { path, arguments: module.arguments.clone() });
    }
    let image = Module { path: IMAGE.into(), arguments: image.arguments.clone() };
    let configuration = configuration(&image, &inside);
    let file = boot.join("grub/grub.cfg");
    fs::write(&file, configuration).map_err(Error::io(&file))?;
    let mut mkrescue = Command::new("grub-mkrescue");
    mkrescue.args(["--fonts=", "--locales=", "--themes=", "-o"]).arg(iso).arg(&tree);
    process::capture(mkrescue.stderr(std::process::Stdio::null()), LIMIT).map(drop)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    fs::copy(from, to).map(drop).map_err(Error::io(from))
}

/// A name of its own for each module, whatever folders they come from.
fn inside_path(index: usize, path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    match index {
        0 => format!("/boot/guest/{name}"),
        _ => format!("/boot/guest/{index}/{name}"),
    }
}

/// Multiboot 2, because it alone hands over UEFI's memory map and ACPI tables.
fn configuration(image: &Module, modules: &[Module]) -> String {
    let image = image.grub_line("multiboot2");
    let modules: Vec<String> = modules.iter().map(|one| one.grub_line("module2")).collect();
    format!(
        "\
set timeout=0
insmod all_video
{image}
{}
boot
",
        modules.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_is_told_the_image_first_and_the_modules_in_order() {
        let module = |path: &str| Module { path: path.into(), arguments: "a=1".into() };
        let modules = [module("/boot/guest/k"), module("/boot/guest/1/i")];
        let text = configuration(&module(IMAGE), &modules);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "multiboot2 /boot/anchorite.elf anchorite.elf a=1",
                "module2 /boot/guest/k k a=1",
                "module2 /boot/guest/1/i i a=1",
                "boot",
            ]
        );
    }

    #[test]
    fn modules_of_the_same_name_do_not_overwrite_each_other() {
        assert_ne!(inside_path(0, "a/initrd"), inside_path(1, "b/initrd"));
        assert_ne!(inside_path(1, "a/initrd"), inside_path(2, "b/initrd"));
    }
}
