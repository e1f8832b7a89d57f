//! One test and more for each format: what lies where and how it starts.

use crate::files::{self, Addresses, GOOD_ADDRESSES, Linux, RECENT_LINUX, Segment};
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_loader::{
    Entry, Format, Guest, Kind, Loaded, LongMode, Module, Note, Problem, ProtectedMode,
};

fn loaded(file: &[u8], ram: &mut FakeRam) -> Loaded {
    load_checked(&bare(Kind::Auto, file), ram).unwrap_or_else(|error| panic!("{error}"))
}

fn problem(file: &[u8]) -> Problem {
    let guest = bare(Kind::Auto, file);
    load_checked(&guest, &mut FakeRam::pc(16)).expect_err("a good file").problem
}

fn protected(loaded: &Loaded) -> ProtectedMode {
    match loaded.entry {
        Entry::Protected(start) => start,
        other => panic!("not 32-bit: {other:?}"),
    }
}

fn field_of(problem: &Problem) -> &'static str {
    match problem {
        Problem::Field { field, .. } => field,
        other => panic!("names no field: {other}"),
    }
}

#[test]
fn every_format_is_recognized_by_itself() {
    let expected = [
        Format::Elf,
        Format::Elf,
        Format::Pvh,
        Format::Pvh,
        Format::Multiboot,
        Format::Multiboot,
        Format::Multiboot2,
        Format::Multiboot2,
        Format::Multiboot,
        Format::Linux,
        Format::Hermit,
        Format::Hermit,
        Format::BOOT_SECTOR,
    ];
    for ((name, file), format) in files::all().iter().zip(expected) {
        assert_eq!(loaded(file, &mut FakeRam::pc(16)).format, format, "{name}");
    }
}

#[test]
fn a_boot_sector_starts_in_real_mode_where_the_bios_puts_it() {
    let mut ram = FakeRam::pc(2);
    let Entry::Real(start) = loaded(&files::boot_sector(), &mut ram).entry else {
        panic!("not real mode")
    };
    assert_eq!((start.cs, start.ip, start.dl), (0, 0x7c00, 0x80));
    assert_eq!(ram.bytes(0x7c00, 512), files::boot_sector());
}

#[test]
fn a_flat_binary_lies_at_its_first_instruction() {
    let mut ram = FakeRam::pc(2);
    let kind = "flat:1000:20".parse().expect("a kind");
    let loaded = load_checked(&bare(kind, &files::CODE), &mut ram).expect("loads");
    let Entry::Real(start) = loaded.entry else { panic!("not real mode") };
    assert_eq!((start.cs, start.ip), (0x1000, 0x20));
    assert_eq!(ram.bytes(0x1_0020, 2), files::CODE);
}

#[test]
fn a_flat_binary_refuses_what_it_cannot_be_told() {
    let module = Module { name: "m", bytes: b"x", command_line: "" };
    let flat = bare(Kind::Is(Format::BOOT_SECTOR), &files::CODE);
    let with_module = Guest { modules: &[module], ..flat };
    let with_text = Guest { command_line: "text", ..flat };
    for guest in [with_module, with_text, Guest { bytes: &[], ..flat }] {
        assert!(load_checked(&guest, &mut FakeRam::pc(2)).is_err(), "{guest:?}");
    }
}

#[test]
fn a_plain_elf64_file_starts_in_64_bit_mode_with_4_gib_mapped_one_to_one() {
    let mut ram = FakeRam::pc(16);
    let Entry::Long(start) = loaded(&files::plain64(), &mut ram).entry else {
        panic!("not 64-bit")
    };
    assert_eq!(start.rip, 0x10_0001);
    assert_eq!(ram.bytes(0x10_0000, 2), files::CODE);
    for address in [0, 0x10_0001, 0x1234_5678, 0xffff_ffff] {
        assert_eq!(walk(&ram, &start, address), Some(address), "{address:#x}");
    }
    assert_eq!(walk(&ram, &start, 1 << 32), None);
    assert_eq!(ram.u32(start.rdi), 0x336e_c578, "a start-info block");
    let gdt = start.gdt.base.as_u64();
    assert_eq!(ram.u64(gdt + u64::from(start.code_selector)), 0x00af_9b00_0000_ffff);
    assert_eq!(ram.u64(gdt + u64::from(start.data_selector)), 0x00cf_9300_0000_ffff);
}

