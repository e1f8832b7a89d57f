//! Comparing a leaf table's shadow with the guest's entries, and taking away what they no
//! longer grant.

use anchorite_addr::Hpa;

use crate::leaf::is_cachable;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::page::{Node, PageNo};
use crate::paging::entry::{
    ACCESSED, DIRTY, FRAME, KEY, NX, PRESENT, USER_BIT, WRITABLE, leaf_flags, rights,
};
use crate::paging::{FourLevel, GuestFormat, TwoLevel};
use crate::policy::ZapPolicy;
use crate::role::{ALL_RIGHTS, EXEC, Role, USER, WRITE};
use crate::slots::Range;

/// A guest leaf table, as its shadow sees it.
#[derive(Clone, Copy)]
struct Source {
    role: Role,
    /// Where the first guest entry that the shadow covers lies.
    base: u64,
    /// Bits reserved in the entries.
    reserved: u64,
    /// Where most of the frames that the entries map are expected.
    range: Range,
    /// For the quick comparison: bits of a shadow entry that must be equal; those of a
    /// guest entry that are looked at; NX where the role forbids execution.
    equal: u64,
    looked_at: u64,
    nx: u64,
}

impl Source {
    fn new(role: Role, base: u64, reserved: u64, range: Range) -> Self {
        let denied = leaf_flags(ALL_RIGHTS) & !leaf_flags(role.access()) & (WRITABLE | USER_BIT);
        let key = if role.pke() { KEY } else { 0 };
        Self {
            role,
            base,
            reserved,
            range,
            equal: FRAME | PRESENT | ACCESSED | USER_BIT | key | reserved,
            looked_at: !denied,
            nx: leaf_flags(role.access()) & NX,
        }
    }

    /// Bits in which `gpte` grants less than `spte` holds, where the frame lies at the
    /// expected distance; other bits may be set as well where it does not.
    ///
    /// Moved by the distance from
    /// guest to host memory, the guest's entry differs from the shadow's at most in rights
    /// that the shadow lacks and in bits that mean nothing here: so a difference matters where
    /// the shadow has a right, or where it must be equal. A shadow entry with W has D, so
    /// comparing both asks for the guest's W and D.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "runs for every entry of a table")]
    fn differences(&self, gpte: u64, spte: u64) -> u64 {
        let moved = (gpte & self.looked_at | self.nx).wrapping_add(self.range.distance);
        (spte ^ moved) & (self.equal | (spte ^ NX) & (WRITABLE | DIRTY | NX))
    }

    /// Whether `spte` is a mapping that stays within what `gpte` grants. `false` says nothing.
    #[inline]
    fn is_in_step(&self, gpte: u64, spte: u64) -> bool {
        let offset = (gpte & FRAME).wrapping_sub(self.range.base);
        let expected = self.range.is_sole || offset < self.range.bytes;
        expected && spte & PRESENT != 0 && self.differences(gpte, spte) == 0
    }

    /// Whether that holds for each of the eight entries of the line at `line` that is not empty,
    /// shadowing those from `place` on. `false` says nothing.
    #[inline]
    fn is_line_in_step<F: GuestFormat, M: Machine>(
        &self,
        memory: &M,
        line: u64,
        place: u64,
    ) -> bool {
        let mut comparison = Comparison::default();
        let distance = self.range.distance;
        F::each_of_eight(memory, Hpa::new(place), |entry, gpte| {
            let spte = memory.read_entry(Hpa::new(line + entry * 8));
            comparison.add(gpte.wrapping_add(distance), spte);
        });
        comparison.is_in_step(self)
    }
}

/// What differs in some of several entries, so that eight cost one decision.
///
/// It asks what [`Source::differences`] asks of each, but in sums: a bit that must be equal in
/// all entries, or must not be missing in any, can be looked for at the end.
struct Comparison {
    /// Bits in which an entry differs.
    differing: u64,
    /// … and the shadow has a right: W or D is set, or NX is clear.
    granted: u64,
    /// Bits that every shadow entry has that is not empty.
    common: u64,
}

impl Default for Comparison {
    fn default() -> Self {
        Self { differing: 0, granted: 0, common: u64::MAX }
    }
}

impl Comparison {
    /// Adds a guest entry, moved by the distance from guest to host memory, and its shadow.
    /// Where that is empty nothing needs to be compared.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "runs for every entry of a table")]
    fn add(&mut self, moved: u64, spte: u64) {
        if spte == 0 {
            return;
        }
        let difference = moved ^ spte;
        self.common &= spte;
        self.differing |= difference;
        self.granted |= difference & (spte ^ NX);
    }

