//! Linux bzImages, by the 32-bit or the 64-bit boot protocol.
//!
//! Source: Linux, Documentation/arch/x86/boot.rst "The Linux/x86 Boot Protocol",
//! "The Real-Mode Kernel Header", "32-bit Boot Protocol" and "64-bit Boot Protocol"; zero-page.rst "Zero Page".

use alloc::format;

use anchorite_addr::{Gpa, PAGE_BYTES};

use crate::bytes::{Builder, Structure};
use crate::entry::{DescriptorTable, Entry, LongMode, ProtectedMode};
use crate::place::{FOUR_GIB, NAMEABLE, Placer, Room};
use crate::ram::GuestRam;
use crate::{Guest, Problem, plain};

/// Where the setup header starts, in the file and in the zero page.
const HEADER: usize = 0x1f1;
/// The header is read up to here; older versions end earlier.
const HEADER_END: u64 = 0x268;
const SECTOR_BYTES: u64 = 512;
/// Sectors of setup code where the field is 0.
const DEFAULT_SETUP_SECTORS: u64 = 4;
const PARAGRAPH_BYTES: u64 = 16;
/// First version with a pointer to the command line.
const OLDEST_VERSION: u16 = 0x0202;
/// First version with `cmdline_size`.
const VERSION_COMMAND_LINE_SIZE: u16 = 0x0206;
/// First version with `pref_address` and `init_size`.
const VERSION_INIT_SIZE: u16 = 0x020a;
/// Bytes of command line that every version takes.
const OLD_COMMAND_LINE_BYTES: u64 = 255;
/// Highest address of an initial RAM disk's last byte where the header does not tell.
const OLD_INITRD_MAX: u64 = 0x37ff_ffff;
const LOADED_HIGH: u8 = 1 << 0;
/// `type_of_loader` for a boot loader without a number.
const UNKNOWN_LOADER: u8 = 0xff;
/// Where a bzImage's protected-mode part goes when it cannot be moved.
const HIGH_LOAD: u64 = 0x10_0000;

/// Entries that the zero page's E820 table has room for.
const MAX_E820: usize = 128;
const E820_COUNT: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY_BYTES: usize = 20;

/// `__BOOT_CS` and `__BOOT_DS`, which the protocol fixes.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
/// Where the 64-bit entry lies in the protected-mode part.
const ENTRY_64_BIT: u64 = 0x200;
/// First version with `xloadflags`.
const VERSION_LOAD_FLAGS: u16 = 0x020c;
/// `xloadflags`: there is a 64-bit entry.
const HAS_64_BIT_ENTRY: u16 = 1 << 0;
/// The same selectors with a 64-bit code segment.
const GDT_64_BIT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const GDT: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Whether a file has the boot signature and the header's mark.
pub(crate) fn is_kernel(file: &[u8]) -> bool {
    file.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && file.get(0x202..0x206) == Some(b"HdrS")
}

/// The 32-bit protocol: paging off, the zero page in ESI.
pub(crate) fn load(guest: &Guest, place: &mut Placer<impl GuestRam>) -> Result<Entry, Problem> {
    let (start, esi) = place_all(guest, &Kernel::parse(guest.bytes)?, place)?;
    Ok(Entry::Protected(ProtectedMode {
        eip: start as u32,
        eax: 0,
        ebx: 0,
        esi,
        code_selector: CODE_SELECTOR,
        data_selector: DATA_SELECTOR,
        gdt: Some(place_gdt(place, &GDT)?),
    }))
}

/// The 64-bit protocol: everything mapped one to one, the zero page in RSI.
pub(crate) fn load_64_bit(
    guest: &Guest,
    place: &mut Placer<impl GuestRam>,
) -> Result<Entry, Problem> {
    let kernel = Kernel::parse(guest.bytes)?;
    if !kernel.has_64_bit_entry {
        return Err(Problem::Field {
            field: "xloadflags of the Linux setup header",
            value: kernel.load_flags.into(),
            remedy: "bit 0 is clear: there is no 64-bit entry; take the kind linux",
        });
    }
    let (start, zero_page) = place_all(guest, &kernel, place)?;
    let tables = plain::place_identity_map(place)?;
    let stack = place.reserve("the first stack", PAGE_BYTES, Room::PAGES)?;
    Ok(Entry::Long(LongMode {
        rip: start + ENTRY_64_BIT,
        rsp: stack + PAGE_BYTES,
        rdi: 0,
        rsi: zero_page.into(),
        cr3: Gpa::new(tables),
        code_selector: CODE_SELECTOR,
        data_selector: DATA_SELECTOR,
        gdt: place_gdt(place, &GDT_64_BIT)?,
    }))
}

