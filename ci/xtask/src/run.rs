//! `run` and `image`: one guest, with what it needs, in an emulator or on an ISO.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anchorite_abi::text::Encoded;
use anchorite_abi::{Options, TSC_KHZ_WORD};

use crate::bench::results::{self, Common, Measured};
use crate::cli::{GuestArgs, ImageArgs, RunArgs};
use crate::cmdline::{DeviceSet, EndIs, Mmu, Module};
use crate::emulator::{self, Boot, Cpu, Machine, On, Outcome};
use crate::error::{Error, Result};
use crate::freestanding;
use crate::guest::{Guest, without_blanks};
use crate::iso;
use crate::matrix::Matrix;
use crate::setup::{self, Need};
use crate::verdict::Verdict;
use crate::workspace::{OUT, Workspace};

/// A guest's limit where none is given.
const TIMEOUT_S: u32 = 60;
const DEBUGGER_TIMEOUT_S: u32 = 3600;
const INTERACTIVE_TIMEOUT_S: u32 = 86_400;

/// Runs one guest; returns the exit status that its verdict means.
pub(crate) fn run(workspace: &Workspace, args: &RunArgs, from: &Path) -> Result<u8> {
    let (cpu, on) = emulator::choose(args.cpu, args.on)?;
    check(args, on)?;
    let guest = Guest::find(&args.guest.guest, &Matrix::read()?, from)?;
    setup::ensure(workspace, needs(on, args.boot))?;
    build(workspace, &guest, args.bare)?;
    let machine = machine(args, &guest, (cpu, on), from)?;
    let symbols = freestanding::image_with_symbols(workspace);
    let announce = |command: &str| announce(command, args.gdb, &symbols);
    let outcome = emulator::run(&machine, announce, emulator::show_live);
    let outcome = outcome.inspect(|_| tidy(&machine.scratch));
    let verdict = match &outcome {
        Ok(outcome) => outcome.verdict.clone(),
        Err(error) => Verdict::error(error),
    };
    if let Some(file) = &args.json {
        write_json(&from.join(file), outcome.as_ref().ok(), &verdict, &common(args, cpu))?;
    }
    println!("{verdict}");
    Ok(verdict.exit_status())
}

/// Builds what a run of this guest is made of.
pub(crate) fn build(workspace: &Workspace, guest: &Guest, bare: bool) -> Result<()> {
    if !bare {
        freestanding::build_image(workspace)?;
    }
    match guest {
        Guest::Bundled(_) => freestanding::build_guests(workspace),
        Guest::Hermit(_) => freestanding::build_hermit_guests(workspace),
        Guest::Packaged(_) | Guest::File(_) => Ok(()),
    }
}

fn check(args: &RunArgs, on: On) -> Result<()> {
    let only_qemu = |option: &str| {
        Err(Error::refused(option, "only QEMU's own translator can do that; add --on qemu"))
    };
    match on {
        On::Bochs | On::Kvm if args.icount => only_qemu("--icount"),
        On::Bochs | On::Kvm if args.cpu_flags.is_some() => only_qemu("--cpu-flags"),
        On::Bochs if args.gdb => only_qemu("--gdb"),
        On::Bochs if args.interactive => only_qemu("--interactive"),
        On::Bochs if args.boot != Boot::Direct => only_qemu("--boot"),
        On::Bochs if args.bare => only_qemu("--bare"),
        _ => Ok(()),
    }
}

/// What has to be installed to run there.
pub(crate) fn needs(on: On, boot: Boot) -> &'static [Need] {
    match (on, boot) {
        (On::Bochs, _) => &[Need::Compiler, Need::Bochs, Need::Iso],
        (_, Boot::Direct) => &[Need::Compiler, Need::Qemu],
        (_, Boot::Bios) => &[Need::Compiler, Need::Qemu, Need::Iso],
        (_, Boot::Uefi) => &[Need::Compiler, Need::Qemu, Need::Iso, Need::Firmware],
    }
}

