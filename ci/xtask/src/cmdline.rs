//! How an emulator or GRUB carries the image's command line and its modules.
//!
//! What the image is told is defined in [`anchorite_abi::options`]; here it is only wrapped. The
//! first module is the guest: `<name> <its command line>`; further modules are the guest's own.

/// How guest-physical memory is translated; [`anchorite_abi::Mmu`] as a value of the command
/// line and of the matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mmu {
    /// By the processor: NPT or EPT.
    Nested,
    /// By shadow page tables.
    #[default]
    Shadow,
}

impl Mmu {
    /// As the image knows it.
    pub(crate) fn of_image(self) -> anchorite_abi::Mmu {
        match self {
            Self::Nested => anchorite_abi::Mmu::Nested,
            Self::Shadow => anchorite_abi::Mmu::Shadow,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        self.of_image().name()
    }
}

/// What devices the guest finds; [`anchorite_abi::DeviceSet`] as a value of the command line and
/// of the matrix.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeviceSet {
    /// A polled serial line
    L0,
    /// And 8259 interrupt controllers
    L1,
    /// And timer channel 0 with its interrupt
    L2,
    /// And timer channel 2, real-time clock, keyboard controller: a classic PC
    #[default]
    L3,
    /// And APICs, PCI configuration, ACPI and MP tables
    L4,
}

impl DeviceSet {
    /// As the image knows it.
    pub(crate) fn of_image(self) -> anchorite_abi::DeviceSet {
        match self {
            Self::L0 => anchorite_abi::DeviceSet::L0,
            Self::L1 => anchorite_abi::DeviceSet::L1,
            Self::L2 => anchorite_abi::DeviceSet::L2,
            Self::L3 => anchorite_abi::DeviceSet::L3,
            Self::L4 => anchorite_abi::DeviceSet::L4,
        }
    }
}

/// What it means that a guest ends in some way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EndIs {
    /// How it ends well
    Pass,
    /// A crash
    #[default]
    Error,
}

/// A file that the boot loader places in memory: the image, the guest, or something for it.
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

    /// A line for GRUB: `command` the file, then its name once more, because GRUB passes on only
    /// what follows the file where QEMU passes the name too.
    pub(crate) fn grub_line(&self, command: &str) -> String {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let words = std::iter::once(name).chain(self.arguments.split_whitespace());
        let words: Vec<String> = words.map(grub_quoted).collect();
        format!("{command} {} {}", grub_quoted(&self.path), words.join(" "))
    }

    /// The file's size; 0 for one that cannot be read, which the emulator will name.
    pub(crate) fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    fn string(&self) -> String {
        format!("{} {}", self.path, self.arguments).trim_end().to_owned()
    }
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
    fn commas_inside_a_module_are_doubled_for_qemu() {
        let modules = [module("a.elf", "console=ttyS0,115200 x"), module("initrd", "")];
        assert_eq!(Module::qemu_list(&modules), "a.elf console=ttyS0,,115200 x,initrd");
    }

    #[test]
    fn grub_repeats_the_name_because_it_passes_only_what_follows_the_file() {
        let line = module("/boot/hello.elf", "a=1 b").grub_line("module2");
        assert_eq!(line, "module2 /boot/hello.elf hello.elf a=1 b");
    }

    #[test]
    fn words_that_grubs_shell_would_change_are_quoted() {
        let line = module("/boot/k", "x=$y; 'z'").grub_line("module2");
        assert_eq!(line, r"module2 /boot/k k 'x=$y;' ''\''z'\'''");
    }
}
