//! Files that are cut short or changed: never a panic, and whatever loads keeps the
//! promises that `load_checked` checks.

use crate::files;
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_loader::{Format, Kind};

const KINDS: [Kind; 9] = [
    Kind::Auto,
    Kind::Is(Format::Linux),
    Kind::Is(Format::Linux64),
    Kind::Is(Format::Multiboot),
    Kind::Is(Format::Multiboot2),
    Kind::Is(Format::Pvh),
    Kind::Is(Format::Hermit),
    Kind::Is(Format::Elf),
    Kind::Is(Format::BOOT_SECTOR),
];

/// Loads as every kind; gives how many of them went well.
fn load_as_all(file: &[u8]) -> usize {
    let good = |kind: &&Kind| load_checked(&bare(**kind, file), &mut FakeRam::pc(8)).is_ok();
    KINDS.iter().filter(good).count()
}

#[test]
fn a_file_cut_at_any_byte_is_an_error_or_loads_in_order() {
    for (name, file) in files::all() {
        let as_itself = |length: usize| {
            let guest = bare(Kind::Auto, &file[..length]);
            load_checked(&guest, &mut FakeRam::pc(8)).is_ok()
        };
        assert!(as_itself(file.len()), "{name} is good when whole");
        let good = (0..file.len()).filter(|&length| load_as_all(&file[..length]) > 1).count();
        let contents_end = file.len() - 1;
        // Of Linux, the last bytes may be missing: the header counts in paragraphs.
        let last_may_miss = name == "linux";
        assert!(last_may_miss || !as_itself(contents_end), "{name} without its last byte");
        assert!(good < file.len() / 2, "{name}: {good} cuts went unnoticed");
    }
}

#[test]
fn a_header_with_any_bit_flipped_is_an_error_or_loads_in_order() {
    for (name, file) in files::all() {
        let mut noticed = 0;
        for at in header_bytes(name, file.len()) {
            for bit in 0..8 {
                let mut changed = file.clone();
                changed[at] ^= 1 << bit;
                let guest = bare(Kind::Auto, &changed);
                noticed += u32::from(load_checked(&guest, &mut FakeRam::pc(8)).is_err());
                load_as_all(&changed);
            }
        }
        assert!(noticed > 8 || name == "boot_sector", "{name}: {noticed} flips noticed");
    }
}

#[test]
fn a_header_with_any_field_at_an_extreme_is_an_error_or_loads_in_order() {
    for (name, file) in files::all() {
        for at in header_bytes(name, file.len()) {
            for width in [1, 2, 4, 8] {
                for fill in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut changed = file.clone();
                    let end = (at + width).min(file.len());
                    changed[at..end].fill(fill);
                    load_as_all(&changed);
                }
            }
        }
    }
}

/// Offsets of the bytes that are header rather than contents.
fn header_bytes(name: &str, length: usize) -> Vec<usize> {
    match name {
        "linux" => (0x1f0..0x270).collect(),
        // Headers, a symbol, two relocations, dynamic section and note.
        "hermit_movable" => {
            let contents = 64 + 3 * 56;
            let parts = [(0, contents), (0x58, 24), (0x100, 48), (0x228, 112)];
            let parts = parts.into_iter().enumerate();
            parts
                .flat_map(|(index, (start, bytes))| {
                    let start = if index == 0 { 0 } else { contents + start };
                    start..(start + bytes).min(length)
                })
                .collect()
        }
        "boot_sector" => (0..4).chain(508..512).collect(),
        _ => (0..length).collect(),
    }
}

#[test]
fn every_field_of_the_elf_identification_is_checked_by_name() {
    let cases = [(4, "EI_CLASS"), (5, "EI_DATA"), (6, "EI_VERSION"), (16, "e_type")];
    let more = [(18, "e_machine"), (54, "e_phentsize"), (56, "e_phnum")];
    for (at, field) in cases.into_iter().chain(more) {
        let mut file = files::plain64();
        file[at] = 0xee;
        let error = load_checked(&bare(Kind::Auto, &file), &mut FakeRam::pc(8)).expect_err(field);
        assert!(error.to_string().contains(field), "{error}");
        assert!(error.to_string().contains("0xee"), "the value: {error}");
    }
}

#[test]
fn a_note_that_claims_more_than_its_segment_is_an_error() {
    let mut file = files::pvh64(0x10_0000);
    let note = file.len() - 24;
    file[note..note + 4].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
    let error = load_checked(&bare(Kind::Auto, &file), &mut FakeRam::pc(8)).expect_err("a note");
    assert!(error.to_string().contains("note"), "{error}");
}
