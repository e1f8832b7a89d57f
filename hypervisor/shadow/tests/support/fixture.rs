//! A four-level guest with known tables, for tests that aim at one thing.

use super::machine::Machine;
use super::ops::Op;
use super::reference::{Access, Mode, Op as AccessOp};
use super::run::env;
use super::world::{Engine, Position, Setup, Visible, World};
use anchorite_shadow::{AnyMmu, PolicyKind};

/// Present, writable, user, accessed, dirty.
pub const FULL: u64 = 0x67;
/// The guest frames of the tables that every fixture begins with.
pub const PML4: u64 = 0;
pub const PDPT: u64 = 4;
pub const PD: u64 = 8;
/// The leaf table of 2 MiB region `region`, 0 to 4.
pub const fn pt(region: u64) -> u64 {
    12 + region
}
/// A second PML4 over the same tables.
pub const OTHER_PML4: u64 = 1;
/// Entries in each leaf table.
pub const ENTRIES: u64 = 8;

/// A guest in four-level mode: five 2 MiB regions of eight pages each, then two large
/// pages in slot 1 at regions 8 and 9, a hole (a device) at region 10, entry 0, and the
/// tables themselves at region 11: entries 0 to 4 the leaf tables, 5 PD, 6 PDPT, 7 PML4.
pub struct Fixture<E: Engine = AnyMmu<Machine>>(pub World<E>);

/// The address of entry `entry` of region `region`.
pub const fn gva(region: u64, entry: u64) -> u64 {
    region << 21 | entry << 12
}

/// The frame that [`gva`] maps at the start.
pub const fn frame(region: u64, entry: u64) -> u64 {
    20 + (region * ENTRIES + entry) % 40
}

pub fn setup(policy: PolicyKind, vcpus: usize) -> Setup {
    Setup {
        mode: Mode::Level4,
        vcpus,
        policy,
        spare: 0,
        prefetch: 0,
        gib_pages: true,
        start_generation: 1,
        disciplined: false,
        audit_every: env("ANCHORITE_SHADOW_AUDIT", 1),
        physical_bits: 40,
    }
}

pub fn tables() -> Vec<(u64, u64)> {
    let at = |table: u64, index: u64| (table << 12) + index * 8;
    let mut edits = vec![
        (at(PML4, 0), PDPT << 12 | FULL),
        (at(OTHER_PML4, 0), PDPT << 12 | FULL),
        (at(PDPT, 0), PD << 12 | FULL),
        (at(PD, 8), 1024 << 12 | FULL | 0x80),
        (at(PD, 9), 1536 << 12 | FULL | 0x80),
        (at(PD, 10), 17 << 12 | FULL),
        (at(17, 0), 0xfee00 << 12 | FULL),
        (at(PD, 11), 18 << 12 | FULL),
        (at(18, 5), PD << 12 | FULL),
        (at(18, 6), PDPT << 12 | FULL),
        (at(18, 7), PML4 << 12 | FULL),
    ];
    for region in 0..5 {
        edits.push((at(18, region), pt(region) << 12 | FULL));
        edits.push((at(PD, region), pt(region) << 12 | FULL));
        for entry in 0..ENTRIES {
            edits.push((at(pt(region), entry), frame(region, entry) << 12 | FULL));
        }
    }
    edits
}

/// The guest-physical address of an entry.
pub const fn entry(table: u64, index: u64) -> u64 {
    (table << 12) + index * 8
}

const fn access(op: AccessOp) -> Access {
    Access { op, cpl3: true, implicit: false, ac: false }
}

impl Fixture {
    pub fn new(policy: PolicyKind, vcpus: usize) -> Self {
        Self::with(setup(policy, vcpus))
    }
}

impl<E: Engine> Fixture<E> {
    pub fn with(setup: Setup) -> Self {
        let mut world = World::new(setup, &tables());
        world.raw_stores = true;
        Self(world)
    }

    /// Adds `count` leaf tables, at frame `base` and on, reached through the regions
    /// 512 to 512 + `count`; entry 0 of each maps frame 20.
    pub fn widen(&mut self, base: u64, count: u64) {
        let directories = count.div_ceil(512);
        let position = Position {
            base,
            pages: count + directories,
            host: 0x700_0000 + base % 512,
            read_only: false,
        };
        self.0.extra_slot(position).expect("the slot fits");
        for directory in 0..directories {
            let frame = base + count + directory;
            self.0.preset(entry(PDPT, 1 + directory), 8, frame << 12 | FULL);
        }
        for index in 0..count {
            let directory = base + count + index / 512;
            self.0.preset(entry(directory, index % 512), 8, (base + index) << 12 | FULL);
            self.0.preset(entry(base + index, 0), 8, frame(0, 0) << 12 | FULL);
        }
    }

    /// Carries out a step that must be legal.
    #[track_caller]
    pub fn step(&mut self, op: Op) -> Visible {
        match self.0.step(op) {
            Ok(visible) => visible,
            Err(what) => panic!("{op:x?}: {what}"),
        }
    }

    #[track_caller]
    pub fn read(&mut self, vcpu: usize, gva: u64) -> Visible {
        self.step(Op::Access { vcpu, gva, access: access(AccessOp::Read), value: 0 })
    }

    #[track_caller]
    pub fn write(&mut self, vcpu: usize, gva: u64, value: u64) -> Visible {
        self.step(Op::Access { vcpu, gva, access: access(AccessOp::Write), value })
    }

    #[track_caller]
    pub fn poke(&mut self, gpa: u64, value: u64) {
        self.step(Op::Poke { gpa, value });
    }

    /// As [`Self::read_everything`], without the page that a test has moved.
    #[track_caller]
    pub fn read_everything_but_first(&mut self, vcpu: usize) {
        for region in 0..5 {
            for entry in 1..ENTRIES {
                let seen = self.read(vcpu, gva(region, entry));
                assert_eq!(gpa(seen), Some(frame(region, entry) << 12));
            }
        }
    }

    /// Reads the pages of one region.
    #[track_caller]
    pub fn read_everything_of(&mut self, vcpu: usize, region: u64) {
        for entry in 0..ENTRIES {
            self.read(vcpu, gva(region, entry));
        }
    }

    /// Reads all 40 pages of all regions, and that each reads its own frame.
    #[track_caller]
    pub fn read_everything(&mut self, vcpu: usize) {
        for region in 0..5 {
            for entry in 0..ENTRIES {
                let seen = self.read(vcpu, gva(region, entry));
                assert_eq!(gpa(seen), Some(frame(region, entry) << 12));
            }
        }
    }
}

/// The address that an access reached.
pub fn gpa(visible: Visible) -> Option<u64> {
    match visible {
        Visible::Memory { gpa, .. } => Some(gpa),
        _ => None,
    }
}
