//! Scripts that once failed, as the shrinker printed them.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::{AnyMmu, PolicyKind, ShadowMmu};
use support::fixture::{self, Fixture, gva};
use support::machine::Machine;
use support::ops::{LogAction, Op, Place};
use support::reference::{Access, Mode, Op as AccessOp};
use support::run::Script;
use support::world::Setup;

fn setup(mode: Mode, vcpus: usize, policy: PolicyKind) -> Setup {
    Setup {
        mode,
        vcpus,
        policy,
        spare: 24,
        prefetch: 0,
        gib_pages: true,
        start_generation: 1,
        disciplined: false,
        audit_every: 1,
        physical_bits: 40,
    }
}

fn access(op: AccessOp, cpl3: bool) -> Access {
    Access { op, cpl3, implicit: false, ac: false }
}

#[track_caller]
fn holds(setup: Setup, initial: &[(u64, u64)], ops: &[Op]) {
    let script = Script { setup, initial: initial.to_vec(), ops: ops.to_vec() };
    if let Err(failure) = script.run::<AnyMmu<Machine>>() {
        panic!("{failure:?}");
    }
}

#[test]
fn tables_in_memory_that_becomes_writable_need_no_accessed_bit() {
    holds(
        setup(Mode::Bits32, 1, PolicyKind::Tagged),
        &[(0xc00, 0xc007), (0xc008, 0x67)],
        &[
            Op::Slot { slot: 0, place: Place::Home { bank: 0, read_only: true } },
            Op::Access {
                vcpu: 0,
                gva: 0xc000_2400,
                access: access(AccessOp::Read, true),
                value: 0,
            },
            Op::Slot { slot: 0, place: Place::Home { bank: 0, read_only: false } },
        ],
    );
}

#[test]
fn a_supervisors_write_to_a_read_only_page_survives_the_start_of_a_log() {
    holds(
        setup(Mode::Level4, 3, PolicyKind::Tagged),
        &[(0x3000, 0x6127), (0x6000, 0xd067), (0xdff8, 0x12047)],
        &[
            Op::Cr3 { vcpu: 2, root: 0x3000 },
            Op::Poke { gpa: 0x12008, value: 0x24025 },
            Op::Access {
                vcpu: 2,
                gva: 0x3fe0_1ff8,
                access: access(AccessOp::Write, false),
                value: 0xe027,
            },
            Op::DirtyLog { slot: 0, action: LogAction::On },
        ],
    );
}

#[test]
fn a_key_that_write_protects_does_not_bind_a_supervisor_without_wp() {
    let implicit = Access { implicit: true, ..access(AccessOp::Write, true) };
    holds(
        setup(Mode::Level5, 3, PolicyKind::Reuse),
        &[(0xff8, 0x5027), (0x5ff8, 0xb067), (0xb000, 0xd007), (0xd000, 0x11047)],
        &[
            Op::Control { vcpu: 0, cr0: 0x8000_0001, cr4: 0x40_1030, efer: 0x900, pkru: 8 },
            Op::Poke { gpa: 0x11018, value: 0x0800_0000_0040_0027 },
            Op::Access { vcpu: 0, gva: 0xffff_ff80_0000_3040, access: implicit, value: 0xb027 },
        ],
    );
}

#[test]
fn only_a_cr3_load_or_its_like_reads_the_pdptes() {
    holds(
        setup(Mode::Pae, 3, PolicyKind::Reuse),
        &[(0x6ff8, 0x11007), (0x11000, 0x8000_0000_0000_6047), (0x14060, 0x6001)],
        &[
            Op::Control { vcpu: 2, cr0: 0x8000_0001, cr4: 0x30, efer: 0x800, pkru: 4 },
            Op::Slot { slot: 0, place: Place::Gone },
            Op::Cr3 { vcpu: 2, root: 0x14060 },
            Op::Slot { slot: 0, place: Place::Home { bank: 1, read_only: false } },
            Op::Control { vcpu: 2, cr0: 0x8001_0001, cr4: 0x30, efer: 0, pkru: 8 },
            Op::Access {
                vcpu: 2,
                gva: 0x3fe0_0ff8,
                access: access(AccessOp::Write, false),
                value: 0xf067,
            },
        ],
    );
}

/// The bits that a walk sets in 4-byte entries are address bits of 8-byte entries, where the
/// same frame is a table of another vCPU in another mode.
#[test]
fn an_accessed_bit_changes_the_same_table_read_as_wider_entries() {
    holds(
        setup(Mode::Bits32, 3, PolicyKind::Reuse),
        &[(0x6000, 0xf067), (0x6004, 0x40_00c7)],
        &[
            Op::Control { vcpu: 0, cr0: 0x8001_0001, cr4: 0x40_10a0, efer: 0x900, pkru: 4 },
            Op::Cr3 { vcpu: 0, root: 0x6000 },
            Op::Access {
                vcpu: 0,
                gva: 0xffc0_1ffc,
                access: access(AccessOp::Fetch, true),
                value: 0x12067,
            },
            Op::Control { vcpu: 0, cr0: 0x8001_0001, cr4: 0x90, efer: 0x800, pkru: 0x5555_5554 },
            Op::Access {
                vcpu: 0,
                gva: 0x5f_f004,
                access: Access { ac: true, ..access(AccessOp::Read, false) },
                value: 0,
            },
        ],
    );
}

