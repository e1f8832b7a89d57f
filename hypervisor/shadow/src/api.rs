//! Every operation of the engine, as one trait: [`Mmu`](crate::Mmu) implements it for a
//! policy fixed at compile time, [`AnyMmu`](crate::AnyMmu) for one chosen at run time.

use alloc::sync::Arc;

use anchorite_addr::{Gfn, Gpa, Gva};

use crate::access::{Access, PageFault, Translation};
use crate::audit::Violation;
use crate::flush::{FlushClock, FlushPromise, TlbFlush, VcpuId};
use crate::memory::Machine;
use crate::outcome::{EnterError, Entry, FaultOutcome, Invpcid};
use crate::policy::PolicyKind;
use crate::registers::{Cr0, Cr4, Efer, RegisterFault, Registers};
use crate::slots::{SlotError, SlotId, SlotSpec};
use crate::stats::Stats;

/// Why a vCPU cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddVcpuError {
    /// `max_vcpus` are there already.
    TooMany,
    /// No frame below 4 GiB for the PAE root entries.
    OutOfMemory,
    /// The registers themselves are refused.
    Registers(RegisterFault),
}

/// How many frames are in which state; the states are disjoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Frames taken from the source.
    pub taken: u32,
    /// … of these: free, held ready for the next fault included.
    pub free: u32,
    /// … current shadow pages.
    pub active: u32,
    /// … stale shadow pages, taken apart only when needed (or swept).
    pub stale: u32,
    /// … retired one by one, waiting for a flush.
    pub limbo: u32,
    /// The most shadow pages that may be in use at once.
    pub quota: u32,
    /// The most that ever were: current, stale, in limbo, or held ready.
    pub peak: u32,
}

/// The engine. See the crate's docs for how a machine drives it.
///
/// Every method takes `&mut self`: a machine with several vCPUs keeps the engine under
/// one lock, which a vCPU takes after it left the guest and drops before it enters.
/// Methods that return a [`FlushPromise`] have done their work when they return, but
/// other vCPUs may still use old translations until it is discharged.
pub trait ShadowMmu {
    /// The memory the engine works on.
    type Machine: Machine;

    /// The policy in force.
    fn policy(&self) -> PolicyKind;

    /// The memory the engine works on.
    fn machine(&self) -> &Self::Machine;

    /// The memory the engine works on. Whoever changes guest memory through it must
    /// report that with [`Self::guest_wrote`].
    fn machine_mut(&mut self) -> &mut Self::Machine;

    /// The counters.
    fn stats(&self) -> &Stats;

    /// The frames.
    fn usage(&self) -> Usage;

    /// The generation of pages made now.
    fn generation(&self) -> u64;

    /// The generation of MMIO entries made now; independent of the pages'.
    fn mmio_generation(&self) -> u64;

    // ---- vCPUs ---------------------------------------------------------------

    /// Adds a vCPU, outside the guest, with these registers.
    fn add_vcpu(&mut self, registers: Registers) -> Result<VcpuId, AddVcpuError>;

    /// Makes `vcpu` ready to enter the guest: reloads its root if that went stale (I10), or
    /// an empty one while no table is shadowed, counts it as in the guest, and says what it
    /// must flush between now and the entry instruction. On an error it counts as outside.
    fn enter(&mut self, vcpu: VcpuId) -> Result<Entry, EnterError>;

    /// As [`Self::enter`], where hardware is to walk the root of this vCPU's last entry again;
    /// most exits leave it so. Returns what must be flushed. `None`: nothing was done.
    fn reenter(&mut self, vcpu: VcpuId) -> Option<TlbFlush>;

    /// `vcpu` has left the guest. To be called after every exit, before anything else;
    /// [`FlushClock::leave`] does the same without the lock.
    fn leave(&mut self, vcpu: VcpuId);

    /// The flush clock, for use without the lock.
    fn clock(&self) -> &Arc<FlushClock>;

    /// Records that `vcpu`, which is outside the guest, flushed everything just now: saves
    /// the flush at its next entry. Ignored while it is in the guest, where it may be
    /// walking an old root whatever it flushed.
    fn acknowledge(&mut self, vcpu: VcpuId);

    /// Keeps `promise` if every vCPU acknowledged it. Otherwise calls `kick` for each one
    /// that did not (send it an IPI that makes it leave the guest) and gives the promise
    /// back: drop the lock, wait, try again.
    fn discharge(
        &mut self,
        promise: FlushPromise,
        kick: impl FnMut(VcpuId),
    ) -> Result<(), FlushPromise>;

    // ---- faults --------------------------------------------------------------

    /// Hardware reported a page fault of `access` at `gva` on `vcpu`, which has left the
    /// guest. Takes bounded time whatever the guest's tables hold.
    fn page_fault(&mut self, vcpu: VcpuId, gva: Gva, access: Access) -> FaultOutcome;

    /// Where `access` to `gva` would land by the guest's tables now. Changes nothing: no
    /// A/D bit, no shadow entry. For emulators that look before they leap, and debuggers.
    fn translate(&self, vcpu: VcpuId, gva: Gva, access: Access) -> Result<Translation, PageFault>;

    /// As [`Self::translate`], and sets the A and D bits that the access sets: for an
    /// emulator that carries the access out. An access that crosses a page needs one call
    /// for each page.
    fn translate_access(
        &mut self,
        vcpu: VcpuId,
        gva: Gva,
        access: Access,
    ) -> Result<Translation, PageFault>;

    // ---- registers -----------------------------------------------------------

    /// The registers as last set.
    fn registers(&self, vcpu: VcpuId) -> Registers;

