//! Handcrafted files of every format, written byte by byte from the specifications and
//! sharing nothing with the loader.

/// Two instructions that are the code of every file here: `cli; hlt`.
pub(crate) const CODE: [u8; 2] = [0xfa, 0xf4];

/// A segment of a handcrafted ELF file.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) kind: u32,
    pub(crate) virtual_start: u64,
    pub(crate) physical_start: u64,
    pub(crate) contents: Vec<u8>,
    pub(crate) memory_bytes: u64,
}

impl Segment {
    pub(crate) fn load(physical_start: u64, contents: &[u8], memory_bytes: u64) -> Self {
        let contents = contents.to_vec();
        Self { kind: 1, virtual_start: physical_start, physical_start, contents, memory_bytes }
    }

    pub(crate) fn note(name: &[u8], kind: u32, value: &[u8]) -> Self {
        let mut contents = Vec::new();
        for word in [name.len() as u32, value.len() as u32, kind] {
            contents.extend(word.to_le_bytes());
        }
        for part in [name, value] {
            contents.extend(part);
            contents.resize(contents.len().next_multiple_of(4), 0);
        }
        Self { kind: 4, virtual_start: 0, physical_start: 0, contents, memory_bytes: 0 }
    }
}

/// An ELF64 file for x86-64: header, program headers, contents one after the other.
pub(crate) fn elf64(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(entry.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64, 56, segments.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = 64 + 56 * segments.len() as u64;
    for segment in segments {
        let file_bytes = segment.contents.len() as u64;
        file.extend(segment.kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        let starts = [offset, segment.virtual_start, segment.physical_start];
        // Notes are padded to 4 bytes.
        let align = if segment.kind == 4 { 4 } else { 1 };
        for long in starts.into_iter().chain([file_bytes, segment.memory_bytes, align]) {
            file.extend(long.to_le_bytes());
        }
        offset += file_bytes;
    }
    append_contents(file, segments)
}

/// An ELF32 file for i386.
pub(crate) fn elf32(entry: u32, segments: &[Segment]) -> Vec<u8> {
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2u16.to_le_bytes());
    file.extend(3u16.to_le_bytes());
    for word in [1, entry, 52, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [52, 32, segments.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = 52 + 32 * segments.len() as u32;
    for segment in segments {
        let file_bytes = segment.contents.len() as u32;
        let starts = [offset, segment.virtual_start as u32, segment.physical_start as u32];
        let sizes = [file_bytes, segment.memory_bytes as u32, 7, 1];
        for word in [segment.kind].into_iter().chain(starts).chain(sizes) {
            file.extend(word.to_le_bytes());
        }
        offset += file_bytes;
    }
    append_contents(file, segments)
}

fn append_contents(mut file: Vec<u8>, segments: &[Segment]) -> Vec<u8> {
    for segment in segments {
        file.extend(&segment.contents);
    }
    file
}

/// A plain ELF64 file: code at 1 MiB with 4 KiB of bss.
pub(crate) fn plain64() -> Vec<u8> {
    elf64(0x10_0001, &[Segment::load(0x10_0000, &CODE, 0x1000)])
}

/// A plain ELF32 file: code at 1 MiB, linked at 3 GiB.
pub(crate) fn plain32() -> Vec<u8> {
    let code = Segment { virtual_start: 0xc010_0000, ..Segment::load(0x10_0000, &CODE, 0x10) };
    elf32(0xc010_0001, &[code, Segment::load(0x20_0000, b"data", 8)])
}

/// An ELF64 file with a PVH note whose entry is `entry`.
pub(crate) fn pvh64(entry: u64) -> Vec<u8> {
    let note = Segment::note(b"Xen\0", 18, &entry.to_le_bytes());
    elf64(0, &[Segment::load(0x10_0000, &CODE, 0x1000), note])
}

/// An ELF32 file with a foreign note before the PVH note.
pub(crate) fn pvh32(entry: u32) -> Vec<u8> {
    let mut notes = Segment::note(b"GNU\0", 3, &[1, 2, 3, 4, 5]);
    notes.contents.extend(Segment::note(b"Xen\0", 18, &entry.to_le_bytes()).contents);
    elf32(0, &[Segment::load(0x10_0000, &CODE, 0x1000), notes])
}

/// Hermit's note with the version of its entry.
pub(crate) fn hermit_note(version: u8) -> Segment {
    Segment::note(b"HERMIT\0", 0x5a00, &[version])
}

/// A Hermit kernel linked for `start`, with thread-local storage.
pub(crate) fn hermit(start: u64) -> Vec<u8> {
    let code = Segment::load(start, &CODE, 0x1000);
    let tls = Segment { kind: 7, ..Segment::load(start, &CODE, 0x18) };
    elf64(start + 1, &[tls, code, hermit_note(4)])
}

/// A symbol of [`hermit_movable`]: binding, section, value.
type Symbol = (u8, u16, u64);
const NO_SYMBOL: Symbol = (0, 0, 0);
const GLOBAL: Symbol = (1, 1, 0x123);
const WEAK: Symbol = (2, 0, 0);

/// Relocations of [`hermit_movable`]: place, type, symbol, addend.
pub(crate) const RELOCATIONS: [(u64, u32, u32, u64); 5] = [
    (0x200, 8, 0, 0x55),
    (0x208, 1, 1, 0x10),
    (0x210, 6, 1, 0),
    (0x218, 1, 2, 0),
    (0x220, 6, 2, 0),
];

/// A position-independent Hermit kernel: one segment from 0 on with code, the symbols at 0x40,
/// the relocations at 0x100, their targets at 0x200; and the dynamic section.
pub(crate) fn hermit_movable() -> Vec<u8> {
    let mut contents = CODE.to_vec();
    contents.resize(0x40, 0);
    for (binding, section, value) in [NO_SYMBOL, GLOBAL, WEAK] {
        contents.extend([0, 0, 0, 0, binding << 4, 0]);
        contents.extend(section.to_le_bytes());
        contents.extend([value, 0].iter().flat_map(|word| word.to_le_bytes()));
    }
    contents.resize(0x100, 0);
    for (place, kind, symbol, addend) in RELOCATIONS {
        let information = u64::from(symbol) << 32 | u64::from(kind);
        contents.extend([place, information, addend].iter().flat_map(|word| word.to_le_bytes()));
    }
    contents.resize(0x228, 0);
    let entries = [(7, 0x100), (8, 24 * RELOCATIONS.len() as u64), (9, 24), (6, 0x40), (11, 24)];
    let entries = entries.into_iter().chain([(0, 0)]);
    let dynamic: Vec<u8> =
        entries.flat_map(|(tag, value)| [tag, value]).flat_map(u64::to_le_bytes).collect();
    let dynamic = Segment { kind: 2, ..Segment::load(0x300, &dynamic, dynamic.len() as u64) };
    let mut file = elf64(1, &[Segment::load(0, &contents, 0x3000), dynamic, hermit_note(4)]);
    file[16..18].copy_from_slice(&3u16.to_le_bytes());
    file
}

/// The same with a section header table that holds the dynamic symbols alone, for loaders that
/// look for them there.
pub(crate) fn hermit_movable_with_sections() -> Vec<u8> {
    let mut file = hermit_movable();
    let (offset, bytes) = (64 + 3 * 56 + 0x40, 3 * 24);
    file.resize(file.len().next_multiple_of(8), 0);
    let table = file.len() as u64;
    file.extend([0, 0, 0, 0, 11, 0, 0, 0]);
    for word in [0u64, 0x40, offset, bytes, 0, 8, 24] {
        file.extend(word.to_le_bytes());
    }
    file[40..48].copy_from_slice(&table.to_le_bytes());
    file[58..60].copy_from_slice(&64u16.to_le_bytes());
    file[60..62].copy_from_slice(&1u16.to_le_bytes());
    file
}

/// A multiboot header with these flags and a good checksum, without address fields.
pub(crate) fn multiboot_header(flags: u32) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let checksum = magic.wrapping_add(flags).wrapping_neg();
    [magic, flags, checksum].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The address fields of a multiboot header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) header: u32,
    pub(crate) load: u32,
    pub(crate) load_end: u32,
    pub(crate) bss_end: u32,
    pub(crate) entry: u32,
}

/// A file that is no ELF: 0x20 bytes of junk, then an image whose header gives its
/// addresses, 0x10 bytes into the image.
pub(crate) fn multiboot_addresses(flags: u32, addresses: Addresses) -> Vec<u8> {
    let mut file = vec![0xee; 0x20];
    file.extend([0x90; 0x10]);
    file.extend(multiboot_header(flags | 1 << 16));
    let Addresses { header, load, load_end, bss_end, entry } = addresses;
    for word in [header, load, load_end, bss_end, entry] {
        file.extend(word.to_le_bytes());
    }
    file.extend(CODE);
    file
}

/// The addresses that fit [`multiboot_addresses`]: an image of 0x32 bytes at 1 MiB.
pub(crate) const GOOD_ADDRESSES: Addresses = Addresses {
    header: 0x10_0010,
    load: 0x10_0000,
    load_end: 0x10_0032,
    bss_end: 0x10_2000,
    entry: 0x10_0030,
};

/// A multiboot kernel as an ELF32 file, header at the start of its segment.
pub(crate) fn multiboot_elf(flags: u32) -> Vec<u8> {
    let mut code = multiboot_header(flags);
    code.extend(CODE);
    elf32(0x10_000c, &[Segment::load(0x10_0000, &code, 0x2000)])
}

/// A tag of a multiboot 2 header: type, flags, contents.
pub(crate) type Tag<'a> = (u16, u16, &'a [u32]);

