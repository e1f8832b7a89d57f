//! Guest memory that remembers what it held, and the judge that uses the memory.
//!
//! A TLB may hold any translation that a walk could have made since the vCPU last
//! invalidated that address. So each 8-byte cell of guest memory keeps the values it had,
//! with the times at which they ended, and [`View::permits`] walks through all of them.

use super::reference::{A, Access, Cpu, D, End, EntryRef, Mode, Op, Walker, check};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Logical time: one tick per change of memory or of control state.
pub type Time = u64;

/// A map by numbers that nobody attacks: one multiplication a look-up.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<Multiply>>;

#[derive(Clone, Copy, Default)]
pub struct Multiply(u64);

impl Hasher for Multiply {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
}

/// Sparse host memory of the guest, by host-physical address; what was never written reads as zero.
#[derive(Default)]
pub struct Ram {
    frames: Map<u64, Box<[u64; 512]>>,
    /// Former values of a cell and the time at which each ended, oldest first.
    past: Map<u64, Vec<(Time, u64)>>,
    now: Time,
}

impl Ram {
    pub fn now(&self) -> Time {
        self.now
    }

    /// Starts a new moment: what was true so far is the past.
    pub fn tick(&mut self) -> Time {
        self.now += 1;
        self.now
    }

    /// The 8-byte cell that holds `hpa`.
    pub fn cell(&self, hpa: u64) -> u64 {
        self.frames.get(&(hpa >> 12)).map_or(0, |frame| frame[(hpa >> 3 & 511) as usize])
    }

    /// `bytes` (4 or 8) at `hpa`, aligned.
    pub fn read(&self, hpa: u64, bytes: u32) -> u64 {
        extract(self.cell(hpa), hpa, bytes)
    }

    /// Writes without keeping the old value's memory apart: one tick.
    pub fn write(&mut self, hpa: u64, bytes: u32, value: u64) {
        let old = self.cell(hpa);
        let new = if bytes == 8 {
            value
        } else {
            let shift = (hpa & 4) * 8;
            (old & !(0xffff_ffff << shift)) | (value & 0xffff_ffff) << shift
        };
        if new == old {
            return;
        }
        let time = self.tick();
        self.past.entry(hpa >> 3).or_default().push((time, old));
        self.frames.entry(hpa >> 12).or_insert_with(|| Box::new([0; 512]))
            [(hpa >> 3 & 511) as usize] = new;
    }

    /// Calls `each` with every value the `bytes` bytes at `hpa` had at `since` or later, the
    /// present one first.
    pub fn values_since(&self, hpa: u64, bytes: u32, since: Time, mut each: impl FnMut(u64)) {
        each(self.read(hpa, bytes));
        if let Some(past) = self.past.get(&(hpa >> 3)) {
            for &(ended, raw) in past.iter().rev() {
                if ended <= since {
                    break;
                }
                each(extract(raw, hpa, bytes));
            }
        }
    }

    /// Forgets values that ended at or before `horizon`.
    pub fn forget(&mut self, horizon: Time) {
        self.past.retain(|_, past| {
            past.retain(|&(ended, _)| ended > horizon);
            !past.is_empty()
        });
    }
}

fn extract(cell: u64, hpa: u64, bytes: u32) -> u64 {
    if bytes == 8 { cell } else { cell >> ((hpa & 4) * 8) & 0xffff_ffff }
}

/// Where guest-physical memory lies: the host address of a guest address, and whether the
/// slot is read-only. Nothing can set A and D in a read-only slot, so they count as set.
pub trait Locate {
    fn locate(&self, gpa: u64) -> Option<(u64, bool)>;
}

/// Guest memory at one moment of the slots' history.
pub struct View<'a, L> {
    pub ram: &'a Ram,
    pub slots: &'a L,
}

impl<L: Locate> View<'_, L> {
    /// The entry as the walk sees it; `None` where there is no memory.
    pub fn read(&self, at: EntryRef) -> Option<u64> {
        let (hpa, read_only) = self.slots.locate(at.gpa)?;
        let raw = self.ram.read(hpa, at.bytes);
        Some(if read_only { raw | A | D } else { raw })
    }

    fn values(&self, at: EntryRef, since: Time, each: &mut dyn FnMut(u64)) {
        match self.slots.locate(at.gpa) {
            None => each(0),
            Some((hpa, read_only)) => {
                let extra = if read_only { A | D } else { 0 };
                self.ram.values_since(hpa, at.bytes, since, |raw| each(raw | extra));
            }
        }
    }

    /// Whether a TLB that was last invalidated for `gva` at `since` may translate `access`
    /// to `gpa` without a walk of its own: some combination of the values the entries had
    /// since then gives that address, the rights, A everywhere and, for a write, D.
    pub fn permits(&self, cpu: &Cpu, gva: u64, access: Access, gpa: u64, since: Time) -> bool {
        self.any_end(Walker::new(cpu, gva), since, &mut |end| match end {
            End::Leaf(leaf) => {
                leaf.gpa == gpa
                    && leaf.accessed
                    && (access.op != Op::Write || leaf.dirty)
                    && (cpu.mode() == Mode::Off || check(cpu, &leaf, access).is_ok())
            }
            _ => false,
        })
    }

    #[expect(clippy::large_types_passed_by_value, reason = "each branch goes on with its own")]
    fn any_end(&self, walker: Walker, since: Time, accept: &mut impl FnMut(End) -> bool) -> bool {
        let at = match walker.state() {
            Err(end) => return accept(end),
            Ok(at) => at,
        };
        let mut values = Vec::new();
        self.values(at, since, &mut |raw| {
            if !values.contains(&raw) {
                values.push(raw);
            }
        });
        values.into_iter().any(|raw| {
            let mut next = walker;
            next.feed(raw);
            self.any_end(next, since, accept)
        })
    }
}
