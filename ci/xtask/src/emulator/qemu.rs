//! QEMU: SVM in its own translator, either vendor on a host with nested KVM.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anchorite_abi::FW_CFG_WORD;

use super::{Boot, Cpu, Machine, On, Session, Source};
use crate::cmdline::Module;
use crate::error::{Error, Result};
use crate::iso;
use crate::verdict::Verdict;

/// An EPYC with SVM and nested paging. Its random numbers would make runs differ, and
/// CMPXCHG16B of QEMU 7.2 leaks its operand into RFLAGS, so both are hidden.
pub(crate) const TCG_CPU: &str = "EPYC,+svm,+npt,-rdrand,-rdseed,-cx16";

/// A clock that follows counted instructions, from a day on that is always the same.
pub(crate) const RTC: &str = "base=2026-01-01T00:00:00,clock=vm";

/// OVMF with its variables in one file.
const UEFI: &str = "/usr/share/ovmf/OVMF.fd";

/// Puts the command together. The console is standard output.
pub(super) fn prepare(machine: &Machine) -> Result<Session> {
    if machine.boot != Boot::Direct {
        iso::write(&iso_path(machine), &machine.image, &machine.modules)?;
    }
    let mut command = Command::new("qemu-system-x86_64");
    command.args(arguments(machine));
    Ok(Session { command, source: Source::Output, log: machine.scratch.join("qemu.log") })
}

fn iso_path(machine: &Machine) -> PathBuf {
    machine.scratch.join("run.iso")
}

fn arguments(machine: &Machine) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |text: &[&str]| words.extend(text.iter().map(ToString::to_string));
    add(&["-nodefaults", "-display", "none", "-no-reboot"]);
    add(&["-m", &machine.memory_mib.to_string(), "-smp", "1"]);
    match machine.on {
        On::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
        _ => add(&["-accel", "tcg,thread=single", "-cpu", &model(machine)]),
    }
    if machine.icount {
        add(&["-icount", "shift=0,sleep=off", "-rtc", RTC]);
    }
    if machine.interactive {
        // Ctrl-C goes to the guest, Ctrl-A X ends the emulator.
        add(&["-chardev", "stdio,id=line,mux=on,signal=off", "-serial", "chardev:line"]);
    } else if machine.bare {
        add(&["-chardev", "stdio,id=line,mux=on", "-serial", "chardev:line"]);
    } else {
        add(&["-serial", "stdio"]);
    }
    if machine.bare {
        // The guest finds there what the image would give it: the debug console, and the port
        // that ends a benchmark's run.
        add(&["-device", "isa-debugcon,iobase=0xe9,chardev=line"]);
        add(&["-device", "isa-debug-exit,iobase=0x501,iosize=4"]);
    }
    add(&["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    if machine.gdb {
        add(&["-s", "-S"]);
    }
    words.extend(boot_arguments(machine));
    words
}

fn model(machine: &Machine) -> String {
    let flags = machine.cpu_flags.iter().flat_map(|flags| flags.split(','));
    flags.fold(TCG_CPU.to_owned(), |model, flag| model + "," + flag)
}

fn boot_arguments(machine: &Machine) -> Vec<String> {
    let mut words = Vec::new();
    let mut add = |text: &[&str]| words.extend(text.iter().map(ToString::to_string));
    if machine.boot == Boot::Uefi {
        add(&["-bios", UEFI]);
    }
    if machine.boot != Boot::Direct {
        // GRUB draws on a screen, which nobody sees.
        add(&["-vga", "std", "-cdrom", &iso_path(machine).to_string_lossy()]);
        return words;
    }
    let (kernel, modules) = match machine.modules.split_first() {
        Some((guest, rest)) if machine.bare => (guest, rest),
        _ => (&machine.image, machine.modules.as_slice()),
    };
    // QEMU has a device of its own for them, which is the reference for ours.
    let (files, modules): (Vec<Module>, Vec<Module>) = modules
        .iter()
        .cloned()
        .partition(|module| machine.bare && module.arguments.starts_with(FW_CFG_WORD));
    for file in files {
        let name = file.arguments.trim_start_matches(FW_CFG_WORD);
        add(&["-fw_cfg", &format!("name={name},file={}", file.path.replace(',', ",,"))]);
    }
    add(&["-kernel", &kernel.path, "-append", &kernel.arguments]);
    if !modules.is_empty() {
        add(&["-initrd", &Module::qemu_list(&modules)]);
    }
    words
}