/// Four-level translation as in AMD64 APM vol. 2, 5.3 "Long-Mode Page Translation".
fn walk(ram: &FakeRam, start: &LongMode, address: u64) -> Option<u64> {
    let mut table = start.cr3.as_u64();
    for shift in [39, 30, 21, 12] {
        let entry = ram.u64(table + (address >> shift & 0x1ff) * 8);
        if entry & 1 == 0 {
            return None;
        }
        let base = entry & 0x000f_ffff_ffff_f000;
        if entry & 0x80 != 0 {
            return Some(base + (address & ((1 << shift) - 1)));
        }
        table = base;
    }
    Some(table + (address & 0xfff))
}

#[test]
fn a_plain_elf32_file_starts_at_the_physical_address_of_its_entry() {
    let mut ram = FakeRam::pc(16);
    let start = protected(&loaded(&files::plain32(), &mut ram));
    assert_eq!(start.eip, 0x10_0001, "the header says 0xc0100001");
    assert_eq!(ram.bytes(0x20_0000, 8), b"data\0\0\0\0");
    assert_eq!(ram.u32(start.ebx.into()), 0x336e_c578);
}

#[test]
fn an_entry_that_is_physical_already_is_taken() {
    let code = Segment { virtual_start: 0xc010_0000, ..Segment::load(0x10_0000, &[0x90; 4], 4) };
    let file = files::elf32(0x10_0002, &[code]);
    assert_eq!(protected(&loaded(&file, &mut FakeRam::pc(4))).eip, 0x10_0002);
}

#[test]
fn a_pvh_kernel_starts_at_its_notes_entry_with_its_start_info() {
    for file in [files::pvh64(0x10_0001), files::pvh32(0x10_0001)] {
        let modules = [
            Module { name: "a", bytes: b"first", command_line: "one 1" },
            Module { name: "b", bytes: b"second", command_line: "" },
        ];
        let guest = Guest { command_line: "hello", modules: &modules, ..bare(Kind::Auto, &file) };
        let mut ram = FakeRam::pc(16);
        let start = protected(&load_checked(&guest, &mut ram).expect("loads"));
        assert_eq!(start.eip, 0x10_0001);
        check_start_info(&ram, start.ebx.into(), &guest);
    }
}

/// Reads the block with the offsets of start_info.h.
fn check_start_info(ram: &FakeRam, info: u64, guest: &Guest) {
    assert_eq!((ram.u32(info), ram.u32(info + 4)), (0x336e_c578, 1));
    assert_eq!(ram.text(ram.u64(info + 24)), guest.command_line);
    assert_eq!(ram.u64(info + 32), 0, "no RSDP");

    assert_eq!(ram.u32(info + 12) as usize, guest.modules.len());
    for (index, module) in guest.modules.iter().enumerate() {
        let entry = ram.u64(info + 16) + 32 * index as u64;
        let (start, bytes) = (ram.u64(entry), ram.u64(entry + 8));
        assert_eq!(ram.bytes(start, bytes), module.bytes);
        assert_eq!(ram.text(ram.u64(entry + 16)), module.command_line);
    }

    assert_eq!(ram.u32(info + 48), 2);
    let map = ram.u64(info + 40);
    let entry = |at: u64| (ram.u64(at), ram.u64(at + 8), ram.u32(at + 16));
    assert_eq!(entry(map), (0, 0xa_0000, 1));
    assert_eq!(entry(map + 24), (0x10_0000, 15 << 20, 1));
}

#[test]
fn a_pvh_entry_outside_the_segments_is_refused() {
    assert_eq!(field_of(&problem(&files::pvh64(0x50_0000))), "the entry in the PVH note");
    assert_eq!(field_of(&problem(&files::pvh64(0x1_0010_0000))), "the entry in the PVH note");
}

#[test]
fn a_multiboot_image_lies_where_its_header_says() {
    let mut ram = FakeRam::pc(16);
    let file = files::multiboot_addresses(3, GOOD_ADDRESSES);
    let loaded = loaded(&file, &mut ram);
    let start = protected(&loaded);
    assert_eq!((start.eax, start.eip), (0x2bad_b002, 0x10_0030));
    assert_eq!(ram.bytes(0x10_0000, 0x32), file[0x20..]);
    let image = loaded.placements.iter().find(|block| block.start.as_u64() == 0x10_0000);
    assert_eq!(image.expect("the image").bytes, 0x2000, "bss included");
}

#[test]
fn zero_ends_mean_the_whole_file_and_no_bss() {
    let mut ram = FakeRam::pc(16);
    let addresses = Addresses { load_end: 0, bss_end: 0, ..GOOD_ADDRESSES };
    let loaded = loaded(&files::multiboot_addresses(0, addresses), &mut ram);
    let image = loaded.placements.iter().find(|block| block.start.as_u64() == 0x10_0000);
    assert_eq!(image.expect("the image").bytes, 0x32);
}

