//! Exceptions and interrupts: every vector is caught, counted and can be handled.
//!
//! A vector with a handler calls it. Otherwise, an exception on a guarded instruction
//! (see [`guarded!`](crate::guarded)) is recorded and the instruction skipped. Anything
//! else ends the guest with a report.
#![expect(unsafe_code, reason = "owns the IDT, the TSS and the entry code of all vectors")]

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::{Status, exit, instructions, println, probe, segments};

global_asm!(include_str!("trap.s"), dispatch = sym dispatch);

unsafe extern "C" {
    static trap_entries: u8;
}

/// Selector of the 64-bit code segment.
pub const CODE_SELECTOR: u16 = 0x08;
/// Selector of the data segment.
pub const DATA_SELECTOR: u16 = 0x10;
/// Selector of the 32-bit code segment.
pub const CODE32_SELECTOR: u16 = 0x18;
/// Selector of a data segment whose present bit is clear.
pub const ABSENT_SELECTOR: u16 = 0x30;
/// Selector of the 64-bit code segment of privilege level 3.
pub const USER_CODE_SELECTOR: u16 = 0x48 | 3;
/// Selector of the data segment of privilege level 3.
pub const USER_DATA_SELECTOR: u16 = 0x50 | 3;
/// Selector of the 32-bit code segment of privilege level 3.
pub const USER_CODE32_SELECTOR: u16 = 0x58 | 3;
/// Selector of the 64-bit TSS.
pub const TSS_SELECTOR: u16 = 0x38;

/// Vectors 0–31 with a name (AMD64 APM vol. 2, 8.2 "Exception and Interrupt Descriptions").
pub mod vector {
    /// #DE, divide error.
    pub const DIVIDE: u8 = 0;
    /// #DB, debug.
    pub const DEBUG: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// #BP, breakpoint.
    pub const BREAKPOINT: u8 = 3;
    /// #UD, invalid opcode.
    pub const INVALID_OPCODE: u8 = 6;
    /// #NM, device not available.
    pub const NO_DEVICE: u8 = 7;
    /// #DF, double fault.
    pub const DOUBLE_FAULT: u8 = 8;
    /// #NP, segment not present.
    pub const NOT_PRESENT: u8 = 11;
    /// #SS, stack fault.
    pub const STACK: u8 = 12;
    /// #GP, general protection.
    pub const PROTECTION: u8 = 13;
    /// #PF, page fault.
    pub const PAGE_FAULT: u8 = 14;
    /// #MC, machine check.
    pub const MACHINE_CHECK: u8 = 18;
}

/// What an entry pushed, lowest address first.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct TrapFrame {
    /// R15 down to R8, RDI, RSI, RBP, RBX, RDX, RCX, RAX.
    pub gpr: [u64; 15],
    /// The vector, 0–255.
    pub vector: u64,
    /// The error code, 0 for vectors that have none.
    pub error: u64,
    /// Where execution goes on; a handler may change it.
    pub rip: u64,
    /// The interrupted code segment.
    pub cs: u64,
    /// The interrupted flags.
    pub rflags: u64,
    /// The interrupted stack pointer.
    pub rsp: u64,
    /// The interrupted stack segment.
    pub ss: u64,
}

/// An exception that a guarded instruction raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The vector.
    pub vector: u8,
    /// The error code, 0 for vectors that have none.
    pub error: u32,
}

impl Exception {
    /// A #GP with error code 0, what most refused instructions raise.
    pub const PROTECTION: Self = Self { vector: vector::PROTECTION, error: 0 };
}

/// A handler of a vector.
pub type Handler = fn(&mut TrapFrame);

/// Where a guarded instruction that faults goes on; 0 outside such instructions.
/// Written by [`guarded!`](crate::guarded).
pub static RESUME: AtomicU64 = AtomicU64::new(0);
/// The exception it raised: bit 63 set, vector in bits 32–39, error code in 0–31.
static CAUGHT: AtomicU64 = AtomicU64::new(0);
static HANDLERS: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];
static COUNTS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];

/// Lets the guest catch every vector. NMI, #DF and #MC get stacks of their own.
pub(crate) fn init() {
    for number in 0..=255 {
        set_gate(number, true);
    }
    load_tss();
    let idt = IDT.0.get() as u64;
    // SAFETY: the table is static and all its 256 gates lead to `trap_entries`.
    unsafe { instructions::lidt(idt, 4095) };
}

/// Installs `handler` for `vector`, or removes it. Returns nothing: a guest knows
/// what it installed.
pub fn set_handler(vector: u8, handler: Option<Handler>) {
    let address = handler.map_or(0, |function| function as usize);
    HANDLERS[vector as usize].store(address, Ordering::SeqCst);
}

/// Times `vector` was taken since the start, guarded instructions included.
pub fn count(vector: u8) -> u32 {
    COUNTS[vector as usize].load(Ordering::SeqCst)
}

/// Times any vector was taken since the start.
pub fn total() -> u64 {
    COUNTS.iter().map(|count| u64::from(count.load(Ordering::SeqCst))).sum()
}

