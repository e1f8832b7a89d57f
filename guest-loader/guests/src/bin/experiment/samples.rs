//! Where figures are kept until all is over: an array of 32-bit words in memory of its own,
//! so that keeping one is a store that no table and no console gets to see.
#![expect(unsafe_code, reason = "an array at a fixed address that no Rust object lies in")]

use anchorite_guests::{print, println};

/// More figures than this on a line would exceed what the tools keep of one.
const A_LINE: usize = 512;

/// An array of figures at a physical address.
#[derive(Debug)]
pub(crate) struct Samples {
    start: u64,
    count: usize,
    most: usize,
    lost: usize,
}

impl Samples {
    /// An empty array in `bytes` bytes of RAM at `start`, which are nobody else's.
    pub(crate) const fn new(start: u64, bytes: u64) -> Self {
        Self { start, count: 0, most: (bytes / 4) as usize, lost: 0 }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        (self.count, self.lost) = (0, 0);
    }

    /// Keeps a figure; one that does not fit is counted.
    #[inline]
    pub(crate) fn push(&mut self, ticks: u64) {
        if self.count == self.most {
            self.lost += 1;
            return;
        }
        let value = u32::try_from(ticks).unwrap_or(u32::MAX);
        let at = (self.start as *mut u32).wrapping_add(self.count);
        // SAFETY: RAM that is mapped one to one and, by `new`, ours alone; in bounds.
        unsafe { at.write_volatile(value) };
        self.count += 1;
    }

    /// Figures that did not fit.
    pub(crate) fn lost(&self) -> usize {
        self.lost
    }

    /// Prints `E name value*count …`, sorted. Figures from 4096 up are rounded to one part
    /// in 2048, so that there are not too many different ones.
    pub(crate) fn print(&mut self, name: &str) {
        let values = self.values();
        values.iter_mut().for_each(|value| *value = rounded(*value));
        values.sort_unstable();
        let mut on_line = 0;
        print!("E {name}");
        for group in values.chunk_by(|a, b| a == b) {
            if on_line == A_LINE {
                print!("\nE {name}");
                on_line = 0;
            }
            print!(" {}*{}", group[0], group.len());
            on_line += 1;
        }
        println!();
    }

    fn values(&mut self) -> &mut [u32] {
        // SAFETY: `count` words at `start` were written by `push`; the borrow of `self`
        // keeps others away.
        unsafe { core::slice::from_raw_parts_mut(self.start as *mut u32, self.count) }
    }
}

fn rounded(value: u32) -> u32 {
    let low = (32 - value.leading_zeros()).saturating_sub(12);
    value >> low << low
}
