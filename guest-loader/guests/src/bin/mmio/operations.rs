//! The instructions that are tried: each takes its address in RDI (and RSI), its
//! operands in RAX, RCX and RDX.

use core::arch::asm;

/// The registers an operation gets and leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    rax: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
}

impl Registers {
    /// Registers for the 128 bytes at `address`, which hold `fill`: RDI points 16
    /// bytes in, RSI 64, RCX counts to 4; AL equals the byte at RDI.
    pub(crate) fn at(address: u64, fill: u64) -> Self {
        let rax = fill.rotate_left(16) & 0xff | 0x0102_0304_8586_8700;
        Self { rax, rcx: 4, rdx: 0x9182_7364_5546_3728, rsi: address + 64, rdi: address + 16 }
    }

    /// The same with RSI and RDI as distances from `address`.
    pub(crate) fn relative_to(mut self, address: u64) -> Self {
        self.rsi = self.rsi.wrapping_sub(address);
        self.rdi = self.rdi.wrapping_sub(address);
        self
    }
}

/// One instruction.
pub(crate) struct Operation {
    /// Its text.
    pub(crate) name: &'static str,
    /// The flags it defines.
    pub(crate) flags: u64,
    /// Executes it with these flags before; gives the flags after.
    pub(crate) execute: unsafe fn(&mut Registers, u64) -> u64,
}

/// Carry, parity, adjust, zero, sign, overflow.
const ALL: u64 = 0x8d5;
/// Without adjust, which logic instructions leave undefined.
const LOGIC: u64 = 0x8c5;
/// Carry alone: what bit tests define.
const CARRY: u64 = 0x1;
/// Without overflow and adjust: what a rotate or shift by more than one defines.
const SHIFT: u64 = 0xc5;

macro_rules! operation {
    ($flags:expr, $name:literal $(, $instruction:literal)+) => {
        Operation {
            name: $name,
            flags: $flags,
            execute: {
                unsafe fn execute(registers: &mut Registers, flags: u64) -> u64 {
                    let mut flags = flags;
                    let Registers { rax, rcx, rdx, rsi, rdi } = registers;
                    // SAFETY: the instruction accesses memory at RDI and RSI only,
                    // which the caller owns; the stack is balanced, the direction
                    // flag is clear again at the end.
                    unsafe {
                        asm!(
                            "push {flags}",
                            "popfq",
                            $($instruction,)+
                            "pushfq",
                            "pop {flags}",
                            "cld",
                            flags = inout(reg) flags,
                            inout("rax") *rax, inout("rcx") *rcx, inout("rdx") *rdx,
                            inout("rsi") *rsi, inout("rdi") *rdi,
                        );
                    }
                    flags
                }
                execute
            },
        }
    };
}

/// An operation whose text is its only instruction.
macro_rules! one {
    ($flags:expr, $name:literal) => {
        operation!($flags, $name, $name)
    };
}

