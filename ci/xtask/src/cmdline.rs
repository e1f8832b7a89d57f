//! What the image and its guest are told, and how an emulator or GRUB carries it there.
//!
//! The one place that knows the format. The image's command line is
//! `<name of the image> <Anchorite's options> [-freq <MHz>] --`: the first word is whatever the
//! boot loader puts there, `-freq` is Hermit's own, and what would follow `--` reaches Hermit's
//! application. The first module is the guest: `<name> <its command line>`; further modules are
//! the guest's own.

use std::fmt;

/// How guest-physical memory is translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mmu {
    /// By the processor: NPT or EPT.
    #[default]
    Nested,
    /// By shadow page tables.
    Shadow,
}

impl fmt::Display for Mmu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nested => "nested",
            Self::Shadow => "shadow",
        })
    }
}

/// Anchorite's options.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) mmu: Mmu,
    /// Guest memory.
    pub(crate) mem_mib: u32,
    /// The image stops the guest after so many seconds by its own clock.
    pub(crate) timeout_s: Option<u64>,
    /// Print the counters as lines of JSON at the end.
    pub(crate) json: bool,
    /// Wait for a debugger of the guest.
    pub(crate) gdb: bool,
    /// The rate of the time-stamp counter, where it is known: saves Hermit's 30 ms of measuring.
    pub(crate) tsc_mhz: Option<u32>,
    /// Further options, word by word, for instance `zap=batch:64` or `log=debug`.
    pub(crate) further: Vec<String>,
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mmu={} mem={}", self.mmu, self.mem_mib)?;
        if let Some(seconds) = self.timeout_s {
            write!(f, " timeout={seconds}")?;
        }
        if self.json {
            f.write_str(" json=1")?;
        }
        if self.gdb {
            f.write_str(" gdb=1")?;
        }
        for word in &self.further {
            write!(f, " {word}")?;
        }
        if let Some(mhz) = self.tsc_mhz {
            write!(f, " -freq {mhz}")?;
        }
        f.write_str(" --")
    }
}

/// A module: the guest itself, or something for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Where the file is, as the boot loader will find it.
    pub(crate) path: String,
    /// Its command line, without its name.
    pub(crate) arguments: String,
}

impl Module {
    /// QEMU's `-initrd` for a list of modules: separated by commas, so a comma inside one is
    /// doubled; the name ends at the first blank.
    pub(crate) fn qemu_list(modules: &[Self]) -> String {
        let strings = modules.iter().map(|module| module.string().replace(',', ",,"));
        strings.collect::<Vec<_>>().join(",")
    }

    /// GRUB's `module` line. GRUB passes only what follows the file, so the name is repeated.
    pub(crate) fn grub_line(&self) -> String {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let words = std::iter::once(name).chain(self.arguments.split_whitespace());
        let words: Vec<String> = words.map(grub_quoted).collect();
        format!("module {} {}", grub_quoted(&self.path), words.join(" "))
    }

    fn string(&self) -> String {
        format!("{} {}", self.path, self.arguments).trim_end().to_owned()
    }
}

/// GRUB's `multiboot` line for the image.
pub(crate) fn grub_image_line(path: &str, options: &Options) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    let options = options.to_string();
    let words: Vec<String> = options.split_whitespace().map(grub_quoted).collect();
    format!("multiboot {path} {name} {}", words.join(" "))
}

/// A word as GRUB's shell reads it.
fn grub_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, arguments: &str) -> Module {
        Module { path: path.into(), arguments: arguments.into() }
    }

    #[test]
    fn options_come_before_the_two_dashes_and_hermits_own_last() {
        let options = Options {
            mmu: Mmu::Shadow,
            mem_mib: 64,
            timeout_s: Some(9),
            json: true,
            gdb: true,
            tsc_mhz: Some(1000),
            further: vec!["zap=tagged".into()],
        };
        let expected = "mmu=shadow mem=64 timeout=9 json=1 gdb=1 zap=tagged -freq 1000 --";
        assert_eq!(options.to_string(), expected);
    }

    #[test]
    fn unset_options_are_not_mentioned() {
        let options = Options { mem_mib: 32, ..Options::default() };
        assert_eq!(options.to_string(), "mmu=nested mem=32 --");
    }

    #[test]
    fn commas_inside_a_module_are_doubled_for_qemu() {
        let modules = [module("a.elf", "console=ttyS0,115200 x"), module("initrd", "")];
        assert_eq!(Module::qemu_list(&modules), "a.elf console=ttyS0,,115200 x,initrd");
    }

    #[test]
    fn grub_repeats_the_name_because_it_passes_only_what_follows_the_file() {
        let line = module("/boot/hello.elf", "a=1 b").grub_line();
        assert_eq!(line, "module /boot/hello.elf hello.elf a=1 b");
    }

    #[test]
    fn words_that_grubs_shell_would_change_are_quoted() {
        let line = module("/boot/k", "x=$y; 'z'").grub_line();
        assert_eq!(line, r"module /boot/k k 'x=$y;' ''\''z'\'''");
    }

    #[test]
    fn the_image_line_names_the_image_twice() {
        let options = Options { mem_mib: 64, ..Options::default() };
        let line = grub_image_line("/boot/anchorite.elf", &options);
        assert_eq!(line, "multiboot /boot/anchorite.elf anchorite.elf mmu=nested mem=64 --");
    }
}
