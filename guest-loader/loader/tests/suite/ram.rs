//! Guest memory that remembers which bytes were written, and what must hold after
//! every load. The fuzz targets share this file.

use std::collections::BTreeMap;

use anchorite_addr::Gpa;
use anchorite_loader::{
    Clock, Entry, Format, Guest, GuestRam, Kind, LoadError, Loaded, MemoryRange, OutsideRam,
    RangeKind, load,
};

const PAGE: u64 = 4096;

/// What a byte reads as that was neither written nor zeroed.
const POISON: u8 = 0xcc;

/// Sparse memory: pages appear when they are written. `None` is a byte never written.
pub(crate) struct FakeRam {
    map: Vec<MemoryRange>,
    pages: BTreeMap<u64, Vec<Option<u8>>>,
    zeroed: Vec<(u64, u64)>,
}

impl FakeRam {
    /// Memory with the RAM ranges `(start, bytes)`.
    pub(crate) fn new(ranges: &[(u64, u64)]) -> Self {
        let kind = RangeKind::Ram;
        let range = |&(start, bytes)| MemoryRange { start: Gpa::new(start), bytes, kind };
        Self::with_map(ranges.iter().map(range).collect())
    }

    /// Memory with this map.
    pub(crate) fn with_map(map: Vec<MemoryRange>) -> Self {
        Self { map, pages: BTreeMap::new(), zeroed: Vec::new() }
    }

    /// A PC with `mib` MiB: RAM up to 640 KiB, a hole, RAM from 1 MiB on.
    pub(crate) fn pc(mib: u64) -> Self {
        Self::new(&[(0, 0xa_0000), (0x10_0000, (mib - 1) << 20)])
    }

    /// The byte at `gpa`.
    pub(crate) fn byte(&self, gpa: u64) -> u8 {
        let page = self.pages.get(&(gpa / PAGE));
        let written = page.and_then(|page| page[(gpa % PAGE) as usize]);
        let zeroed =
            || self.zeroed.iter().any(|&(start, bytes)| gpa >= start && gpa - start < bytes);
        written.unwrap_or_else(|| if zeroed() { 0 } else { POISON })
    }

    /// `bytes` bytes at `gpa`.
    pub(crate) fn bytes(&self, gpa: u64, bytes: u64) -> Vec<u8> {
        (gpa..gpa + bytes).map(|at| self.byte(at)).collect()
    }

    /// The little-endian 32-bit word at `gpa`.
    pub(crate) fn u32(&self, gpa: u64) -> u32 {
        u32::from_le_bytes(self.bytes(gpa, 4).try_into().expect("four bytes"))
    }

    /// The little-endian 64-bit word at `gpa`.
    pub(crate) fn u64(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.bytes(gpa, 8).try_into().expect("eight bytes"))
    }

    /// The text at `gpa` up to its zero byte.
    pub(crate) fn text(&self, gpa: u64) -> String {
        let bytes = self.bytes(gpa, 4096).into_iter().take_while(|&byte| byte != 0).collect();
        String::from_utf8(bytes).expect("UTF-8")
    }

    /// Whether all of `bytes` bytes at `gpa` lie in one RAM range or in touching ones.
    pub(crate) fn is_ram(&self, gpa: u64, bytes: u64) -> bool {
        let holds = |at: u64| {
            self.map.iter().any(|range| {
                let start = range.start.as_u64();
                range.kind == RangeKind::Ram && at >= start && at - start < range.bytes
            })
        };
        // Ranges are page-granular in every test, so one probe a page is enough; long
        // blocks are probed at their ends and at the ends of ranges.
        let end = gpa + bytes;
        let edges = self.map.iter().flat_map(|range| {
            let start = range.start.as_u64();
            [start, start.saturating_add(range.bytes)]
        });
        let inside = edges.filter(|&edge| gpa < edge && edge < end);
        bytes == 0 || (holds(gpa) && holds(end - 1) && inside.into_iter().all(holds))
    }

    /// Addresses that were written, or zeroed, outside all placements of `loaded`.
    pub(crate) fn strays(&self, loaded: &Loaded) -> Vec<u64> {
        let placed = |gpa: u64| {
            loaded.placements.iter().any(|block| {
                let start = block.start.as_u64();
                start <= gpa && gpa - start < block.bytes
            })
        };
        let in_part = |&(number, _): &(&u64, &Vec<Option<u8>>)| {
            !loaded.placements.iter().any(|block| {
                let start = block.start.as_u64();
                start <= number * PAGE && (number + 1) * PAGE - start <= block.bytes
            })
        };
        let written = self.pages.iter().filter(in_part).flat_map(|(number, page)| {
            let set = page.iter().enumerate().filter(|(_, byte)| byte.is_some());
            set.map(move |(offset, _)| number * PAGE + offset as u64)
        });
        let zeroed = self.zeroed.iter().flat_map(|&(start, bytes)| [start, start + bytes - 1]);
        written.chain(zeroed).filter(|&gpa| !placed(gpa)).collect()
    }
}

