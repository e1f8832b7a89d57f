//! Takes the input for a program of port, memory and MSR accesses, carried out on all devices:
//! `cargo xtask fuzz devices`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/device_support/mod.rs"]
mod device_support;

fuzz_target!(|program: &[u8]| device_support::run(program));
