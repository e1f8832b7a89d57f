//! The pool on talc's slabs: how much of an arena becomes shadow pages, and that all of it
//! comes back. Owned with the engine; the simulated machine of the other tests is in
//! `support`.
#![expect(unsafe_code, reason = "talc hands out raw memory, and the tables live in it")]

use std::alloc::{Layout, alloc_zeroed, dealloc};

use anchorite_addr::{Gfn, Gva, Hfn, Hpa};
use anchorite_shadow::memory::SLAB_BYTES;
use anchorite_shadow::policy::Tagged;
use anchorite_shadow::{
    Access, AccessKind, Arena, Config, Cr0, Cr4, Efer, FaultOutcome, FrameSource, GuestMemory, Mmu,
    Registers, ShadowMmu, Slab, SlotSpec, TableMemory, VcpuId,
};
use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;

const ARENA_BYTES: usize = 64 << 20;
const GUEST_BYTES: usize = 64 << 20;

/// An arena in host memory whose addresses serve as host-physical ones, run by talc.
struct TalcMachine {
    arena: *mut u8,
    talc: Talc<Manual, DefaultBinning>,
    slabs: usize,
    guest: Vec<u64>,
}

impl TalcMachine {
    fn layout() -> Layout {
        Layout::from_size_align(ARENA_BYTES, 1 << 16).expect("a valid layout")
    }

    fn slab_layout() -> Layout {
        Layout::from_size_align(SLAB_BYTES as usize, 8192).expect("a valid layout")
    }

    fn frame_layout() -> Layout {
        Layout::from_size_align(4096, 4096).expect("a valid layout")
    }

    fn new() -> Self {
        // SAFETY: the layout's size is not zero.
        let arena = unsafe { alloc_zeroed(Self::layout()) };
        assert!(!arena.is_null(), "the host has no memory for the arena");
        let mut talc = Talc::new(Manual);
        // SAFETY: the arena is ours, `ARENA_BYTES` long, and outlives `talc`.
        unsafe { talc.claim(arena, ARENA_BYTES) }.expect("the arena is large enough");
        Self { arena, talc, slabs: 0, guest: vec![0; GUEST_BYTES / 8] }
    }

    fn word(&self, at: Hpa) -> *mut u64 {
        let base = self.arena as u64;
        let inside = at.as_u64() >= base && at.as_u64() + 8 <= base + ARENA_BYTES as u64;
        assert!(inside && at.as_u64() % 8 == 0, "{at} is no word of the arena");
        self.arena.wrapping_add((at.as_u64() - base) as usize).cast()
    }
}

impl Drop for TalcMachine {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout; nothing refers to it any more.
        unsafe { dealloc(self.arena, Self::layout()) }
    }
}

impl TableMemory for TalcMachine {
    fn read_entry(&self, at: Hpa) -> u64 {
        // SAFETY: `word` checked that the address is an aligned word of the arena.
        unsafe { self.word(at).read() }
    }

    fn write_entry(&mut self, at: Hpa, value: u64) {
        // SAFETY: as in `read_entry`, and `self` is borrowed mutably.
        unsafe { self.word(at).write(value) }
    }
}

impl GuestMemory for TalcMachine {
    fn read_u32(&self, at: Hpa) -> u32 {
        (self.guest[at.as_u64() as usize / 8] >> (at.as_u64() % 8 * 8)) as u32
    }

    fn read_u64(&self, at: Hpa) -> u64 {
        self.guest[at.as_u64() as usize / 8]
    }

    fn compare_exchange_u32(&mut self, at: Hpa, old: u32, new: u32) -> bool {
        let shift = at.as_u64() % 8 * 8;
        let word = &mut self.guest[at.as_u64() as usize / 8];
        let same = (*word >> shift) as u32 == old;
        if same {
            *word = *word & !(0xffff_ffff << shift) | u64::from(new) << shift;
        }
        same
    }

    fn compare_exchange_u64(&mut self, at: Hpa, old: u64, new: u64) -> bool {
        let word = &mut self.guest[at.as_u64() as usize / 8];
        let same = *word == old;
        if same {
            *word = new;
        }
        same
    }
}

impl FrameSource for TalcMachine {
    fn arena(&self) -> Arena {
        Arena { base: Hpa::new(self.arena as u64), pages: (ARENA_BYTES / 8192) as u32 }
    }

