//! [`SvmVcpu`]: the contract, implemented.
//!
//! This file holds the structure and the turn of the guest; `contract` has the trait's
//! methods, `state` what they do to control registers and roots, `delivery` what they
//! do to events and windows; `attention` says what of it an entry must see to.
#![expect(unsafe_code, reason = "the VMCB decides what memory the CPU uses")]

mod attention;
mod contract;
mod delivery;
mod state;

use crate::FieldSource;
use crate::asid::{Asid, Stale};
use crate::bitmaps::{self, PORT_PAGES};
use crate::capabilities::{RawCapabilities, SvmFeatures};
use crate::controls::GuestControl;
use crate::decode::{DecodeAssists, code, decode, is_refusal};
use crate::entry_check::Checked;
use crate::fields::{Clean, TlbControl, Vmcb, VmcbRef, get, set};
use crate::instructions as cpu;
use crate::passive::{Passive, Slot};
use crate::world;
use anchorite_addr::{Hpa, HpaPage, PAGE_BYTES};
use anchorite_vcpu::{
    Capabilities, Cr0, Efer, Event, Extended, Gpr, HostPages, Instructions, Page, Registers,
    Rflags, Root, Segment, SegmentAttributes, SegmentRegister, VmExit,
};
use attention::Attention;
use core::cell::Cell;
use core::ptr::NonNull;
use delivery::{NmiState, VirtualUse};
use volatile::{VolatileRef, map_field};

/// RIP after reset. Source: APM vol. 2, 14.1.3 "Processor Initialization State".
const RIP_RESET: u64 = 0xfff0;
/// DR6 and DR7 after reset.
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;
/// The PAT after reset. Source: APM vol. 2, 7.8.2 "PAT Indexing".
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// What [`SvmCpu::vcpu`](crate::SvmCpu::vcpu) brings together.
pub(crate) struct Creation {
    pub(crate) raw: RawCapabilities,
    pub(crate) capabilities: Capabilities,
    pub(crate) extended: Extended,
    pub(crate) slot: Slot,
    pub(crate) host: HpaPage,
    /// One page.
    pub(crate) vmcb: HostPages,
    /// Three for ports, two for MSRs, with whatever they hold.
    pub(crate) maps: HostPages,
    /// One page.
    pub(crate) resting: HostPages,
}

/// One virtual CPU on SVM, bound to the physical CPU that made it.
#[derive(Debug)]
pub struct SvmVcpu {
    regs: Registers,
    vmcb: VmcbRef,
    /// The VMCB's.
    address: Hpa,
    /// Of the page where the world switch keeps the host's state.
    host: Hpa,
    /// What may stay in the processor's cache where the CPU has clean bits.
    clean: u32,
    assists: DecodeAssists,
    /// What must be done before the next entry.
    attention: Cell<Attention>,
    /// Why the last attempt to enter was none.
    not_entered: VmExit,
    /// Something must be looked at after the next exit.
    aftermath: bool,

    flush: bool,
    asid: Asid,
    passive: Passive,

    queued: Option<Event>,
    /// The event of the last entry.
    in_flight: Option<Event>,
    /// Bytes by which RIP was moved for `in_flight`.
    advanced: u8,
    virtual_use: VirtualUse,
    interrupt_window: bool,
    nmi_window: bool,
    nmi: NmiState,

    root: Option<Root>,
    /// What the guest reads under a shadow root.
    view: GuestControl,
    shadowed_cr3: u64,
    exceptions: u32,
    /// Changes of CR0.PG exit under a nested root.
    paging_exits: bool,
    /// Exceptions exit that delivering another one can raise; see `watch_delivery`.
    delivery_watched: bool,
    /// Bits of the guest's EFER that the hardware does not see yet.
    held_back: Efer,
    permitted: Instructions,
    extended: Extended,
    /// What the next entry will check, as last written: QEMU 7.2 saves the *host's*
    /// state into the VMCB when it refuses one.
    checked: Checked,

    maps: NonNull<[Page]>,
    capabilities: Capabilities,
    raw: RawCapabilities,
}

