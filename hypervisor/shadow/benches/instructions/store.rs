//! Two ways to keep memory.

/// Memory in 8-byte words, zero at first. Addresses are 8-aligned.
pub(crate) trait Store {
    /// Memory of this size.
    fn new(bytes: u64) -> Self;

    /// The word at `at`.
    fn get(&self, at: u64) -> u64;

    /// The eight words from `at`, which is 64-aligned.
    #[inline]
    fn get_eight(&self, at: u64) -> [u64; 8] {
        std::array::from_fn(|n| self.get(at + n as u64 * 8))
    }

    /// Changes the word at `at`.
    fn set(&mut self, at: u64, value: u64);

    /// Clears the 64 bytes at `at`, which is 64-aligned.
    #[inline]
    fn clear_line(&mut self, at: u64) {
        (0..8).for_each(|word| self.set(at + word * 8, 0));
    }
}

/// All of it: an access is one comparison and one instruction.
pub(crate) struct Flat(Vec<u64>);

impl Store for Flat {
    fn new(bytes: u64) -> Self {
        Self(vec![0; (bytes / 8) as usize])
    }

    #[inline]
    fn get(&self, at: u64) -> u64 {
        self.0[(at / 8) as usize]
    }

    /// One comparison for all eight.
    #[inline]
    fn get_eight(&self, at: u64) -> [u64; 8] {
        let words = self.0[(at / 8) as usize..].first_chunk();
        *words.expect("inside")
    }

    #[inline]
    fn set(&mut self, at: u64, value: u64) {
        self.0[(at / 8) as usize] = value;
    }
}

/// Only the cache lines that were written, found by one more access than in [`Flat`], as many
/// instructions wherever they lie: a million shadow tables of one entry each, with their links and the
/// guest's tables, fit in a gigabyte.
pub(crate) struct Sparse {
    /// By line number: its place in `lines`; 0 where it was never written. The host's memory for it is
    /// taken where it is used.
    places: Vec<u32>,
    /// The first is what all unwritten ones read as.
    lines: Vec<[u64; 8]>,
}

impl Sparse {
    #[inline]
    fn place(&self, at: u64) -> usize {
        self.places[(at / 64) as usize] as usize
    }

    #[inline(never)]
    fn add(&mut self, at: u64) -> usize {
        let place = self.lines.len();
        self.lines.push([0; 8]);
        self.places[(at / 64) as usize] = place as u32;
        place
    }
}

impl Store for Sparse {
    fn new(bytes: u64) -> Self {
        Self { places: vec![0; bytes.div_ceil(64) as usize], lines: vec![[0; 8]] }
    }

    #[inline]
    fn get(&self, at: u64) -> u64 {
        self.lines[self.place(at)][(at / 8 % 8) as usize]
    }

    #[inline]
    fn get_eight(&self, at: u64) -> [u64; 8] {
        self.lines[self.place(at)]
    }

    #[inline]
    fn set(&mut self, at: u64, value: u64) {
        let mut place = self.place(at);
        if place == 0 {
            if value == 0 {
                return;
            }
            place = self.add(at);
        }
        self.lines[place][(at / 8 % 8) as usize] = value;
    }

    fn clear_line(&mut self, at: u64) {
        let place = self.place(at);
        if place != 0 {
            self.lines[place] = [0; 8];
        }
    }
}
