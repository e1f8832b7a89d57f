//! Random segments and memories: a load either says why not, or every byte of every
//! segment lies at its place.

use crate::files::{self, Segment};
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_loader::{Guest, Kind, Module};
use proptest::prelude::*;

fn segment() -> impl Strategy<Value = Segment> {
    let contents = prop::collection::vec(any::<u8>(), 1..200);
    (0u64..0x60, 0u64..64, contents, 0u64..0x3000).prop_map(|(page, offset, contents, more)| {
        let start = 0xf_0000 + page * 0x1000 + offset;
        let memory_bytes = contents.len() as u64 + more;
        Segment::load(start, &contents, memory_bytes)
    })
}

fn overlaps(segments: &[Segment]) -> bool {
    segments.iter().enumerate().any(|(index, one)| {
        segments[..index].iter().any(|other| {
            one.physical_start < other.physical_start + other.memory_bytes
                && other.physical_start < one.physical_start + one.memory_bytes
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn segments_load_exactly_when_they_fit(
        segments in prop::collection::vec(segment(), 1..5),
        wide in any::<bool>(),
        ram_pages in 0x40u64..0x100,
    ) {
        let entry = segments[0].physical_start;
        let file = if wide {
            files::elf64(entry, &segments)
        } else {
            files::elf32(entry as u32, &segments)
        };
        let mut ram = FakeRam::new(&[(0, 0xa_0000), (0x10_0000, ram_pages * 0x1000)]);
        let fits = segments.iter().all(|one| ram.is_ram(one.physical_start, one.memory_bytes));
        let result = load_checked(&bare(Kind::Auto, &file), &mut ram);
        prop_assert_eq!(result.is_ok(), fits && !overlaps(&segments), "{:?}", result);
        if result.is_ok() {
            for one in &segments {
                let bytes = one.contents.len() as u64;
                prop_assert_eq!(&ram.bytes(one.physical_start, bytes), &one.contents);
                let bss = ram.bytes(one.physical_start + bytes, one.memory_bytes - bytes);
                prop_assert!(bss.iter().all(|&byte| byte == 0), "bss is not zero");
            }
        }
    }

    #[test]
    fn blocks_never_overlap_in_memories_with_holes(
        holes in prop::collection::vec(1u64..200, 1..12),
        sizes in prop::collection::vec(1usize..40_000, 0..5),
        text in "[a-z ]{0,60}",
        which in 0usize..12,
    ) {
        let mut at = 0;
        let mut ranges = Vec::new();
        for pair in holes.chunks(2) {
            ranges.push((at, pair[0] * 0x1000));
            at += (pair[0] + pair.get(1).copied().unwrap_or(0)) * 0x1000;
        }
        let contents: Vec<Vec<u8>> = sizes.iter().map(|&size| vec![0xa5; size]).collect();
        let modules: Vec<Module> = contents
            .iter()
            .map(|bytes| Module { name: "m", bytes, command_line: "t" })
            .collect();
        let file = &files::all()[which].1;
        let guest = Guest { command_line: &text, modules: &modules, ..bare(Kind::Auto, file) };
        // What must hold is checked in `load_checked`, whether it fits or not.
        let _ = load_checked(&guest, &mut FakeRam::new(&ranges));
    }

    #[test]
    fn noise_is_never_a_guest_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let result = load_checked(&bare(Kind::Auto, &bytes), &mut FakeRam::pc(4));
        prop_assert!(result.is_err() || bytes.len() == 512);
    }
}
