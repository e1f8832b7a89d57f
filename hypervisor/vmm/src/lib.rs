//! The machine: memory slots, translation, the run loop, exits, devices.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod devices;
pub mod emulate;
