//! ELF files, 32 and 64 bits, as far as a loader needs them.
//!
//! Source: System V ABI, "ELF Header", "Program Header", "Note Section"
//! (gABI 4.1, chapters 4 and 5), i386 and AMD64 supplements for the machine numbers.

use alloc::format;
use alloc::vec::Vec;

use crate::Problem;
use crate::bytes::{Structure, slice};
use crate::place::{FOUR_GIB, Placer};
use crate::ram::GuestRam;

const MAGIC: &[u8] = b"\x7fELF";
const TYPE_EXECUTABLE: u64 = 2;
const TYPE_SHARED: u64 = 3;
const MACHINE_386: u64 = 3;
const MACHINE_X86_64: u64 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_NOTE: u32 = 4;
const SEGMENT_TLS: u32 = 7;
/// Program headers taken at most; kernels have fewer than ten.
const MAX_SEGMENTS: u64 = 64;
/// Notes looked at in one segment; kernels have about ten.
const MAX_NOTES: usize = 256;
/// Xen's note with the physical address of the 32-bit PVH entry
/// (public/elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`).
const NOTE_XEN_PHYS32_ENTRY: u32 = 18;

/// Whether a file starts as an ELF file does.
pub(crate) fn is_elf(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// The word size of an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Bits32,
    Bits64,
}

/// A segment that is to be loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    /// Its index among all program headers.
    pub(crate) index: usize,
    pub(crate) virtual_start: u64,
    physical_start: u64,
    pub(crate) contents: &'a [u8],
    pub(crate) memory_bytes: u64,
}

/// A checked ELF file for x86.
#[derive(Clone, Debug)]
pub(crate) struct Elf<'a> {
    pub(crate) class: Class,
    /// The address of the first instruction as the file has it: virtual.
    pub(crate) entry: u64,
    /// Position-independent: its addresses count from wherever it is put.
    pub(crate) movable: bool,
    pub(crate) segments: Vec<Segment<'a>>,
    /// The dynamic section, unchecked: only a movable Hermit kernel needs it.
    pub(crate) dynamic: Option<ProgramHeader>,
    /// The image of thread-local storage, unchecked for the same reason.
    pub(crate) tls: Option<ProgramHeader>,
    notes: Vec<&'a [u8]>,
}

