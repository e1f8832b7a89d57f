//! The machine around the engine: host memory with guest frames that remember, an arena of
//! table slabs that knows which of them are handed out, and calls that fail on demand.

use super::history::Ram;
use super::reference::{Cpu, End, Leaf, Walker};
use anchorite_addr::Hpa;
use std::cell::RefCell;

use anchorite_shadow::memory::{PAGE_BYTES, SLAB_BYTES};
use anchorite_shadow::{Arena, FrameSource, GuestMemory, Slab, TableMemory};

/// Where the arena of shadow pages begins; guest memory lies far above.
const ARENA_BASE: u64 = 0x1_0000_0000;
/// Where low frames (PAE roots) begin.
const LOW_BASE: u64 = 0x10_0000;
/// Host memory of the guest lies at and above this address.
pub const GUEST_BASE: u64 = 0x40_0000_0000;
/// What a slab holds when it is handed out, and after it was given back: a present,
/// writable entry to a frame that belongs to nobody.
const POISON: u64 = 0x000d_eadb_eef0_0007;

/// One unit of page-table memory and whether the engine holds it.
#[derive(Default)]
struct Block {
    words: Vec<u64>,
    held: bool,
}

/// All memory, and the failures to come.
pub struct Machine {
    /// Guest memory by host-physical address.
    pub ram: Ram,
    slabs: Vec<Block>,
    lows: Vec<Block>,
    /// Requests that still succeed before one fails; `None`: none will fail.
    pub starve_after: Option<u32>,
    /// Every request fails.
    pub starving: bool,
    /// Requests made so far, for the test that fails each in turn.
    pub requests: u64,
    /// Requests refused so far.
    pub refused: u64,
    /// What the engine changed in guest memory: address, old and new value.
    pub changed: Vec<(u64, u64, u64)>,
    /// Processors that walk the tables whenever an entry is written.
    pub spies: Vec<Spy>,
    /// The translations they found.
    pub sightings: Vec<(Spy, Leaf)>,
}

/// A processor in the guest, and an address that it may touch at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spy {
    pub vcpu: usize,
    pub cpu: Cpu,
    pub gva: u64,
}