    fn take_slab(&mut self) -> Option<Slab> {
        // SAFETY: the layout's size is not zero.
        let slab = unsafe { self.talc.allocate(Self::slab_layout()) }?;
        self.slabs += 1;
        Some(Slab::new(Hpa::new(slab.as_ptr() as u64)))
    }

    fn give_slab(&mut self, slab: Slab) {
        self.slabs -= 1;
        let slab = slab.base().as_u64() as usize as *mut u8;
        // SAFETY: it came from `take_slab`, whose layout this is, and is given back once.
        unsafe { self.talc.deallocate(slab, Self::slab_layout()) }
    }

    fn take_low_frame(&mut self) -> Option<Hpa> {
        // Where it lies matters to PAE guests only.
        // SAFETY: the layout's size is not zero.
        let frame = unsafe { self.talc.allocate(Self::frame_layout()) }?;
        Some(Hpa::new(frame.as_ptr() as u64))
    }

    fn give_low_frame(&mut self, frame: Hpa) {
        let frame = frame.as_u64() as usize as *mut u8;
        // SAFETY: it came from `take_low_frame`, whose layout this is, and is given back once.
        unsafe { self.talc.deallocate(frame, Self::frame_layout()) }
    }
}

const ROOT: u64 = 0x1000;
const FIRST_TABLE: u64 = 0x10_0000;

/// A four-level guest whose page directories are spread so that each touch needs one new
/// leaf table. Returns how many there are.
fn build_guest(guest: &mut [u64]) -> u64 {
    let mut next = FIRST_TABLE;
    let mut table = |guest: &mut [u64], at: u64| {
        let made = next;
        next += 4096;
        guest[at as usize / 8] = made | 0x67;
        made
    };
    let pdpt = table(guest, ROOT);
    let mut leaves = 0;
    for directory in 0..24 {
        let pd = table(guest, pdpt + directory * 8);
        for entry in 0..512 {
            let pt = table(guest, pd + entry * 8);
            guest[pt as usize / 8] = 0x67;
            leaves += 1;
        }
    }
    leaves
}

fn engine() -> (Mmu<TalcMachine>, VcpuId, u64) {
    let mut machine = TalcMachine::new();
    let leaves = build_guest(&mut machine.guest);
    let config = Config { quota: (ARENA_BYTES / 8192) as u32, ..Config::default() };
    let mut mmu = Mmu::new(Tagged, machine, config).expect("a valid configuration");
    let memory = SlotSpec {
        base: Gfn::new(0),
        pages: GUEST_BYTES as u64 / 4096,
        host: Hfn::new(0),
        read_only: false,
    };
    mmu.add_slot(memory).expect("the slot fits");
    let registers = Registers { cr0: Cr0::PG | Cr0::WP, cr3: ROOT, cr4: Cr4::PAE, efer: Efer::LME };
    let vcpu = mmu.add_vcpu(registers).expect("room for one");
    (mmu, vcpu, leaves)
}

/// Touches leaf tables until the first page had to be evicted.
fn fill(mmu: &mut Mmu<TalcMachine>, vcpu: VcpuId, leaves: u64) {
    let before = mmu.stats().mmu_evicted;
    for leaf in 0..leaves {
        let access = Access::supervisor(AccessKind::Read);
        let outcome = mmu.page_fault(vcpu, Gva::new(leaf << 21), access);
        assert_eq!(outcome, FaultOutcome::Fixed);
        if mmu.stats().mmu_evicted > before {
            return;
        }
    }
    panic!("the guest is too small to fill the arena");
}

#[test]
fn at_least_97_percent_of_the_arena_become_shadow_pages_and_all_comes_back() {
    let (mut mmu, vcpu, leaves) = engine();
    for _ in 0..2 {
        fill(&mut mmu, vcpu, leaves);
        let usable = u64::from(mmu.usage().taken) * 8192;
        let share = usable * 1000 / ARENA_BYTES as u64;
        println!("{share} of 1000 bytes of the arena are tables and links");
        assert!(share >= 970, "only {share} of 1000");
        mmu.audit().expect("consistent when full");

        let promise = mmu.zap_all();
        mmu.discharge(promise, |_| ()).expect("the vCPU is outside");
        let all = mmu.usage().taken;
        mmu.reclaim(all);
        assert_eq!(mmu.usage().taken, 0, "a slab was kept");
        assert_eq!(mmu.machine().slabs, 0);
        mmu.audit().expect("consistent when empty");
    }
    fill(&mut mmu, vcpu, leaves);
    assert_eq!(mmu.into_machine().slabs, 0, "a slab leaked");
}