/// While CR4.PCIDE = 0 the low bits of CR3 are no PCID, and INVPCID of the current context
/// names PCID 0. (The simulated guest once named CR3's bits, which is a #GP.)
#[test]
fn invpcid_of_the_current_context_reaches_translations_under_a_shared_pdpt() {
    let mut ops = vec![
        Op::Poke { gpa: 0x11010, value: 0x22067 },
        Op::Cr3 { vcpu: 1, root: 0x14020 },
        Op::Access { vcpu: 1, gva: 0x2ff8, access: access(AccessOp::Write, false), value: 1 },
        Op::Poke { gpa: 0x11010, value: 0x2e163 },
    ];
    // The 16th step's invalidation is INVPCID of one address.
    ops.resize(15, Op::Nop);
    ops.push(Op::Invlpg { vcpu: 1, gva: 0x2008 });
    ops.push(Op::Access { vcpu: 1, gva: 0x2008, access: access(AccessOp::Read, false), value: 0 });
    let setup = setup(Mode::Pae, 2, PolicyKind::Background);
    holds(setup, &[(0x3000, 0x11067), (0x14020, 0x3001)], &ops);
}

/// A defect of the simulated hardware: walks that went on from a paging-structure cache judged by
/// the PKRU of the time at which it was filled. A refused register write in between flushes
/// nothing. (`five_levels`, seed 1423, step 3103.)
#[test]
fn a_cached_walk_is_judged_by_the_keys_of_now() {
    let (fetch, read) = (access(AccessOp::Fetch, true), access(AccessOp::Read, true));
    let gva = 0x3fe0_3008;
    let control = |cr4, efer, pkru| Op::Control { vcpu: 0, cr0: 0x8001_0001, cr4, efer, pkru };
    holds(
        setup(Mode::Level5, 1, PolicyKind::Batch),
        &[
            (0, 0x7047),
            (0x7000, 0x9027),
            (0x9000, 0xf047),
            (0xfff8, 0x1_1027),
            (0x1_1018, 0x0800_0000_0002_e027),
        ],
        &[
            control(0x52_1030, 0x900, 8),
            Op::Access { vcpu: 0, gva, access: fetch, value: 0 },
            // What lies at CR3 are no PDPTEs.
            control(0xb0, 0x800, 0x5555_5554),
            Op::Access { vcpu: 0, gva, access: Access { implicit: true, ..read }, value: 0 },
        ],
    );
}

/// A zap-all had left more stale pages than a new quota allowed, and none could be taken apart yet.
/// They came back into service one by one, and then a fault that evicted a single page found
/// itself still above the quota: out of memory, it said, with frames to be had.
/// (`five_levels`, seed 1003, step 606.)
#[test]
fn what_is_above_a_lowered_quota_is_evicted_by_the_fault_that_needs_a_frame() {
    for policy in PolicyKind::ALL {
        let roomy = Setup { spare: 60, ..fixture::setup(policy, 2) };
        let mut f = Fixture::<AnyMmu<Machine>>::with(roomy);
        f.widen(4096, 40);
        f.0.hold = true;
        let tables = |f: &mut Fixture| {
            // The newest first: the oldest are taken apart for the reserve.
            for index in (0..40).rev() {
                f.read(0, gva(512 + index, 0));
            }
        };
        tables(&mut f);
        f.read(1, gva(0, 0));
        f.step(Op::ZapAll);
        f.step(Op::Quota { spare: 0 });
        f.step(Op::Park { vcpu: 0 });
        f.step(Op::Park { vcpu: 1 });
        // Back in service, as they were; and then something else.
        tables(&mut f);
        f.read_everything(0);
        let usage = f.0.mmu.usage();
        assert!(usage.active <= usage.quota, "{policy:?}: {usage:?}");
    }
}

/// memtest86+ for i386 does so: supervisor code and its data in one read-only 2 MiB page, which
/// CR0.WP = 0 lets it write. Each access used to put another direct page into the way of the
/// other, forever.
#[test]
fn a_supervisor_reads_and_writes_a_large_read_only_page_by_turns_without_a_fault() {
    const READ_ONLY: u64 = 0x61;
    for (user, smep) in [(0, 0), (4, 0), (4, 1 << 20)] {
        let mut f = Fixture::new(PolicyKind::Tagged, 1);
        f.step(Op::Control { vcpu: 0, cr0: 0x8000_0001, cr4: 0x20 | smep, efer: 0x900, pkru: 0 });
        f.poke(fixture::entry(fixture::PD, 8), 1024 << 12 | READ_ONLY | user | 0x80);
        // Tables in it keep it from being mapped whole.
        f.poke(fixture::entry(fixture::PD, 11), 1030 << 12 | 0x67);
        f.read(0, gva(11, 0));
        let kinds = [(AccessOp::Read, 1), (AccessOp::Write, 2)];
        let turn = |f: &mut Fixture| {
            for (op, page) in kinds {
                let op = access(op, false);
                f.step(Op::Access { vcpu: 0, gva: gva(8, page), access: op, value: 0 });
            }
        };
        turn(&mut f);
        turn(&mut f);
        let taken = f.0.mmu.stats().pf_taken;
        f.step(Op::Cr3 { vcpu: 0, root: 0 });
        turn(&mut f);
        assert_eq!(f.0.mmu.stats().pf_taken, taken, "user {user}, SMEP {smep:#x}");
    }
}