impl SvmVcpu {
    pub(crate) fn new(from: Creation) -> Self {
        let features = from.raw.features;
        let ports = from.maps.physical.as_u64();
        let maps = [ports, ports + PORT_PAGES as u64 * PAGE_BYTES];
        let clean =
            if features.contains(SvmFeatures::CLEAN_BITS) { Clean::all() } else { Clean::empty() };
        let mut vcpu = Self {
            regs: Registers::default(),
            address: from.vmcb.physical.addr(),
            vmcb: control_block(from.vmcb),
            host: from.host.addr(),
            clean: clean.bits(),
            assists: DecodeAssists(features.contains(SvmFeatures::DECODE_ASSISTS)),
            attention: Cell::new(Attention::all()),
            not_entered: VmExit::HostInterrupt,
            aftermath: false,
            flush: false,
            asid: Asid::default(),
            passive: Passive::new(from.slot, from.resting, from.extended),
            queued: None,
            in_flight: None,
            advanced: 0,
            virtual_use: VirtualUse::Idle,
            interrupt_window: false,
            nmi_window: false,
            nmi: NmiState::Open,
            root: None,
            view: GuestControl::default(),
            shadowed_cr3: 0,
            exceptions: 0,
            paging_exits: false,
            delivery_watched: false,
            held_back: Efer::empty(),
            permitted: Instructions::all(),
            extended: from.extended,
            checked: Checked::default(),
            maps: NonNull::from(from.maps.memory),
            capabilities: from.capabilities,
            raw: from.raw,
        };
        let (ports, msrs) = vcpu.map_bytes().split_at_mut(PORT_PAGES * PAGE_BYTES as usize);
        bitmaps::intercept_all(ports, msrs);
        vcpu.initialize(maps);
        vcpu
    }

    /// The state after reset. Source: APM vol. 2, 14.1.3 "Processor Initialization State".
    fn initialize(&mut self, [iopm_base, msrpm_base]: [u64; 2]) {
        set!(self.vmcb, control.iopm_base, iopm_base);
        set!(self.vmcb, control.msrpm_base, msrpm_base);
        set!(self.vmcb, save.dr6, DR6_RESET);
        set!(self.vmcb, save.dr7, DR7_RESET);
        set!(self.vmcb, save.g_pat, PAT_RESET);
        self.initialize_virtual_interrupt();
        self.write_intercepts();
        self.apply(GuestControl { cr0: Cr0::ET, ..GuestControl::default() });
        for register in SegmentRegister::ALL {
            self.write_segment(register, after_reset(register));
        }
        self.regs.rip = RIP_RESET;
        self.regs.rflags = Rflags::FIXED.bits();
    }

    /// Enters the guest and returns at its next exit, which [`decode_exit`] tells; or
    /// `false`, and `not_entered` says why there was no entry.
    ///
    /// With the global interrupt flag clear no other vCPU's turn can come in between;
    /// the world switch sets it again.
    ///
    /// [`decode_exit`]: Self::decode_exit
    #[inline]
    fn enter(&mut self) -> bool {
        cpu::clgi();
        let switched = self.passive.claim();
        let due = self.attention.get();
        if due == Attention::FLUSH && !switched {
            self.attention.set(Attention::empty());
            self.tag_translations();
        } else if (switched | !due.is_empty()) && !self.prepare(switched) {
            cpu::stgi();
            return false;
        }
        let Self { regs, vmcb, .. } = self;
        let vmcb = vmcb.as_mut_ptr();
        map_field!(vmcb.save.rax).write(regs[Gpr::Rax]);
        map_field!(vmcb.save.rsp).write(regs[Gpr::Rsp]);
        map_field!(vmcb.save.rip).write(regs.rip);
        map_field!(vmcb.save.rflags).write(regs.rflags);
        // SAFETY: `SvmCpu::enable` and its caller brought ring 0, SVME and VM_HSAVE_PA;
        // the flag is clear, and the contract has interrupts enabled. The VMCB is
        // this vCPU's; `write_intercepts`, the maps and `set_root` confine the guest.
        // `host` serves only this switch, one at a time on this CPU.
        unsafe { world::enter(regs, self.address, self.host) };
        map_field!(vmcb.control.clean).write(self.clean);
        let raw = map_field!(vmcb.control.exit_code).read();
        if is_refusal(raw) {
            self.not_entered = VmExit::EntryFailure { code: raw };
            return false;
        }
        regs[Gpr::Rax] = map_field!(vmcb.save.rax).read();
        regs[Gpr::Rsp] = map_field!(vmcb.save.rsp).read();
        regs.rip = map_field!(vmcb.save.rip).read();
        regs.rflags = map_field!(vmcb.save.rflags).read();
        true
    }

    #[inline]
    fn decode_exit(&self) -> VmExit {
        decode(get!(self.vmcb, control.exit_code), self.assists, &self.vmcb)
    }

