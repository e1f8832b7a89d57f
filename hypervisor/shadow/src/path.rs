//! Making the tables that are missing on the way to a guest's 4 KiB page.
//!
//! As in `leaf.rs`, anything unusual is left to the long way in `fault.rs`: a large page, a
//! read-only or logged slot, an access that is forbidden, an entry that changes meanwhile.

use anchorite_addr::{Gpa, Gva, Hpa};

use crate::access::Access;
use crate::flush::VcpuId;
use crate::install::table_role;
use crate::memory::Machine;
use crate::mmu::Mmu;
use crate::outcome::FaultOutcome;
use crate::page::{Node, PageNo};
use crate::paging::entry::{ACCESSED, DIRTY, KEY, LARGE, PRESENT, rights};
use crate::paging::{Control, GuestFormat};
use crate::policy::ZapPolicy;
use crate::role::{Rights, WRITE};
use crate::walk::forbidden;

/// A guest entry that points at a table.
#[derive(Clone, Copy)]
struct Step {
    place: Hpa,
    entry: u64,
    /// The table it points at, and the rights left below it.
    table: u64,
    granted: Rights,
}

impl<M: Machine, P: ZapPolicy, const TAG_BITS: u32> Mmu<M, P, TAG_BITS> {
    /// Makes the tables that are missing below `from` and returns the last, or the outcome
    /// where the long way had to decide.
    ///
    /// Where A is set along the way, nobody asks yet whether the leaf permits the access:
    /// such entries may be cached, which is all that is done here.
    #[inline(never)]
    pub(crate) fn build_path<F: GuestFormat>(
        &mut self,
        id: VcpuId,
        from: PageNo,
        gva: Gva,
        access: Access,
    ) -> Result<PageNo, FaultOutcome> {
        let mut page = from;
        let mut level = self.pool.meta(from).role.level();
        while level > 1 {
            let meta = self.pool.meta(page);
            let (table, above) = (meta.gfn, meta.role.access());
            let control = &self.vcpus[id.index()].control;
            let step = self.step::<F>(control, table, above, level, gva);
            let Some(step) =
                step.filter(|step| self.has_accessed::<F>(id, *step, level, gva, access))
            else {
                let outcome = self.write_through_large::<F>(id, page, level, gva, access);
                return Err(match outcome {
                    Some(outcome) => outcome,
                    None => self.fault_at_length::<F>(id, from, gva, access),
                });
            };
            if step.entry & ACCESSED == 0 && !self.mark::<F>(step) {
                return Err(FaultOutcome::Spurious);
            }
            let base = self.vcpus[id.index()].control.role;
            let role = table_role::<F>(base, level - 1, step.granted, gva);
            page = self.child(Node::new(page, gva.table_index(level)), step.table, role)?;
            level -= 1;
        }
        Ok(page)
    }

    /// Resolves a write by which the guest changes its page tables through a large page, as
    /// kernels that map all memory do; `None` for any other access, and nothing is done.
    #[inline(never)]
    fn write_through_large<F: GuestFormat>(
        &mut self,
        id: VcpuId,
        page: PageNo,
        level: u8,
        gva: Gva,
        access: Access,
    ) -> Option<FaultOutcome> {
        let control = &self.vcpus[id.index()].control;
        let plain = self.slots.is_plain() && !self.mixes_entry_sizes::<F>();
        if !access.is_write() || !plain {
            return None;
        }
        let meta = self.pool.meta(page);
        let host = self.slots.host_frame(meta.gfn)?;
        let entry =
            F::read(&self.machine, Hpa::new(host << 12 | F::index(gva, level) << F::ENTRY_SHIFT));
        let at = usize::from(level % 8);
        let granted = rights(entry) & meta.role.access();
        // With A and D set the entry need not be touched.
        let wanted = PRESENT | LARGE | ACCESSED | DIRTY;
        if entry & wanted != wanted
            || !control.large[at]
            || entry & control.reserved[at][1] != 0
            || granted & WRITE == 0
            || !control.allows(access, granted)
        {
            return None;
        }
        let offset = gva.as_u64() >> 12 & ((1 << F::cover(level)) - 1);
        let gfn = F::large_frame(entry, level) | offset;
        if self.tracked(gfn) == 0 {
            return None;
        }
        if !self.allow_write(id, gfn) {
            return Some(FaultOutcome::EmulateWrite {
                gpa: Gpa::new(gfn << 12 | gva.page_offset()),
            });
        }
        // The frame may be writable now.
        None
    }

    /// The entry for `gva` in guest table `table`, if it points at a table.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "twice in a fault that makes a table")]
    fn step<F: GuestFormat>(
        &self,
        control: &Control,
        table: u64,
        above: Rights,
        level: u8,
        gva: Gva,
    ) -> Option<Step> {
        let host = self.slots.host_frame(table)?;
        let place = Hpa::new(host << 12 | F::index(gva, level) << F::ENTRY_SHIFT);
        let entry = F::read(&self.machine, place);
        let at = usize::from(level % 8);
        let large = entry & LARGE != 0 && control.large[at];
        if entry & PRESENT == 0 || large || entry & control.reserved[at][0] != 0 {
            return None;
        }
        let table = (entry & F::ADDRESS) >> 12;
        Some(Step { place, entry, table, granted: rights(entry) & above })
    }

    /// Whether A is set, or may be set because the rest of the way permits the access.
    #[inline]
    fn has_accessed<F: GuestFormat>(
        &self,
        id: VcpuId,
        step: Step,
        level: u8,
        gva: Gva,
        access: Access,
    ) -> bool {
        step.entry & ACCESSED != 0
            || self.slots.is_plain()
                && !self.mixes_entry_sizes::<F>()
                && self.permits::<F>(id, step, level - 1, gva, access)
    }

    /// Whether the guest's tables from `level` on permit `access` to a 4 KiB page.
    fn permits<F: GuestFormat>(
        &self,
        id: VcpuId,
        mut step: Step,
        mut level: u8,
        gva: Gva,
        access: Access,
    ) -> bool {
        let control = &self.vcpus[id.index()].control;
        while let Some(next) = self.step::<F>(control, step.table, step.granted, level, gva) {
            if level == 1 {
                return control.allows(access, next.granted)
                    || forbidden(control, access, next.granted, next.entry & KEY).is_none();
            }
            step = next;
            level -= 1;
        }
        false
    }

    /// Sets A. Returns `false` where the entry changed meanwhile.
    #[inline]
    fn mark<F: GuestFormat>(&mut self, step: Step) -> bool {
        let marked = step.entry | ACCESSED;
        F::compare_exchange(&mut self.machine, step.place, step.entry, marked)
    }
}