    /// Whether every shadow entry is empty, or a mapping that stays within what its guest entry
    /// grants, where all frames lie at the expected distance.
    #[inline]
    fn is_in_step(&self, source: &Source) -> bool {
        // U of the guest does not count where the role denies it. Of W and NX there is no need
        // to say that: what a role denies, no shadow entry grants.
        let equal = source.equal & (source.looked_at | !USER_BIT);
        self.common & PRESENT != 0
            && self.differing & equal == 0
            && self.granted & (WRITABLE | DIRTY | NX) == 0
    }
}

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    /// Brings the entries of one table in step as they are now. Returns whether any changed.
    pub(crate) fn sync_entries(&mut self, page: PageNo) -> bool {
        match self.source(page) {
            None => {
                self.drop_entries(page);
                true
            }
            Some(source) if source.role.has_four_byte_entries() => {
                self.sync_table::<TwoLevel>(&source, page)
            }
            Some(source) => self.sync_table::<FourLevel>(&source, page),
        }
    }

    /// Brings one entry in step.
    pub(crate) fn sync_one(&mut self, node: Node) {
        let at = self.pool.entry(node);
        let spte = self.machine.read_entry(at);
        if spte == 0 {
            return;
        }
        let meta = self.pool.meta(node.page());
        let role = meta.role;
        let is_cachable = match self.slots.host_frame(meta.gfn) {
            None => false,
            Some(host) if role.has_four_byte_entries() => {
                self.is_cachable_in::<TwoLevel>(first_entry(role, host), node)
            }
            Some(host) => self.is_cachable_in::<FourLevel>(first_entry(role, host), node),
        };
        if is_cachable {
            self.compare_one(node);
        } else {
            // As most often: the guest's entry is gone, and nothing needs to be compared.
            self.drop_spte(at, spte, 1);
        }
    }

    #[inline]
    fn is_cachable_in<F: GuestFormat>(&self, base: u64, node: Node) -> bool {
        let place = base + ((node.entry() as u64) << F::ENTRY_SHIFT);
        is_cachable(F::read(&self.machine, Hpa::new(place)))
    }

    #[inline(never)]
    fn compare_one(&mut self, node: Node) {
        let Some(source) = self.source(node.page()) else { return };
        if source.role.has_four_byte_entries() {
            self.sync_entry::<TwoLevel>(&source, node);
        } else {
            self.sync_entry::<FourLevel>(&source, node);
        }
    }

    /// `F` stands for the size of an entry; all formats with 8-byte entries read alike.
    fn sync_table<F: GuestFormat>(&mut self, source: &Source, page: PageNo) -> bool {
        let mut changed = false;
        let table = self.pool.table(page).as_u64();
        let mut lines = self.pool.meta(page).lines;
        let quickly = source.range.is_sole;
        while lines != 0 {
            let first = u64::from(lines.trailing_zeros()) * 8;
            let place = source.base + (first << F::ENTRY_SHIFT);
            if !quickly || !source.is_line_in_step::<F, M>(&self.machine, table + first * 8, place)
            {
                changed |= self.sync_line::<F>(source, page, first);
            }
            lines &= lines - 1;
        }
        changed
    }

    /// Brings eight entries in step.
    fn sync_line<F: GuestFormat>(&mut self, source: &Source, page: PageNo, first: u64) -> bool {
        let mut changed = false;
        let table = self.pool.table(page).as_u64();
        for entry in first..first + 8 {
            let spte = self.machine.read_entry(Hpa::new(table + entry * 8));
            if spte == 0 {
                continue;
            }
            let place = source.base + (entry << F::ENTRY_SHIFT);
            let gpte = F::read(&self.machine, Hpa::new(place));
            if !source.is_in_step(gpte, spte) {
                changed |= self.sync_entry::<F>(source, Node::new(page, entry as usize));
            }
        }
        changed
    }

    /// Where the guest entries that `page` shadows lie; `None` where no slot holds them.
    fn source(&self, page: PageNo) -> Option<Source> {
        let meta = self.pool.meta(page);
        let role = meta.role;
        let base = first_entry(role, self.slots.host_frame(meta.gfn)?);
        let (reserved, range) = (self.leaf_reserved(role), self.slots.hot_range());
        Some(Source::new(role, base, reserved, range))
    }

    /// Bits reserved in 4 KiB entries at this role.
    pub(crate) fn leaf_reserved(&self, role: Role) -> u64 {
        if role.has_four_byte_entries() {
            return 0;
        }
        let mut reserved = FRAME & !((1 << self.config.physical_bits) - 1);
        if !role.mode().is_long() {
            reserved |= 0x7ff << 52;
        }
        if role.nx() { reserved } else { reserved | NX }
    }

    /// Brings one entry in step: keeps it, takes rights away, or empties it. Returns whether it
    /// changed.
    fn sync_entry<F: GuestFormat>(&mut self, source: &Source, node: Node) -> bool {
        let spte = self.spte(node);
        if spte == 0 {
            return false;
        }
        let place = source.base + ((node.entry() as u64) << F::ENTRY_SHIFT);
        let gpte = F::read(&self.machine, Hpa::new(place));
        match self.still_granted(source, gpte, spte) {
            Some(same) if same == spte => return false,
            Some(fewer) => {
                self.set_spte(node, fewer);
                self.tlb_dirty = true;
            }
            None => self.drop_entry(node),
        }
        true
    }

    /// What of `spte` the guest entry still grants; `None` where nothing is.
    fn still_granted(&self, source: &Source, gpte: u64, spte: u64) -> Option<u64> {
        if spte & PRESENT == 0 || gpte & PRESENT == 0 || gpte & ACCESSED == 0 {
            return None;
        }
        if gpte & source.reserved != 0 {
            return None;
        }
        let gfn = (gpte & FRAME) >> 12;
        if self.slots.host_frame(gfn)? << 12 != spte & FRAME {
            return None;
        }
        let granted = rights(gpte) & source.role.access();
        let user = spte & USER_BIT != 0;
        let key_differs = source.role.pke() && (gpte ^ spte) & KEY != 0;
        // U in either direction changes what SMEP and SMAP see.
        if user != (granted & USER != 0) || key_differs {
            return None;
        }
        let mut kept = spte;
        if spte & WRITABLE != 0 && (granted & WRITE == 0 || gpte & DIRTY == 0) {
            kept &= !(WRITABLE | DIRTY);
        }
        if granted & EXEC == 0 {
            kept |= NX;
        }
        Some(kept)
    }
}