impl GuestRam for FakeRam {
    fn memory_map(&self) -> &[MemoryRange] {
        &self.map
    }

    fn write(&mut self, start: Gpa, bytes: &[u8]) -> Result<(), OutsideRam> {
        if !self.is_ram(start.as_u64(), bytes.len() as u64) {
            return Err(OutsideRam { at: start });
        }
        let mut gpa = start.as_u64();
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = (gpa % PAGE) as usize;
            let (part, more) = rest.split_at(rest.len().min(PAGE as usize - offset));
            let page = self.pages.entry(gpa / PAGE).or_insert_with(|| vec![None; PAGE as usize]);
            for (to, &from) in page[offset..].iter_mut().zip(part) {
                *to = Some(from);
            }
            gpa += part.len() as u64;
            rest = more;
        }
        Ok(())
    }

    fn zero(&mut self, start: Gpa, bytes: u64) -> Result<(), OutsideRam> {
        if !self.is_ram(start.as_u64(), bytes) {
            return Err(OutsideRam { at: start });
        }
        if bytes > 0 {
            self.zeroed.push((start.as_u64(), bytes));
        }
        Ok(())
    }
}

/// Loads and checks what must hold whatever the file is.
pub(crate) fn load_checked(guest: &Guest, ram: &mut FakeRam) -> Result<Loaded, LoadError> {
    let result = load(guest, ram);
    match &result {
        Ok(loaded) => check_loaded(loaded, ram),
        Err(error) => check_error(guest, error),
    }
    result
}

/// A file as guest, without command line and modules.
pub(crate) fn bare(kind: Kind, bytes: &[u8]) -> Guest<'_> {
    Guest { kind, name: "file.elf", bytes, command_line: "", modules: &[], clock: Clock::default() }
}

fn check_loaded(loaded: &Loaded, ram: &FakeRam) {
    for block in &loaded.placements {
        assert!(ram.is_ram(block.start.as_u64(), block.bytes), "outside RAM: {block:x?}");
    }
    for pair in loaded.placements.windows(2) {
        let end = pair[0].start.as_u64() + pair[0].bytes;
        assert!(end <= pair[1].start.as_u64(), "overlap: {pair:x?}");
    }
    let strays = ram.strays(loaded);
    assert!(strays.is_empty(), "written but not placed: {strays:x?}");
    check_entry(loaded);
}

fn check_entry(loaded: &Loaded) {
    let placed = |gpa: u64| {
        loaded.placements.iter().any(|block| {
            let start = block.start.as_u64();
            start <= gpa && gpa - start < block.bytes
        })
    };
    let pointers = match loaded.entry {
        Entry::Real(real) => vec![u64::from(real.cs) * 16 + u64::from(real.ip)],
        Entry::Protected(start) => {
            let gdt = start.gdt.map(|gdt| gdt.base.as_u64());
            let words = [start.ebx, start.esi].into_iter().filter(|&word| word != 0);
            words.chain([start.eip]).map(u64::from).chain(gdt).collect()
        }
        Entry::Long(start) => {
            let blocks = [start.rdi, start.rsi].into_iter().filter(|&address| address != 0);
            let gdt_end = start.gdt.base.as_u64() + u64::from(start.gdt.limit);
            // The top of a stack, but the lowest address of Hermit's.
            let stack = if loaded.format == Format::Hermit { start.rsp } else { start.rsp - 1 };
            blocks.chain([start.rip, stack, start.cr3.as_u64(), gdt_end]).collect()
        }
    };
    for pointer in pointers {
        assert!(placed(pointer), "{pointer:#x} points at nothing placed: {loaded:x?}");
    }
}

fn check_error(guest: &Guest, error: &LoadError) {
    let line = error.to_string();
    assert!(line.starts_with(guest.name), "names no file: {line}");
    assert!(!line.contains('\n'), "more than one line: {line}");
    assert!(!line.contains("bug of the machine"), "wrote outside its own claims: {line}");
}