#[test]
fn a_multiboot_elf_file_starts_at_its_elf_entry() {
    let start = protected(&loaded(&files::multiboot_elf(3), &mut FakeRam::pc(16)));
    assert_eq!((start.eax, start.eip), (0x2bad_b002, 0x10_000c));
}

#[test]
fn each_impossible_address_field_is_named() {
    let good = GOOD_ADDRESSES;
    let cases = [
        (Addresses { load: 0x20_0000, ..good }, "load_addr"),
        (Addresses { header: 0x10_0040, ..good }, "header_addr"),
        (Addresses { load_end: 0xf_0000, ..good }, "load_end_addr"),
        (Addresses { bss_end: 0x10_0031, ..good }, "bss_end_addr"),
        (Addresses { entry: 0x10_2000, ..good }, "entry_addr"),
        (Addresses { entry: 0xf_ffff, ..good }, "entry_addr"),
    ];
    for (addresses, field) in cases {
        let found = problem(&files::multiboot_addresses(0, addresses));
        assert_eq!(field_of(&found), format!("{field} of the multiboot header"));
    }
    let beyond = Addresses { load_end: 0x10_0033, ..good };
    let found = problem(&files::multiboot_addresses(0, beyond));
    assert!(matches!(found, Problem::Truncated { bytes: 0x33, .. }), "{found}");
}

#[test]
fn an_unknown_multiboot_requirement_is_refused_and_a_video_mode_is_ignored_with_a_note() {
    assert_eq!(field_of(&problem(&files::multiboot_elf(1 << 3))), "flags of the multiboot header");
    let loaded = loaded(&files::multiboot_elf(7), &mut FakeRam::pc(16));
    assert_eq!(loaded.notes, [Note::VideoModeIgnored]);
}

#[test]
fn an_optional_multiboot_flag_that_nobody_knows_is_no_obstacle() {
    assert_eq!(loaded(&files::multiboot_elf(1 << 20), &mut FakeRam::pc(16)).notes, []);
}

#[test]
fn a_multiboot_header_behind_8_kib_is_none() {
    let mut file = vec![0; 8192 - 8];
    file.extend(files::multiboot_header(0));
    assert_eq!(problem(&file), Problem::Unrecognized);
}

#[test]
fn a_linux_kernel_gets_zero_page_command_line_memory_map_and_ram_disk() {
    let module = Module { name: "initrd", bytes: b"070701", command_line: "" };
    let file = files::linux(&RECENT_LINUX);
    let guest = Guest { command_line: "quiet", modules: &[module], ..bare(Kind::Auto, &file) };
    let mut ram = FakeRam::pc(16);
    let start = protected(&load_checked(&guest, &mut ram).expect("loads"));

    assert_eq!(start.eip, 0x40_0000);
    assert_eq!(ram.bytes(0x40_0000, 0x1b), file[1536..]);
    let zero = u64::from(start.esi);
    assert_eq!(ram.bytes(zero + 0x1f1, 0x1f), file[0x1f1..0x210], "the header is copied");
    assert_eq!(ram.byte(zero + 0x210), 0xff, "type_of_loader");
    assert_eq!(ram.u32(zero + 0x214), 0x40_0000, "code32_start");
    assert_eq!(ram.text(ram.u32(zero + 0x228).into()), "quiet");
    let (disk, bytes) = (ram.u32(zero + 0x218), ram.u32(zero + 0x21c));
    assert_eq!(ram.bytes(disk.into(), bytes.into()), b"070701");
    assert_eq!(ram.byte(zero + 0x1e8), 2, "entries of the memory map");
    assert_eq!((ram.u64(zero + 0x2e4), ram.u64(zero + 0x2ec)), (0x10_0000, 15 << 20));
    assert_eq!(ram.u32(zero + 0x2f4), 1);
}

#[test]
fn a_linux_kernel_gets_the_gdt_that_its_protocol_promises() {
    let mut ram = FakeRam::pc(16);
    let start = protected(&loaded(&files::linux(&RECENT_LINUX), &mut ram));
    assert_eq!((start.code_selector, start.data_selector), (0x10, 0x18));
    let gdt = start.gdt.expect("a GDT");
    assert_eq!(ram.u64(gdt.base.as_u64() + 0x10), 0x00cf_9b00_0000_ffff);
    assert_eq!(ram.u64(gdt.base.as_u64() + 0x18), 0x00cf_9300_0000_ffff);
}

