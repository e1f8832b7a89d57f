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

/// Only the cache lines that were written, by open addressing: a million shadow tables of one
/// entry each fit in a few hundred megabytes. For operations that touch no memory.
pub(crate) struct Sparse {
    /// Line number plus one, 0 where the place is free.
    keys: Vec<u32>,
    lines: Vec<[u64; 8]>,
    used: usize,
}

impl Sparse {
    fn place(keys: &[u32], line: u32) -> usize {
        let mask = keys.len() - 1;
        let mut at = (u64::from(line).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        while keys[at] != 0 && keys[at] != line + 1 {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        let size = self.keys.len() * 2;
        let keys = std::mem::replace(&mut self.keys, vec![0; size]);
        let lines = std::mem::replace(&mut self.lines, vec![[0; 8]; size]);
        for (key, line) in keys.into_iter().zip(lines).filter(|(key, _)| *key != 0) {
            let at = Self::place(&self.keys, key - 1);
            self.keys[at] = key;
            self.lines[at] = line;
        }
    }
}

impl Store for Sparse {
    fn new(_bytes: u64) -> Self {
        Self { keys: vec![0; 1 << 16], lines: vec![[0; 8]; 1 << 16], used: 0 }
    }

    fn get(&self, at: u64) -> u64 {
        let line = (at / 64) as u32;
        let place = Self::place(&self.keys, line);
        if self.keys[place] == 0 { 0 } else { self.lines[place][(at / 8 % 8) as usize] }
    }

    fn set(&mut self, at: u64, value: u64) {
        let line = (at / 64) as u32;
        let mut place = Self::place(&self.keys, line);
        if self.keys[place] == 0 {
            if value == 0 {
                return;
            }
            if self.used * 2 >= self.keys.len() {
                self.grow();
                place = Self::place(&self.keys, line);
            }
            self.keys[place] = line + 1;
            self.used += 1;
        }
        self.lines[place][(at / 8 % 8) as usize] = value;
    }

    fn clear_line(&mut self, at: u64) {
        let line = (at / 64) as u32;
        let place = Self::place(&self.keys, line);
        if self.keys[place] != 0 {
            self.lines[place] = [0; 8];
        }
    }
}
