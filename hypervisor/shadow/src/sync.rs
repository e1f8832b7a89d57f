//! Atomics. `tests/loom.rs` compiles `flush.rs` with those of the model checker in this place.

pub(crate) use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
