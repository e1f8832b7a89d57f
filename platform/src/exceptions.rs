//! Exceptions of the hypervisor itself.
//!
//! Hermit's handlers print and abort. Ours end the run with a verdict and a report
//! that names the instruction, and turn a #GP at one of the two instructions that
//! may raise it (see [`crate::msr`]) into an error value. The interrupt gates and
//! the interrupt stacks stay Hermit's.

#![expect(unsafe_code, reason = "replaces the interrupt descriptor table")]

use crate::power;
use crate::serial::Serial;
use core::cell::UnsafeCell;
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::VirtAddr;
use x86_64::instructions::tables::{lidt, sidt};
use x86_64::structures::DescriptorTablePointer;

core::arch::global_asm!(include_str!("exceptions.S"));

unsafe extern "C" {
    static exception_entries: u8;
    static msr_read_site: u8;
    static msr_write_site: u8;
    static msr_fault: u8;
}

/// What the entries push, lowest address first.
#[repr(C)]
struct Frame {
    rax: u64,
    rcx: u64,
    rdx: u64,
    rbx: u64,
    rbp: u64,
    rsi: u64,
    rdi: u64,
    extended: [u64; 8],
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// A gate of the table: SDM vol. 3, 6.14.1 "64-Bit Mode IDT".
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    /// Interrupt stack, type, privilege, present.
    options: u16,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

const GATES: usize = 256;
const EXCEPTIONS: usize = 32;
const ENTRY_BYTES: usize = 16;
const NMI: u64 = 2;
/// Hermit switches FPU state lazily; this one stays its own.
const DEVICE_NOT_AVAILABLE: usize = 7;
const GENERAL_PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;

struct Table(UnsafeCell<[Gate; GATES]>);

// SAFETY: written by `install` alone, which runs once before there are other tasks.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new(
    [Gate { offset_low: 0, selector: 0, options: 0, offset_middle: 0, offset_high: 0, reserved: 0 };
        GATES],
));

static NMIS: AtomicU64 = AtomicU64::new(0);

/// Takes over the exceptions of this CPU. Call once, before anything else.
pub fn install() {
    let current = sidt();
    let gates = (usize::from(current.limit) + 1) / size_of::<Gate>();
    // SAFETY: the table is ours (see `Table`), and Hermit's is as long as IDTR says.
    unsafe {
        let table = &mut *TABLE.0.get();
        let hermit: *const Gate = current.base.as_ptr();
        core::ptr::copy_nonoverlapping(hermit, table.as_mut_ptr(), gates.min(GATES));
        for (vector, gate) in table.iter_mut().enumerate().take(EXCEPTIONS) {
            if vector != DEVICE_NOT_AVAILABLE {
                gate.set_offset(
                    &raw const exception_entries as u64 + (vector * ENTRY_BYTES) as u64,
                );
            }
        }
        lidt(&DescriptorTablePointer {
            limit: (size_of::<[Gate; GATES]>() - 1) as u16,
            base: VirtAddr::from_ptr(table.as_ptr()),
        });
    }
}

impl Gate {
    fn set_offset(&mut self, offset: u64) {
        self.offset_low = offset as u16;
        self.offset_middle = (offset >> 16) as u16;
        self.offset_high = (offset >> 32) as u32;
    }
}

/// Non-maskable interrupts the host has taken.
pub fn nmi_count() -> u64 {
    NMIS.load(Ordering::Relaxed)
}

/// Called by every entry; returning goes on at `frame.rip`.
#[unsafe(no_mangle)]
extern "C" fn exception_entry(frame: &mut Frame) {
    match frame.vector {
        NMI => {
            NMIS.fetch_add(1, Ordering::Relaxed);
        }
        GENERAL_PROTECTION if is_msr_site(frame.rip) => {
            frame.rip = (&raw const msr_fault).addr() as u64;
        }
        _ => report(frame),
    }
}

fn is_msr_site(rip: u64) -> bool {
    rip == (&raw const msr_read_site).addr() as u64
        || rip == (&raw const msr_write_site).addr() as u64
}

/// Prints the machine and ends the run.
fn report(frame: &Frame) -> ! {
    let mut out = Serial;
    let _ = writeln!(
        out,
        "\nhost exception {} ({}), error code {:#x}",
        frame.vector,
        name(frame.vector),
        frame.error_code
    );
    let _ = writeln!(
        out,
        "  rip {:#x}  rsp {:#x}  rflags {:#x}  cs {:#x}  ss {:#x}",
        frame.rip, frame.rsp, frame.rflags, frame.cs, frame.ss
    );
    if frame.vector == PAGE_FAULT {
        let _ = writeln!(out, "  cr2 {:#x}", crate::instructions::page_fault_address());
    }
    let _ = writeln!(
        out,
        "  rax {:#x}  rcx {:#x}  rdx {:#x}  rbx {:#x}\n  rbp {:#x}  rsi {:#x}  rdi {:#x}",
        frame.rax, frame.rcx, frame.rdx, frame.rbx, frame.rbp, frame.rsi, frame.rdi
    );
    let _ = writeln!(out, "  r8…r15 (from r8) {:x?}", frame.extended);
    let _ = writeln!(
        out,
        "verdict: error the hypervisor raised {} at {:#x}; please report it",
        name(frame.vector),
        frame.rip
    );
    power::end_run(power::STATUS_ERROR)
}

fn name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "reserved", "#TS", "#NP",
        "#SS", "#GP", "#PF", "reserved", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
    ];
    NAMES.get(vector as usize).copied().unwrap_or("reserved")
}