/// The machine that the arguments describe.
pub(crate) fn machine(
    args: &RunArgs,
    guest: &Guest,
    (cpu, on): (Cpu, On),
    from: &Path,
) -> Result<Machine> {
    let default = match (args.gdb, args.interactive) {
        (true, _) => DEBUGGER_TIMEOUT_S,
        (_, true) => INTERACTIVE_TIMEOUT_S,
        _ => TIMEOUT_S,
    };
    let timeout_s = args.timeout.unwrap_or(default);
    let until = args.guest.until.as_deref().map(|until| Encoded(until).to_string());
    let options = Options {
        timeout_s,
        until: until.as_deref(),
        json: args.json.is_some(),
        // Firmware and GRUB leave their traces in memory; QEMU alone does not.
        zeroed: on == On::Qemu && args.boot == Boot::Direct,
        counted: args.icount && on == On::Qemu,
        tsc_mhz: emulator::tsc_megahertz(on, args.icount),
        ..options(&args.guest, guest)
    };
    let mut modules = modules(&args.guest, guest, from)?;
    if args.bare {
        tell_rate(&mut modules[0], options.tsc_mhz)?;
    }
    if args.interactive && args.guest.append.is_none() {
        modules[0].arguments += guest.interactive_arguments();
    }
    let memory_mib =
        args.machine_mem.unwrap_or_else(|| machine_memory(args, on, &options, &modules));
    Ok(Machine {
        cpu,
        on,
        boot: args.boot,
        icount: args.icount,
        cpu_flags: args.cpu_flags.clone(),
        gdb: args.gdb,
        interactive: args.interactive,
        typed: Vec::new(),
        bare: args.bare,
        until: args.guest.until.clone().filter(|_| args.bare),
        memory_mib,
        image: image(&options),
        modules,
        limit: host_limit(timeout_s, on, args.icount),
        scratch: scratch(&guest.name()),
    })
}

fn options<'a>(args: &'a GuestArgs, guest: &Guest) -> Options<'a> {
    Options {
        mmu: args.mmu.of_image(),
        mem_mib: memory(args, guest),
        hide: args.hide.as_deref(),
        zap: args.zap.as_deref(),
        shadow_pages: args.shadow_pages,
        zap_rate: args.zap_rate,
        audit: args.audit,
        kind: args.kind.as_deref(),
        devices: devices(args, guest).of_image(),
        reset_passes: args.reset_is == EndIs::Pass,
        triple_fault_passes: args.triple_fault_is == EndIs::Pass,
        ..Options::default()
    }
}

fn devices(args: &GuestArgs, guest: &Guest) -> DeviceSet {
    args.devices.unwrap_or_else(|| guest.default_devices())
}

/// The guest's memory in MiB.
fn memory(args: &GuestArgs, guest: &Guest) -> u32 {
    args.mem.unwrap_or_else(|| guest.default_memory())
}

fn image(options: &Options<'_>) -> Module {
    module(&freestanding::image_path(), &options.to_string())
}

/// OVMF does not start with less.
const UEFI_MIB: u32 = 256;

/// MiB of what the image and its pools need, the guest's files besides.
///
/// GRUB leaves the files in the middle of RAM. What the guest's RAM leaves of it then lies on
/// both sides of them, and the pool of shadow pages must find its place on one.
fn machine_memory(args: &RunArgs, on: On, options: &Options<'_>, modules: &[Module]) -> u32 {
    let files: u64 = modules.iter().map(|module| module.bytes().next_multiple_of(4096)).sum();
    let by_grub = on == On::Bochs || args.boot != Boot::Direct;
    let sides = if by_grub { options.shadow_pool_bytes() } else { 0 };
    let bytes =
        if args.bare { options.guest_bytes() } else { options.machine_bytes() + files + sides };
    let memory = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
    if args.boot == Boot::Uefi { memory.max(UEFI_MIB) } else { memory }
}

/// Held while a guest's files are fetched and made: runs side by side may want the same ones, and
/// apt-get's folders are all runs'.
static PREPARING: Mutex<()> = Mutex::new(());

