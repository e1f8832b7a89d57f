//! Compressed kernels.

use crate::files;
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_loader::{Kind, Problem};

fn problem(file: &[u8]) -> Problem {
    load_checked(&bare(Kind::Auto, file), &mut FakeRam::pc(16)).expect_err("refused").problem
}

#[test]
fn a_compressed_file_of_any_format_loads_as_the_file_itself() {
    for (name, file) in files::all() {
        let packed = files::compressed(&file);
        let [whole, unpacked] = [&file, &packed]
            .map(|file| load_checked(&bare(Kind::Auto, file), &mut FakeRam::pc(16)).is_ok());
        let twice = name == "gzip";
        assert_eq!(unpacked, whole && !twice, "{name}: one layer is taken off");
    }
    let (file, mut plain, mut packed) = (files::multiboot_elf(3), FakeRam::pc(16), FakeRam::pc(16));
    let whole = load_checked(&bare(Kind::Auto, &file), &mut plain).expect("loads");
    let compressed = files::compressed(&file);
    let unpacked = load_checked(&bare(Kind::Auto, &compressed), &mut packed).expect("loads");
    assert_eq!(whole, unpacked);
    assert_eq!(plain.bytes(0x10_0000, 14), packed.bytes(0x10_0000, 14));
}

#[test]
fn damage_is_told_by_what_it_hit() {
    let good = files::compressed(&files::plain64());
    let with = |at: usize, value: u8| {
        let mut file = good.clone();
        file[at] = value;
        problem(&file)
    };
    let end = good.len();
    let field = |problem: Problem, start: &str| match problem {
        Problem::Field { field, .. } => assert!(field.starts_with(start), "{field}"),
        other => panic!("{other}"),
    };
    field(with(2, 7), "CM of");
    field(with(3, 0x80), "FLG of");
    field(with(end - 1, 1), "ISIZE of");
    for at in [end - 4, end - 5, end - 8] {
        assert!(matches!(with(at, good[at] ^ 1), Problem::Corrupt { .. }), "{at}");
    }
    assert!(matches!(problem(&good[..9]), Problem::Truncated { .. }));
    assert!(matches!(problem(&good[..14]), Problem::Truncated { .. }));
}

#[test]
fn a_huge_size_is_refused_before_memory_is_taken_for_it() {
    let mut file = files::compressed(b"small");
    let end = file.len();
    file[end - 4..].copy_from_slice(&0xffff_ffffu32.to_le_bytes());
    let text = problem(&file).to_string();
    assert!(text.contains("ISIZE of the gzip trailer is 0xffffffff"), "{text}");
}
