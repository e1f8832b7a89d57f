//! Instruction decoding and the emulation of memory accesses.
//!
//! | file | answers |
//! |---|---|
//! | [`length`] | how long an intercepted instruction is, and its operands; fast |
//! | [`mode`] | 16, 32 or 64 bits, stack size, canonical width |
//! | [`address`] | effective and linear addresses, limits, #GP and #SS |
//! | [`execute`] | what each instruction does; [`emulate()`](emulate) |
//! | [`operands`] | registers, immediates and memory as operands |
//! | [`flags`] | arithmetic and the RFLAGS it leaves |
//! | [`environment`] | what the machine must provide, and faults |

pub mod address;
mod cursor;
pub mod environment;
pub mod execute;
pub mod flags;
pub mod length;
pub mod mode;
mod modrm;
pub mod operands;

pub use address::{Access, MemoryOperand};
pub use environment::{Environment, Exception, Fault};
pub use execute::{EmulationError, Outcome, decode, emulate, is_repeated_store};
pub use length::{
    Intercepted, Operation, Store, StoredValue, instruction_length, intercepted, store,
};
pub use mode::{CodeSize, Mode};