/// The guest first, then its modules: those it comes with, or the given ones in their place.
fn modules(args: &GuestArgs, guest: &Guest, from: &Path) -> Result<Vec<Module>> {
    // A panic under it has spoiled nothing: every file appears when it is complete.
    let _alone = PREPARING.lock().unwrap_or_else(PoisonError::into_inner);
    let arguments = args.append.as_deref().unwrap_or(guest.default_arguments(devices(args, guest)));
    let mut modules = vec![module(&guest.file()?, arguments)];
    if args.module.is_empty() {
        modules.extend(guest.modules()?.iter().map(|path| module(path, "")));
    }
    for typed in &args.module {
        let (path, arguments) = file_and_arguments(typed, from)?;
        modules.push(module(&without_blanks(&path)?, arguments));
    }
    for file in &args.fw_cfg {
        modules.push(module(&file.path(from)?, &file.arguments()));
    }
    Ok(modules)
}

/// A module as it was typed: a file, or a file and behind a blank its command line.
fn file_and_arguments<'a>(typed: &'a str, from: &Path) -> Result<(PathBuf, &'a str)> {
    let (file, arguments) = typed.split_once(' ').unwrap_or((typed, ""));
    let found = [(typed, ""), (file, arguments)].map(|(file, words)| (from.join(file), words));
    let missing = || Error::refused(from.join(file).display(), "no such file for --module");
    found.into_iter().find(|(path, _)| path.is_file()).ok_or_else(missing)
}

/// Does for a guest that runs alone what the image would do: puts the counter's rate into its
/// command line.
fn tell_rate(guest: &mut Module, tsc_mhz: Option<u16>) -> Result<()> {
    if !guest.arguments.contains(TSC_KHZ_WORD) {
        return Ok(());
    }
    let mhz = tsc_mhz.ok_or_else(|| {
        Error::refused(TSC_KHZ_WORD, "this host does not tell its counter's rate; add --icount")
    })?;
    guest.arguments = guest.arguments.replace(TSC_KHZ_WORD, &(u32::from(mhz) * 1000).to_string());
    Ok(())
}

fn module(path: &Path, arguments: &str) -> Module {
    Module { path: path.to_string_lossy().into_owned(), arguments: arguments.to_owned() }
}

/// When the emulator is killed: well after the image should have stopped the guest by its own
/// clock, which runs slower than ours on Bochs and with counted instructions.
fn host_limit(timeout_s: u32, on: On, icount: bool) -> Duration {
    let timeout_s = u64::from(timeout_s);
    Duration::from_secs(match on {
        On::Bochs => timeout_s * 4 + 60,
        On::Qemu if icount => timeout_s * 20 + 15,
        On::Qemu | On::Kvm => timeout_s + 30,
    })
}

/// A folder for the files of one run, unlike that of any other.
pub(crate) fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Path::new(OUT).join("runs").join(format!("{name}-{}-{number}", std::process::id()))
}

/// Removes a run's files.
pub(crate) fn tidy(scratch: &Path) {
    // What cannot be removed is only in nobody's way.
    let _ = fs::remove_dir_all(scratch);
}

fn announce(command: &str, gdb: bool, symbols: &Path) {
    eprintln!("emulator: {command}");
    if gdb {
        let symbols = symbols.display();
        eprintln!("attach with: gdb {symbols} -ex 'target remote :1234' (then `continue`)");
    }
}

/// What the results of a run have in common.
pub(crate) fn common(args: &RunArgs, cpu: Cpu) -> Common {
    let (mmu, policy) = match args.guest.mmu {
        _ if args.bare => ("bare", "none"),
        Mmu::Nested => (args.guest.mmu.name(), "none"),
        Mmu::Shadow => (args.guest.mmu.name(), args.guest.zap.as_deref().unwrap_or("tagged")),
    };
    Common {
        policy: policy.into(),
        cpu: match cpu {
            Cpu::Amd => "amd".into(),
            Cpu::Intel => "intel".into(),
        },
        mmu: mmu.into(),
        commit: Workspace::commit(),
    }
}

