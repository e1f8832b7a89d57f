//! The 64-bit entry of a bzImage.

use crate::files::{self, RECENT_LINUX};
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_loader::{Entry, Format, Guest, Kind, Problem};

const KIND: Kind = Kind::Is(Format::Linux64);

/// A kernel with a protected-mode part of 0x211 bytes.
fn kernel(xload_flags: u16) -> Vec<u8> {
    let mut file = files::linux(&files::Linux { xload_flags, ..RECENT_LINUX });
    file[0x1f4] = 0x22;
    file.resize(file.len() + 0x1f6, 0x90);
    file
}

#[test]
fn the_kernel_is_entered_in_64_bit_mode_with_the_zero_page_in_rsi() {
    let file = kernel(1);
    let mut ram = FakeRam::pc(16);
    let guest = Guest { command_line: "quiet", ..bare(KIND, &file) };
    let loaded = load_checked(&guest, &mut ram).expect("loads");
    let Entry::Long(start) = loaded.entry else { panic!("not 64-bit") };
    assert_eq!((start.rip, start.rdi), (0x40_0200, 0));
    assert_eq!((start.code_selector, start.data_selector), (0x10, 0x18));
    let command_line = ram.u32(start.rsi + 0x228);
    assert_eq!(ram.text(command_line.into()), "quiet");
    // The code segment's descriptor: present, ring 0, code, 64-bit.
    let code = ram.u64(start.gdt.base.as_u64() + 0x10);
    assert_eq!(code >> 40 & 0xff, 0x9b);
    assert_eq!(code >> 52 & 0xf, 0xa);
    // The first gigabyte's first page is mapped one to one.
    let mut table = start.cr3.as_u64();
    for _ in 0..2 {
        table = ram.u64(table) & !0xfff;
    }
    assert_eq!(ram.u64(table), 0x83);
    assert_eq!(ram.u64(table + 8), 0x20_0083);
}

#[test]
fn a_kernel_without_the_entry_is_refused_by_field_and_remedy() {
    for file in [kernel(0), files::linux(&files::Linux { xload_flags: 1, ..RECENT_LINUX })] {
        let error = load_checked(&bare(KIND, &file), &mut FakeRam::pc(16)).expect_err("refused");
        let Problem::Field { field, remedy, .. } = error.problem else { panic!("{error}") };
        assert!(field.starts_with("xloadflags") && remedy.contains("kind linux"), "{error}");
    }
    let old = files::linux(&files::Linux { version: 0x020b, ..RECENT_LINUX });
    assert!(load_checked(&bare(KIND, &old), &mut FakeRam::pc(16)).is_err());
}
