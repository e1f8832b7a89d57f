//! Instruction decoding and the emulation of memory accesses.
//!
//! | file | answers |
//! |---|---|
//! | [`length`] | how long an intercepted instruction is, and its operands; fast |
//! | [`mode`] | 16, 32 or 64 bits, stack size, canonical width |
//! | [`address`] | effective and linear addresses, limits, #GP and #SS |
//! | [`environment`] | what the machine must provide, and faults |

pub mod address;
pub mod environment;
pub mod length;
pub mod mode;

pub use address::{Access, MemoryOperand};
pub use environment::{Environment, Exception, Fault};
pub use length::{Intercepted, Operation, instruction_length, intercepted};
pub use mode::{CodeSize, Mode};
