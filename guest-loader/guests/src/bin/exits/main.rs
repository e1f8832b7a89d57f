//! One of each exit, timed by the guest itself.
//!
//! Each section runs one instruction `count` times (`count=N` on the command line,
//! 200 by default) in a loop, seven times over, and prints its raw TSC differences as
//! an `R` line; a, always 0 here, and k, the section's number, fill the format. The
//! section `loop` is the same loop around nothing. A table at the end gives ticks of
//! one operation: the least of the seven less the least of the empty loop, over
//! `count`. What is left of the loop in it is that the compiler may keep an operand in
//! a register here and load it there: at most two instructions.
//!
//! Under `--icount` a tick is an instruction and all seven are equal.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the measured loops hold the bare instruction, without the guard")]

use core::arch::asm;

use anchorite_guests::abi::bench::Command;
use anchorite_guests::abi::{HYPERCALL_NOP, mmio, port};
use anchorite_guests::instructions::{self, inb, outb};
use anchorite_guests::machine::{Vendor, is_anchorite, vendor};
use anchorite_guests::timing::{Samples, command};
use anchorite_guests::{BootInfo, Report, Status, entry, memory, println, trap};

entry!(run);

const EFER: u32 = 0xc000_0080;
const PAT: u32 = 0x277;
const FS_BASE: u32 = 0xc000_0100;
const APIC_BASE: u32 = 0x1b;
/// A port nothing listens on.
const NO_PORT: u16 = 0x5ff;
/// The vector of the interrupt section.
const VECTOR: u8 = 0x40;
const MAX_SECTIONS: usize = 40;

fn run(boot: &BootInfo) -> Status {
    command(Command::Boot);
    let count = boot.argument("count").and_then(|text| text.parse().ok()).unwrap_or(200);
    let mut bench = Bench::new(u32::max(count, 1));
    ports(&mut bench);
    processor(&mut bench);
    hypercalls(&mut bench);
    msrs(&mut bench);
    if is_anchorite() {
        protocol(&mut bench);
    } else {
        bench.report.skip("test device and interrupts", "bare machine");
    }
    command(Command::Done);
    bench.finish()
}

fn ports(bench: &mut Bench) {
    bench.section("out_lightest", || outb(port::BENCH_LIGHTEST, 0));
    bench.section("out_full", || outb(port::BENCH_NOP, 0));
    bench.section("out_unknown", || outb(NO_PORT, 0));
    bench.section("in_unknown", || {
        inb(NO_PORT);
    });
    bench.section("in_uart_status", || {
        inb(port::COM1 + 5);
    });
}

fn processor(bench: &mut Bench) {
    bench.section("cpuid", || {
        // SAFETY: every processor in long mode has CPUID.
        unsafe {
            asm!("mov {b}, rbx", "cpuid", "mov rbx, {b}", b = out(reg) _, inout("eax") 0 => _,
                inout("ecx") 0 => _, out("edx") _, options(nomem, nostack));
        }
    });
    bench.section("invlpg", || instructions::invlpg(0x20_0000));
    bench.section("cr3_reload", instructions::reload_cr3);
    let (cr0, cr4) = (instructions::read_cr0(), instructions::read_cr4());
    // SAFETY: the register keeps its value.
    bench.section("cr0_write", || unsafe { asm!("mov cr0, {}", in(reg) cr0, options(nostack)) });
    // SAFETY: as above.
    bench.section("cr4_write", || unsafe { asm!("mov cr4, {}", in(reg) cr4, options(nostack)) });
    bench.section("rdtsc", || {
        instructions::rdtsc();
    });
}

/// The hypercall of this vendor, where it does not raise #UD.
fn hypercalls(bench: &mut Bench) {
    let (name, probe) = match vendor() {
        Vendor::Amd => ("vmmcall", instructions::vmmcall(HYPERCALL_NOP)),
        Vendor::Intel => ("vmcall", instructions::vmcall(HYPERCALL_NOP)),
    };
    match (probe, vendor()) {
        (Err(exception), _) => bench.report.skip(name, format_args!("raises {exception:x?}")),
        // SAFETY: the probe showed that the hypercall returns.
        (Ok(_), Vendor::Amd) => bench.section(name, || unsafe {
            asm!("vmmcall", inout("eax") HYPERCALL_NOP => _, options(nostack));
        }),
        // SAFETY: as above.
        (Ok(_), Vendor::Intel) => bench.section(name, || unsafe {
            asm!("vmcall", inout("eax") HYPERCALL_NOP => _, options(nostack));
        }),
    }
}