#[test]
fn a_relocatable_linux_kernel_moves_where_its_preferred_place_is_no_ram() {
    let fields = Linux { preferred: 0x4000_0000, ..RECENT_LINUX };
    let start = protected(&loaded(&files::linux(&fields), &mut FakeRam::pc(16)));
    assert_eq!(start.eip, 0x20_0000);
    let fixed = Linux { relocatable: 0, init_size: 0x100_0000, ..RECENT_LINUX };
    let found = problem(&files::linux(&fixed));
    assert!(matches!(found, Problem::OutsideRam { start: 0x10_0000, .. }), "{found}");
}

#[test]
fn old_linux_headers_are_read_as_their_version_means_them() {
    let old = Linux { version: 0x0202, setup_sectors: 0, ..RECENT_LINUX };
    let file = files::linux(&old);
    let text = "x".repeat(255);
    let guest = Guest { command_line: &text, ..bare(Kind::Auto, &file) };
    let start = protected(&load_checked(&guest, &mut FakeRam::pc(16)).expect("loads"));
    assert_eq!(start.eip, 0x10_0000, "2.02 has no preferred address");
}

#[test]
fn linux_kernels_that_cannot_be_started_are_refused_by_field() {
    let cases = [
        (Linux { version: 0x0201, ..RECENT_LINUX }, "version"),
        (Linux { load_flags: 0, ..RECENT_LINUX }, "loadflags"),
        (Linux { alignment: 3, ..RECENT_LINUX }, "kernel_alignment"),
        (Linux { preferred: 0xffff_0000, ..RECENT_LINUX }, "pref_address"),
        (Linux { preferred: u64::MAX, ..RECENT_LINUX }, "pref_address"),
    ];
    for (fields, field) in cases {
        let found = problem(&files::linux(&fields));
        assert_eq!(field_of(&found), format!("{field} of the Linux setup header"));
    }
}

#[test]
fn a_file_of_another_format_than_asked_for_is_refused_by_its_missing_mark() {
    for kind in ["linux", "multiboot", "pvh", "elf"] {
        let kind = kind.parse().expect("a kind");
        let found = load_checked(&bare(kind, &files::boot_sector()), &mut FakeRam::pc(4));
        let found = found.expect_err("a boot sector").problem;
        assert!(matches!(found, Problem::NoMark { .. }), "{kind:?}: {found}");
    }
    assert_eq!(problem(b"#!/bin/sh\n"), Problem::Unrecognized);
}

#[test]
fn segments_that_overlap_or_leave_ram_are_refused() {
    let first = Segment::load(0x10_0000, &files::CODE, 0x1000);
    let second = Segment::load(0x10_0fff, &files::CODE, 0x1000);
    let found = problem(&files::elf64(0x10_0000, &[first.clone(), second]));
    assert!(matches!(found, Problem::Overlap { start: 0x10_0fff, .. }), "{found}");

    for start in [0x9_ffff, 0xff_fff0, 0x4000_0000_0000, u64::MAX - 0xffff] {
        let second = Segment::load(start, &files::CODE, 0x1000);
        let found = problem(&files::elf64(0x10_0000, &[first.clone(), second]));
        assert!(matches!(found, Problem::OutsideRam { .. }), "{start:#x}: {found}");
    }
}

#[test]
fn a_segment_may_fill_ram_to_its_last_byte_and_not_one_more() {
    let last = |bytes| {
        let segment = Segment::load(0x10_0000, &files::CODE, bytes);
        files::elf32(0x10_0000, &[segment])
    };
    let ram = || FakeRam::new(&[(0, 0xa_0000), (0x10_0000, 0x3000)]);
    assert!(load_checked(&bare(Kind::Auto, &last(0x3000)), &mut ram()).is_ok());
    let found = load_checked(&bare(Kind::Auto, &last(0x3001)), &mut ram()).expect_err("too long");
    assert!(matches!(found.problem, Problem::OutsideRam { bytes: 0x3001, .. }), "{found}");
}

#[test]
fn an_entry_at_the_end_of_its_segment_is_refused() {
    let file = |entry| files::elf32(entry, &[Segment::load(0x10_0000, &files::CODE, 0x10)]);
    assert_eq!(protected(&loaded(&file(0x10_000f), &mut FakeRam::pc(4))).eip, 0x10_000f);
    assert_eq!(field_of(&problem(&file(0x10_0010))), "e_entry of the ELF header");
}
