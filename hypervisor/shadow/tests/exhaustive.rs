//! A small model, tried in full: two levels, and all bits that matter.
//!
//! `every_combination_*` puts every combination of the entries' bits and the control bits
//! before every kind of access. `every_short_history_*` runs every sequence of a few steps
//! over two tables of two entries that may point at each other and at themselves
//! (`ANCHORITE_SHADOW_DEPTH` sets their length, 3 by default).

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::{AnyMmu, PolicyKind};
use support::machine::Machine;
use support::ops::{Op, TABLES};
use support::reference::*;
use support::world::{Setup, Visible, World};

const PD: u64 = 0;
const PT: u64 = 10;
const DATA: u64 = 40;

fn setup(mode: Mode) -> Setup {
    Setup {
        mode,
        vcpus: 1,
        policy: PolicyKind::Tagged,
        spare: 0,
        prefetch: 0,
        gib_pages: false,
        start_generation: 1,
        disciplined: false,
        audit_every: 1,
        physical_bits: 40,
    }
}

fn world(mode: Mode) -> World<AnyMmu<Machine>> {
    let initial = [(TABLES << 12, PD << 12 | P)];
    let mut world = World::new(setup(mode), if mode == Mode::Pae { &initial } else { &[] });
    world.raw_stores = true;
    world
}

/// Every way to touch memory.
fn accesses() -> Vec<Access> {
    let mut list = Vec::new();
    for op in [super_op(0), super_op(1), super_op(2)] {
        for (cpl3, implicit, ac) in [
            (true, false, false),
            (false, false, false),
            (false, false, true),
            (false, true, true),
            (true, true, false),
        ] {
            list.push(Access { op, cpl3, implicit, ac });
        }
    }
    list
}

const fn super_op(index: u32) -> support::reference::Op {
    match index {
        0 => support::reference::Op::Read,
        1 => support::reference::Op::Write,
        _ => support::reference::Op::Fetch,
    }
}

/// Every subset of `bits`, OR-ed to `base`.
fn subsets(base: u64, bits: &[u64]) -> Vec<u64> {
    (0..1u64 << bits.len())
        .map(|choice| {
            bits.iter()
                .enumerate()
                .filter(|(index, _)| choice >> index & 1 != 0)
                .fold(base, |raw, (_, bit)| raw | bit)
        })
        .collect()
}

fn every_combination(mode: Mode, pdes: &[u64], ptes: &[u64], cr4s: &[u64], efers: &[u64]) -> u64 {
    let mut world = world(mode);
    let bytes = if mode == Mode::Bits32 { 4 } else { 8 };
    let gva = 1 << 12;
    let (pde_at, pte_at) = (PD << 12, (PT << 12) + bytes);
    let (cr0, cr4, _) = support::ops::Shape::new(mode, 1).controls();
    let accesses = accesses();
    let mut tried = 0;
    let mut run = |op: Op| {
        world.step(op).unwrap_or_else(|what| panic!("{op:x?}: {what}"));
        (world.peek(pde_at), world.peek(pte_at))
    };
    for wp in [0, CR0_WP] {
        for &cr4_bits in cr4s {
            for &efer in efers {
                run(Op::Control { vcpu: 0, cr0: cr0 | wp, cr4: cr4 | cr4_bits, efer, pkru: 0 });
                for &pde in pdes {
                    for &pte in ptes {
                        for &access in &accesses {
                            if run(Op::Park { vcpu: 0 }) != (pde, pte) {
                                run(Op::Poke { gpa: pde_at, value: pde });
                                run(Op::Poke { gpa: pte_at, value: pte });
                                run(Op::Invlpg { vcpu: 0, gva });
                            }
                            run(Op::Access { vcpu: 0, gva, access, value: 1 });
                            tried += 1;
                        }
                    }
                }
            }
        }
    }
    tried
}

