//! Multiboot 2: what the header asks for, and the information as a naive reader finds it.

use crate::files::{self, Tag};
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_loader::{Entry, Format, Guest, Kind, Module, Note, Problem, ProtectedMode};

fn load_file(file: &[u8], ram: &mut FakeRam) -> ProtectedMode {
    let loaded = load_checked(&bare(Kind::Auto, file), ram).expect("loads");
    assert_eq!(loaded.format, Format::Multiboot2);
    let Entry::Protected(start) = loaded.entry else { panic!("not 32-bit") };
    assert_eq!(start.eax, 0x36d7_6289);
    start
}

fn problem(tags: &[Tag]) -> Problem {
    let file = files::multiboot2_elf(tags);
    load_checked(&bare(Kind::Auto, &file), &mut FakeRam::pc(16)).expect_err("refused").problem
}

/// Type and contents of each tag of the information.
fn tags(ram: &FakeRam, info: u64) -> Vec<(u32, Vec<u8>)> {
    let end = info + u64::from(ram.u32(info));
    let mut at = info + 8;
    let mut found = Vec::new();
    while at < end {
        let (kind, bytes) = (ram.u32(at), u64::from(ram.u32(at + 4)));
        found.push((kind, ram.bytes(at + 8, bytes - 8)));
        at += bytes.next_multiple_of(8);
    }
    assert_eq!(at, end, "the tags fill the information");
    assert_eq!(found.pop(), Some((0, vec![])), "the last tag is the end tag");
    found
}

#[test]
fn an_elf_kernel_finds_everything_in_its_tags() {
    let file = files::multiboot2_elf(&[]);
    let modules = [
        Module { name: "a", bytes: b"first", command_line: "one" },
        Module { name: "b", bytes: b"second", command_line: "" },
    ];
    let guest = Guest { command_line: "x=1 y", modules: &modules, ..bare(Kind::Auto, &file) };
    let mut ram = FakeRam::pc(16);
    let loaded = load_checked(&guest, &mut ram).expect("loads");
    let Entry::Protected(start) = loaded.entry else { panic!("not 32-bit") };
    let found = tags(&ram, start.ebx.into());
    let contents = |kind: u32| found.iter().filter(move |tag| tag.0 == kind).map(|tag| &tag.1[..]);

    assert_eq!(contents(1).collect::<Vec<_>>(), [b"x=1 y\0"]);
    assert_eq!(contents(2).collect::<Vec<_>>(), [b"Anchorite\0"]);
    let words = |bytes: &[u8]| -> Vec<u32> {
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    };
    for (module, tag) in modules.iter().zip(contents(3)) {
        let range = words(&tag[..8]);
        assert_eq!(range[0] % 4096, 0, "modules lie on pages");
        assert_eq!(ram.bytes(range[0].into(), u64::from(range[1] - range[0])), module.bytes);
        assert_eq!(tag[8..].strip_suffix(b"\0"), Some(module.command_line.as_bytes()));
    }
    assert_eq!(contents(3).count(), 2);
    assert_eq!(words(contents(4).next().unwrap()), [639, 15 * 1024]);
    let map = contents(6).next().unwrap();
    assert_eq!(words(&map[..8]), [24, 0], "entry size and version");
    let entries: Vec<Vec<u32>> = map[8..].chunks_exact(24).map(words).collect();
    let last = entries.last().unwrap();
    assert_eq!(last[..], [0x10_0000, 0, 0xf0_0000, 0, 1, 0]);
}

#[test]
fn a_file_that_is_no_elf_goes_where_its_tags_say() {
    let junk = 0x20;
    for (header, load, from) in [(0x10_0000, 0x10_0000, junk), (0x10_0020, u32::MAX, 0)] {
        let file = files::multiboot2_addresses(header, load);
        let mut ram = FakeRam::pc(16);
        let entry = u64::from(load_file(&file, &mut ram).eip);
        assert_eq!(ram.bytes(entry, 2), files::CODE);
        assert_eq!(ram.bytes(0x10_0000, 0x40), file[from..from + 0x40]);
    }
}

#[test]
fn the_entry_address_tag_stands_above_the_elf_header() {
    let mut ram = FakeRam::pc(16);
    let file = files::multiboot2_elf(&[(3, 0, &[0x10_0004])]);
    assert_eq!(load_file(&file, &mut ram).eip, 0x10_0004);
    let outside = problem(&[(3, 0, &[0x30_0000])]);
    assert!(matches!(outside, Problem::Field { value: 0x30_0000, .. }), "{outside}");
}

#[test]
fn what_cannot_be_given_is_refused_unless_it_is_optional() {
    let request: [u32; 2] = [6, 8];
    assert!(matches!(problem(&[(1, 0, &request)]), Problem::Field { value: 8, .. }));
    assert!(matches!(problem(&[(7, 0, &[])]), Problem::Field { value: 7, .. }));
    for tags in [[(1, 1, &request[..])], [(7, 1, &[])], [(6, 0, &[])], [(4, 0, &[3])]] {
        load_file(&files::multiboot2_elf(&tags), &mut FakeRam::pc(16));
    }
    let file = files::multiboot2_elf(&[(5, 1, &[1024, 768, 32])]);
    let loaded = load_checked(&bare(Kind::Auto, &file), &mut FakeRam::pc(16)).expect("loads");
    assert_eq!(loaded.notes, [Note::VideoModeIgnored]);
}

#[test]
fn addresses_without_an_entry_are_refused() {
    let missing = problem(&[(2, 0, &[0x10_0000, 0x10_0000, 0, 0])]);
    assert!(matches!(missing, Problem::NoMark { .. }), "{missing}");
}