/// Runs `instruction`, which sets [`RESUME`], and gives the exception it raised.
pub fn catch<T>(instruction: impl FnOnce() -> T) -> Result<T, Exception> {
    CAUGHT.store(0, Ordering::SeqCst);
    let value = instruction();
    RESUME.store(0, Ordering::SeqCst);
    match CAUGHT.swap(0, Ordering::SeqCst) {
        0 => Ok(value),
        caught => Err(Exception { vector: (caught >> 32) as u8, error: caught as u32 }),
    }
}

/// `asm!` of one instruction that may raise an exception: gives `Err(Exception)`
/// instead. Operands with explicit registers come last, as in `asm!`; outputs must be
/// `inout`, because a faulting instruction does not write them.
#[macro_export]
macro_rules! guarded {
    ($instruction:expr $(, $($operands:tt)*)?) => {
        $crate::trap::catch(|| core::arch::asm!(
            "lea {resume}, [rip + 2f]",
            "mov qword ptr [rip + {slot}], {resume}",
            $instruction,
            "2:",
            resume = out(reg) _,
            slot = sym $crate::trap::RESUME,
            $($($operands)*)?
        ))
    };
}

extern "C" fn dispatch(frame: &mut TrapFrame) {
    let number = frame.vector as usize & 0xff;
    COUNTS[number].fetch_add(1, Ordering::SeqCst);
    if probe::finish(frame) {
        return;
    }
    if let Some(handler) = handler(number) {
        handler(frame);
    } else if number < 32 && RESUME.load(Ordering::SeqCst) != 0 {
        CAUGHT.store(1 << 63 | frame.vector << 32 | frame.error & 0xffff_ffff, Ordering::SeqCst);
        frame.rip = RESUME.swap(0, Ordering::SeqCst);
    } else {
        unexpected(frame);
    }
}

fn handler(number: usize) -> Option<Handler> {
    let address = HANDLERS[number].load(Ordering::SeqCst);
    // SAFETY: not zero, so `set_handler` stored it from a `Handler`.
    (address != 0).then(|| unsafe { core::mem::transmute::<usize, Handler>(address) })
}

fn unexpected(frame: &TrapFrame) -> ! {
    let TrapFrame { vector, error, rip, rsp, rflags, .. } = frame;
    let cr2 = instructions::read_cr2();
    println!("unexpected vector {vector} error {error:#x} at rip {rip:#x}");
    println!("  rsp {rsp:#x} rflags {rflags:#x} cr2 {cr2:#x}");
    let names =
        ["r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rdi", "rsi", "rbp", "rbx", "rdx"];
    for (name, value) in names.iter().chain(&["rcx", "rax"]).zip(frame.gpr) {
        println!("  {name:>3} {value:#018x}");
    }
    exit::exit(Status::EXCEPTION)
}

/// A static that only this module writes, and only while no interrupt can read it:
/// at the start, or one aligned word of a gate at a time.
#[repr(C, align(4096))]
struct Table<T>(UnsafeCell<T>);

// SAFETY: there is one processor; the type's docs say when it is written.
unsafe impl<T> Sync for Table<T> {}

static IDT: Table<[[u64; 2]; 256]> = Table(UnsafeCell::new([[0; 2]; 256]));
static TSS: Table<[u32; 26]> = Table(UnsafeCell::new([0; 26]));
/// The stacks of the three kinds of events that may find a bad one, and of all others
/// that come from privilege level 3.
static STACKS: Table<[[u8; 8192]; 4]> = Table(UnsafeCell::new([[0; 8192]; 4]));

/// Makes the gate of `number` an interrupt gate, present or not. A gate that is not
/// present turns the event into #NP. Privilege level 3 can call [`probe::END`] alone.
pub fn set_gate(number: u8, present: bool) {
    let entry = &raw const trap_entries as u64 + 16 * u64::from(number);
    let stack = interrupt_stack(number);
    let level = if number == probe::END { 3 << 13 } else { 0 };
    let attributes = if present { 0x8e00 | level } else { 0x0e00 };
    let low = entry & 0xffff
        | u64::from(CODE_SELECTOR) << 16
        | stack << 32
        | attributes << 32
        | (entry >> 16 & 0xffff) << 48;
    let gate = IDT.0.get().cast::<[u64; 2]>().wrapping_add(number.into());
    // SAFETY: `number` is below 256, so the gate lies in the table.
    unsafe { gate.write_volatile([low, entry >> 32]) };
}

/// The stack a vector is handled on: 1–3 for events that may find a bad stack, 0 for
/// the interrupted one.
fn interrupt_stack(number: u8) -> u64 {
    match number {
        vector::NMI => 1,
        vector::DOUBLE_FAULT => 2,
        vector::MACHINE_CHECK => 3,
        _ => 0,
    }
}

fn load_tss() {
    let tss = TSS.0.get();
    let base = tss as u64;
    let mut table = [0u32; 26];
    for stack in 0..3 {
        let top = STACKS.0.get() as u64 + 8192 * (stack + 1);
        let word = 9 + 2 * stack as usize;
        (table[word], table[word + 1]) = (top as u32, (top >> 32) as u32);
    }
    let top = STACKS.0.get() as u64 + 8192 * 4;
    (table[1], table[2]) = (top as u32, (top >> 32) as u32); // RSP0
    table[25] = 104 << 16; // no I/O permission bitmap
    // SAFETY: called once before any interrupt can come; nothing else uses the static.
    unsafe { tss.write_volatile(table) };
    segments::load_tss(base);
}
