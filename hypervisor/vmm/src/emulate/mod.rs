//! Instruction decoding and the emulation of memory accesses.
