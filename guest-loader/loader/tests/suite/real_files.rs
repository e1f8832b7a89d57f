//! Kernels that others wrote, where they are installed. Their headers' values are also
//! tested as handcrafted files, so that nothing depends on the installation.

use crate::files::{self, Addresses, Linux};
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_loader::{Entry, Format, Guest, Kind, Loaded};
use std::path::Path;

/// Debian's memtest86+ 6.10 as its setup header describes it.
const MEMTEST: Linux = Linux {
    setup_sectors: 2,
    version: 0x020c,
    load_flags: 1,
    relocatable: 0,
    xload_flags: 1,
    alignment: 0x1000,
    preferred: 0x10_0000,
    init_size: 0x6_acf8,
    command_line_bytes: 255,
    initrd_max: u32::MAX,
};

/// Debian's grub-invaders 1.0.0 as its multiboot header describes it, but for the ends.
const INVADERS: Addresses = Addresses {
    header: 0x10_0010,
    load: 0x10_0000,
    load_end: 0x10_0032,
    bss_end: 0x10_5b50,
    entry: 0x10_0024,
};

fn check_memtest(file: &[u8], text: &str) {
    let guest = Guest { command_line: text, ..bare(Kind::Auto, file) };
    let mut ram = FakeRam::pc(64);
    let loaded = load_checked(&guest, &mut ram).expect("loads");
    let Entry::Protected(start) = loaded.entry else { panic!("not 32-bit") };
    assert_eq!((loaded.format, start.eip), (Format::Linux, 0x10_0000));
    assert_eq!(ram.text(ram.u32(u64::from(start.esi) + 0x228).into()), text);
    assert_eq!(placed_at(&loaded, 0x10_0000), 0x6_acf8);
}

fn check_invaders(file: &[u8]) {
    let loaded = load_checked(&bare(Kind::Auto, file), &mut FakeRam::pc(16)).expect("loads");
    let Entry::Protected(start) = loaded.entry else { panic!("not 32-bit") };
    assert_eq!((loaded.format, start.eip), (Format::Multiboot, 0x10_0024));
    assert_eq!(placed_at(&loaded, 0x10_0000), 0x5b50);
}

fn placed_at(loaded: &Loaded, start: u64) -> u64 {
    let block = loaded.placements.iter().find(|block| block.start.as_u64() == start);
    block.expect("a block at that address").bytes
}

/// The file, or a line that says that it is not there.
fn installed(path: &str, package: &str) -> Option<Vec<u8>> {
    let file = std::fs::read(Path::new(path)).ok();
    if file.is_none() {
        println!("{path} is not installed (Debian package {package}); its header is still tested");
    }
    file
}

#[test]
fn memtest_starts_at_one_mib_with_its_command_line() {
    check_memtest(&files::linux(&MEMTEST), "console=ttyS0,115200 nosmp");
    if let Some(file) = installed("/boot/memtest86+x64.bin", "memtest86+") {
        check_memtest(&file, "console=ttyS0,115200 nosmp");
    }
}

#[test]
fn grub_invaders_starts_where_its_header_says() {
    check_invaders(&files::multiboot_addresses(3, INVADERS));
    if let Some(file) = installed("/boot/invaders.exec", "grub-invaders") {
        check_invaders(&file);
    }
}