fn msrs(bench: &mut Bench) {
    let registers = [
        (EFER, "rdmsr_efer", "wrmsr_efer"),
        (PAT, "rdmsr_pat", "wrmsr_pat"),
        (FS_BASE, "rdmsr_fs_base", "wrmsr_fs_base"),
        (APIC_BASE, "rdmsr_apic_base", "wrmsr_apic_base"),
    ];
    for (index, read, write) in registers {
        match instructions::rdmsr(index) {
            Err(exception) => bench.report.skip(read, format_args!("raises {exception:x?}")),
            Ok(value) => msr(bench, index, value, read, write),
        }
    }
}

fn msr(bench: &mut Bench, index: u32, value: u64, read: &'static str, write: &'static str) {
    // SAFETY: the probe showed that the register can be read.
    bench.section(read, || unsafe {
        asm!("rdmsr", in("ecx") index, out("eax") _, out("edx") _, options(nostack));
    });
    // SAFETY: the register keeps its value.
    match unsafe { instructions::wrmsr(index, value) } {
        Err(exception) => bench.report.skip(write, format_args!("raises {exception:x?}")),
        // SAFETY: as above, and the probe showed that it can be written.
        Ok(()) => bench.section(write, || unsafe {
            asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
                options(nostack));
        }),
    }
}

/// What only the guest protocol offers.
fn protocol(bench: &mut Bench) {
    if memory::read::<u64>(mmio::DEVICE + mmio::ID) == mmio::ID_VALUE {
        bench.section("mmio_read", || {
            memory::read::<u32>(mmio::DEVICE + mmio::SCRATCH);
        });
        bench.section("mmio_write", || memory::write(mmio::DEVICE + mmio::SCRATCH, 1u32));
    } else {
        bench.report.skip("mmio", "no test device");
    }
    interrupts(bench);
}

/// From the OUT that raises an interrupt to the instruction behind it, the handler
/// included.
fn interrupts(bench: &mut Bench) {
    trap::set_handler(VECTOR, Some(|_| {}));
    outb(port::RAISE_INTERRUPT, VECTOR);
    instructions::sti();
    inb(port::RAISE_INTERRUPT);
    let raised = trap::count(VECTOR) == 1;
    if raised {
        bench.section("interrupt", || outb(port::RAISE_INTERRUPT, VECTOR));
    }
    instructions::cli();
    if !raised {
        bench.report.skip("interrupt", "port RAISE_INTERRUPT raises none");
    }
}

/// Runs sections and keeps their figures for the table.
struct Bench {
    count: u32,
    overhead: u64,
    table: [Option<(&'static str, Samples)>; MAX_SECTIONS],
    used: usize,
    report: Report,
}

impl Bench {
    fn new(count: u32) -> Self {
        let report = Report::new("exits");
        let mut bench = Self { count, overhead: 0, table: [None; MAX_SECTIONS], used: 0, report };
        bench.section("loop", instructions::nothing);
        bench.overhead = bench.table[0].map_or(0, |(_, samples)| samples.least());
        bench
    }

    #[inline]
    fn section(&mut self, name: &'static str, operation: impl FnMut()) {
        let samples = Samples::measure(self.used as u32, self.count, operation);
        self.keep(name, samples);
    }

    fn keep(&mut self, name: &'static str, samples: Samples) {
        samples.print(name, 0, self.used as u64);
        self.report.check(format_args!("{name}: time passes"), samples.least() > 0);
        if let Some(slot) = self.table.get_mut(self.used) {
            *slot = Some((name, samples));
        }
        self.used += 1;
    }

    fn finish(self) -> Status {
        println!("exits: ticks an operation, least of {} runs", anchorite_guests::timing::REPEATS);
        for (name, samples) in self.table.iter().flatten().skip(1) {
            println!("exits: {name:<16} {:>8}", samples.per_operation(self.overhead));
        }
        self.report.finish()
    }
}
