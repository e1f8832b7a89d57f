//! Single accesses to memory, with what came of them: a value, or an exception with its
//! error code and CR2. By the kernel or by privilege level 3.
#![expect(
    unsafe_code,
    reason = "enters privilege level 3 and accesses memory that may not be there"
)]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::instructions::read_cr2;
use crate::memory;
use crate::trap::{CODE_SELECTOR, DATA_SELECTOR, TrapFrame};

/// The vector by which an access that went well ends.
pub const END: u8 = 0x81;
/// `INT 0x81`, the code at the target of a fetch.
pub const END_CODE: u16 = 0x81cd;

const AC: u64 = 1 << 18;
const FIXED_FLAGS: u64 = 1 << 1;

global_asm!(include_str!("probe.s"), stack = sym STACK);

unsafe extern "C" {
    fn probe_run(address: u64, value: u64, code: u64, user_stack: u64, flags: u64);
    static probe_return: u8;
    static probe_code: u8;
    static probe_code_end: u8;
}

/// The kernel's stack while an access is on its way; 0 otherwise.
static STACK: AtomicU64 = AtomicU64::new(0);
/// Where privilege level 3 sees the instructions, and its stack's top; 0 before they are set.
static USER_CODE: AtomicU64 = AtomicU64::new(0);
static USER_STACK: AtomicU64 = AtomicU64::new(0);
/// What the last access ended with: vector, error code, CR2, RAX, RIP.
static RESULT: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// A load of 8 bytes.
    Read,
    /// A store of 8 bytes.
    Write,
    /// An instruction fetch; the target must hold [`END_CODE`].
    Fetch,
    /// A locked addition to 8 bytes.
    Update,
    /// FS is loaded with the selector that is the value: the processor reads a descriptor.
    Descriptor,
    /// A push; the address is RSP before it.
    Push,
    /// REP MOVSB of 8 bytes onto themselves.
    Copy,
    /// A store of 16 bytes, the value twice.
    Wide,
}

impl Kind {
    /// Whether it writes.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::Fetch | Self::Descriptor)
    }
}

/// An access to be made.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The linear address.
    pub address: u64,
    /// What is done there.
    pub kind: Kind,
    /// By privilege level 3 rather than by the kernel.
    pub user: bool,
    /// With RFLAGS.AC set, which suspends SMAP for the kernel.
    pub ac: bool,
    /// What is written, or the selector.
    pub value: u64,
}

impl Access {
    /// An access by the kernel.
    pub const fn kernel(kind: Kind, address: u64) -> Self {
        Self { address, kind, user: false, ac: false, value: 0 }
    }

    /// An access by privilege level 3.
    pub const fn user(kind: Kind, address: u64) -> Self {
        Self { user: true, ..Self::kernel(kind, address) }
    }

    /// The same with `value`.
    #[must_use]
    pub const fn with(self, value: u64) -> Self {
        Self { value, ..self }
    }

    /// Makes the access.
    pub fn run(&self) -> Outcome {
        let (code, stack) = if self.user {
            (USER_CODE.load(Ordering::SeqCst), USER_STACK.load(Ordering::SeqCst))
        } else {
            (&raw const probe_code as u64, 0)
        };
        assert!(code != 0, "set_user_code first");
        enter(self.address, self.value, code + 16 * self.kind as u64, stack, flags(self.ac))
    }
}

/// RFLAGS during an access.
pub(crate) const fn flags(ac: bool) -> u64 {
    FIXED_FLAGS | if ac { AC } else { 0 }
}

/// Goes to the code at `code` with `rdi` and `rsi`; its end is INT 0x81 or an exception.
/// It may change any register.
pub fn call(code: u64, rdi: u64, rsi: u64) -> Outcome {
    enter(rdi, rsi, code, 0, FIXED_FLAGS)
}

/// As [`call`] by privilege level 3, with its stack's top at `stack`.
pub fn call_user(code: u64, stack: u64, rdi: u64, rsi: u64) -> Outcome {
    enter(rdi, rsi, code, stack, FIXED_FLAGS)
}

fn enter(address: u64, value: u64, code: u64, user_stack: u64, flags: u64) -> Outcome {
    // SAFETY: whatever the code does ends in `finish`, which brings control back with the
    // stack as it was. What it writes is the caller's affair, as for `memory::write`.
    unsafe { probe_run(address, value, code, user_stack, flags) };
    let result = RESULT.each_ref().map(|word| word.load(Ordering::SeqCst));
    let [vector, error, cr2, value, rip] = result;
    Outcome { vector: vector as u8, error: error as u32, cr2, value, rip }
}

/// What came of an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// [`END`] where it went well, else the exception's vector.
    pub vector: u8,
    /// The exception's error code.
    pub error: u32,
    /// CR2 behind it, whether or not the exception sets it.
    pub cr2: u64,
    /// RAX: what a read gave.
    pub value: u64,
    /// RIP: behind INT 0x81, or at what faulted.
    pub rip: u64,
}

impl Outcome {
    /// Whether the access went well.
    pub const fn is_done(&self) -> bool {
        self.vector == END
    }

    /// The error code of a page fault at `address`, if that is what it was.
    pub fn page_fault_at(&self, address: u64) -> Option<u32> {
        (self.vector == 14 && self.cr2 == address).then_some(self.error)
    }
}

/// Copies the instructions to the physical page `page`, which privilege level 3 sees at
/// `address`; `stack` is the top of its stack there.
pub fn set_user_code(page: u64, address: u64, stack: u64) {
    let start = &raw const probe_code as u64;
    for offset in 0..&raw const probe_code_end as u64 - start {
        memory::write(page + offset, memory::read::<u8>(start + offset));
    }
    USER_CODE.store(address, Ordering::SeqCst);
    USER_STACK.store(stack, Ordering::SeqCst);
}

/// Called first for every vector: ends the access that is on its way, if there is one.
pub(crate) fn finish(frame: &mut TrapFrame) -> bool {
    let stack = STACK.swap(0, Ordering::SeqCst);
    if stack == 0 {
        return false;
    }
    let results = [frame.vector, frame.error, read_cr2(), frame.gpr[14], frame.rip];
    for (word, value) in RESULT.iter().zip(results) {
        word.store(value, Ordering::SeqCst);
    }
    frame.rip = &raw const probe_return as u64;
    frame.rsp = stack;
    frame.cs = CODE_SELECTOR.into();
    frame.ss = DATA_SELECTOR.into();
    frame.rflags = FIXED_FLAGS;
    true
}
