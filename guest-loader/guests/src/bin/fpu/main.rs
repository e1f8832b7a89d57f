//! Floating-point and vector registers survive exits of every kind.
//!
//! The target is soft-float: the compiler touches none of these registers, so whatever
//! changes in them between two lines here was changed by the hypervisor.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "loads and stores the x87, SSE and AVX state")]

use core::arch::asm;
use core::cell::UnsafeCell;

use anchorite_guests::abi::{HYPERCALL_NOP, mmio, port};
use anchorite_guests::instructions::{
    self, cpuid, inb, invlpg, outb, rdmsr, read_cr0, read_cr4, reload_cr3, vmcall, vmmcall,
    write_cr0, write_cr4,
};
use anchorite_guests::machine::{Vendor, is_anchorite, vendor};
use anchorite_guests::{BootInfo, Report, Status, entry, memory, trap};

entry!(run);

const VECTOR: u8 = 0x40;
/// CR0: monitor coprocessor, emulation off, no task switched.
const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
/// CR4: FXSAVE and SSE, SSE exceptions, XSAVE.
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;
/// CPUID 1.ECX.
const HAS_XSAVE: u32 = 1 << 26;
const HAS_AVX: u32 = 1 << 28;
/// XCR0: x87, SSE, AVX.
const XCR0: u32 = 7;
/// MXCSR with a rounding mode that is not the default, and all exceptions masked.
const MXCSR: u32 = 0x7f80;
/// Times each kind of exit is taken.
const TIMES: u32 = 50;
/// Bytes of an FXSAVE image that hold state: the rest is reserved or for software.
const IMAGE_BYTES: usize = 416;
/// Offsets in it: the last opcode and the addresses of the last x87 instruction and its
/// operand, which may legitimately be dropped (AMD64 APM vol. 2, 11.4.4.3).
const LAST_INSTRUCTION: core::ops::Range<usize> = 6..24;

fn run(_boot: &BootInfo) -> Status {
    let mut report = Report::new("fpu");
    if enable(&mut report) {
        let avx = enable_avx(&mut report);
        for (name, exit) in exits() {
            survives(&mut report, name, exit, avx);
        }
        interrupts(&mut report, avx);
    }
    report.finish()
}

fn enable(report: &mut Report) -> bool {
    let cr0 = read_cr0() & !(CR0_EM | CR0_TS) | CR0_MP;
    // SAFETY: these bits concern floating point only.
    let written =
        unsafe { write_cr0(cr0).and(write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT)) };
    report.same("SSE can be enabled", written, Ok(()));
    written.is_ok()
}

/// Where CPUID shows AVX, enables it in XCR0.
fn enable_avx(report: &mut Report) -> bool {
    let features = cpuid(1, 0).ecx;
    if features & (HAS_XSAVE | HAS_AVX) != HAS_XSAVE | HAS_AVX {
        report.skip("AVX", "CPUID does not show it");
        return false;
    }
    // SAFETY: CR4.OSXSAVE and XCR0 concern these registers only; CPUID shows both.
    let written = unsafe {
        write_cr4(read_cr4() | CR4_OSXSAVE).map(|()| {
            asm!("xsetbv", in("ecx") 0, in("eax") XCR0, in("edx") 0, options(nomem, nostack));
        })
    };
    report.same("AVX can be enabled", written, Ok(()));
    written.is_ok()
}

