//! An instruction in user mode, and the exception that ends it.

use crate::tables::{self, USER, WRITABLE, map};
use anchorite_guests::instructions;
use anchorite_guests::trap::{self, CODE_SELECTOR, DATA_SELECTOR, TrapFrame, vector};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

/// UD2, behind the instruction.
const END: [u8; 2] = [0x0f, 0x0b];
/// The runtime's GDT has entries below this offset; ours follow.
const USER_CODE: u64 = 0x48;
const USER_DATA: u64 = 0x50;
const TSS_SELECTOR: u64 = 0x38;
/// Where the stack of ring 0 stands in a TSS.
const RSP0: u64 = 4;

#[repr(C, align(16))]
struct Global<T>(UnsafeCell<T>);

// SAFETY: one processor; written before user mode is entered.
unsafe impl<T> Sync for Global<T> {}

static GDT: Global<[u64; 11]> = Global(UnsafeCell::new([0; 11]));
static STACK: Global<[u64; 512]> = Global(UnsafeCell::new([0; 512]));

static KERNEL_RIP: AtomicU64 = AtomicU64::new(0);
static KERNEL_RSP: AtomicU64 = AtomicU64::new(0);
static ENDED_BY: AtomicU64 = AtomicU64::new(0);

/// Executes `instruction` in user mode, then UD2; the vector that ended it.
pub(crate) fn vector_of(instruction: &[u8]) -> u8 {
    prepare();
    let mut bytes = [0u8; 8];
    bytes[..instruction.len()].copy_from_slice(instruction);
    bytes[instruction.len()..][..2].copy_from_slice(&END);
    tables::put(tables::page(3), u64::from_le_bytes(bytes));
    let code = map(3, 3, USER);
    let stack = map(2, 2, USER | WRITABLE) + 4096;
    let vectors = [vector::INVALID_OPCODE, vector::PROTECTION, vector::PAGE_FAULT];
    vectors.map(|number| trap::set_handler(number, Some(end)));
    enter(code, stack);
    vectors.map(|number| trap::set_handler(number, None));
    ENDED_BY.load(Ordering::SeqCst) as u8
}

/// Back to the kernel, behind [`enter`].
fn end(frame: &mut TrapFrame) {
    ENDED_BY.store(frame.vector, Ordering::SeqCst);
    frame.rip = KERNEL_RIP.load(Ordering::SeqCst);
    frame.rsp = KERNEL_RSP.load(Ordering::SeqCst);
    frame.cs = CODE_SELECTOR.into();
    frame.ss = DATA_SELECTOR.into();
}

fn enter(code: u64, stack: u64) {
    // SAFETY: the user's page ends with an exception, whose handler comes back to the
    // label with the stack as it was; user code changes no register that counts. The
    // data segments, which IRET may have emptied, are loaded again.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "lea rax, [rip + 2f]",
            "mov [{rip}], rax",
            "mov [{rsp}], rsp",
            "push {ss}",
            "push {stack}",
            "push 2",
            "push {cs}",
            "push {code}",
            "iretq",
            "2:",
            "pop rbp",
            "pop rbx",
            "mov eax, {data}",
            "mov ds, eax",
            "mov es, eax",
            rip = in(reg) KERNEL_RIP.as_ptr(), rsp = in(reg) KERNEL_RSP.as_ptr(),
            ss = const USER_DATA | 3, cs = const USER_CODE | 3, data = const DATA_SELECTOR,
            stack = in(reg) stack, code = in(reg) code, out("rax") _,
        );
    }
}

/// A GDT with segments for user mode, and a stack for coming back from it.
fn prepare() {
    let mut pointer = [0u8; 10];
    // SAFETY: stores ten bytes.
    unsafe { asm!("sgdt [{}]", in(reg) &raw mut pointer, options(nostack)) };
    let base = u64::from_le_bytes(core::array::from_fn(|byte| pointer[2 + byte]));
    let own = GDT.0.get() as u64;
    if base == own {
        return;
    }
    for offset in (0..USER_CODE).step_by(8) {
        // SAFETY: the runtime's table has these entries.
        tables::put(own + offset, unsafe { ((base + offset) as *const u64).read_volatile() });
    }
    tables::put(own + USER_CODE, 0x00af_fb00_0000_ffff);
    tables::put(own + USER_DATA, 0x00cf_f300_0000_ffff);
    let new = [8 * 11 - 1, own << 16 >> 16];
    let mut bytes = [0u8; 10];
    bytes[..2].copy_from_slice(&(new[0] as u16).to_le_bytes());
    bytes[2..].copy_from_slice(&new[1].to_le_bytes());
    // SAFETY: the same segments as before, and two more; the table is static.
    unsafe { asm!("lgdt [{}]", in(reg) &raw const bytes, options(nostack, readonly)) };
    let descriptor = [0, 8].map(|word| {
        // SAFETY: the runtime's TSS descriptor.
        unsafe { ((own + TSS_SELECTOR + word) as *const u64).read_volatile() }
    });
    let low = descriptor[0] >> 16 & 0xff_ffff | descriptor[0] >> 56 << 24;
    let tss = low | descriptor[1] << 32;
    let top = STACK.0.get() as u64 + 4096;
    // SAFETY: the field of the runtime's TSS, which lies there for good.
    unsafe { ((tss + RSP0) as *mut u64).write_unaligned(top) };
    instructions::nothing();
}
