//! Hermit kernels: the loader against the one in crate hermit-entry, and what the kernel reads.

#![expect(unsafe_code, reason = "turns the boot information into the type the kernel reads it as")]

use crate::files::{self, CODE, Segment};
use crate::ram::{FakeRam, bare, load_checked};
use anchorite_loader::{Clock, Entry, Format, Guest, Kind, Loaded, LongMode, Problem};
use hermit_entry::boot_info::{BootInfo, PlatformInfo, RawBootInfo};
use hermit_entry::elf::KernelObject;
use std::mem::{MaybeUninit, size_of, transmute};

const CLOCK: Clock = Clock { tsc_khz: 2_400_000, unix_time: 1_700_000_000 };
/// Where a movable kernel goes.
const MOVABLE: u64 = 0x40_0000;
const STACK_BYTES: u64 = 0x8000;

fn loaded(file: &[u8], text: &str) -> (Loaded, LongMode, FakeRam) {
    let mut ram = FakeRam::pc(16);
    let guest = Guest { command_line: text, clock: CLOCK, ..bare(Kind::Auto, file) };
    let loaded = load_checked(&guest, &mut ram).expect("loads");
    assert_eq!(loaded.format, Format::Hermit);
    let Entry::Long(start) = loaded.entry else { panic!("not 64-bit") };
    (loaded, start, ram)
}

/// The boot information as the kernel takes it.
fn boot_info(ram: &FakeRam, at: u64) -> BootInfo {
    let bytes: [u8; size_of::<RawBootInfo>()] =
        ram.bytes(at, size_of::<RawBootInfo>() as u64).try_into().expect("as many bytes");
    // SAFETY: a `RawBootInfo` is plain integers but for the variant of the platform, one byte
    // that is a bool, and fields that are not to be zero; were they wrong, so would the kernel
    // read them, and the values are compared below.
    unsafe { transmute::<[u8; size_of::<RawBootInfo>()], RawBootInfo>(bytes) }.into()
}

/// What crate hermit-entry makes of the file at `start`: memory, entry, thread-local storage.
fn reference(file: &[u8], start: u64) -> (Vec<u8>, u64, Option<(u64, u64, u64)>) {
    // The crate wants its input aligned, which a vector of words is.
    let words: Vec<u64> = file
        .chunks(8)
        .map(|chunk| chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)))
        .collect();
    // SAFETY: any bytes are words; the length is that of the same allocation.
    let (_, bytes, _) = unsafe { words.align_to::<u8>() };
    let object = KernelObject::parse(&bytes[..file.len()]).expect("a kernel");
    let mut memory = vec![MaybeUninit::new(0); object.mem_size()];
    let kernel = object.load_kernel(&mut memory, start);
    // SAFETY: every byte was initialized when the vector was made.
    let memory = memory.iter().map(|byte| unsafe { byte.assume_init() }).collect();
    let tls = kernel.load_info.tls_info;
    (memory, kernel.entry_point, tls.map(|tls| (tls.start, tls.memsz, tls.align)))
}

#[test]
fn kernels_lie_in_memory_as_hermits_own_loader_puts_them() {
    for (file, at) in
        [(files::hermit(0x20_0000), 0x20_0000), (files::hermit_movable_with_sections(), MOVABLE)]
    {
        let (_, start, ram) = loaded(&file, "");
        let (memory, entry, tls) = reference(&file, at);
        assert_eq!(ram.bytes(at, memory.len() as u64), memory);
        assert_eq!(start.rip, entry);
        let info = boot_info(&ram, start.rdi);
        assert_eq!(info.load_info.kernel_image_addr_range, at..at + memory.len() as u64);
        assert_eq!(info.load_info.tls_info.map(|tls| (tls.start, tls.memsz, tls.align)), tls);
    }
}

#[test]
fn every_relocation_of_a_movable_kernel_is_carried_out() {
    let (.., ram) = loaded(&files::hermit_movable(), "");
    let values = files::RELOCATIONS.map(|(place, ..)| ram.u64(MOVABLE + place));
    assert_eq!(values, [MOVABLE + 0x55, MOVABLE + 0x133, MOVABLE + 0x123, 0, 0]);
}

#[test]
fn the_kernel_reads_in_the_boot_information_what_the_machine_is() {
    let (_, start, ram) = loaded(&files::hermit(0x20_0000), "");
    let info = boot_info(&ram, start.rdi);
    assert_eq!(info.hardware_info.phys_addr_range, 0..16 << 20);
    assert_eq!(info.hardware_info.serial_port_base.map(u16::from), Some(0x800));
    let PlatformInfo::Uhyve { has_pci, num_cpus, cpu_freq, boot_time } = info.platform_info else {
        panic!("another platform: {:?}", info.platform_info)
    };
    assert_eq!((has_pci, num_cpus.get(), cpu_freq.map(u32::from)), (false, 1, Some(2_400_000)));
    assert_eq!(boot_time.unix_timestamp(), 1_700_000_000);
}

#[test]
fn the_parser_that_hermit_uses_finds_ram_and_command_line() {
    let (_, start, ram) = loaded(&files::hermit(0x20_0000), "env=A=b -- one two");
    let at = boot_info(&ram, start.rdi).hardware_info.device_tree.expect("a tree").get();
    let bytes = u32::from_be_bytes(ram.bytes(at + 4, 4).try_into().expect("four"));
    let blob = ram.bytes(at, bytes.into());
    let tree = fdt::Fdt::new(&blob).expect("well-formed");
    assert_eq!(tree.chosen().bootargs(), Some("env=A=b -- one two"));
    assert_eq!(tree.root().compatible().first(), "hermit,uhyve");
    let regions: Vec<_> = tree
        .find_all_nodes("/memory")
        .map(|node| node.reg().expect("reg").next().expect("a region"))
        .map(|region| (region.starting_address as u64, region.size))
        .collect();
    assert_eq!(regions, [(0, Some(0xa_0000)), (0x10_0000, Some(15 << 20))]);
}

