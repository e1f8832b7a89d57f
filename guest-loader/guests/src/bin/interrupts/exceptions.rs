//! Exceptions with their error codes, software interrupts, single steps, breakpoints.

use core::arch::asm;

use anchorite_guests::instructions::{clear_breakpoints, read_cr0, read_cr2, read_dr6, write_cr0};
use anchorite_guests::trap::{self, ABSENT_SELECTOR, DATA_SELECTOR, Exception, vector};
use anchorite_guests::{Report, guarded};

use crate::{VECTOR, events, last_rip, start_counting};

/// Not mapped: the runtime maps 4 GiB.
const UNMAPPED: u64 = 0x12_3456_7890;
const NON_CANONICAL: u64 = 0x8000_0000_0000_0000;
const BEYOND_GDT: u16 = 0x100;
const TRAP_FLAG: u64 = 1 << 8;
const RESUME_FLAG: u64 = 1 << 16;
const TASK_SWITCHED: u64 = 1 << 3;
/// DR6.BS: a single step.
const SINGLE_STEP: u64 = 1 << 14;

pub(crate) fn check(report: &mut Report) {
    without_error_code(report);
    page_faults(report);
    selectors(report);
    double_fault(report);
    software_interrupts(report);
    single_steps(report);
    breakpoint(report);
}

fn raises(report: &mut Report, what: &str, got: Result<(), Exception>, number: u8, error: u32) {
    report.same(what, got, Err(Exception { vector: number, error }));
}

fn without_error_code(report: &mut Report) {
    // SAFETY: the instruction raises an exception and does nothing else.
    let invalid = unsafe { guarded!("ud2") };
    raises(report, "ud2", invalid, vector::INVALID_OPCODE, 0);
    let (mut low, mut high) = (7u32, 5u32);
    // SAFETY: as above.
    let divided =
        unsafe { guarded!("div {zero:e}", zero = in(reg) 0, inout("eax") low, inout("edx") high) };
    raises(report, "division by zero", divided, vector::DIVIDE, 0);
    report.same("division by zero leaves EDX:EAX", (high, low), (5, 7));
    let cr0 = read_cr0();
    // SAFETY: CR0.TS makes the next x87 instruction raise #NM; nothing else uses the FPU.
    let no_device = unsafe { write_cr0(cr0 | TASK_SWITCHED).and_then(|()| guarded!("fnop")) };
    // SAFETY: the value it had.
    let restored = unsafe { write_cr0(cr0) };
    raises(report, "x87 with CR0.TS", no_device, vector::NO_DEVICE, 0);
    report.same("CR0 can be restored", restored, Ok(()));
}

fn page_faults(report: &mut Report) {
    // SAFETY: nothing is mapped there.
    let read = unsafe { guarded!("mov {x}, [{at}]", x = out(reg) _, at = in(reg) UNMAPPED) };
    raises(report, "a read of an unmapped page", read, vector::PAGE_FAULT, 0);
    report.equal("CR2 after it", read_cr2(), UNMAPPED);
    // SAFETY: as above.
    let written = unsafe { guarded!("mov [{at}], eax", at = in(reg) UNMAPPED + 0x2000) };
    raises(report, "a write to an unmapped page", written, vector::PAGE_FAULT, 2);
    report.equal("CR2 after it", read_cr2(), UNMAPPED + 0x2000);
    // SAFETY: as above; the jump's target cannot be fetched.
    let fetched = unsafe { guarded!("jmp {at}", at = in(reg) UNMAPPED + 0x4000) };
    // Bit 4 is set only where EFER.NXE or SMEP is on (SDM vol. 3, 4.7).
    raises(report, "a fetch from an unmapped page", fetched, vector::PAGE_FAULT, 0);
    report.equal("CR2 after it", read_cr2(), UNMAPPED + 0x4000);
}