/// Every kind of exit that needs no set-up.
fn exits() -> [(&'static str, fn()); 9] {
    [
        ("nothing", instructions::nothing),
        ("OUT", || outb(port::POST, 0)),
        ("lightest OUT", || outb(port::BENCH_LIGHTEST, 0)),
        ("IN", || {
            inb(port::COM1 + 5);
        }),
        ("CPUID", || {
            cpuid(0, 0);
        }),
        ("RDMSR", || {
            let _ = rdmsr(0x1b);
        }),
        ("a hypercall", || {
            let _ = match vendor() {
                Vendor::Amd => vmmcall(HYPERCALL_NOP),
                Vendor::Intel => vmcall(HYPERCALL_NOP),
            };
        }),
        ("CR3 and INVLPG", || {
            reload_cr3();
            invlpg(0x20_0000);
        }),
        ("memory-mapped I/O", || {
            if is_anchorite() {
                memory::write(mmio::DEVICE, memory::read::<u32>(mmio::DEVICE).wrapping_add(1));
            }
        }),
    ]
}

fn interrupts(report: &mut Report, avx: bool) {
    if !is_anchorite() {
        return report.skip("interrupts", "bare machine without the port for it");
    }
    trap::set_handler(VECTOR, Some(|_| {}));
    instructions::sti();
    survives(report, "an interrupt", || outb(port::RAISE_INTERRUPT, VECTOR), avx);
    instructions::cli();
    report.equal("interrupts taken", trap::count(VECTOR), TIMES);
}

/// Fills the registers, takes the exit many times, and compares them.
fn survives(report: &mut Report, name: &str, exit: fn(), avx: bool) {
    for round in 0..TIMES {
        let seed = u64::from(round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let loaded = load(seed, avx);
        exit();
        let (image, upper) = store(avx);
        let same = same_image(&loaded, &image);
        report.check(format_args!("x87, MXCSR and XMM after {name}, round {round}"), same);
        let kept = !avx || upper == upper_halves(seed);
        report.check(format_args!("upper YMM after {name}, round {round}: {upper:x?}"), kept);
    }
}

fn same_image(one: &[u8; 512], other: &[u8; 512]) -> bool {
    let kept = |index: &usize| !LAST_INSTRUCTION.contains(index) && !(28..32).contains(index);
    (0..IMAGE_BYTES).filter(kept).all(|index| one[index] == other[index])
}

/// What the upper halves of YMM0 and YMM15 are filled with.
fn upper_halves(seed: u64) -> [[u64; 2]; 2] {
    [[seed, !seed], [seed.rotate_left(9), seed.swap_bytes()]]
}

/// An area for FXSAVE and FXRSTOR.
#[repr(C, align(64))]
struct Area(UnsafeCell<[u8; 512]>);

// SAFETY: one processor, and no handler of this guest uses it.
unsafe impl Sync for Area {}

static AREA: Area = Area(UnsafeCell::new([0; 512]));

/// Fills x87, MXCSR, XMM0–15 and the upper halves of YMM0 and YMM15 from `seed`; gives
/// the FXSAVE image that was loaded.
fn load(seed: u64, avx: bool) -> [u8; 512] {
    let mut image = [0; 512];
    image[0..2].copy_from_slice(&0x0f7fu16.to_le_bytes()); // control word: round to zero
    image[2..4].copy_from_slice(&0x2800u16.to_le_bytes()); // status word: TOP = 5
    image[4] = 0xff; // all registers in use
    image[24..28].copy_from_slice(&MXCSR.to_le_bytes());
    for register in 0..8 {
        let value = seed.rotate_left(register as u32) | 1 << 63;
        image[32 + 16 * register..][..8].copy_from_slice(&value.to_le_bytes());
        image[40 + 16 * register..][..2].copy_from_slice(&0x3fffu16.to_le_bytes());
    }
    for (index, byte) in image[160..IMAGE_BYTES].iter_mut().enumerate() {
        *byte = (seed >> (index % 57)) as u8 ^ index as u8;
    }
    let upper = upper_halves(seed);
    // SAFETY: the area is 512 bytes, aligned to 16, and holds a valid image; AVX is
    // used only where it is enabled. FXRSTOR comes last: it keeps the upper halves.
    unsafe {
        *AREA.0.get() = image;
        if avx {
            asm!(
                "vinsertf128 ymm0, ymm0, [{0}], 1", "vinsertf128 ymm15, ymm15, [{0} + 16], 1",
                in(reg) &raw const upper, options(nostack),
            );
        }
        asm!("fxrstor64 [{}]", in(reg) AREA.0.get(), options(nostack));
    }
    image
}

/// The FXSAVE image of the registers, and the upper halves of YMM0 and YMM15.
fn store(avx: bool) -> ([u8; 512], [[u64; 2]; 2]) {
    let mut upper = [[0; 2]; 2];
    // SAFETY: as in `load`.
    let image = unsafe {
        asm!("fxsave64 [{}]", in(reg) AREA.0.get(), options(nostack));
        if avx {
            asm!(
                "vextractf128 [{0}], ymm0, 1", "vextractf128 [{0} + 16], ymm15, 1",
                in(reg) &raw mut upper, options(nostack),
            );
        }
        *AREA.0.get()
    };
    (image, upper)
}