thread_local! {
    /// Buffers of former slabs: short runs would spend their time on fresh memory.
    static BUFFERS: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

impl Block {
    fn take(&mut self, bytes: u64) {
        self.held = true;
        if bytes == SLAB_BYTES {
            self.words = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        self.words.clear();
        self.words.resize(bytes as usize / 8, POISON);
    }

    fn give(&mut self) {
        self.held = false;
        let words = std::mem::take(&mut self.words);
        if words.len() as u64 == SLAB_BYTES / 8 {
            BUFFERS.with_borrow_mut(|buffers| buffers.push(words));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for block in self.slabs.iter_mut().filter(|block| block.held) {
            block.give();
        }
    }
}

impl Machine {
    /// Room for `slabs` slabs and `lows` low frames.
    pub fn new(slabs: usize, lows: usize) -> Self {
        let blocks = |count| (0..count).map(|_| Block::default()).collect();
        Self {
            ram: Ram::default(),
            slabs: blocks(slabs),
            lows: blocks(lows),
            starve_after: None,
            starving: false,
            requests: 0,
            refused: 0,
            changed: Vec::new(),
            spies: Vec::new(),
            sightings: Vec::new(),
        }
    }

    /// Slabs and low frames that the engine holds.
    pub fn held(&self) -> (usize, usize) {
        let count = |blocks: &[Block]| blocks.iter().filter(|block| block.held).count();
        (count(&self.slabs), count(&self.lows))
    }

    /// Whether an address lies in memory that shadow tables live in.
    pub fn is_table(&self, at: u64) -> bool {
        self.locate(at).is_some()
    }

    /// What all table memory holds, for comparing two runs.
    pub fn tables_digest(&self) -> u64 {
        let words = self.slabs.iter().chain(&self.lows).flat_map(|block| &block.words);
        words.fold(0, |digest: u64, word| {
            (digest.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }

    fn locate(&self, at: u64) -> Option<(bool, usize, usize)> {
        let within = |base: u64, bytes: u64, count: usize| {
            let offset = at.checked_sub(base)?;
            let block = (offset / bytes) as usize;
            (block < count).then_some((block, (offset % bytes / 8) as usize))
        };
        if let Some((block, word)) = within(LOW_BASE, 4096, self.lows.len()) {
            return Some((true, block, word));
        }
        within(ARENA_BASE, SLAB_BYTES, self.slabs.len()).map(|(block, word)| (false, block, word))
    }

    fn word(&self, at: Hpa) -> &u64 {
        let raw = at.as_u64();
        assert!(raw % 8 == 0, "a table access at {raw:#x} is not aligned");
        let Some((low, block, word)) = self.locate(raw) else {
            panic!("a table access at {raw:#x}, outside of all table memory");
        };
        let block = if low { &self.lows[block] } else { &self.slabs[block] };
        assert!(block.held, "a table access at {raw:#x}, which was given back or never taken");
        &block.words[word]
    }

    /// What the hardware walker reads. A walk into memory that is no table is the worst
    /// of all bugs, and ends the run.
    pub fn hardware_read(&self, at: u64) -> u64 {
        *self.word(Hpa::new(at))
    }

    /// The hardware walker sets A and D in a shadow entry.
    pub fn hardware_set(&mut self, at: u64, bits: u64) {
        let value = self.hardware_read(at) | bits;
        self.write_entry(Hpa::new(at), value);
    }

    fn spy(&mut self) {
        for index in 0..self.spies.len() {
            let spy = self.spies[index];
            let mut walker = Walker::new(&spy.cpu, spy.gva);
            let end = loop {
                match walker.state() {
                    Ok(at) => walker.feed(self.hardware_read(at.gpa)),
                    Err(end) => break end,
                }
            };
            if let End::Leaf(leaf) = end {
                if self.sightings.last() != Some(&(spy, leaf)) {
                    self.sightings.push((spy, leaf));
                }
            }
        }
    }

    fn request(&mut self) -> bool {
        self.requests += 1;
        if self.starving {
            self.refused += 1;
            return false;
        }
        match &mut self.starve_after {
            Some(0) => {
                self.starve_after = None;
                self.refused += 1;
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }
}

impl TableMemory for Machine {
    fn read_entry(&self, at: Hpa) -> u64 {
        *self.word(at)
    }

    fn write_entry(&mut self, at: Hpa, value: u64) {
        self.word(at);
        let (low, block, word) = self.locate(at.as_u64()).expect("checked by word");
        let blocks = if low { &mut self.lows } else { &mut self.slabs };
        blocks[block].words[word] = value;
        if !self.spies.is_empty() {
            self.spy();
        }
    }

    fn used_lines(&self, table: Hpa) -> u64 {
        self.word(table);
        let (low, block, word) = self.locate(table.as_u64()).expect("checked by word");
        let block = if low { &self.lows[block] } else { &self.slabs[block] };
        let lines = block.words[word..word + 512].chunks_exact(8).enumerate();
        lines.fold(0, |used, (n, line)| used | u64::from(line != [0; 8]) << n)
    }
}

impl GuestMemory for Machine {
    fn read_u32(&self, at: Hpa) -> u32 {
        self.ram.read(guest(at, 4), 4) as u32
    }

    fn read_u64(&self, at: Hpa) -> u64 {
        self.ram.read(guest(at, 8), 8)
    }

    fn compare_exchange_u32(&mut self, at: Hpa, old: u32, new: u32) -> bool {
        let same = self.read_u32(at) == old;
        if same {
            self.ram.write(at.as_u64(), 4, u64::from(new));
            self.changed.push((at.as_u64(), u64::from(old), u64::from(new)));
        }
        same
    }

    fn compare_exchange_u64(&mut self, at: Hpa, old: u64, new: u64) -> bool {
        let same = self.read_u64(at) == old;
        if same {
            self.ram.write(at.as_u64(), 8, new);
            self.changed.push((at.as_u64(), old, new));
        }
        same
    }
}

fn guest(at: Hpa, bytes: u64) -> u64 {
    let raw = at.as_u64();
    assert!(raw >= GUEST_BASE, "a guest entry read at {raw:#x}, outside of guest memory");
    assert!(raw % bytes == 0, "a guest entry read at {raw:#x} is not aligned");
    raw
}

impl FrameSource for Machine {
    fn arena(&self) -> Arena {
        Arena {
            base: Hpa::new(ARENA_BASE),
            pages: (self.slabs.len() as u64 * SLAB_BYTES / PAGE_BYTES) as u32,
        }
    }

    fn take_slab(&mut self) -> Option<Slab> {
        if !self.request() {
            return None;
        }
        let Some(free) = self.slabs.iter().rposition(|block| !block.held) else {
            self.refused += 1;
            return None;
        };
        self.slabs[free].take(SLAB_BYTES);
        Some(Slab::new(Hpa::new(ARENA_BASE + free as u64 * SLAB_BYTES)))
    }

    fn give_slab(&mut self, slab: Slab) {
        let index = ((slab.base().as_u64() - ARENA_BASE) / SLAB_BYTES) as usize;
        let block = &mut self.slabs[index];
        assert!(block.held, "slab {index} was given back twice");
        block.give();
    }

    fn take_low_frame(&mut self) -> Option<Hpa> {
        if !self.request() {
            return None;
        }
        let free = self.lows.iter().position(|block| !block.held)?;
        self.lows[free].take(4096);
        Some(Hpa::new(LOW_BASE + free as u64 * 4096))
    }

    fn give_low_frame(&mut self, frame: Hpa) {
        let index = ((frame.as_u64() - LOW_BASE) / 4096) as usize;
        let block = &mut self.lows[index];
        assert!(block.held, "low frame {index} was given back twice");
        block.give();
    }
}
