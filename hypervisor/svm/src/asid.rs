//! Address space identifiers: which tag this CPU's TLB gives a vCPU's translations.
//!
//! A vCPU keeps its ASID until it needs an empty one and the CPU cannot flush a single
//! one; then it takes the next. When they run out, a new generation begins: everything
//! is flushed once, and each vCPU takes a new one before its next entry.
//!
//! Source: APM vol. 2, 15.5.1 "Basic Operation", "TLB Control"; 15.16 "TLB Control".

/// An ASID, valid while its generation is the pool's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asid {
    /// The hardware's number; 0 is the host's.
    pub number: u32,
    generation: u64,
}

/// What has to be flushed before an ASID is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Nothing: no translation carries it.
    Nothing,
    /// Everything: a new generation has begun.
    Everything,
}

/// The ASIDs of one physical CPU.
#[derive(Clone, Copy, Debug)]
pub struct AsidPool {
    next: u32,
    limit: u32,
    generation: u64,
}

impl AsidPool {
    /// The pool of a CPU with `count` ASIDs, 0 included. What earlier software left in
    /// the TLB is flushed with the first one taken.
    pub const fn new(count: u32) -> Self {
        Self { next: count, limit: count, generation: 0 }
    }

    /// Whether no other vCPU can carry `asid`.
    pub const fn is_current(&self, asid: Asid) -> bool {
        asid.generation == self.generation && asid.number != 0
    }

    /// An ASID that no translation carries once what is [`Stale`] has been flushed.
    pub fn take(&mut self) -> (Asid, Stale) {
        let mut stale = Stale::Nothing;
        if self.next >= self.limit {
            self.next = 1;
            self.generation += 1;
            stale = Stale::Everything;
        }
        let asid = Asid { number: self.next, generation: self.generation };
        self.next += 1;
        (asid, stale)
    }
}

#[cfg(test)]
mod tests;
