//! What the boot loader tells, in one form for both multiboot protocols.

use core::ops::Range;

/// Most RAM ranges kept; a loader that reports more is cut short.
pub const MAX_RAM_RANGES: usize = 16;
/// Most modules kept.
pub const MAX_MODULES: usize = 16;
/// Longest command line kept, in bytes.
pub const MAX_COMMAND_LINE: usize = 2048;
/// Longest module string kept, in bytes.
pub const MAX_MODULE_STRING: usize = 1024;
/// Bytes of an ACPI 2.0 root system description pointer.
pub const RSDP_BYTES: usize = 36;

/// A module: its bytes in memory and the words given with it.
#[derive(Clone, Debug)]
pub struct Module {
    /// Physical byte range.
    pub range: Range<u64>,
    /// The module's string: its name, then its arguments.
    pub string: FixedString<MAX_MODULE_STRING>,
}

/// What the boot loader tells.
#[derive(Debug)]
pub struct BootInformation {
    /// RAM that software may use, as the loader lists it.
    pub ram: FixedList<Range<u64>, MAX_RAM_RANGES>,
    /// Modules in the loader's order.
    pub modules: FixedList<Module, MAX_MODULES>,
    /// The raw command line.
    pub command_line: FixedString<MAX_COMMAND_LINE>,
    /// A copy of the ACPI root pointer; only multiboot 2 hands one over.
    pub rsdp: Option<[u8; RSDP_BYTES]>,
    /// Number of ranges, modules or strings that did not fit and were left out.
    pub left_out: u32,
}

impl BootInformation {
    /// Nothing told yet; all zero, so that a static one takes no room in the image.
    pub const EMPTY: Self = Self::empty();

    const fn empty() -> Self {
        Self {
            ram: FixedList::new(),
            modules: FixedList::new(),
            command_line: FixedString::new(),
            rsdp: None,
            left_out: 0,
        }
    }

    /// Adds a RAM range.
    pub fn add_ram(&mut self, range: Range<u64>) {
        if !range.is_empty() && !self.ram.push(range) {
            self.left_out += 1;
        }
    }

    /// Adds a module.
    pub fn add_module(&mut self, range: Range<u64>, string: &[u8]) {
        let mut module = Module { range, string: FixedString::new() };
        if !module.string.set(string) {
            self.left_out += 1;
        }
        if !self.modules.push(module) {
            self.left_out += 1;
        }
    }

    /// Keeps the command line.
    pub fn set_command_line(&mut self, text: &[u8]) {
        if !self.command_line.set(text) {
            self.left_out += 1;
        }
    }
}

/// A type with a value of all zero bytes that means nothing yet.
pub trait Zero {
    /// That value.
    const ZERO: Self;
}

impl Zero for Range<u64> {
    const ZERO: Self = 0..0;
}

impl Zero for Module {
    const ZERO: Self = Self { range: 0..0, string: FixedString::new() };
}

/// A list in fixed storage, for code that runs before there is a heap.
#[derive(Clone, Debug)]
pub struct FixedList<T, const N: usize> {
    items: [T; N],
    count: usize,
}

impl<T: Zero, const N: usize> FixedList<T, N> {
    /// An empty list.
    pub const fn new() -> Self {
        Self { items: [const { T::ZERO }; N], count: 0 }
    }

    /// Appends `item`; `false` where the list is full.
    pub fn push(&mut self, item: T) -> bool {
        match self.items.get_mut(self.count) {
            Some(slot) => {
                *slot = item;
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items[..self.count].iter()
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<T: Zero, const N: usize> Default for FixedList<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A string in fixed storage. Bytes that are not UTF-8 are cut off with what follows.
#[derive(Clone, Debug)]
pub struct FixedString<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> FixedString<N> {
    /// The empty string.
    pub const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// Keeps what fits and is UTF-8; `false` where something was cut off.
    pub fn set(&mut self, text: &[u8]) -> bool {
        let fitting = &text[..text.len().min(N)];
        self.length = match core::str::from_utf8(fitting) {
            Ok(_) => fitting.len(),
            Err(error) => error.valid_up_to(),
        };
        self.bytes[..self.length].copy_from_slice(&fitting[..self.length]);
        self.length == text.len()
    }

    /// The text kept.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl<const N: usize> Default for FixedString<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_list_refuses_and_keeps_what_it_has() {
        let mut list = FixedList::<Range<u64>, 2>::new();
        assert!(list.is_empty());
        assert!(list.push(1..2) && list.push(3..4));
        assert!(!list.push(5..6));
        assert!(list.iter().eq([&(1..2), &(3..4)]));
    }

    #[test]
    fn a_string_is_cut_at_its_capacity_and_at_bad_utf8() {
        let mut text = FixedString::<4>::new();
        assert!(!text.set(b"abcdef"));
        assert_eq!(text.as_str(), "abcd");
        assert!(!text.set(b"ab\xffd"));
        assert_eq!(text.as_str(), "ab");
        assert!(text.set(b"xyz"));
        assert_eq!(text.as_str(), "xyz");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut information = BootInformation::EMPTY;
        for index in 0..MAX_MODULES as u64 + 2 {
            information.add_module(index..index + 1, b"m");
        }
        information.set_command_line(&[b'a'; MAX_COMMAND_LINE + 1]);
        assert_eq!(information.left_out, 3);
        assert_eq!(information.modules.len(), MAX_MODULES);
    }
}