/// A multiboot 2 header with these tags, an end tag and a good checksum.
pub(crate) fn multiboot2_header(tags: &[Tag]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, flags, words) in tags.iter().chain([&(0, 0, [].as_slice())]) {
        body.extend(kind.to_le_bytes());
        body.extend(flags.to_le_bytes());
        body.extend((8 + 4 * words.len() as u32).to_le_bytes());
        words.iter().for_each(|word| body.extend(word.to_le_bytes()));
        body.resize(body.len().next_multiple_of(8), 0);
    }
    let (magic, length) = (0xe852_50d6u32, 16 + body.len() as u32);
    let checksum = magic.wrapping_add(length).wrapping_neg();
    let mut header: Vec<u8> =
        [magic, 0, length, checksum].iter().flat_map(|word| word.to_le_bytes()).collect();
    header.extend(body);
    header
}

/// A multiboot 2 kernel as an ELF64 file with these tags, header at the start of its segment.
pub(crate) fn multiboot2_elf(tags: &[Tag]) -> Vec<u8> {
    let mut code = multiboot2_header(tags);
    let entry = 0x10_0000 + code.len() as u64;
    code.extend(CODE);
    // The segment's contents begin at a multiple of 8 in the file, and so does the header.
    elf64(entry, &[Segment::load(0x10_0000, &code, 0x2000)])
}

