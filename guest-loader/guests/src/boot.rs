//! From the assembly entry to the guest's own function, and what the boot loader told.
#![expect(unsafe_code, reason = "takes over the machine from the boot loader")]

use core::arch::global_asm;

use crate::memory::MemoryMap;
use crate::{Status, console, exit, multiboot, pvh, trap};

global_asm!(include_str!("boot.s"), main = sym runtime_main);

unsafe extern "Rust" {
    /// Defined by [`crate::entry!`] in the guest.
    safe fn guest_main(boot: &BootInfo) -> Status;
}

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
}

/// The protocol the guest was started by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Multiboot 1.
    Multiboot,
    /// PVH, by a start-info block.
    Pvh,
}

/// A module: a file the boot loader put into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Physical address of the first byte.
    pub start: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Its command line.
    pub command_line: &'static str,
}

/// What the boot loader told.
#[derive(Debug)]
pub struct BootInfo {
    /// How the guest was started.
    pub protocol: Protocol,
    /// The command line; empty where there is none or where it is not UTF-8.
    pub command_line: &'static str,
    /// The memory map.
    pub memory: MemoryMap,
    /// The modules, at most [`Self::MAX_MODULES`].
    modules: [Option<Module>; Self::MAX_MODULES],
    /// Name of the boot loader, where it told one.
    pub loader: &'static str,
}

impl BootInfo {
    /// Modules kept; further ones are left out.
    pub const MAX_MODULES: usize = 8;

    pub(crate) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            command_line: "",
            memory: MemoryMap::default(),
            modules: [None; Self::MAX_MODULES],
            loader: "",
        }
    }

    pub(crate) fn add_module(&mut self, module: Module) {
        if let Some(free) = self.modules.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(module);
        }
    }

    /// The modules in the boot loader's order.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter().flatten()
    }

    /// The value of the command line's word `name=value`, if it is there.
    pub fn argument(&self, name: &str) -> Option<&'static str> {
        let values = self.command_line.split_ascii_whitespace();
        values.filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v)
    }

    /// Whether the word `flag` stands on the command line.
    pub fn has_flag(&self, flag: &str) -> bool {
        self.command_line.split_ascii_whitespace().any(|word| word == flag)
    }
}

/// Physical addresses of the guest's own image, bss included: start and end.
pub fn image() -> (u64, u64) {
    (&raw const __image_start as u64, &raw const __image_end as u64)
}

/// Entered by `boot.s` in long mode on the boot stack, interrupts off.
extern "C" fn runtime_main(magic: u32, info: u32) -> ! {
    trap::init();
    let boot = match magic {
        multiboot::MAGIC => multiboot::read(info),
        pvh::MAGIC => pvh::read(info),
        _ => None,
    };
    let Some(boot) = boot else {
        console::select(None);
        crate::println!("boot: neither multiboot nor PVH information (eax={magic:#x})");
        exit::exit(Status::PANIC)
    };
    console::select(boot.argument("console"));
    exit::exit(guest_main(&boot))
}
