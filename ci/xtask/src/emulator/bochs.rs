//! Bochs: VMX with EPT and unrestricted guest, or SVM; booted from an ISO.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Cpu, Machine, Session, Source, pty};
use crate::error::{Error, Result};
use crate::iso;

/// Instructions a second of the emulated clock: the time-stamp counter's rate, whatever the
/// host's speed.
pub(super) const TSC_MHZ: u16 = 50;

/// Writes ISO and configuration. The console is a file that Bochs writes COM1 to.
pub(super) fn prepare(machine: &Machine) -> Result<Session> {
    let scratch = &machine.scratch;
    let at = |name: &str| scratch.join(name);
    iso::write(&at("run.iso"), &machine.image, &machine.modules)?;
    let configuration = configuration(machine, &at("run.iso"), &at("com1"), &at("bochs.log"));
    fs::write(at("bochsrc"), configuration).map_err(Error::io(at("bochsrc")))?;
    // A console left from another run would be taken for this one's.
    let _ = fs::remove_file(at("com1"));
    let mut command = Command::new("bochs");
    command.env("TERM", "vt100");
    command.arg("-q").arg("-f").arg(at("bochsrc"));
    Ok(Session {
        command,
        source: Source::File(at("com1"), pty::Terminal::open()?),
        log: at("bochs.log"),
    })
}

/// MONITOR/MWAIT is a no-op because wake-ups through it get lost between processors.
fn configuration(machine: &Machine, iso: &Path, com1: &Path, log: &Path) -> String {
    let model = match machine.cpu {
        Cpu::Intel => "corei7_icelake_u",
        Cpu::Amd => "ryzen",
    };
    let memory = machine.memory_mib;
    let ips = u64::from(TSC_MHZ) * 1_000_000;
    let (iso, com1, log) = (iso.display(), com1.display(), log.display());
    format!(
        "\
config_interface: textconfig
display_library: term
plugin_ctrl: unmapped=1, biosdev=1, speaker=0
cpu: model={model}, count=1, ips={ips}, mwait_is_nop=1, reset_on_triple_fault=0
memory: guest={memory}, host={memory}
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
clock: sync=none, time0=local
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=\"{iso}\", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=\"{com1}\"
log: \"{log}\"
panic: action=fatal
error: action=report
info: action=report
"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::machine;
    use super::*;

    fn configured(cpu: Cpu) -> String {
        let mut machine = machine();
        machine.cpu = cpu;
        configuration(&machine, Path::new("a b/run.iso"), Path::new("com1"), Path::new("log"))
    }

    #[test]
    fn the_vendor_picks_a_model_with_its_extensions() {
        assert!(configured(Cpu::Intel).contains("cpu: model=corei7_icelake_u,"));
        assert!(configured(Cpu::Amd).contains("cpu: model=ryzen,"));
    }

    #[test]
    fn every_line_is_one_setting_with_its_value() {
        for line in configured(Cpu::Intel).lines() {
            let (name, value) = line.split_once(": ").expect(line);
            assert!(!name.contains(' ') && !value.is_empty(), "{line}");
        }
    }

    #[test]
    fn paths_with_blanks_are_quoted_and_memory_is_the_machines() {
        let text = configured(Cpu::Amd);
        assert!(text.contains("path=\"a b/run.iso\""), "{text}");
        assert!(text.contains("memory: guest=128, host=128"), "{text}");
        assert!(text.contains("ips=50000000"), "{text}");
    }
}
