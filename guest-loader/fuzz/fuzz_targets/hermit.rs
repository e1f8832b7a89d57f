//! Loads the input as `hermit`; the checks are those of the loader's own tests.
#![no_main]

use anchorite_loader::{Format, Kind};
use libfuzzer_sys::fuzz_target;

#[expect(dead_code, reason = "shared with the loader's tests, which use all of it")]
#[path = "../../loader/tests/suite/ram.rs"]
mod ram;

fuzz_target!(|file: &[u8]| {
    let guest = ram::bare(Kind::Is(Format::Hermit), file);
    let _ = ram::load_checked(&guest, &mut ram::FakeRam::pc(8));
});