/// A program header, widened to 64 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgramHeader {
    kind: u32,
    pub(crate) offset: u64,
    pub(crate) virtual_start: u64,
    physical_start: u64,
    pub(crate) file_bytes: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) align: u64,
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, Problem> {
        if !is_elf(file) {
            return Err(Problem::NoMark { mark: "the magic of an ELF file" });
        }
        let class = class_of(Structure::new(file, "the ELF identification", 0, 16)?)?;
        let header = Structure::new(file, "the ELF header", 0, class.header_bytes())?;
        check_header(class, header)?;
        let mut elf = Self {
            class,
            entry: class.word(header, 24),
            movable: u64::from(header.u16(16)) == TYPE_SHARED,
            segments: Vec::new(),
            dynamic: None,
            tls: None,
            notes: Vec::new(),
        };
        elf.read_segments(file, header)?;
        Ok(elf)
    }

    /// The physical address of the PVH entry, where the file has one.
    pub(crate) fn pvh_entry(&self) -> Result<Option<u32>, Problem> {
        let Some(value) = self.note(b"Xen\0", NOTE_XEN_PHYS32_ENTRY)? else { return Ok(None) };
        let entry = match value.len() {
            4 => u64::from(Structure::new(value, "the PVH note", 0, 4)?.u32(0)),
            8 => Structure::new(value, "the PVH note", 0, 8)?.u64(0),
            length => {
                return Err(Problem::Field {
                    field: "descsz of the PVH note",
                    value: length as u64,
                    remedy: "it must be 4 or 8, for the entry's physical address",
                });
            }
        };
        self.check_pvh_entry(entry).map(Some)
    }

    /// The physical address of the entry. The header has it as a virtual one; some
    /// kernels, linked high, write the physical address there, which is taken too.
    pub(crate) fn physical_entry(&self) -> Result<u64, Problem> {
        let translated = self.segments.iter().find_map(|segment| {
            let offset = self.entry.checked_sub(segment.virtual_start)?;
            (offset < segment.memory_bytes).then(|| segment.physical_start + offset)
        });
        let physical = translated.or_else(|| self.is_loaded(self.entry).then_some(self.entry));
        physical.filter(|&entry| entry < FOUR_GIB).ok_or(Problem::Field {
            field: "e_entry of the ELF header",
            value: self.entry,
            remedy: "it must lie in a loadable segment below 4 GiB; check the linker script",
        })
    }

    /// A physical entry address that `field` gives, if a segment fills it.
    pub(crate) fn check_entry(&self, field: &'static str, entry: u32) -> Result<u32, Problem> {
        if self.is_loaded(entry.into()) {
            return Ok(entry);
        }
        Err(Problem::Field {
            field,
            value: entry.into(),
            remedy: "it must be a physical address in a loadable segment",
        })
    }

    /// Puts all segments into guest memory.
    pub(crate) fn place(&self, place: &mut Placer<impl GuestRam>) -> Result<(), Problem> {
        for segment in &self.segments {
            let Segment { index, physical_start, contents, memory_bytes, .. } = *segment;
            place.claim(format!("ELF segment {index}"), physical_start, memory_bytes)?;
            place.write(physical_start, contents)?;
            let filled = contents.len() as u64;
            place.zero(physical_start + filled, memory_bytes - filled)?;
        }
        Ok(())
    }

    fn read_segments(&mut self, file: &'a [u8], header: Structure) -> Result<(), Problem> {
        let table = self.class.word(header, self.class.program_header_offset_at());
        let (size, count) = self.class.program_header_sizes(header);
        if size != self.class.program_header_bytes() {
            return Err(Problem::Field {
                field: "e_phentsize of the ELF header",
                value: size,
                remedy: "it must be 32 in an ELF32 and 56 in an ELF64 file",
            });
        }
        if count == 0 || count > MAX_SEGMENTS {
            return Err(Problem::Field {
                field: "e_phnum of the ELF header",
                value: count,
                remedy: "from 1 to 64 program headers are taken; link as an executable",
            });
        }
        let headers = Structure::new(file, "the program header table", table, size * count)?;
        for (index, entry) in headers.as_bytes().chunks_exact(size as usize).enumerate() {
            let entry = Structure::new(entry, "a program header", 0, size)?;
            self.read_segment(file, index, &self.class.program_header(entry))?;
        }
        self.check_any_segment()
    }

    fn read_segment(
        &mut self,
        file: &'a [u8],
        index: usize,
        header: &ProgramHeader,
    ) -> Result<(), Problem> {
        match header.kind {
            SEGMENT_LOAD if header.memory_bytes > 0 => {
                self.segments.push(load_segment(file, index, header)?);
            }
            SEGMENT_NOTE => {
                let (offset, bytes) = (header.offset, header.file_bytes);
                let notes = Structure::new(file, "a note segment", offset, bytes)?;
                self.notes.push(notes.as_bytes());
            }
            SEGMENT_DYNAMIC => self.dynamic = Some(*header),
            SEGMENT_TLS => self.tls = Some(*header),
            _ => {}
        }
        Ok(())
    }

    fn check_any_segment(&self) -> Result<(), Problem> {
        if self.segments.is_empty() {
            return Err(Problem::Field {
                field: "the number of loadable segments",
                value: 0,
                remedy: "link the file as an executable",
            });
        }
        Ok(())
    }

    fn check_pvh_entry(&self, entry: u64) -> Result<u32, Problem> {
        u32::try_from(entry).ok().filter(|_| self.is_loaded(entry)).ok_or(Problem::Field {
            field: "the entry in the PVH note",
            value: entry,
            remedy: "it must be a physical address in a loadable segment below 4 GiB",
        })
    }

    /// Whether a segment fills the physical address.
    fn is_loaded(&self, physical: u64) -> bool {
        self.segments.iter().any(|segment| {
            let offset = physical.checked_sub(segment.physical_start);
            offset.is_some_and(|offset| offset < segment.memory_bytes)
        })
    }

    /// The contents of the first note of this name and type.
    pub(crate) fn note(&self, name: &[u8], kind: u32) -> Result<Option<&'a [u8]>, Problem> {
        for segment in &self.notes {
            if let Some(value) = find_note(segment, name, kind)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// Notes start with three 32-bit words in both classes; name and contents are padded
/// to 4 bytes, as every linker writes them whatever the segment's alignment says.
fn find_note<'a>(segment: &'a [u8], name: &[u8], kind: u32) -> Result<Option<&'a [u8]>, Problem> {
    let mut offset = 0;
    for _ in 0..MAX_NOTES {
        if offset + 12 > segment.len() as u64 {
            break;
        }
        let header = Structure::new(segment, "a note's header", offset, 12)?;
        let name_bytes = u64::from(header.u32(0));
        let value_bytes = u64::from(header.u32(4));
        let name_at = offset + 12;
        let value_at = name_at + name_bytes.next_multiple_of(4);
        let found = Structure::new(segment, "a note's name", name_at, name_bytes)?;
        let value = Structure::new(segment, "a note's contents", value_at, value_bytes)?;
        if found.as_bytes() == name && header.u32(8) == kind {
            return Ok(Some(value.as_bytes()));
        }
        offset = value_at + value_bytes.next_multiple_of(4);
    }
    Ok(None)
}

