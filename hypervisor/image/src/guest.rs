//! Puts the guest into the machine: memory slots, the file, the first registers.

use crate::failure::Failure;
use alloc::string::String;
use alloc::string::ToString;
use alloc::vec::Vec;
use anchorite_abi::{DeviceSet, FW_CFG_WORD, Options, TSC_KHZ_WORD};
use anchorite_addr::{Gpa, PAGE_BYTES};
use anchorite_loader::{
    self as loader, Entry, Format, Guest, Kind, MemoryRange, OutsideRam, RangeKind,
};
use anchorite_platform::clock;
use anchorite_platform::host::HermitHost;
use anchorite_platform::memory::{GuestRam, Module, ShadowMachine, modules};
use anchorite_shadow::{AnyMmu, Config, PolicyKind};
use anchorite_vcpu::{Capabilities, DescriptorTable, Gpr, Vcpu};
use anchorite_vmm::cpuid::{Cpuid, Hidden, LocalApic, Offer};
use anchorite_vmm::devices::fw_cfg::{Contents, FwCfg};
use anchorite_vmm::host::Host;
use anchorite_vmm::machine::Machine;
use anchorite_vmm::memory::{AccessError, GuestMemory, Memslot, SlotId};
use anchorite_vmm::start::{StartMode, StartState};
use anchorite_vmm::translation::{Shadow, Translation};
use anchorite_vmm::uhyve::{File, Files};
use anchorite_vmm::{devices, firmware};
use core::fmt::Write;
use core::num::NonZeroU64;

/// RAM that a PC's memory map shows below 1 MiB.
const LOW_RAM_BYTES: u64 = firmware::CONVENTIONAL_END as u64;
/// Where RAM goes on above the hole of the video memory and the BIOS.
const HIGH_RAM: u64 = 1 << 20;
/// RAM at and above this address moves up to [`ABOVE_HOLE`]: devices lie here.
const DEVICE_HOLE: u64 = 0xc000_0000;
const ABOVE_HOLE: u64 = 1 << 32;

/// Loads the first module as guest, the others as its modules.
pub(crate) fn load<'a, B: Vcpu, T: Translation>(
    machine: &mut Machine<B, T, HermitHost>,
    ram: &GuestRam,
    options: &Options<'a>,
) -> Result<(), Failure<'a>> {
    let begun = clock::now();
    for slot in slots(ram) {
        machine.add_slot(slot)?;
    }
    machine.account_creation(clock::now().wrapping_sub(begun));
    let hertz = machine.host().hertz();
    let placed = place(machine.memory(), ram.bytes(), hertz, options)?;
    let _ = machine.host().console().write_str(&placed.notes);
    machine.serve_fw_cfg(placed.fw_cfg);
    if let Some(files) = placed.uhyve {
        machine.serve_uhyve(files);
    }
    machine.start(&placed.state)?;
    Ok(())
}

/// A guest in memory.
struct Placed {
    state: StartState,
    /// What there is to say.
    notes: String,
    /// What a Hermit kernel asks for by hypercalls.
    uhyve: Option<Files>,
    fw_cfg: FwCfg,
}

/// Places the guest and its modules in `memory`. Not generic, so that the loader is in the image once.
fn place<'a>(
    memory: &mut GuestMemory<GuestRam>,
    ram_bytes: u64,
    hertz: NonZeroU64,
    options: &Options<'a>,
) -> Result<Placed, Failure<'a>> {
    let mut files = modules();
    let file = files.next().ok_or(Failure::NoGuest)?;
    let modules: Vec<_> = files
        .filter(|module| fw_cfg_name(module).is_none())
        .map(|module| loader::Module {
            name: module.name,
            bytes: module.bytes,
            command_line: module.arguments,
        })
        .collect();
    let khz = hertz.get() / 1_000;
    let command_line = file.arguments.replace(TSC_KHZ_WORD, &khz.to_string());
    let guest = Guest {
        kind: kind(options)?,
        name: file.name,
        bytes: file.bytes,
        command_line: &command_line,
        modules: &modules,
        clock: loader::Clock { tsc_khz: khz as u32, unix_time: unix_time() },
    };

    let map = memory_map(ram_bytes);
    if !options.zeroed {
        clear(memory, ram_bytes);
    }
    for (at, bytes) in firmware::tables(options.devices) {
        // Where a machine has not even that memory, a kernel finds no tables.
        let _ = memory.place(at, &bytes);
    }
    let loaded = loader::load(&guest, &mut LoaderView { memory, map: &map })?;
    let mut notes = String::new();
    for note in &loaded.notes {
        let _ = writeln!(notes, "anchorite: {}: {note}", guest.name);
    }
    let uhyve = match loaded.format {
        Format::Hermit if options.devices < DeviceSet::L4 => {
            return Err(Failure::HermitWithoutApic { file: file.name, devices: options.devices });
        }
        Format::Hermit => Some(hermit_files(file.name, &command_line)),
        _ => None,
    };
    let contents = Contents {
        ram_bytes,
        kernel: file.bytes,
        initrd: modules.first().map_or(&[], |module| module.bytes),
        command_line,
    };
    Ok(Placed { state: start_state(&loaded.entry), notes, uhyve, fw_cfg: fw_cfg(contents)? })
}

