//! Hands the image's linker script to the linker.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo:rustc-link-arg-bins=-T{folder}/linker.ld");
    println!("cargo:rerun-if-changed=linker.ld");
}