/// All of them.
pub(crate) const OPERATIONS: &[Operation] = &[
    // Loads and stores of each width, with and without extension.
    one!(0, "mov al, [rdi]"),
    one!(0, "mov ah, [rdi]"),
    one!(0, "mov ax, [rdi]"),
    one!(0, "mov eax, [rdi]"),
    one!(0, "mov rax, [rdi]"),
    one!(0, "mov rax, [rdi + 3]"),
    one!(0, "mov rax, [rdi + rcx * 8 - 5]"),
    one!(0, "mov [rdi], al"),
    one!(0, "mov [rdi], ah"),
    one!(0, "mov [rdi], ax"),
    one!(0, "mov [rdi], eax"),
    one!(0, "mov [rdi], rax"),
    one!(0, "mov [rdi + 1], rdx"),
    one!(0, "mov byte ptr [rdi], 0x5a"),
    one!(0, "mov word ptr [rdi], 0x5aa5"),
    one!(0, "mov dword ptr [rdi], 0x12345678"),
    one!(0, "mov qword ptr [rdi], -2"),
    one!(0, "movzx eax, byte ptr [rdi]"),
    one!(0, "movzx eax, word ptr [rdi]"),
    one!(0, "movsx eax, byte ptr [rdi]"),
    one!(0, "movsx rax, word ptr [rdi]"),
    one!(0, "movsxd rax, dword ptr [rdi]"),
    one!(0, "movnti [rdi], rax"),
    one!(0, "cmovc rax, [rdi]"),
    one!(0, "cmovnc eax, [rdi]"),
    one!(0, "setc byte ptr [rdi]"),
    // Arithmetic from memory, into memory, with immediates of each width.
    one!(ALL, "add al, [rdi]"),
    one!(ALL, "adc eax, [rdi]"),
    one!(ALL, "sub rax, [rdi]"),
    one!(ALL, "cmp ax, [rdi]"),
    one!(ALL, "cmp [rdi], rax"),
    one!(ALL, "cmp byte ptr [rdi], 0x21"),
    one!(LOGIC, "test [rdi], eax"),
    one!(LOGIC, "test byte ptr [rdi], 0x80"),
    one!(LOGIC, "and rax, [rdi]"),
    one!(ALL, "add [rdi], eax"),
    one!(ALL, "add [rdi], al"),
    one!(ALL, "add qword ptr [rdi], -1"),
    one!(ALL, "adc [rdi], rdx"),
    one!(ALL, "sbb [rdi], dx"),
    one!(ALL, "sub dword ptr [rdi], 0x10000"),
    one!(LOGIC, "and [rdi], edx"),
    one!(LOGIC, "and dword ptr [rdi], 0xffffff0f"),
    one!(LOGIC, "or byte ptr [rdi], 0x81"),
    one!(LOGIC, "or [rdi], rdx"),
    one!(LOGIC, "xor [rdi], dl"),
    one!(ALL, "inc byte ptr [rdi]"),
    one!(ALL, "inc qword ptr [rdi]"),
    one!(ALL, "dec word ptr [rdi]"),
    one!(ALL, "neg dword ptr [rdi]"),
    one!(0, "not qword ptr [rdi]"),
    one!(SHIFT, "shl dword ptr [rdi], 3"),
    one!(SHIFT, "shr qword ptr [rdi], cl"),
    one!(SHIFT, "sar word ptr [rdi], 2"),
    one!(CARRY, "rol byte ptr [rdi], 1"),
    one!(CARRY, "rcr dword ptr [rdi], cl"),
    one!(CARRY, "bt dword ptr [rdi], 7"),
    one!(CARRY, "bts dword ptr [rdi], 5"),
    one!(CARRY, "btr qword ptr [rdi], 33"),
    one!(CARRY, "btc word ptr [rdi], 0"),
    one!(CARRY, "lock bts dword ptr [rdi], 4"),
    // Exchanges.
    one!(0, "xchg [rdi], eax"),
    one!(0, "xchg [rdi], dl"),
    one!(ALL, "xadd [rdi], rdx"),
    one!(ALL, "lock xadd [rdi], eax"),
    one!(ALL, "lock cmpxchg [rdi], edx"),
    one!(ALL, "cmpxchg [rdi], dl"),
    one!(ALL, "lock inc dword ptr [rdi]"),
    one!(LOGIC, "lock or dword ptr [rdi], 0x100"),
    // Strings, single, repeated, backwards, ended by their condition.
    one!(0, "movsb"),
    one!(0, "movsq"),
    one!(0, "stosw"),
    one!(0, "lodsd"),
    one!(ALL, "scasb"),
    one!(ALL, "cmpsw"),
    operation!(0, "rep stosb, 4 times", "rep stosb"),
    operation!(0, "rep stosd, 4 times", "rep stosd"),
    operation!(0, "rep movsb, 4 times", "rep movsb"),
    operation!(0, "rep movsd, 4 times", "rep movsd"),
    operation!(0, "rep movsq, 4 times", "rep movsq"),
    operation!(0, "rep lodsq, 4 times", "rep lodsq"),
    operation!(0, "rep movsw backwards", "std", "rep movsw"),
    operation!(0, "rep stosq backwards", "std", "mov ecx, 3", "rep stosq"),
    operation!(0, "rep movsb of nothing", "xor ecx, ecx", "rep movsb"),
    operation!(ALL, "repe scasb", "repe scasb"),
    operation!(ALL, "repne scasb", "repne scasb"),
    operation!(ALL, "repe cmpsb", "repe cmpsb"),
    operation!(ALL, "repne cmpsd", "repne cmpsd"),
    // The stack and control flow through memory.
    operation!(0, "push and pop", "push qword ptr [rdi]", "pop qword ptr [rsi]"),
    operation!(
        0,
        "call through memory",
        "lea rax, [rip + 2f]",
        "mov [rdi], rax",
        "call qword ptr [rdi]",
        "xor eax, eax",
        "mov [rdi], rax",
        "jmp 3f",
        "2: mov edx, 7",
        "ret",
        "3:"
    ),
];
