//! Guest memory that remembers what it held, and the judge that uses the memory.
//!
//! A TLB may hold any translation that a walk could have made since the vCPU last
//! invalidated that address. So each 8-byte cell of guest memory keeps the values it had,
//! with the times at which they began; [`Ram::values_since`] gives the values an entry had
//! from a moment on, and [`permitted`] walks through all of them.

use super::reference::{Access, Answer, Cpu, End, EntryRef, Leaf, Op, Walker, check};
use std::collections::HashMap;

/// Logical time: one tick per change of memory or of control state.
pub type Time = u64;

/// Sparse guest-physical memory; what was never written reads as zero.
#[derive(Default)]
pub struct Ram {
    frames: HashMap<u64, Box<[u64; 512]>>,
    /// Former values of a cell and the time at which each ended, oldest first.
    past: HashMap<u64, Vec<(Time, u64)>>,
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

    /// The 8-byte cell that holds `gpa`.
    pub fn cell(&self, gpa: u64) -> u64 {
        self.frames.get(&(gpa >> 12)).map_or(0, |frame| frame[(gpa >> 3 & 511) as usize])
    }

    /// `bytes` (4 or 8) at `gpa`, aligned.
    pub fn read(&self, gpa: u64, bytes: u32) -> u64 {
        extract(self.cell(gpa), gpa, bytes)
    }

    /// Writes without keeping the old value's memory apart: one tick.
    pub fn write(&mut self, gpa: u64, bytes: u32, value: u64) {
        let old = self.cell(gpa);
        let new = if bytes == 8 {
            value
        } else {
            let shift = (gpa & 4) * 8;
            (old & !(0xffff_ffff << shift)) | (value & 0xffff_ffff) << shift
        };
        if new == old {
            return;
        }
        let time = self.tick();
        self.past.entry(gpa >> 3).or_default().push((time, old));
        self.frames.entry(gpa >> 12).or_insert_with(|| Box::new([0; 512]))
            [(gpa >> 3 & 511) as usize] = new;
    }

    /// Calls `each` with every value the entry had at `since` or later, the present one first.
    pub fn values_since(&self, at: EntryRef, since: Time, mut each: impl FnMut(u64)) {
        each(self.read(at.gpa, at.bytes));
        if let Some(past) = self.past.get(&(at.gpa >> 3)) {
            for &(ended, raw) in past.iter().rev() {
                if ended <= since {
                    break;
                }
                each(extract(raw, at.gpa, at.bytes));
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

fn extract(cell: u64, gpa: u64, bytes: u32) -> u64 {
    if bytes == 8 { cell } else { cell >> ((gpa & 4) * 8) & 0xffff_ffff }
}

/// Whether a TLB that was last invalidated for `gva` at `since` may translate `access` to
/// `gpa` without a walk of its own: some combination of the values the entries had since
/// then gives that address, the rights, A everywhere and, for a write, D.
pub fn permitted(ram: &Ram, cpu: &Cpu, gva: u64, access: Access, gpa: u64, since: Time) -> bool {
    any_walk(ram, Walker::new(cpu, gva), since, &mut |leaf| {
        leaf.gpa == gpa
            && leaf.accessed
            && (access.op != Op::Write || leaf.dirty)
            && check_in_mode(cpu, leaf, access)
    })
}

/// Whether a TLB or paging-structure cache last invalidated for `gva` at `since` may make
/// the processor report #PF with `code`.
pub fn fault_permitted(
    ram: &Ram,
    cpu: &Cpu,
    gva: u64,
    access: Access,
    code: u32,
    since: Time,
) -> bool {
    any_end(ram, Walker::new(cpu, gva), since, &mut |walker, end| {
        walker.conclude(end, access).answer == Answer::PageFault(code)
    })
}

fn check_in_mode(cpu: &Cpu, leaf: &Leaf, access: Access) -> bool {
    cpu.mode() == super::reference::Mode::Off || check(cpu, leaf, access).is_ok()
}

fn any_walk(
    ram: &Ram,
    walker: Walker,
    since: Time,
    accept: &mut impl FnMut(&Leaf) -> bool,
) -> bool {
    any_end(ram, walker, since, &mut |_, end| match end {
        End::Leaf(leaf) => accept(&leaf),
        _ => false,
    })
}

fn any_end(
    ram: &Ram,
    walker: Walker,
    since: Time,
    accept: &mut impl FnMut(&Walker, End) -> bool,
) -> bool {
    let at = match walker.state() {
        Err(end) => return accept(&walker, end),
        Ok(at) => at,
    };
    let mut values = [0; 16];
    let mut count = 0;
    let mut overflow = Vec::new();
    ram.values_since(at, since, |raw| {
        if values[..count].contains(&raw) || overflow.contains(&raw) {
            return;
        }
        if count < values.len() {
            values[count] = raw;
            count += 1;
        } else {
            overflow.push(raw);
        }
    });
    values[..count].iter().chain(&overflow).any(|&raw| {
        let mut next = walker;
        next.feed(raw);
        any_end(ram, next, since, accept)
    })
}
