//! The multiboot information, read by a naive reader that knows only the
//! specification's table of offsets (3.3 "Boot information format").

use crate::files;
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_addr::Gpa;
use anchorite_loader::{Entry, Guest, Kind, MemoryRange, Module, RangeKind};
use proptest::prelude::*;

/// What a kernel would understand.
#[derive(Debug, PartialEq, Eq)]
struct Understood {
    lower_kib: u32,
    upper_kib: u32,
    command_line: String,
    loader: String,
    modules: Vec<(Vec<u8>, String)>,
    map: Vec<(u64, u64, u32)>,
}

fn understand(ram: &FakeRam, info: u64) -> Understood {
    assert_eq!(ram.u32(info), 0b10_0100_1101, "memory, command line, modules, map, name");
    Understood {
        lower_kib: ram.u32(info + 4),
        upper_kib: ram.u32(info + 8),
        command_line: ram.text(ram.u32(info + 16).into()),
        loader: ram.text(ram.u32(info + 64).into()),
        modules: modules(ram, ram.u32(info + 20), ram.u32(info + 24).into()),
        map: map(ram, ram.u32(info + 44), ram.u32(info + 48).into()),
    }
}

fn modules(ram: &FakeRam, count: u32, list: u64) -> Vec<(Vec<u8>, String)> {
    let read = |index: u32| {
        let entry = list + 16 * u64::from(index);
        let (start, end) = (ram.u32(entry), ram.u32(entry + 4));
        assert_eq!(start % 4096, 0, "modules lie on pages");
        assert_eq!(ram.u32(entry + 12), 0, "reserved");
        let bytes = ram.bytes(start.into(), (end - start).into());
        (bytes, ram.text(ram.u32(entry + 8).into()))
    };
    (0..count).map(read).collect()
}

fn map(ram: &FakeRam, length: u32, start: u64) -> Vec<(u64, u64, u32)> {
    let mut entries = Vec::new();
    let mut at = start;
    while at < start + u64::from(length) {
        entries.push((ram.u64(at + 4), ram.u64(at + 12), ram.u32(at + 20)));
        at += u64::from(ram.u32(at)) + 4;
    }
    entries
}

fn load_and_understand(guest: &Guest, ram: &mut FakeRam) -> Understood {
    let loaded = load_checked(guest, ram).expect("loads");
    let Entry::Protected(start) = loaded.entry else { panic!("not 32-bit") };
    assert_eq!(start.eax, 0x2bad_b002);
    understand(ram, start.ebx.into())
}

#[test]
fn a_kernel_understands_what_it_was_given() {
    let file = files::multiboot_elf(3);
    let modules = [
        Module { name: "a", bytes: &[7; 5000], command_line: "a one" },
        Module { name: "b", bytes: b"b", command_line: "" },
    ];
    let guest = Guest { command_line: "x=1 y", modules: &modules, ..bare(Kind::Auto, &file) };
    let understood = load_and_understand(&guest, &mut FakeRam::pc(16));
    let expected = Understood {
        lower_kib: 639,
        upper_kib: 15 * 1024,
        command_line: "x=1 y".into(),
        loader: "Anchorite".into(),
        modules: vec![(vec![7; 5000], "a one".into()), (b"b".to_vec(), String::new())],
        map: vec![(0, 0xa_0000, 1), (0x10_0000, 15 << 20, 1)],
    };
    assert_eq!(understood, expected);
}

#[test]
fn reserved_ranges_are_told_by_their_type() {
    let range = |start, bytes, kind| MemoryRange { start: Gpa::new(start), bytes, kind };
    let mut ram = FakeRam::with_map(vec![
        range(0, 0x9_f000, RangeKind::Ram),
        range(0xf_0000, 0x1_0000, RangeKind::Reserved),
        range(0x10_0000, 0x40_0000, RangeKind::Ram),
        range(0x50_0000, 0x1000, RangeKind::AcpiReclaimable),
        range(0x50_1000, 0x1000, RangeKind::AcpiNvs),
        range(1 << 32, 1 << 30, RangeKind::Ram),
    ]);
    let file = files::multiboot_elf(3);
    let understood = load_and_understand(&bare(Kind::Auto, &file), &mut ram);
    let kinds: Vec<u32> = understood.map.iter().map(|entry| entry.2).collect();
    assert_eq!(kinds, [1, 2, 1, 3, 4, 1]);
    assert_eq!((understood.lower_kib, understood.upper_kib), (0x9_f000 / 1024, 4096));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_modules_and_texts_reach_the_kernel(
        text in "[ -~]{0,300}",
        files in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..9000), "[ -~]{0,40}"), 0..6),
        mib in 2u64..8,
    ) {
        let modules: Vec<Module> = files
            .iter()
            .map(|(bytes, text)| Module { name: "module", bytes, command_line: text })
            .collect();
        let kernel = files::multiboot_addresses(3, files::GOOD_ADDRESSES);
        let guest = Guest { command_line: &text, modules: &modules, ..bare(Kind::Auto, &kernel) };
        let understood = load_and_understand(&guest, &mut FakeRam::pc(mib));
        prop_assert_eq!(understood.command_line, text);
        prop_assert_eq!(understood.modules, files);
    }
}
