//! Lists of accesses, table writes, flushes and changes of control bits that are carried out
//! one after the other by tables of any format: in 64-bit mode, or in 32-bit protected mode by
//! code that notes what came of each step and goes on.
//!
//! In 32-bit mode the accesses are of 4 bytes, and the translations that a script leaves
//! behind end with it: CR3 is loaded on the way in and out.
#![expect(unsafe_code, reason = "leaves 64-bit mode and comes back")]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::control::{EFER, LA57, PAE, load_root};
use crate::format::Format;
use crate::instructions::{
    invlpg, rdmsr, read_cr0, read_cr3, read_cr4, write_cr0, write_cr3, write_cr4, wrmsr,
};
use crate::memory;
use crate::paging::Space;
use crate::probe::{self, Access, END, Kind, Outcome};
use crate::segments;
use crate::trap::Exception;

global_asm!(include_str!("switch.s"), gates = sym GATES);

unsafe extern "sysv64" {
    /// Through paging off to these values of CR3 and CR4.
    fn switch_levels(cr3: u64, cr4: u64);
    fn script_run(first: u64, end: u64, cr3: u64, cr4: u64);
}

unsafe extern "C" {
    static script_code: u8;
    static script_code_end: u8;
    static script_entries: u8;
    static script_tss: u8;
}

/// Most steps of a script.
pub const CAPACITY: usize = 512;
/// Words of a step: code, address, value (two), stack, flags, then vector, error code, CR2,
/// EAX, EIP and one unused.
const WORDS: usize = 12;
/// Places in `script_code` behind the kinds of access.
const INVALIDATE: u64 = 8;
const ROOT: u64 = 9;
const ENTRY: u64 = 10;
const DESCRIPTORS: u64 = 11;
/// The first of the [`Register`]s' places.
const TOGGLE: u64 = 12;

static STEPS: [[AtomicU32; WORDS]; CAPACITY] =
    [const { [const { AtomicU32::new(0) }; WORDS] }; CAPACITY];
/// The gates of vectors 0 to 0x81.
static GATES: [[AtomicU32; 2]; 0x82] = [const { [const { AtomicU32::new(0) }; 2] }; 0x82];
/// Where privilege level 3 sees the 32-bit instructions, and its stack's top.
static USER_CODE: AtomicU64 = AtomicU64::new(0);
static USER_STACK: AtomicU64 = AtomicU64::new(0);

/// A register of control bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Register {
    /// CR0.
    Cr0,
    /// CR4.
    Cr4,
    /// EFER.
    Efer,
}

/// A step of a script.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// An access.
    Access(Access),
    /// INVLPG of a linear address.
    Invalidate(u64),
    /// A load of CR3.
    Root(u64),
    /// An entry of the format's width is written, at a physical address.
    Entry(u64, u64),
    /// The LDT becomes the page at this linear address.
    Descriptors(u64),
    /// These bits of a register are turned over. A script ends with the bits as it found them.
    Toggle(Register, u64),
}

impl Step {
    /// A load by the kernel.
    pub const fn read(address: u64) -> Self {
        Self::Access(Access::kernel(Kind::Read, address))
    }

    /// A store by the kernel.
    pub const fn write(address: u64, value: u64) -> Self {
        Self::Access(Access::kernel(Kind::Write, address).with(value))
    }
}

/// Tables that scripts run by.
///
/// Five levels are switched on while it lives.
#[derive(Debug)]
pub struct Runner {
    space: Space,
    /// CR3 and CR4 before it.
    before: (u64, u64),
}

impl Runner {
    /// Runs scripts by `space`, which must hold the kernel: see [`Space::of`].
    pub fn new(space: Space) -> Self {
        let before = (read_cr3(), read_cr4());
        match space.format {
            Format::Four => load_root(space.root),
            // SAFETY: the space has all that the current one has in its lowest 512 GiB.
            Format::Five => unsafe { switch_levels(space.root, before.1 | LA57) },
            Format::TwoLevel | Format::Pae => {}
        }
        Self { space, before }
    }

    /// The tables.
    pub const fn space(&self) -> Space {
        self.space
    }

    /// Copies the accesses' instructions to the physical page `page`, which privilege level 3
    /// sees at `address`; `stack` is the top of its stack there.
    pub fn set_user_code(&self, page: u64, address: u64, stack: u64) {
        if self.space.format.is_long() {
            return probe::set_user_code(page, address, stack);
        }
        let start = &raw const script_code as u64;
        for offset in 0..&raw const script_code_end as u64 - start {
            memory::write(page + offset, memory::read::<u8>(start + offset));
        }
        USER_CODE.store(address, SeqCst);
        USER_STACK.store(stack, SeqCst);
    }

    /// Carries out `steps`, by the control bits that are set; what came of each is put into
    /// `outcomes`.
    ///
    /// # Panics
    /// Where there are more than [`CAPACITY`] or more than `outcomes` has room for.
    pub fn run(&self, steps: &[Step], outcomes: &mut [Outcome]) {
        assert!(steps.len() <= CAPACITY.min(outcomes.len()), "{} steps", steps.len());
        if self.space.format.is_long() {
            for (step, outcome) in steps.iter().zip(outcomes) {
                *outcome = carry_out(step);
            }
            return load_root(self.space.root);
        }
        for (step, record) in steps.iter().zip(&STEPS) {
            for (word, value) in record.iter().zip(words(step, self.space.format)) {
                word.store(value, SeqCst);
            }
        }
        self.enter(steps.len());
        for (record, outcome) in STEPS.iter().zip(outcomes).take(steps.len()) {
            *outcome = noted(record);
        }
    }

