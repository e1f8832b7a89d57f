//! Takes the input for a sequence of operations, carried out on the engine and on the reference:
//! `cargo xtask fuzz operations`.
#![no_main]

use anchorite_shadow::AnyMmu;
use libfuzzer_sys::fuzz_target;

#[expect(dead_code, reason = "shared with the engine's tests, which use all of it")]
#[path = "../../tests/support/mod.rs"]
mod support;

fuzz_target!(|data: &[u8]| {
    if let Some(script) = support::run::Script::from_bytes(data) {
        script.check::<AnyMmu<support::machine::Machine>>("run the same input again");
    }
});
