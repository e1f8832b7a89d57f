//! Command lines, modules and small memories.

use crate::files::{self, RECENT_LINUX};
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_loader::{Format, Guest, Kind, Module, Problem, UnknownKind};

fn every_file_with(change: impl Fn(&mut Guest), mut check: impl FnMut(&str, Problem)) {
    for (name, file) in files::all() {
        let mut guest = bare(Kind::Auto, &file);
        change(&mut guest);
        if name != "boot_sector" {
            let error = load_checked(&guest, &mut FakeRam::pc(16)).expect_err(name);
            check(name, error.problem);
        }
    }
}

#[test]
fn a_zero_byte_in_a_command_line_is_refused() {
    every_file_with(
        |guest| guest.command_line = "a\0b",
        |name, problem| {
            let found = Problem::TextWithZero { what: "the command line", offset: 1 };
            assert_eq!(problem, found, "{name}");
        },
    );
}

#[test]
fn a_module_larger_than_ram_is_refused_by_name() {
    let bytes = vec![1; 17 << 20];
    let modules = [Module { name: "huge.img", bytes: &bytes, command_line: "" }];
    let guest_file = files::all();
    // Of these one takes no modules, the other gets them by hypercalls.
    let without = |name: &str| name == "boot_sector" || name.starts_with("hermit");
    for (name, file) in guest_file.iter().filter(|(name, _)| !without(name)) {
        let guest = Guest { modules: &modules, ..bare(Kind::Auto, file) };
        let error = load_checked(&guest, &mut FakeRam::pc(16)).expect_err(name);
        assert!(error.to_string().contains("huge.img"), "{error}");
    }
}

#[test]
fn linux_refuses_a_second_ram_disk_and_a_command_line_beyond_its_limit() {
    let file = files::linux(&RECENT_LINUX);
    let module = Module { name: "initrd", bytes: b"x", command_line: "" };
    let two = Guest { modules: &[module, module], ..bare(Kind::Auto, &file) };
    let found = load_checked(&two, &mut FakeRam::pc(16)).expect_err("two").problem;
    assert!(matches!(found, Problem::TooManyModules { given: 2, limit: 1, .. }), "{found}");

    for (length, fits) in [(64, true), (65, false)] {
        let text = "x".repeat(length);
        let guest = Guest { command_line: &text, ..bare(Kind::Auto, &file) };
        let result = load_checked(&guest, &mut FakeRam::pc(16));
        assert_eq!(result.is_ok(), fits, "{length} bytes");
    }
}

#[test]
fn a_guest_without_room_is_told_so_at_every_size_of_memory() {
    let modules = [Module { name: "m", bytes: &[5; 3000], command_line: "m" }];
    for (name, file) in files::all() {
        let fits = |pages: u64| {
            let guest = Guest { modules: &modules, command_line: "c", ..bare(Kind::Auto, &file) };
            load_checked(&guest, &mut FakeRam::new(&[(0x10_0000, pages * 4096)])).is_ok()
        };
        let smallest = (0..2000).find(|&pages| fits(pages));
        assert_eq!(smallest.is_none(), name == "boot_sector", "{name}");
        if let Some(smallest) = smallest {
            assert!((smallest..smallest + 50).all(fits), "{name}: more memory must not hurt");
        }
    }
}

#[test]
fn kinds_are_read_from_text_and_printed_back() {
    for text in
        ["linux", "linux64", "multiboot", "multiboot2", "pvh", "elf", "flat:0:7c00", "flat:ffff:10"]
    {
        let Ok(Kind::Is(format)) = text.parse::<Kind>() else { panic!("{text}") };
        assert_eq!(format.to_string(), text);
    }
    assert_eq!("auto".parse(), Ok(Kind::Auto));
    assert_eq!("flat".parse(), Ok(Kind::Is(Format::BOOT_SECTOR)));
    assert_eq!("flat:0x10:0x20".parse(), Ok(Kind::Is(Format::Flat { segment: 16, offset: 32 })));
    for text in ["", "Auto", "flat:", "flat:1", "flat:10000:0", "flat:1:2:3", "elf32", "flat:-1:0"]
    {
        assert_eq!(text.parse::<Kind>(), Err(UnknownKind), "{text:?}");
    }
}