    fn enter(&self, steps: usize) {
        set_gates();
        let first = STEPS.as_ptr() as u64;
        let end = first + (4 * WORDS * steps) as u64;
        let cr4 = read_cr4() & !PAE | if self.space.format == Format::Pae { PAE } else { 0 };
        let tss = segments::tss();
        segments::prepare_tss32(&raw const script_tss as u64);
        // SAFETY: all that the code touches lies below 4 GiB, mapped one to one by both
        // spaces; it restores CR3, CR4, EFER, IDT and the segments. What a step does to
        // memory is the caller's affair, as for `memory::write`.
        unsafe { script_run(first, end, self.space.root, cr4) };
        segments::load_tss(tss);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let (cr3, cr4) = self.before;
        match self.space.format {
            Format::Four => load_root(cr3),
            // SAFETY: back to the tables in use before.
            Format::Five => unsafe { switch_levels(cr3, cr4 & !LA57) },
            Format::TwoLevel | Format::Pae => {}
        }
    }
}

/// Goes through paging off to the tables at `cr3` under `cr4`.
///
/// # Safety
/// Both are of 64-bit mode, and the tables map the guest as it was mapped.
pub unsafe fn load_levels(cr3: u64, cr4: u64) {
    // SAFETY: by the caller.
    unsafe { switch_levels(cr3, cr4) };
}

/// A step in 64-bit mode.
fn carry_out(step: &Step) -> Outcome {
    let mut done = Ok(());
    match *step {
        Step::Access(access) => return access.run(),
        Step::Invalidate(address) => invlpg(address),
        Step::Entry(at, value) => memory::write(at, value),
        Step::Descriptors(base) => segments::load_ldt(base, 0xfff),
        // SAFETY: as for `load_root`, but that the processor may refuse it.
        Step::Root(root) => done = unsafe { write_cr3(root) },
        Step::Toggle(register, bits) => done = toggle(register, bits),
    }
    match done {
        Ok(()) => Outcome { vector: END, ..Outcome::default() },
        Err(Exception { vector, error }) => Outcome { vector, error, ..Outcome::default() },
    }
}

fn toggle(register: Register, bits: u64) -> Result<(), Exception> {
    // SAFETY: what the bits do to the guest is the caller's affair, as for `memory::write`;
    // the processor may refuse them.
    unsafe {
        match register {
            Register::Cr0 => write_cr0(read_cr0() ^ bits),
            Register::Cr4 => write_cr4(read_cr4() ^ bits),
            Register::Efer => wrmsr(EFER, rdmsr(EFER)? ^ bits),
        }
    }
}

/// What the 32-bit code is told of a step.
fn words(step: &Step, format: Format) -> [u32; 6] {
    let plain = |place, address, value| (place, address, value, None);
    let (place, address, value, access) = match *step {
        Step::Access(access) => (access.kind as u64, access.address, access.value, Some(access)),
        Step::Invalidate(address) => plain(INVALIDATE, address, 0),
        Step::Root(root) => plain(ROOT, root, 0),
        Step::Entry(at, value) if format == Format::TwoLevel => {
            plain(Kind::Write as u64, at, value)
        }
        Step::Entry(at, value) => plain(ENTRY, at, value),
        Step::Descriptors(base) => {
            let (at, descriptor) = segments::ldt32(base, 0xfff);
            plain(DESCRIPTORS, at, descriptor)
        }
        Step::Toggle(register, bits) => plain(TOGGLE + register as u64, bits, 0),
    };
    let user = access.is_some_and(|access| access.user);
    let ac = access.is_some_and(|access| access.ac);
    let (code, stack) = if user {
        (USER_CODE.load(SeqCst), USER_STACK.load(SeqCst))
    } else {
        (&raw const script_code as u64, 0)
    };
    assert!(code != 0, "set_user_code first");
    let code = code + 16 * place;
    [code, address, value, value >> 32, stack, probe::flags(ac)].map(|word| word as u32)
}

fn noted(record: &[AtomicU32; WORDS]) -> Outcome {
    let word = |index: usize| record[index].load(SeqCst);
    Outcome {
        vector: word(6) as u8,
        error: word(7),
        cr2: word(8).into(),
        value: word(9).into(),
        rip: word(10).into(),
    }
}

/// 32-bit interrupt gates to `script_entries`; privilege level 3 can call [`END`] alone.
fn set_gates() {
    let selector = u32::from(crate::trap::CODE32_SELECTOR) << 16;
    for index in 0..=32u32 {
        let (vector, level) = if index == 32 { (END.into(), 3 << 13) } else { (index as usize, 0) };
        let entry = &raw const script_entries as u32 + 16 * index;
        GATES[vector][0].store(entry & 0xffff | selector, SeqCst);
        GATES[vector][1].store(entry & 0xffff_0000 | 0x8e00 | level, SeqCst);
    }
}