fn selectors(report: &mut Report) {
    // SAFETY: the load or access raises an exception and changes nothing.
    let high = unsafe { guarded!("mov {x}, [{at}]", x = out(reg) _, at = in(reg) NON_CANONICAL) };
    raises(report, "a non-canonical address", high, vector::PROTECTION, 0);
    // SAFETY: as above.
    let beyond = unsafe { guarded!("mov ds, {at:e}", at = in(reg) u32::from(BEYOND_GDT)) };
    raises(report, "a selector beyond the GDT", beyond, vector::PROTECTION, BEYOND_GDT.into());
    let selector = u32::from(ABSENT_SELECTOR);
    // SAFETY: as above.
    let absent = unsafe { guarded!("mov ds, {at:e}", at = in(reg) selector) };
    raises(report, "a segment not present", absent, vector::NOT_PRESENT, selector);
    let selector: u16;
    // SAFETY: a read has no effect.
    unsafe { asm!("mov {:x}, ds", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    report.equal("DS after two refused loads", selector, DATA_SELECTOR);
    trap::set_gate(VECTOR, false);
    // SAFETY: the gate is not present, so #NP comes instead.
    let gate = unsafe { guarded!("int {vector}", vector = const VECTOR) };
    trap::set_gate(VECTOR, true);
    // The error code is the vector times 8 with bit 1 for the IDT (AMD64 APM vol. 2,
    // 8.4.1 "Selector-Error Code"); QEMU up to 7.2 multiplies by the gate's 16 bytes.
    let good = [8, 16].map(|scale| {
        Err(Exception { vector: vector::NOT_PRESENT, error: u32::from(VECTOR) * scale + 2 })
    });
    report.check(format_args!("a gate not present: got {gate:x?}"), good.contains(&gate));
}

/// A page fault whose gate is not present is a double fault (AMD64 APM vol. 2, 8.2.9).
fn double_fault(report: &mut Report) {
    trap::set_gate(vector::PAGE_FAULT, false);
    // SAFETY: nothing is mapped there.
    let caught = unsafe { guarded!("mov {x}, [{at}]", x = out(reg) _, at = in(reg) UNMAPPED) };
    trap::set_gate(vector::PAGE_FAULT, true);
    raises(report, "a page fault without its gate", caught, vector::DOUBLE_FAULT, 0);
}

fn software_interrupts(report: &mut Report) {
    start_counting(VECTOR);
    let behind: u64;
    // SAFETY: the vector has a handler that returns.
    unsafe {
        asm!("lea {0}, [rip + 2f]", "int {1}", "2:", out(reg) behind, const VECTOR);
    }
    report.equal("INT n comes once", events(), 1);
    report.equal("INT n returns behind itself", last_rip(), behind);

    start_counting(vector::BREAKPOINT);
    let behind: u64;
    // SAFETY: as above.
    unsafe { asm!("lea {0}, [rip + 2f]", "int3", "2:", out(reg) behind) };
    trap::set_handler(vector::BREAKPOINT, None);
    report.equal("INT3 comes once", events(), 1);
    report.equal("INT3 returns behind itself", last_rip(), behind);
}

/// A step over an instruction, one that exits to a hypervisor among them, ends right
/// behind it.
fn single_steps(report: &mut Report) {
    macro_rules! step {
        ($name:literal, $instruction:literal) => {{
            start_counting(vector::DEBUG);
            trap::set_handler(vector::DEBUG, Some(|frame| {
                crate::note(frame);
                frame.rflags &= !TRAP_FLAG;
            }));
            let behind: u64;
            // SAFETY: #DB has a handler, which ends the stepping; RBX is restored.
            unsafe {
                asm!(
                    "lea {behind}, [rip + 2f]", "mov {saved}, rbx", "pushfq",
                    "or qword ptr [rsp], 0x100", "popfq", $instruction, "2: nop",
                    "mov rbx, {saved}", behind = out(reg) behind, saved = out(reg) _,
                    inout("eax") 0 => _, out("ecx") _, out("edx") _,
                );
            }
            report.equal(concat!("steps over ", $name), events(), 1);
            report.equal(concat!("RIP after a step over ", $name), last_rip(), behind);
            report.equal(
                concat!("DR6.BS after a step over ", $name),
                read_dr6() & SINGLE_STEP,
                SINGLE_STEP,
            );
        }};
    }
    step!("NOP", "nop");
    step!("OUT", "out 0x80, al");
    step!("CPUID", "cpuid");
    trap::set_handler(vector::DEBUG, None);
}

/// An execution breakpoint comes before its instruction, once where RF is set.
fn breakpoint(report: &mut Report) {
    start_counting(vector::DEBUG);
    trap::set_handler(
        vector::DEBUG,
        Some(|frame| {
            crate::note(frame);
            frame.rflags |= RESUME_FLAG;
        }),
    );
    let target: u64;
    // SAFETY: #DB has a handler that returns to the instruction with RF set.
    unsafe {
        asm!("lea {target}, [rip + 2f]", "mov dr0, {target}", "mov dr7, {enable}", "2: nop",
            target = out(reg) target, enable = in(reg) 0x401u64);
    }
    clear_breakpoints();
    trap::set_handler(vector::DEBUG, None);
    report.equal("a breakpoint comes once", events(), 1);
    report.equal("a breakpoint comes before its instruction", last_rip(), target);
}
