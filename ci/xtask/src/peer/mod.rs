//! `peer kvm`: the bundled benchmark under Linux KVM on the same emulated machine.
//!
//! Debian's cloud kernel is the first-level guest of QEMU, a small program over the raw KVM
//! interface (`ci/peer-kvm`) its only process, and the benchmark that program's guest. The
//! packages are unpacked below `out`, nothing is installed.

mod kernel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bench::results::{self, Common, Measured, Results};
use crate::bench::{Recorded, append};
use crate::cli::{PeerArgs, PeerKind};
use crate::cpio::Cpio;
use crate::emulator::{self, Outcome, Program};
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::matrix::Matrix;
use crate::process;
use crate::run;
use crate::setup::{self, Need};
use crate::verdict::Verdict;
use crate::workspace::{Workspace, cargo};
use kernel::Kernel;

/// Memory of the emulated machine: the guest's 768 MiB are all there from the start.
const MACHINE_MIB: u32 = 3072;
const GUEST_MIB: u32 = 768;
/// The whole set takes minutes where a zap costs what KVM's does.
const LIMIT: Duration = Duration::from_secs(40 * 60);
const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);

/// The host's target, linked so that the program needs no library in the initramfs.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROGRAM: &str = "anchorite-peer-kvm";

/// Nothing but the console; no mitigations, which TCG has no use for; and no calibration of a
/// clock that is known: a tick is an instruction is a nanosecond.
const COMMAND_LINE: &str = "console=ttyS0 quiet mitigations=off panic=-1 tsc_early_khz=1000000 \
                            tsc=reliable random.trust_cpu=off nokaslr";

/// Runs the benchmark under another hypervisor and prints its results.
pub(crate) fn peer(workspace: &Workspace, args: &PeerArgs, from: &Path) -> Result<()> {
    let PeerKind::Kvm = args.peer;
    setup::ensure(workspace, &[Need::Compiler, Need::Qemu])?;
    let guest = Guest::find(&args.guest, &Matrix::read()?, from)?;
    run::build(workspace, &guest, true)?;
    let program = build_program(workspace)?;
    let kernel = Kernel::fetch()?;
    let archive = contents(&kernel, &program, &guest, args)?;
    let outcome = boot(&kernel, &archive)?;
    report(&outcome, args, from)
}

/// Builds the raw-KVM program, statically linked.
fn build_program(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.target_dir("peer");
    let mut build = Command::new(cargo());
    build.args(["build", "--release", "--target", TARGET, "--package", PROGRAM]);
    build.arg("--target-dir").arg(&target);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    process::run(&mut build, BUILD_LIMIT)?;
    Ok(target.join(TARGET).join("release").join(PROGRAM))
}

/// The first level's file system.
fn contents(kernel: &Kernel, program: &Path, guest: &Guest, args: &PeerArgs) -> Result<Vec<u8>> {
    let modules = kernel.modules(&["kvm-amd"])?;
    let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    let mut archive = Cpio::default();
    archive.program("init", init_script(&names, args).as_bytes());
    archive.program("bin/busybox", &read(&kernel::busybox()?)?);
    archive.program("bin/peer", &read(program)?);
    archive.program("guest", &read(&guest.file()?)?);
    for module in &modules {
        archive.program(&format!("modules/{}.ko", module.name), &module.bytes);
    }
    Ok(archive.finish())
}

fn init_script(modules: &[&str], args: &PeerArgs) -> String {
    let npt = u8::from(args.npt);
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         b=/bin/busybox\n\
         $b mkdir -p /dev /proc /sys\n\
         $b mount -t devtmpfs dev /dev; $b mount -t proc proc /proc; $b mount -t sysfs sys /sys\n\
         $b mount -t debugfs debug /sys/kernel/debug\n\
         echo \"kernel: $($b uname -r) $($b uname -v)\"\n",
    );
    for module in modules {
        let parameters = if *module == "kvm-amd" { format!(" npt={npt}") } else { String::new() };
        script.extend(["$b insmod /modules/", module, ".ko", &parameters, "\n"]);
    }
    let words = args.append.as_deref().unwrap_or_default();
    script += "echo \"npt: $($b cat /sys/module/kvm_amd/parameters/npt)\"\n";
    script + &format!("/bin/peer /guest {GUEST_MIB} {words}\n$b poweroff -f\n")
}

fn boot(kernel: &Kernel, archive: &[u8]) -> Result<Outcome> {
    let scratch = run::scratch("peer-kvm");
    fs::create_dir_all(&scratch).map_err(Error::io(&scratch))?;
    let initrd = scratch.join("initramfs.cpio");
    fs::write(&initrd, archive).map_err(Error::io(&initrd))?;
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-display", "none", "-no-reboot", "-smp", "1"]);
    command.args(["-m", &MACHINE_MIB.to_string(), "-accel", "tcg,thread=single"]);
    command.args(["-cpu", emulator::TCG_CPU, "-icount", "shift=0,sleep=off"]);
    command.args(["-rtc", emulator::RTC, "-serial", "stdio", "-append", COMMAND_LINE]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initrd);
    let program = Program { command, log: scratch.join("qemu.log"), limit: LIMIT };
    let announce = |command: &str| eprintln!("emulator: {command}");
    let outcome = emulator::run_program(program, announce, emulator::show_live);
    run::tidy(&scratch);
    outcome
}

fn report(outcome: &Outcome, args: &PeerArgs, from: &Path) -> Result<()> {
    println!("{}", outcome.verdict);
    if outcome.verdict != Verdict::Pass {
        return Err(Error::malformed("the benchmark's run under KVM", &outcome.verdict));
    }
    let expected = if args.npt { "npt: Y" } else { "npt: N" };
    if !outcome.text.lines().any(|line| line == expected) {
        return Err(Error::malformed("the first level's console", format!("lacks {expected:?}")));
    }
    let mmu = if args.npt { "nested" } else { "shadow" };
    let common = Common {
        policy: "kvm".into(),
        cpu: "amd".into(),
        mmu: mmu.into(),
        commit: Workspace::commit(),
    };
    let Results { measured, sections } = results::collect(&outcome.text, &outcome.json, &common);
    for one in &measured {
        println!("{}", Measured::line(one));
    }
    if let Some(file) = &args.json {
        let results = Results { measured: measured.clone(), sections };
        append(&from.join(file), &results)?;
    }
    if args.keep {
        let kernel = outcome.text.lines().find_map(|line| line.strip_prefix("kernel: "));
        let kept = Recorded { kernel: kernel.unwrap_or("unknown").to_owned(), measured };
        let path = kept.keep(mmu, "cargo xtask peer kvm")?;
        println!("kept in {}", path.display());
    }
    Ok(())
}

/// Reads a file whole.
fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(npt: bool) -> PeerArgs {
        PeerArgs {
            peer: PeerKind::Kvm,
            guest: "bench".into(),
            append: Some("quick".into()),
            npt,
            json: None,
            keep: false,
        }
    }

    #[test]
    fn modules_are_loaded_in_order_and_nested_paging_is_a_parameter_of_the_last() {
        let script = init_script(&["irqbypass", "kvm", "kvm-amd"], &args(false));
        let loads: Vec<_> = script.lines().filter(|line| line.contains("insmod")).collect();
        let expected = [
            "$b insmod /modules/irqbypass.ko",
            "$b insmod /modules/kvm.ko",
            "$b insmod /modules/kvm-amd.ko npt=0",
        ];
        assert_eq!(loads, expected);
        assert!(init_script(&["kvm-amd"], &args(true)).contains("npt=1"));
        assert!(script.contains("/bin/peer /guest 768 quick\n"));
    }
}