    /// Sets all four at once (reset, restore, task switch): as the single ones in the
    /// order EFER, CR4, CR3, CR0, but with only the final state checked.
    fn set_registers(&mut self, vcpu: VcpuId, registers: Registers) -> Result<(), RegisterFault>;

    /// MOV to CR3: reloads the PDPTEs in PAE mode, syncs what the guest may have changed,
    /// switches roots and flushes this vCPU. Bit 63 is honoured as "no flush" only in
    /// that it is not an address bit.
    fn set_cr3(&mut self, vcpu: VcpuId, value: u64) -> Result<(), RegisterFault>;

    /// MOV to CR0, CLTS, LMSW.
    fn set_cr0(&mut self, vcpu: VcpuId, value: Cr0) -> Result<(), RegisterFault>;

    /// MOV to CR4.
    fn set_cr4(&mut self, vcpu: VcpuId, value: Cr4) -> Result<(), RegisterFault>;

    /// WRMSR to EFER.
    fn set_efer(&mut self, vcpu: VcpuId, value: Efer) -> Result<(), RegisterFault>;

    /// INVLPG of `gva`. The flush of this vCPU's TLB comes with the next [`Self::enter`].
    fn invlpg(&mut self, vcpu: VcpuId, gva: Gva);

    /// INVPCID, its operand checked by the caller.
    fn invpcid(&mut self, vcpu: VcpuId, kind: Invpcid);

    // ---- guest memory --------------------------------------------------------

    /// The one door: `bytes` bytes at `gpa` were just changed by something other than the
    /// guest's own instructions under shadow paging: the emulator, a device, a loader, a
    /// debugger. To be called after the change and under the same hold of the lock.
    fn guest_wrote(&mut self, gpa: Gpa, bytes: u64);

    /// Stops shadowing whatever tables lie in the page at `gpa`, so that the guest can
    /// write there without emulation.
    fn unshadow(&mut self, gpa: Gpa);

    // ---- slots ---------------------------------------------------------------

    /// Adds guest memory.
    fn add_slot(&mut self, spec: SlotSpec) -> Result<SlotId, SlotError>;

    /// Removes guest memory, with the zap-all that the policy prescribes. The host memory
    /// is free once the promise is discharged. Under policy `batch` drive
    /// [`Self::zap_continue`] to its end first if others should get the lock meanwhile;
    /// what is left is done here.
    fn delete_slot(&mut self, slot: SlotId) -> Result<FlushPromise, SlotError>;

    /// Moves guest memory to another guest-physical base, with a zap-all.
    fn move_slot(&mut self, slot: SlotId, base: Gfn) -> Result<FlushPromise, SlotError>;

    /// Makes a slot read-only (zapping its writable entries) or writable.
    fn set_read_only(&mut self, slot: SlotId, read_only: bool) -> Result<FlushPromise, SlotError>;

    /// What a slot was added (or moved) with.
    fn slot(&self, slot: SlotId) -> Option<SlotSpec>;

    /// The slot that holds `gpa`.
    fn slot_at(&self, gpa: Gpa) -> Option<SlotId>;

    // ---- dirty log -----------------------------------------------------------

    /// Starts logging writes to a slot; already writable entries lose that right.
    fn start_dirty_log(&mut self, slot: SlotId) -> Result<FlushPromise, SlotError>;

    /// Stops logging and forgets the log.
    fn stop_dirty_log(&mut self, slot: SlotId) -> Result<(), SlotError>;

    /// Calls `dirty` for each frame written since the last harvest, in order, and clears
    /// the log. Read the frames' contents only after the promise is discharged. No zap.
    fn harvest_dirty(
        &mut self,
        slot: SlotId,
        dirty: impl FnMut(Gfn),
    ) -> Result<FlushPromise, SlotError>;

    /// Clears the log of `pages` frames from `first` without reading it.
    fn clear_dirty(
        &mut self,
        slot: SlotId,
        first: Gfn,
        pages: u64,
    ) -> Result<FlushPromise, SlotError>;

    /// Whether `gfn` is in the log now.
    fn is_dirty(&self, gfn: Gfn) -> bool;

    // ---- zaps ----------------------------------------------------------------

    /// Makes every shadow page stale. Under policy `batch` the caller drives
    /// [`Self::zap_continue`] until it returns `false` before it reports completion.
    fn zap_all(&mut self) -> FlushPromise;

    /// Takes the next batch of a sweep apart (policy `batch`). Returns whether any is left:
    /// drop the lock between two calls, that is the lock break.
    fn zap_continue(&mut self) -> bool;

    /// Removes only what maps a slot's memory or shadows tables in it.
    fn zap_slot(&mut self, slot: SlotId) -> Result<FlushPromise, SlotError>;

    /// On an idle exit: takes at most `pages` stale pages apart (policy `background`;
    /// the others do nothing). Returns how many.
    fn idle_slice(&mut self, pages: u32) -> u32;

    /// Frees `pages` shadow pages, stale ones first, then the oldest, and gives empty
    /// slabs back. Returns how many pages were freed; those that wait for a flush are
    /// counted but still held.
    fn reclaim(&mut self, pages: u32) -> u32;

    /// Sets the quota, at least [`Config::least_quota`](crate::Config::least_quota), and
    /// evicts down to it. Returns the quota in force.
    fn set_quota(&mut self, pages: u32) -> u32;

    // ---- checks --------------------------------------------------------------

    /// Checks the invariants I1 to I10. Slow: reads everything.
    fn audit(&self) -> Result<(), Violation>;
}