/// A file that is no ELF: 0x20 bytes of junk, then a header for address `header`, then code.
pub(crate) fn multiboot2_addresses(header: u32, load: u32) -> Vec<u8> {
    let bytes = multiboot2_header(&[(2, 0, &[0; 4]), (3, 0, &[0])]).len() as u32;
    let entry = header + bytes;
    let addresses = [header, load, entry + 2, header + 0x2000];
    let mut file = vec![0xee; 0x20];
    file.extend(multiboot2_header(&[(2, 0, &addresses), (3, 0, &[entry])]));
    file.extend(CODE);
    file
}

/// A file in a gzip file with every optional field of the header.
pub(crate) fn compressed(file: &[u8]) -> Vec<u8> {
    let writer = flate2::GzBuilder::new().filename("kernel").comment("a test").extra(vec![1, 2, 3]);
    let mut writer = writer.write(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut writer, file).expect("memory takes all");
    writer.finish().expect("memory takes all")
}

/// Fields of a bzImage's setup header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linux {
    pub(crate) setup_sectors: u8,
    pub(crate) version: u16,
    pub(crate) load_flags: u8,
    pub(crate) relocatable: u8,
    pub(crate) xload_flags: u16,
    pub(crate) alignment: u32,
    pub(crate) preferred: u64,
    pub(crate) init_size: u32,
    pub(crate) command_line_bytes: u32,
    pub(crate) initrd_max: u32,
}

/// What a recent kernel has, in small.
pub(crate) const RECENT_LINUX: Linux = Linux {
    setup_sectors: 2,
    version: 0x020f,
    load_flags: 1,
    relocatable: 1,
    xload_flags: 0,
    alignment: 0x20_0000,
    preferred: 0x40_0000,
    init_size: 0x10_0000,
    command_line_bytes: 64,
    initrd_max: 0x7fff_ffff,
};

/// A bzImage with these fields and 0x1b bytes of kernel, not a multiple of 16.
pub(crate) fn linux(fields: &Linux) -> Vec<u8> {
    let sectors = if fields.setup_sectors == 0 { 4 } else { usize::from(fields.setup_sectors) };
    let mut file = vec![0; (1 + sectors) * 512];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[fields.setup_sectors]);
    put(0x1f4, &2u32.to_le_bytes());
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &fields.version.to_le_bytes());
    put(0x211, &[fields.load_flags]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &fields.initrd_max.to_le_bytes());
    put(0x230, &fields.alignment.to_le_bytes());
    put(0x234, &[fields.relocatable]);
    put(0x236, &fields.xload_flags.to_le_bytes());
    put(0x238, &fields.command_line_bytes.to_le_bytes());
    put(0x258, &fields.preferred.to_le_bytes());
    put(0x260, &fields.init_size.to_le_bytes());
    file.extend(CODE);
    file.extend([0x4b; 0x19]);
    file
}

/// A boot sector.
pub(crate) fn boot_sector() -> Vec<u8> {
    let mut sector = CODE.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// A file of every format, by name.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("plain64", plain64()),
        ("plain32", plain32()),
        ("pvh64", pvh64(0x10_0001)),
        ("pvh32", pvh32(0x10_0000)),
        ("multiboot_addresses", multiboot_addresses(3, GOOD_ADDRESSES)),
        ("multiboot_elf", multiboot_elf(3)),
        ("multiboot2_elf", multiboot2_elf(&[(1, 0, &[6]), (0x99, 1, &[1])])),
        ("multiboot2_addresses", multiboot2_addresses(0x10_0000, 0x10_0000)),
        ("gzip", compressed(&multiboot_elf(3))),
        ("linux", linux(&RECENT_LINUX)),
        ("hermit_fixed", hermit(0x20_0000)),
        ("hermit_movable", hermit_movable()),
        ("boot_sector", boot_sector()),
    ]
}