/// Places kernel, command line, RAM disk and zero page; gives the addresses of the first and
/// the last.
fn place_all(
    guest: &Guest,
    kernel: &Kernel,
    place: &mut Placer<impl GuestRam>,
) -> Result<(u64, u32), Problem> {
    let start = kernel.place(place)?;
    let mut zero_page = kernel.zero_page(guest.bytes);
    place_command_line(guest, kernel, &mut zero_page, place)?;
    place_initrd(guest, kernel, &mut zero_page, place)?;
    write_memory_map(&mut zero_page, place)?;
    zero_page.put(0x214, &(start as u32).to_le_bytes());
    let at = place.store("the zero page", zero_page.as_bytes(), Room::PAGES)? as u32;
    Ok((start, at))
}

/// What matters of a checked setup header.
#[derive(Clone, Copy, Debug)]
struct Kernel<'a> {
    /// The protected-mode part.
    code: &'a [u8],
    /// Bytes it needs from its load address on until it has looked at the memory map.
    memory_bytes: u64,
    /// Where it wants to lie.
    preferred: u64,
    /// What its address must be a multiple of if it is moved; 0 if it cannot be.
    alignment: u64,
    command_line_bytes: u64,
    /// `xloadflags`, 0 in versions without.
    load_flags: u16,
    has_64_bit_entry: bool,
    /// Where the header ends in the file.
    header_end: usize,
    initrd_max: u64,
}

impl<'a> Kernel<'a> {
    fn parse(file: &'a [u8]) -> Result<Self, Problem> {
        if !is_kernel(file) {
            return Err(Problem::NoMark { mark: "the Linux setup header (HdrS at 0x202)" });
        }
        let header = Structure::new(file, "the Linux setup header", 0, HEADER_END)?;
        let version = header.u16(0x206);
        check_header(version, header.u8(0x211))?;
        let code = protected_mode_code(file, header)?;
        let header_end = 0x202 + usize::from(header.u8(0x201));
        let (preferred, alignment, memory_bytes) = location(header, version, code.len() as u64)?;
        let limits = (header.u32(0x238), header.u32(0x22c));
        let command_line_bytes = match limits.0 {
            size if version >= VERSION_COMMAND_LINE_SIZE && size > 0 => size.into(),
            _ => OLD_COMMAND_LINE_BYTES,
        };
        let load_flags = if version >= VERSION_LOAD_FLAGS { header.u16(0x236) } else { 0 };
        let long_enough = code.len() as u64 > ENTRY_64_BIT;
        let initrd_max = if version >= 0x0203 { limits.1.into() } else { OLD_INITRD_MAX };
        Ok(Self {
            code,
            memory_bytes,
            preferred,
            alignment,
            command_line_bytes,
            load_flags,
            has_64_bit_entry: load_flags & HAS_64_BIT_ENTRY != 0 && long_enough,
            header_end: header_end.clamp(0x202, file.len().min(E820_TABLE)),
            initrd_max,
        })
    }

    /// Claims the kernel's memory, at its preferred address if possible, and stores it.
    fn place(&self, place: &mut Placer<impl GuestRam>) -> Result<u64, Problem> {
        let what = "the Linux kernel";
        let start = match place.claim(what, self.preferred, self.memory_bytes) {
            Ok(()) => self.preferred,
            Err(_) if self.alignment > 0 => {
                let room = Room { align: self.alignment, from: HIGH_LOAD, limit: NAMEABLE };
                place.reserve(what, self.memory_bytes, room)?
            }
            Err(problem) => return Err(problem),
        };
        place.write(start, self.code)?;
        Ok(start)
    }

    /// The zero page with the setup header copied and the loader's own fields set.
    fn zero_page(&self, file: &[u8]) -> Builder {
        let mut page = Builder::zeroed(PAGE_BYTES as usize);
        page.put(HEADER, &file[HEADER..self.header_end]);
        page.put(0x210, &[UNKNOWN_LOADER]);
        page
    }
}

fn check_header(version: u16, load_flags: u8) -> Result<(), Problem> {
    if version < OLDEST_VERSION {
        return Err(Problem::Field {
            field: "version of the Linux setup header",
            value: version.into(),
            remedy: "boot protocol 2.02 (0x202, Linux 2.4) is the oldest that is taken",
        });
    }
    if load_flags & LOADED_HIGH == 0 {
        return Err(Problem::Field {
            field: "loadflags of the Linux setup header",
            value: load_flags.into(),
            remedy: "bit 0 is clear, which makes it a zImage; build a bzImage",
        });
    }
    Ok(())
}