/// Where the first entry lies that a page of this role shadows, in the host frame of its table.
#[inline]
fn first_entry(role: Role, host: u64) -> u64 {
    let skipped =
        if role.has_four_byte_entries() { u64::from(role.quadrant_of()) * 512 * 4 } else { 0 };
    (host << 12) + skipped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::leaf;

    fn source(access: u8) -> Source {
        let (base, bytes, distance) = (0x10_0000, 0x10_0000, 0x6ff0_0000);
        let range = Range { base, bytes, distance, is_sole: false };
        Source::new(Role::default().at(1, access), 0, 1 << 51, range)
    }

    /// The rule, bit by bit, for a frame in range.
    fn permitted(access: u8, gpte: u64, spte: u64) -> bool {
        let granted = rights(gpte) & access;
        let (kept, set) = (rights(spte), gpte & (PRESENT | ACCESSED) == PRESENT | ACCESSED);
        let write = kept & WRITE == 0 || granted & WRITE != 0 && gpte & DIRTY != 0;
        let exec = kept & EXEC == 0 || granted & EXEC != 0;
        set && gpte & 1 << 51 == 0 && write && exec && kept & USER == granted & USER
    }

    #[test]
    fn the_quick_comparison_follows_the_rule_for_every_combination_of_bits() {
        for access in 0..8 {
            let source = source(access);
            for kept in 0..8 {
                let spte = leaf(0x7000_5000 >> 12, 1, kept, 0);
                for bits in 0..128u64 {
                    let gpte = 0x10_5000
                        | bits & 7
                        | (bits >> 3 & 3) << 5
                        | (bits >> 5 & 1) << 63
                        | (bits >> 6 & 1) << 51;
                    let expected = permitted(access, gpte, spte);
                    assert_eq!(
                        source.is_in_step(gpte, spte),
                        expected,
                        "{access} {kept} {gpte:#x}"
                    );
                    assert!(!source.is_in_step(gpte + 4096, spte), "another frame");
                }
            }
        }
    }

    #[test]
    fn entries_compared_together_are_in_step_if_each_is() {
        let distance = 0x6ff0_0000;
        for access in 0..8 {
            let source = source(access);
            // Every combination of what decides, as pairs of entries in step and not.
            let all = || {
                (0..8 * 32).map(|n: u64| {
                    let gpte = 0x10_5000 | n >> 3 & 7 | (n >> 6 & 3) << 5 | (n & 1) << 63;
                    (gpte, leaf(0x7000_5000 >> 12, 1, (n & 7) as u8 & access, 0))
                })
            };
            for (gpte, spte) in all() {
                for (other, shadow) in all().step_by(5) {
                    let mut comparison = Comparison::default();
                    comparison.add(gpte + distance, spte);
                    comparison.add(other + distance, shadow);
                    let each = source.is_in_step(gpte, spte) && source.is_in_step(other, shadow);
                    assert_eq!(
                        comparison.is_in_step(&source),
                        each,
                        "{access} {gpte:#x} {other:#x}"
                    );
                }
            }
        }
        let (gpte, spte) = (0x10_5021, leaf(0x7000_5000 >> 12, 1, 4, 0));
        for other in [gpte, 0, u64::MAX] {
            let mut comparison = Comparison::default();
            comparison.add(gpte + distance, spte);
            comparison.add(other, 0);
            assert!(comparison.is_in_step(&source(7)), "an empty entry grants nothing");
            comparison.add(other, 0x40);
            assert!(
                !comparison.is_in_step(&source(7)),
                "what is no mapping is looked at by itself"
            );
        }
    }

    #[test]
    fn what_is_no_mapping_is_not_decided_quickly() {
        // An MMIO entry that happens to look like the guest's.
        let gpte = 0x10_5000 | ACCESSED;
        let spte = gpte + 0x6ff0_0000;
        assert!(!source(7).is_in_step(gpte, spte));
        assert!(!source(7).is_in_step(0, 0));
    }

    #[test]
    fn a_frame_outside_the_expected_range_is_not_decided_quickly() {
        let source = source(7);
        for frame in [0xf_f000u64, 0x20_0000] {
            let spte = leaf((0x6ff0_0000 + frame) >> 12, 1, 7, 0);
            assert!(!source.is_in_step(frame | 0x67, spte));
        }
    }
}
