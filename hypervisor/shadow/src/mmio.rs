//! MMIO entries: remembering that an address has no slot.
//!
//! An entry that is not present makes hardware fault and is otherwise ours: it holds the
//! frame, the rights, and the MMIO generation it was made in, so that the next access
//! is recognised without a walk. Adding, removing or moving a slot moves that generation.
//!
//! The frame is stored inverted. A processor with the L1TF flaw speculatively uses the
//! address bits of entries that are not present; inverted, a guest frame number points
//! above all memory.
//!
//! | bits | meaning |
//! |---|---|
//! | 0 | 0: not present |
//! | 1 | 1: an MMIO entry |
//! | 4:2 | rights |
//! | 11:5, 62:52 | MMIO generation |
//! | 51:12 | frame, inverted |

use anchorite_addr::{Gpa, Gva};

use crate::access::Access;
use crate::flush::VcpuId;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::paging::entry::{FRAME, PRESENT};
use crate::policy::ZapPolicy;
use crate::role::{ALL_RIGHTS, Rights, USER, WRITE};
use crate::walk::forbidden;

const MARK: u64 = 1 << 1;
const RIGHTS_SHIFT: u32 = 2;
const LOW_BITS: u32 = 7;
const LOW_SHIFT: u32 = 5;
const HIGH_SHIFT: u32 = 52;
const GENERATION_BITS: u32 = LOW_BITS + 11;

/// An MMIO entry for `gfn`.
pub(crate) fn entry(gfn: u64, rights: Rights, generation: u64) -> u64 {
    let low = generation & ((1 << LOW_BITS) - 1);
    let high = generation >> LOW_BITS & 0x7ff;
    MARK | u64::from(rights) << RIGHTS_SHIFT
        | low << LOW_SHIFT
        | high << HIGH_SHIFT
        | !(gfn << 12) & FRAME
}

/// What an MMIO entry says: (frame, rights), unless of another generation.
pub(crate) fn decode(spte: u64, generation: u64) -> Option<(u64, Rights)> {
    if spte & (PRESENT | MARK) != MARK {
        return None;
    }
    let low = spte >> LOW_SHIFT & ((1 << LOW_BITS) - 1);
    let high = spte >> HIGH_SHIFT & 0x7ff;
    let ours = generation & ((1 << GENERATION_BITS) - 1);
    let rights = (spte >> RIGHTS_SHIFT) as u8 & ALL_RIGHTS;
    (high << LOW_BITS | low == ours).then_some(((!spte & FRAME) >> 12, rights))
}

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    /// The MMIO address that `gva` is known to mean, if `access` is permitted there.
    #[inline]
    pub(crate) fn cached_mmio(&self, vcpu: VcpuId, gva: Gva, access: Access) -> Option<Gpa> {
        let node = self.leaf_node(vcpu, gva)?;
        // The guest may have changed an unsync table: only a walk tells.
        if self.pool.meta(node.page()).unsync {
            return None;
        }
        let (gfn, rights) = decode(self.spte(node), self.mmio_generation)?;
        let control = &self.vcpu(vcpu).control;
        let unknown_key = control.pke && rights & USER != 0;
        // Without W the D bit may be clear as well, which only a walk can set.
        let needs_dirty = access.is_write() && rights & WRITE == 0;
        if unknown_key || needs_dirty || forbidden(control, access, rights, 0).is_some() {
            return None;
        }
        Some(Gpa::new(gfn << 12 | gva.page_offset()))
    }

    /// The slots have changed: no MMIO entry holds any more. Where the generation wraps,
    /// old entries would come back to life, so the pages go.
    pub(crate) fn bump_mmio_generation(&mut self) {
        self.mmio_generation += 1;
        if self.mmio_generation & ((1 << GENERATION_BITS) - 1) == 0 {
            let _covered_by_the_callers_promise = self.zap_everything();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_it_was_made_of_in_its_own_generation_only() {
        for generation in [0, 1, 127, 128, (1 << GENERATION_BITS) - 1] {
            let spte = entry(0xf_edcb_a987, 5, generation);
            assert_eq!(spte & PRESENT, 0);
            assert_eq!(decode(spte, generation), Some((0xf_edcb_a987, 5)));
            assert_eq!(decode(spte, generation + 1), None);
        }
        assert_eq!(decode(0, 0), None);
    }
}