/// The part behind the setup sectors. `syssize` counts it in paragraphs, rounded up;
/// signatures may follow.
fn protected_mode_code<'a>(file: &'a [u8], header: Structure) -> Result<&'a [u8], Problem> {
    let sectors = match header.u8(HEADER) {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors.into(),
    };
    let offset = (1 + sectors) * SECTOR_BYTES;
    let bytes = u64::from(header.u32(0x1f4)) * PARAGRAPH_BYTES;
    let rest = (file.len() as u64).saturating_sub(offset);
    if bytes == 0 || bytes > rest.next_multiple_of(PARAGRAPH_BYTES) {
        let what = "the protected-mode part of the Linux kernel";
        let file_bytes = file.len() as u64;
        return Err(Problem::Truncated { what, offset, bytes: bytes.max(1), file_bytes });
    }
    let part = Structure::new(file, "the Linux kernel", offset, bytes.min(rest))?;
    Ok(part.as_bytes())
}

/// Preferred address, alignment (0: not relocatable) and size in memory.
fn location(header: Structure, version: u16, code_bytes: u64) -> Result<(u64, u64, u64), Problem> {
    if version < VERSION_INIT_SIZE {
        return Ok((HIGH_LOAD, 0, code_bytes));
    }
    let init_size = u64::from(header.u32(0x260)).max(code_bytes);
    if header.u8(0x234) == 0 {
        return Ok((HIGH_LOAD, 0, init_size));
    }
    let (preferred, alignment) = (header.u64(0x258), u64::from(header.u32(0x230)));
    if !alignment.is_power_of_two() {
        return Err(Problem::Field {
            field: "kernel_alignment of the Linux setup header",
            value: alignment,
            remedy: "a relocatable kernel's must be a power of two",
        });
    }
    if preferred.checked_add(init_size).is_none_or(|end| end > FOUR_GIB) {
        return Err(Problem::Field {
            field: "pref_address of the Linux setup header",
            value: preferred,
            remedy: "the 32-bit boot protocol needs the kernel below 4 GiB",
        });
    }
    Ok((preferred, alignment, init_size))
}

fn place_command_line(
    guest: &Guest,
    kernel: &Kernel,
    zero_page: &mut Builder,
    place: &mut Placer<impl GuestRam>,
) -> Result<(), Problem> {
    let (what, bytes) = ("the command line", guest.command_line.len() as u64);
    if bytes > kernel.command_line_bytes {
        return Err(Problem::TextTooLong { what, bytes, limit: kernel.command_line_bytes });
    }
    let at = place.store_text(what, guest.command_line)? as u32;
    zero_page.put(0x228, &at.to_le_bytes());
    Ok(())
}

fn place_initrd(
    guest: &Guest,
    kernel: &Kernel,
    zero_page: &mut Builder,
    place: &mut Placer<impl GuestRam>,
) -> Result<(), Problem> {
    let module = match guest.modules {
        [] => return Ok(()),
        [module] => module,
        modules => {
            return Err(Problem::TooManyModules {
                given: modules.len(),
                limit: 1,
                remedy: "Linux takes one initial RAM disk; concatenate the archives",
            });
        }
    };
    let room = Room { limit: kernel.initrd_max.saturating_add(1).min(NAMEABLE), ..Room::MODULE };
    let what = format!("the initial RAM disk {}", module.name);
    let start = place.store(what, module.bytes, room)? as u32;
    zero_page.put(0x218, &start.to_le_bytes());
    zero_page.put(0x21c, &(module.bytes.len() as u32).to_le_bytes());
    Ok(())
}

fn write_memory_map(zero_page: &mut Builder, place: &Placer<impl GuestRam>) -> Result<(), Problem> {
    let ranges = place.memory_map();
    if ranges.len() > MAX_E820 {
        return Err(Problem::Field {
            field: "the number of ranges of the memory map",
            value: ranges.len() as u64,
            remedy: "the zero page has room for 128",
        });
    }
    zero_page.put(E820_COUNT, &[ranges.len() as u8]);
    for (index, range) in ranges.iter().enumerate() {
        let at = E820_TABLE + index * E820_ENTRY_BYTES;
        zero_page.put(at, &range.start.as_u64().to_le_bytes());
        zero_page.put(at + 8, &range.bytes.to_le_bytes());
        zero_page.put(at + 16, &range.kind.e820_type().to_le_bytes());
    }
    Ok(())
}

fn place_gdt(
    place: &mut Placer<impl GuestRam>,
    descriptors: &[u64],
) -> Result<DescriptorTable, Problem> {
    let mut gdt = Builder::default();
    for &descriptor in descriptors {
        gdt.u64(descriptor);
    }
    let base = place.store("the GDT", gdt.as_bytes(), Room::STRUCTURE)?;
    Ok(DescriptorTable { base: Gpa::new(base), limit: 31 })
}