impl Class {
    const fn header_bytes(self) -> u64 {
        match self {
            Self::Bits32 => 52,
            Self::Bits64 => 64,
        }
    }

    const fn program_header_bytes(self) -> u64 {
        match self {
            Self::Bits32 => 32,
            Self::Bits64 => 56,
        }
    }

    /// Where the ELF header has `e_phoff`.
    const fn program_header_offset_at(self) -> usize {
        match self {
            Self::Bits32 => 28,
            Self::Bits64 => 32,
        }
    }

    /// `e_phentsize` and `e_phnum`.
    fn program_header_sizes(self, header: Structure) -> (u64, u64) {
        let at = match self {
            Self::Bits32 => 42,
            Self::Bits64 => 54,
        };
        (header.u16(at).into(), header.u16(at + 2).into())
    }

    /// A word of this class.
    fn word(self, structure: Structure, offset: usize) -> u64 {
        match self {
            Self::Bits32 => structure.u32(offset).into(),
            Self::Bits64 => structure.u64(offset),
        }
    }

    fn program_header(self, entry: Structure) -> ProgramHeader {
        // p_offset comes second in both classes, but in ELF64 p_flags lies before it.
        let bytes = self.word_bytes();
        let field = |index: usize| self.word(entry, bytes + bytes * index);
        ProgramHeader {
            kind: entry.u32(0),
            offset: field(0),
            virtual_start: field(1),
            physical_start: field(2),
            file_bytes: field(3),
            memory_bytes: field(4),
            align: self.word(entry, entry.as_bytes().len() - self.word_bytes()),
        }
    }

    const fn word_bytes(self) -> usize {
        match self {
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }
}

fn class_of(identification: Structure) -> Result<Class, Problem> {
    let class = match identification.u8(4) {
        1 => Class::Bits32,
        2 => Class::Bits64,
        value => {
            return Err(wrong(
                "EI_CLASS of the ELF header",
                value,
                "1 (32-bit) or 2 (64-bit) is taken",
            ));
        }
    };
    match (identification.u8(5), identification.u8(6)) {
        (1, 1) => Ok(class),
        (1, version) => Err(wrong("EI_VERSION of the ELF header", version, "1 is taken")),
        (data, _) => Err(wrong("EI_DATA of the ELF header", data, "1 (little-endian) is taken")),
    }
}

fn check_header(class: Class, header: Structure) -> Result<(), Problem> {
    let (kind, machine) = (u64::from(header.u16(16)), u64::from(header.u16(18)));
    if kind != TYPE_EXECUTABLE && kind != TYPE_SHARED {
        return Err(Problem::Field {
            field: "e_type of the ELF header",
            value: kind,
            remedy: "2 (executable) or 3 (position-independent) is taken; link the object file",
        });
    }
    let fits = match class {
        Class::Bits32 => machine == MACHINE_386,
        Class::Bits64 => machine == MACHINE_X86_64,
    };
    if !fits {
        return Err(Problem::Field {
            field: "e_machine of the ELF header",
            value: machine,
            remedy: "3 (i386) in an ELF32 and 62 (x86-64) in an ELF64 file are taken",
        });
    }
    Ok(())
}

fn load_segment<'a>(
    file: &'a [u8],
    index: usize,
    header: &ProgramHeader,
) -> Result<Segment<'a>, Problem> {
    let ProgramHeader { offset, virtual_start, physical_start, file_bytes, memory_bytes, .. } =
        *header;
    if file_bytes > memory_bytes {
        return Err(Problem::Field {
            field: "p_filesz of a program header",
            value: file_bytes,
            remedy: "it must not exceed p_memsz",
        });
    }
    if physical_start.checked_add(memory_bytes).is_none() {
        return Err(Problem::Field {
            field: "p_memsz of a program header",
            value: memory_bytes,
            remedy: "p_paddr + p_memsz must stay below 2^64",
        });
    }
    let contents = slice(file, offset, file_bytes).ok_or(Problem::Truncated {
        what: "a loadable segment",
        offset,
        bytes: file_bytes,
        file_bytes: file.len() as u64,
    })?;
    Ok(Segment { index, virtual_start, physical_start, contents, memory_bytes })
}

const fn wrong(field: &'static str, value: u8, remedy: &'static str) -> Problem {
    Problem::Field { field, value: value as u64, remedy }
}