/// The image's records and the guest's results, then a line with the verdict.
fn write_json(
    file: &Path,
    outcome: Option<&Outcome>,
    verdict: &Verdict,
    common: &Common,
) -> Result<()> {
    let mut text = String::new();
    if let Some(outcome) = outcome {
        let results = results::collect(&outcome.text, &outcome.json, common);
        let records = outcome.json.iter().map(|marked| marked.line.clone());
        let records = records.filter(|line| !line.contains("\"record\":\"bench_"));
        let sections = results.sections.iter().map(ToString::to_string);
        for line in records.chain(sections).chain(results.measured.iter().map(Measured::line)) {
            text += &line;
            text += "\n";
        }
    }
    let status = match verdict {
        Verdict::Fail { status } => Some(*status),
        Verdict::Pass => Some(0),
        Verdict::Timeout { .. } | Verdict::Error { .. } => None,
    };
    let seconds = outcome.map(|outcome| outcome.elapsed.as_secs_f64());
    let last = serde_json::json!({
        "schema": 1, "verdict": verdict.kind(), "status": status, "line": verdict.to_string(),
        "wall_s": seconds,
    });
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{last}");
    fs::write(file, text).map_err(Error::io(file))
}

/// `image`: the ELF file, or an ISO with a guest inside.
pub(crate) fn write_image(workspace: &Workspace, args: &ImageArgs, from: &Path) -> Result<()> {
    setup::ensure(workspace, &[Need::Compiler])?;
    if !args.iso {
        freestanding::build_image(workspace)?;
        println!("{}", freestanding::image_path().display());
        return Ok(());
    }
    setup::ensure(workspace, &[Need::Iso])?;
    let guest = Guest::find(&args.guest.guest, &Matrix::read()?, from)?;
    build(workspace, &guest, false)?;
    let iso = Path::new(OUT).join("anchorite.iso");
    let modules = modules(&args.guest, &guest, from)?;
    iso::write(&iso, &image(&options(&args.guest, &guest)), &modules)?;
    println!("{}", iso.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        run: RunArgs,
    }

    fn memory_of(typed: &str, on: On) -> u32 {
        let args = Typed::parse_from(["run", "g"].into_iter().chain(typed.split_whitespace())).run;
        let options =
            Options { mmu: args.guest.mmu.of_image(), mem_mib: 256, ..Options::default() };
        machine_memory(&args, on, &options, &[])
    }

    #[test]
    fn a_machine_booted_by_grub_has_room_for_the_pool_on_either_side_of_the_files() {
        let shadow = Options { mmu: Mmu::Shadow.of_image(), mem_mib: 256, ..Options::default() };
        let pool = u32::try_from(shadow.shadow_pool_bytes().div_ceil(1 << 20)).unwrap();
        let direct = memory_of("", On::Qemu);
        for (typed, on) in [("", On::Bochs), ("--boot bios", On::Qemu), ("--boot uefi", On::Qemu)] {
            assert!(memory_of(typed, on).abs_diff(direct + pool) <= 1, "{typed} {on:?}");
        }
        let nested = "--mmu nested";
        assert_eq!(memory_of(nested, On::Bochs), memory_of(nested, On::Qemu), "no pool");
        assert_eq!(memory_of("--bare", On::Qemu), 256);
    }

    #[test]
    fn a_module_may_have_a_command_line() {
        let folder = std::env::temp_dir().join(format!("anchorite-modules-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["kernel", "with blank"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let told = |typed| {
            let (path, arguments) = file_and_arguments(typed, &folder).ok()?;
            Some((path.file_name()?.to_str()?.to_owned(), arguments.to_owned()))
        };
        let pair = |file: &str, arguments: &str| Some((file.to_owned(), arguments.to_owned()));
        assert_eq!(
            told("kernel console=hvc0 root=/dev/ram"),
            pair("kernel", "console=hvc0 root=/dev/ram")
        );
        assert_eq!(told("kernel"), pair("kernel", ""));
        assert_eq!(told("with blank"), pair("with blank", ""));
        assert_eq!(told("absent words"), None);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