    /// What the machine, the last exit or another vCPU's turn has left to do before
    /// entry; or `false` where `not_entered` makes entry unnecessary. After `switched`,
    /// another vCPU's registers were in the CPU: everything may have changed.
    #[inline(never)]
    fn prepare(&mut self, switched: bool) -> bool {
        let due = self.attention.replace(Attention::empty());
        let due = if switched { Attention::all() } else { due };
        if due.contains(Attention::STATE) && !self.is_confined() {
            self.demand(due);
            self.checked = self.read_checked();
            self.not_entered = VmExit::EntryFailure { code: code::INVALID };
            return false;
        }
        if due.contains(Attention::EVENT) {
            if self.nmi_window_is_open() {
                self.demand(due);
                self.not_entered = VmExit::NmiWindow;
                return false;
            }
            self.arm_event();
            self.arm_window();
        }
        if due.contains(Attention::FLUSH) {
            self.tag_translations();
        }
        // VMRUN loads CR2, but Bochs 2.7 does not.
        cpu::set_cr2(get!(self.vmcb, save.cr2));
        self.aftermath =
            self.advanced != 0 || self.nmi != NmiState::Open || self.may_lose_interrupts();
        if due.union(self.attention.get()).contains(Attention::STATE) {
            self.attention.set(self.attention.get() - Attention::STATE);
            self.checked = self.read_checked();
        }
        true
    }

    /// Whether tables of ours translate the guest's addresses: without a root, or with
    /// a nested one that the CPU cannot walk, the guest would reach all memory.
    fn is_confined(&self) -> bool {
        match self.root {
            None => false,
            Some(Root::Nested { .. }) => self.capabilities.nested_paging,
            Some(Root::Shadow { .. }) => true,
        }
    }

    /// Sees to it that the guest finds no translation which is not its own or was
    /// flushed.
    fn tag_translations(&mut self) {
        let asids = self.passive.asids();
        let mut pool = asids.get();
        let mut control = TlbControl::Keep;
        if !pool.is_current(self.asid) || (self.flush && !self.capabilities.tagged_flush) {
            let (asid, stale) = pool.take();
            asids.set(pool);
            self.asid = asid;
            set!(self.vmcb, control.asid, asid.number);
            self.checked.asid = asid.number;
            self.clear_clean(Clean::ASID);
            if stale == Stale::Everything {
                control = TlbControl::FlushAll;
            }
        } else if self.flush {
            control = TlbControl::FlushAsid;
        }
        self.flush = false;
        set!(self.vmcb, control.tlb_control, control as u32);
        // The processor does not clear the field, so the next entry must.
        if control != TlbControl::Keep {
            self.demand(Attention::FLUSH);
        }
    }

    /// Has the next entry see to `what`.
    fn demand(&self, what: Attention) {
        self.attention.set(self.attention.get() | what);
    }

    /// Makes the processor read `part` from memory at the next entry.
    fn dirty(&mut self, part: Clean) {
        self.demand(Attention::STATE);
        self.clear_clean(part);
    }

    /// The same for what is in step with `checked` already.
    fn clear_clean(&mut self, part: Clean) {
        let clean = get!(self.vmcb, control.clean);
        set!(self.vmcb, control.clean, clean & !part.bits());
    }
}

impl FieldSource for VmcbRef {
    #[inline]
    fn exit_info_1(&self) -> u64 {
        get!(self, control.exit_info_1)
    }

    #[inline]
    fn exit_info_2(&self) -> u64 {
        get!(self, control.exit_info_2)
    }

    fn dr6(&self) -> u64 {
        get!(self, save.dr6)
    }
}

/// A page as a VMCB: all zero, which no entry accepts before it is filled in.
fn control_block(page: HostPages) -> VmcbRef {
    let block = NonNull::from(page.memory).cast::<Vmcb>();
    // SAFETY: a page has the size and alignment of a VMCB, whose fields are all
    // integers; it is ours for good, and its only other user is the hardware, which is
    // why it is volatile.
    unsafe { VolatileRef::new(block) }
}

/// A segment register after reset.
///
/// Source: APM vol. 2, 14.1.3 "Processor Initialization State", table 14-1.
fn after_reset(register: SegmentRegister) -> Segment {
    let system = |kind| Segment {
        limit: 0xffff,
        attributes: SegmentAttributes::PRESENT | SegmentAttributes::from_bits_retain(kind),
        ..Segment::default()
    };
    match register {
        SegmentRegister::Cs => Segment { base: 0xffff_0000, ..Segment::real_mode(0xf000, true) },
        SegmentRegister::Ldtr => system(2),
        SegmentRegister::Tr => system(11),
        _ => Segment::real_mode(0, false),
    }
}

#[cfg(test)]
mod tests;
