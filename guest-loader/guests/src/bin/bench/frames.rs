//! Physical memory: page tables from 16 MiB up, data pages from 128 MiB up.

use anchorite_guests::{BootInfo, println};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
const TABLES: u64 = 16 << 20;
const DATA: u64 = 128 << 20;
/// The identity map reaches this far.
pub(crate) const MAPPED: u64 = 1 << 30;

/// Hands out page tables in order, and names data pages by number.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    next: u64,
    /// Tables below this were used before and hold old entries.
    used: u64,
    data_pages: u64,
}

impl Frames {
    pub(crate) fn new(boot: &BootInfo) -> Result<Self, &'static str> {
        let ram = boot.memory.ram().find(|region| (region.start..region.end).contains(&TABLES));
        let end = ram.map_or(0, |region| region.end).min(MAPPED);
        if end < DATA + (64 << 20) {
            return Err("needs 192 MiB at least, and 768 MiB for every row");
        }
        let data_pages = (end - DATA) / PAGE;
        println!("bench: {data_pages} data pages");
        Ok(Self { next: TABLES, used: TABLES, data_pages })
    }

    /// An empty page table.
    pub(crate) fn table(&mut self) -> u64 {
        let table = self.next;
        assert!(table < DATA, "no room for another page table");
        self.next += PAGE;
        if table < self.used {
            clear(table);
        }
        table
    }

    /// Where tables go on, for [`rewind`](Self::rewind).
    pub(crate) fn mark(&self) -> u64 {
        self.next
    }

    /// Gives back the tables made since `mark`.
    pub(crate) fn rewind(&mut self, mark: u64) {
        self.used = self.used.max(self.next);
        self.next = mark;
    }

    /// Physical address of a data page; beyond the last they begin anew.
    pub(crate) fn data(&self, number: u64) -> u64 {
        DATA + number % self.data_pages * PAGE
    }

    /// Data pages that differ.
    pub(crate) fn data_pages(&self) -> u64 {
        self.data_pages
    }
}

/// Zeroes a page of memory that is no Rust object.
pub(crate) fn clear(page: u64) {
    // SAFETY: the page lies above the image, is mapped one to one and is nobody's.
    unsafe {
        core::arch::asm!("rep stosq", inout("rdi") page => _, inout("rcx") 512u64 => _,
            in("rax") 0u64, options(nostack, preserves_flags));
    }
}

/// Reads a word of memory.
#[inline(always)]
pub(crate) fn load(address: u64) -> u64 {
    // SAFETY: the caller's address is mapped, and any bits are a valid word.
    unsafe { core::ptr::read_volatile(address as *const u64) }
}

/// Writes a word of memory that is no Rust object.
#[inline(always)]
pub(crate) fn store(address: u64, value: u64) {
    // SAFETY: the caller's address is mapped and lies above the image.
    unsafe { core::ptr::write_volatile(address as *mut u64, value) }
}