#[test]
fn the_first_gib_is_mapped_and_the_tables_by_themselves_and_nothing_else() {
    let (_, start, ram) = loaded(&files::hermit(0x20_0000), "");
    let root = start.cr3.as_u64();
    let entries: Vec<u64> = (0..512).map(|index| ram.u64(root + 8 * index)).collect();
    assert_eq!(entries[511], root | 3);
    assert!(entries[1..511].iter().all(|&entry| entry == 0));
    let pointers = entries[0] & !0xfff;
    assert!((1..512).all(|index| ram.u64(pointers + 8 * index) == 0), "one GiB alone");
    let directory = ram.u64(pointers) & !0xfff;
    assert!((0..512).all(|page| ram.u64(directory + 8 * page) == page << 21 | 0x83));
}

#[test]
fn all_that_a_kernel_finds_lies_below_it_because_it_counts_the_rest_as_free() {
    for file in [files::hermit(0x20_0000), files::hermit(0x60_0000), files::hermit_movable()] {
        let (loaded, start, _) = loaded(&file, "x");
        let kernel = loaded.placements.last().expect("placements");
        assert_eq!(kernel.what, "the Hermit kernel");
        assert_eq!((kernel.start.as_u64() % (2 << 20), kernel.bytes), (0, 2 << 20));
        let stack = loaded.placements.iter().find(|block| block.start.as_u64() == start.rsp);
        assert_eq!(stack.expect("a stack").bytes, STACK_BYTES);
    }
}

fn problem(file: &[u8]) -> Problem {
    let guest = bare(Kind::Is(Format::Hermit), file);
    load_checked(&guest, &mut FakeRam::pc(16)).expect_err("a fault").problem
}

fn names(file: &[u8], field: &str, value: u64) {
    let found = problem(file);
    let Problem::Field { field: name, value: is, .. } = &found else { panic!("{found}") };
    assert!(name.contains(field) && *is == value, "{found}");
}

#[test]
fn kernels_of_other_versions_are_refused_by_the_version() {
    let code = Segment::load(0x20_0000, &CODE, 0x1000);
    names(&files::elf64(0x20_0000, &[code.clone(), files::hermit_note(3)]), "entry note", 3);
    let hypercalls = Segment::note(b"UHYVEIF\0", 0x5b00, &2u32.to_be_bytes());
    let file = files::elf64(0x20_0000, &[code, files::hermit_note(4), hypercalls]);
    names(&file, "hypercalls", 2);
    assert!(matches!(problem(&files::plain64()), Problem::NoMark { .. }));
}

#[test]
fn a_kernel_outside_what_is_mapped_is_refused_by_its_address() {
    names(&files::hermit(0x10_0000), "p_vaddr", 0x10_0000);
    names(&files::hermit(0x3fff_f001), "p_vaddr", 0x4000_0001);
    names(&files::hermit(u64::MAX - 0x1000), "p_vaddr", u64::MAX);
    // Mapped, but beyond RAM.
    assert!(matches!(problem(&files::hermit(0x100_0000)), Problem::OutsideRam { .. }));
}

#[test]
fn segments_that_overlap_are_named() {
    let one = Segment::load(0x20_0000, &CODE, 0x1000);
    let two = Segment::load(0x20_0fff, &CODE, 0x10);
    let found = problem(&files::elf64(0x20_0000, &[one, two, files::hermit_note(4)]));
    assert!(matches!(found, Problem::Overlap { start: 0x20_0fff, .. }), "{found}");
}

#[test]
fn thread_local_storage_outside_the_kernel_is_refused() {
    let mut file = files::hermit(0x20_0000);
    // p_vaddr of the first program header.
    file[64 + 16 + 3] = 1;
    names(&file, "thread-local", 0x120_0000);
}

#[test]
fn relocations_that_cannot_be_carried_out_are_named() {
    let rows = 64 + 3 * 56 + 0x100;
    let changed = |at: usize, value: u8| {
        let mut file = files::hermit_movable();
        file[at] = value;
        file
    };
    names(&changed(rows + 2, 0xff), "r_offset", 0xff_0200);
    names(&changed(rows + 8, 37), "type of a relocation", 37);
    names(&changed(rows + 24 + 12, 9), "symbol", 9);
    // The symbol is no longer weak.
    names(&changed(64 + 3 * 56 + 0x40 + 2 * 24 + 4, 0x10), "symbol", 2);
    let dynamic = 64 + 3 * 56 + 0x228;
    names(&changed(dynamic, 1), "tag", 1);
    names(&changed(dynamic + 10, 0xff), "DT_RELA", 0xff_0100);
}

#[test]
fn a_command_line_that_does_not_fit_is_refused() {
    let file = files::hermit(0x20_0000);
    for (text, long) in [("x".repeat(0x4001), true), ("a\0b".into(), false)] {
        let guest = Guest { command_line: &text, ..bare(Kind::Auto, &file) };
        let found = load_checked(&guest, &mut FakeRam::pc(16)).expect_err("refused").problem;
        assert_eq!(matches!(found, Problem::TextTooLong { .. }), long, "{found}");
    }
}