/// The name of the file that a boot module is in the configuration device.
fn fw_cfg_name(module: &Module) -> Option<&'static str> {
    module.arguments.strip_prefix(FW_CFG_WORD)
}

/// The configuration device with the files that came as boot modules.
fn fw_cfg<'a>(contents: Contents) -> Result<FwCfg, Failure<'a>> {
    let mut fw_cfg = FwCfg::new(contents);
    for module in modules().skip(1) {
        if let Some(name) = fw_cfg_name(&module) {
            let added = fw_cfg.add_file(name, module.bytes);
            added.map_err(|error| Failure::FwCfg { name, error })?;
        }
    }
    Ok(fw_cfg)
}

/// The modules behind the guest, and its arguments.
fn hermit_files(program: &str, command_line: &str) -> Files {
    let files = modules().skip(1).filter(|module| fw_cfg_name(module).is_none());
    let files = files.map(|module| File::new(module.name, module.bytes));
    Files::new(files.collect(), program, command_line)
}

/// Seconds since 1970 at the machine's start.
fn unix_time() -> u64 {
    let since_start = clock::now() / clock::ticks_per_second();
    clock::unix_time().saturating_sub(since_start)
}

/// The devices that `options` ask for, on a machine with `ram`.
pub(crate) fn devices(options: &Options<'_>, ram: &GuestRam) -> devices::Config {
    let cmos =
        devices::cmos::Config { unix_time: unix_time(), ram_bytes: ram.bytes().min(DEVICE_HOLE) };
    devices::Config { set: options.devices, cmos, ..devices::Config::default() }
}

/// The engine as `options` want it, on `memory`.
pub(crate) fn shadow<'a>(
    memory: ShadowMachine,
    options: &Options<'a>,
    cpuid: &Cpuid,
    host: &HermitHost,
) -> Result<Shadow<AnyMmu<ShadowMachine>>, Failure<'a>> {
    let name = options.zap.unwrap_or(PolicyKind::Tagged.name());
    let (policy, batch) = name.split_once(':').map_or((name, None), |(a, b)| (a, Some(b)));
    let unknown = Failure::UnknownPolicy { name };
    let Some(policy) = PolicyKind::from_name(policy) else { return Err(unknown) };
    let mut config = Config { quota: options.shadow_quota(), ..for_guest(cpuid, host) };
    if let Some(batch) = batch {
        let Ok(batch) = batch.parse() else { return Err(unknown) };
        config.batch = batch;
    }
    let engine = AnyMmu::new(policy, memory, config).map_err(Failure::Engine)?;
    Shadow::new(engine).map_err(Failure::AddVcpu)
}

/// The engine's settings that follow from what CPUID shows: to us, and to the guest.
fn for_guest(cpuid: &Cpuid, host: &HermitHost) -> Config {
    const EXTENDED_FEATURES: u32 = 0x8000_0001;
    const GIGABYTE_PAGES: u32 = 26;
    let physical = host.cpuid(EXTENDED_FEATURES, 0);
    Config {
        physical_bits: cpuid.physical_bits() as u8,
        guest_gigabyte_pages: cpuid.gigabyte_pages(),
        host_gigabyte_pages: physical.edx >> GIGABYTE_PAGES & 1 == 1,
        ..Config::default()
    }
}

/// What CPUID shows to the guest.
pub(crate) fn cpuid<'a>(
    options: &Options<'a>,
    capabilities: &Capabilities,
    host: &HermitHost,
) -> Result<Cpuid, Failure<'a>> {
    let hidden = Hidden::parse(options.hide.unwrap_or("")).map_err(Failure::CannotHide)?;
    let has_apic = options.devices >= DeviceSet::L4;
    let apic = if has_apic { LocalApic::X2 } else { LocalApic::None };
    let Capabilities { xsetbv_exits, xsavec, .. } = *capabilities;
    let offer = Offer { hidden, apic, xsetbv_exits, xsavec };
    Ok(Cpuid::new(|leaf, subleaf| host.cpuid(leaf, subleaf), host.hertz(), &offer))
}