/// The verdict of a guest that ran without the image: isa-debug-exit makes QEMU's status
/// 2 n + 1 of the guest's n.
pub(super) fn verdict_of(status: ExitStatus) -> Verdict {
    match status.code().map(i32::unsigned_abs) {
        Some(1) => Verdict::Pass,
        Some(code) if code % 2 == 1 => Verdict::Fail { status: code / 2 },
        _ => Verdict::error(format!("the emulator ended with {status}")),
    }
}

/// The vendor of a host whose KVM can run a hypervisor in a guest; refuses with the reason
/// where it cannot, or where another vendor is asked for.
pub(super) fn nested_kvm(wanted: Option<Cpu>) -> Result<Cpu> {
    let refused = |why: &str| Error::refused("--on kvm", why);
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Err(refused("this host has no /dev/kvm that we may open"));
    }
    let enabled = |module: &str| {
        let path = format!("/sys/module/{module}/parameters/nested");
        fs::read_to_string(path).is_ok_and(|text| matches!(text.trim(), "1" | "Y" | "y"))
    };
    let host = match (enabled("kvm_amd"), enabled("kvm_intel")) {
        (true, _) => Cpu::Amd,
        (_, true) => Cpu::Intel,
        _ => {
            return Err(refused(
                "nested virtualization is off on this host; load kvm_amd or kvm_intel with nested=1",
            ));
        }
    };
    match wanted {
        Some(cpu) if cpu != host => Err(refused("the host's processor is of the other vendor")),
        _ => Ok(host),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::super::tests::machine;
    use super::*;

    #[test]
    fn a_plain_run_boots_the_image_with_its_options_and_the_guest_as_module() {
        let line = arguments(&machine()).join(" ");
        assert!(line.contains("-kernel out/anchorite.elf -append mmu=nested mem=64 --"), "{line}");
        assert!(line.ends_with("-initrd out/guests/hello.elf x=1,,2"), "{line}");
        assert!(!line.contains("icount"), "{line}");
        assert!(!line.contains("-s -S"), "{line}");
    }

    #[test]
    fn a_bare_run_boots_the_guest_in_the_images_place() {
        let mut machine = machine();
        machine.bare = true;
        let line = arguments(&machine).join(" ");
        assert!(line.ends_with("-kernel out/guests/hello.elf -append x=1,2"), "{line}");
    }

    #[test]
    fn firmware_boots_from_an_iso_instead_of_a_kernel() {
        let mut machine = machine();
        machine.boot = Boot::Uefi;
        let line = arguments(&machine).join(" ");
        assert!(line.contains("-bios /usr/share/ovmf/OVMF.fd"), "{line}");
        assert!(line.ends_with("run.iso") && !line.contains("-kernel"), "{line}");
    }

    #[test]
    fn a_bare_guests_status_comes_from_the_exit_device() {
        let verdict = |code: i32| verdict_of(ExitStatus::from_raw(code << 8)).to_string();
        assert_eq!(verdict(1), "verdict: pass");
        assert_eq!(verdict(7), "verdict: fail status=3");
        assert!(verdict(0).starts_with("verdict: error"), "QEMU ended without the device");
    }

    #[test]
    fn flags_come_behind_the_model_they_change() {
        let mut machine = machine();
        machine.cpu_flags = Some("+la57,-smap".into());
        let line = arguments(&machine).join(" ");
        assert!(line.contains("-cx16,+la57,-smap -serial"), "{line}");
    }

    #[test]
    fn counting_instructions_also_ties_the_clock_to_them() {
        let mut machine = machine();
        machine.icount = true;
        let line = arguments(&machine).join(" ");
        assert!(
            line.contains("-icount shift=0,sleep=off -rtc base=2026-01-01T00:00:00,clock=vm"),
            "{line}"
        );
    }

    #[test]
    fn an_interactive_run_leaves_control_characters_to_the_guest() {
        let mut machine = machine();
        machine.interactive = true;
        let line = arguments(&machine).join(" ");
        assert!(line.contains("-chardev stdio,id=line,mux=on,signal=off -serial chardev:line"));
        assert!(!line.contains("-serial stdio"), "{line}");
    }

    #[test]
    fn kvm_takes_the_hosts_processor_instead_of_the_translators() {
        let mut machine = machine();
        machine.on = On::Kvm;
        let line = arguments(&machine).join(" ");
        assert!(line.contains("-accel kvm -cpu host"), "{line}");
        assert!(!line.contains("EPYC"), "{line}");
    }
}
