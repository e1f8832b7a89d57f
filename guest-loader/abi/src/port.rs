//! I/O ports with a meaning to the hypervisor.

/// First port of the first serial line, a 16550 UART (eight ports, IRQ 4).
pub const COM1: u16 = 0x3f8;
/// POST code port; a write is recorded with its time.
pub const POST: u16 = 0x80;
/// Debug console: each byte written is printed. Reads as itself (0xe9).
pub const DEBUG_CONSOLE: u16 = 0xe9;
/// QEMU's isa-debug-exit: the value written (8, 16 or 32 bits) is the guest's
/// exit status, 0 for success. Ends the run.
pub const EXIT: u16 = 0xf4;
/// Bochs' and the benchmark's end of run: a 32-bit write whose value is the
/// exit status, 0 for success. Ends the run.
pub const END_OF_RUN: u16 = 0x501;
/// Benchmark commands: a 32-bit write, see [`crate::bench::Command`].
pub const BENCH_COMMAND: u16 = 0x5a0;
/// An 8-bit write taken through the full exit path.
pub const BENCH_NOP: u16 = 0x5a8;
/// An 8-bit write handled as cheaply as the hypervisor can.
pub const BENCH_LIGHTEST: u16 = 0x5a9;
/// 8-bit: a write of n raises interrupt vector n on this vCPU as soon as it can
/// be delivered. Reads 0 once none is pending. For guests that test interrupts.
pub const RAISE_INTERRUPT: u16 = 0x5aa;
/// 8-bit: a write raises an NMI on this vCPU.
pub const RAISE_NMI: u16 = 0x5ab;