fn kind<'a>(options: &Options<'a>) -> Result<Kind, Failure<'a>> {
    match options.kind {
        Some(kind) => kind.parse().map_err(|_| Failure::UnknownKind { kind }),
        None => Ok(Kind::Auto),
    }
}

/// One slot below the device hole, which also backs the video memory and the BIOS
/// area, and one above 4 GiB for the rest.
fn slots(ram: &GuestRam) -> impl Iterator<Item = Memslot> {
    let below = ram.bytes().min(DEVICE_HOLE);
    let start = ram.start();
    let slot = move |(id, first, offset, bytes)| Memslot {
        id: SlotId(id),
        first: Gpa::new(first).frame(),
        frames: bytes / PAGE_BYTES,
        host: start.wrapping_add(offset).frame(),
        read_only: false,
    };
    let slots = [(0, 0, 0, below), (1, ABOVE_HOLE, below, ram.bytes() - below)];
    slots.into_iter().filter(|(.., bytes)| *bytes > 0).map(slot)
}

/// The memory map of a PC with `bytes` of RAM.
fn memory_map(bytes: u64) -> Vec<MemoryRange> {
    let below = bytes.min(DEVICE_HOLE);
    let range = |start, end: u64, kind| MemoryRange {
        start: Gpa::new(start),
        bytes: end.saturating_sub(start),
        kind,
    };
    let map = [
        range(0, LOW_RAM_BYTES, RangeKind::Ram),
        range(LOW_RAM_BYTES, HIGH_RAM, RangeKind::Reserved),
        range(HIGH_RAM, below, RangeKind::Ram),
        range(ABOVE_HOLE, ABOVE_HOLE + (bytes - below), RangeKind::Ram),
    ];
    map.into_iter().filter(|range| range.bytes > 0).collect()
}

fn clear(memory: &mut GuestMemory<GuestRam>, bytes: u64) {
    let below = bytes.min(DEVICE_HOLE);
    let _ = memory.zero(Gpa::new(0), below);
    let _ = memory.zero(Gpa::new(ABOVE_HOLE), bytes - below);
}

/// Guest memory as the loader sees it.
struct LoaderView<'a> {
    memory: &'a mut GuestMemory<GuestRam>,
    map: &'a [MemoryRange],
}

impl loader::GuestRam for LoaderView<'_> {
    fn memory_map(&self) -> &[MemoryRange] {
        self.map
    }

    fn write(&mut self, start: Gpa, bytes: &[u8]) -> Result<(), OutsideRam> {
        self.memory.place(start, bytes).map_err(|error| outside(start, error))
    }

    fn zero(&mut self, start: Gpa, bytes: u64) -> Result<(), OutsideRam> {
        self.memory.zero(start, bytes).map_err(|error| outside(start, error))
    }
}

fn outside(start: Gpa, error: AccessError) -> OutsideRam {
    match error {
        AccessError::NoMemory { gpa } | AccessError::ReadOnly { gpa } => OutsideRam { at: gpa },
        AccessError::Host(_) => OutsideRam { at: start },
    }
}

/// The loader's words in the machine's.
fn start_state(entry: &Entry) -> StartState {
    match entry {
        Entry::Real(real) => {
            let mut state = StartState::real(real.cs, real.ip)
                .with(Gpr::Rsp, real.sp.into())
                .with(Gpr::Rdx, real.dl.into());
            state.mode = StartMode::Real { code: real.cs, data: real.ss };
            state
        }
        Entry::Protected(protected) => {
            let mut state = StartState::protected(protected.eip)
                .with(Gpr::Rax, protected.eax.into())
                .with(Gpr::Rbx, protected.ebx.into())
                .with(Gpr::Rsi, protected.esi.into());
            state.mode = StartMode::Protected {
                code: protected.code_selector,
                data: protected.data_selector,
            };
            match &protected.gdt {
                Some(gdt) => state.with_gdt(descriptor_table(gdt)),
                None => state,
            }
        }
        Entry::Long(long) => {
            let mut state = StartState::long(long.rip, long.cr3.as_u64())
                .with(Gpr::Rsp, long.rsp)
                .with(Gpr::Rdi, long.rdi)
                .with(Gpr::Rsi, long.rsi)
                .with_gdt(descriptor_table(&long.gdt));
            state.mode = StartMode::Long {
                code: long.code_selector,
                data: long.data_selector,
                cr3: long.cr3.as_u64(),
            };
            state
        }
    }
}

fn descriptor_table(table: &loader::DescriptorTable) -> DescriptorTable {
    DescriptorTable { base: table.base.as_u64(), limit: table.limit }
}
