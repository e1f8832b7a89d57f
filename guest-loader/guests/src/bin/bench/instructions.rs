//! What an instruction costs that a hypervisor intercepts.

use core::arch::asm;

use anchorite_guests::abi::{HYPERCALL_NOP, port};
use anchorite_guests::instructions::{invlpg, outb, vmcall, vmmcall};
use anchorite_guests::machine::{Vendor, vendor};

use crate::frames::load;
use crate::section::Bench;
use crate::tables::{AD, PW, Shape, Space, TEST, load_root};

const COUNT: u64 = 256;
const NONE: Shape = Shape::new(0, 0);
const ROOTS: usize = 16;

pub(crate) fn run(bench: &mut Bench) {
    exit(bench, "out", || outb(port::BENCH_LIGHTEST, 0));
    exit(bench, "out_full", || outb(port::BENCH_NOP, 0));
    exit(bench, "cpuid", cpuid);
    hypercall(bench);
    let space = bench.space;
    let page = bench.frames.data(0);
    space.map(&mut bench.frames, TEST, page, PW | AD);
    load(TEST);
    exit(bench, "invlpg", || invlpg(TEST + 0x1000));
    exit(bench, "cr3_same", move || load_root(space.root));
}

fn exit(bench: &mut Bench, name: &str, operation: impl Fn()) {
    bench.section(
        (name, NONE, COUNT),
        |_| (),
        || {
            for _ in 0..COUNT {
                operation();
            }
        },
    );
}

#[inline(always)]
fn cpuid() {
    // SAFETY: every processor in long mode has CPUID; RBX is the compiler's own.
    unsafe {
        asm!("mov {b}, rbx", "cpuid", "mov rbx, {b}", b = out(reg) _, inout("eax") 0 => _,
            inout("ecx") 0 => _, out("edx") _, options(nomem, nostack));
    }
}

/// The vendor's hypercall; a bare machine raises #UD for it and has no such row.
fn hypercall(bench: &mut Bench) {
    let probe = match vendor() {
        Vendor::Amd => vmmcall(HYPERCALL_NOP),
        Vendor::Intel => vmcall(HYPERCALL_NOP),
    };
    if probe.is_err() {
        return;
    }
    match vendor() {
        // SAFETY: the probe showed that the hypercall returns.
        Vendor::Amd => exit(bench, "vmmcall", || unsafe {
            asm!("vmmcall", inout("eax") HYPERCALL_NOP => _, options(nostack));
        }),
        // SAFETY: as above.
        Vendor::Intel => exit(bench, "vmmcall", || unsafe {
            asm!("vmcall", inout("eax") HYPERCALL_NOP => _, options(nostack));
        }),
    }
}

/// Sixteen roots in turn, one page touched under each.
pub(crate) fn roots(bench: &mut Bench) {
    let space = bench.space;
    let page = bench.frames.data(0);
    space.map(&mut bench.frames, TEST, page, PW | AD);
    let mut roots = [space; ROOTS];
    for root in &mut roots {
        *root = space.twin(&mut bench.frames);
    }
    rounds(&roots);
    bench.section(("cr3_16", NONE, COUNT), |_| (), || rounds(&roots));
    space.enter();
}

fn rounds(roots: &[Space; ROOTS]) {
    for round in 0..COUNT as usize {
        roots[round % ROOTS].enter();
        load(TEST);
    }
}