#[test]
fn every_combination_of_bits_in_32_bit_paging() {
    let tried = every_combination(
        Mode::Bits32,
        &subsets(PT << 12, &[P, RW, US, A, PS]),
        &subsets(DATA << 12, &[P, RW, US, A, D, G]),
        &subsets(0, &[CR4_PSE, CR4_SMEP, CR4_SMAP]),
        &[0],
    );
    assert_eq!(tried, 2 * 8 * 32 * 64 * 15);
}

#[test]
fn every_combination_of_bits_in_pae_paging() {
    let tried = every_combination(
        Mode::Pae,
        &subsets(PT << 12, &[P, RW, US, A, XD]),
        &subsets(DATA << 12, &[P, RW, US, A, D, XD]),
        &subsets(0, &[CR4_SMEP, CR4_SMAP]),
        &[0, EFER_NXE],
    );
    assert_eq!(tried, 2 * 4 * 2 * 32 * 64 * 15);
}

/// The steps of the small histories.
fn alphabet() -> Vec<Op> {
    let full = P | RW | US | A | D;
    let mut ops = Vec::new();
    for index in 0..2 {
        for value in [0, PT << 12 | full, PT << 12 | P | US | A, PD << 12 | full] {
            ops.push(Op::Poke { gpa: (PD << 12) + index * 8, value });
        }
        for value in [0, DATA << 12 | full, DATA << 12 | P | US, PT << 12 | full, PD << 12 | full] {
            ops.push(Op::Poke { gpa: (PT << 12) + index * 8, value });
        }
    }
    for high in 0..2 {
        for low in 0..2 {
            for op in [super_op(0), super_op(1)] {
                let access = Access { op, cpl3: true, implicit: false, ac: false };
                // The store hits entry 1 of whatever table lies there.
                let gva = high << 21 | low << 12 | 8;
                let value = DATA << 12 | P | US | A | D;
                ops.push(Op::Access { vcpu: (low & 1) as usize, gva, access, value });
            }
        }
    }
    ops.push(Op::Invlpg { vcpu: 0, gva: 0 });
    ops.push(Op::Cr3 { vcpu: 0, root: TABLES << 12 });
    ops.push(Op::ZapAll);
    ops
}

fn every_short_history(depth: usize) -> u64 {
    let full = P | RW | US | A | D;
    let initial = [
        (TABLES << 12, PD << 12 | P),
        (PD << 12, PT << 12 | full),
        ((PD << 12) + 8, PD << 12 | full),
        (PT << 12, PT << 12 | full),
        ((PT << 12) + 8, DATA << 12 | full),
    ];
    let alphabet = alphabet();
    let setup = Setup { vcpus: 2, audit_every: 1, ..setup(Mode::Pae) };
    let mut choice = vec![0; depth];
    let mut histories = 0;
    loop {
        let mut world = World::<AnyMmu<Machine>>::new(setup, &initial);
        world.raw_stores = true;
        let warm = alphabet.iter().filter(|op| matches!(op, Op::Access { .. })).take(5);
        let steps: Vec<Op> =
            warm.chain(choice.iter().map(|&index: &usize| &alphabet[index])).copied().collect();
        let probes = alphabet.iter().filter(|op| matches!(op, Op::Access { .. }));
        for op in steps.iter().chain(probes) {
            let result: Result<Visible, String> = world.step(*op);
            result.unwrap_or_else(|what| panic!("{steps:x?}, then {op:x?}: {what}"));
        }
        histories += 1;
        let Some(position) = choice.iter().rposition(|&index| index + 1 < alphabet.len()) else {
            return histories;
        };
        choice[position] += 1;
        choice[position + 1..].fill(0);
    }
}

#[test]
fn every_short_history_of_two_tables_of_two_entries() {
    let depth =
        std::env::var("ANCHORITE_SHADOW_DEPTH").map_or(3, |text| text.parse().expect("a number"));
    let histories = every_short_history(depth);
    assert_eq!(histories, 29u64.pow(depth as u32));
}
