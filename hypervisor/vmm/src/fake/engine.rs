//! The shadow engine on memory of words, and a guest's tables in it.

extern crate std;

use super::memory::HOST_BASE;
use crate::translation::Shadow;
use anchorite_addr::Hpa;
use anchorite_shadow::{
    AnyMmu, Arena, Config, FrameSource, GuestMemory, PolicyKind, Slab, TableMemory,
};
use std::collections::BTreeMap;

const SLAB: u64 = 0x1000_0000;
const LOW: u64 = 0x2000_0000;

/// Tables and guest memory as words by address; one slab, one low frame. The guest begins at
/// [`HOST_BASE`].
#[derive(Debug, Default)]
pub(crate) struct Words {
    words: BTreeMap<u64, u64>,
    given: bool,
}

impl TableMemory for Words {
    fn read_entry(&self, at: Hpa) -> u64 {
        self.words.get(&at.as_u64()).copied().unwrap_or(0)
    }

    fn write_entry(&mut self, at: Hpa, value: u64) {
        self.words.insert(at.as_u64(), value);
    }
}

impl GuestMemory for Words {
    fn read_u32(&self, at: Hpa) -> u32 {
        (self.read_entry(Hpa::new(at.as_u64() & !7)) >> (8 * (at.as_u64() & 4))) as u32
    }

    fn read_u64(&self, at: Hpa) -> u64 {
        self.read_entry(at)
    }

    fn compare_exchange_u32(&mut self, _: Hpa, _: u32, _: u32) -> bool {
        unreachable!("no guest here has 4-byte entries")
    }

    fn compare_exchange_u64(&mut self, at: Hpa, old: u64, new: u64) -> bool {
        let equal = self.read_entry(at) == old;
        if equal {
            self.write_entry(at, new);
        }
        equal
    }
}

impl FrameSource for Words {
    fn arena(&self) -> Arena {
        Arena { base: Hpa::new(SLAB), pages: 64 }
    }

    fn take_slab(&mut self) -> Option<Slab> {
        (!core::mem::replace(&mut self.given, true)).then(|| Slab::new(Hpa::new(SLAB)))
    }

    fn give_slab(&mut self, _: Slab) {
        self.given = false;
    }

    fn take_low_frame(&mut self) -> Option<Hpa> {
        Some(Hpa::new(LOW))
    }

    fn give_low_frame(&mut self, _: Hpa) {}
}

/// The guest's entries, each with its address.
pub(super) fn tables() -> impl Iterator<Item = (u64, u64)> {
    let upper = (1..4).map(|level| (level * 0x1000, (level + 1) << 12 | 7));
    let pages = (0..511).map(|page| (0x4000 + page * 8, (page + 1) << 12 | 7));
    upper.chain(pages)
}

/// The engine for a guest whose page n of the first 2 MiB is mapped, as a user's, to its page
/// n + 1 by the tables at 0x1000.
pub(crate) fn shadow() -> Shadow<AnyMmu<Words>> {
    shadow_under(PolicyKind::Tagged)
}

/// The same under `policy`.
pub(crate) fn shadow_under(policy: PolicyKind) -> Shadow<AnyMmu<Words>> {
    let mut words = Words::default();
    for (gpa, entry) in tables() {
        words.write_entry(Hpa::new(HOST_BASE + gpa), entry);
    }
    let config = Config { quota: 64, ..Config::default() };
    Shadow::new(AnyMmu::new(policy, words, config).unwrap()).unwrap()
}
