//! Hand-written vectors for the reference walker: the oracle is tested before it judges.

#[path = "support/reference.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
mod reference;

use reference::*;
use std::collections::BTreeMap;

/// Guest memory as a map of entries; absent entries read as zero.
#[derive(Default)]
struct Entries(BTreeMap<u64, u64>);

impl Entries {
    fn set(&mut self, gpa: u64, raw: u64) -> &mut Self {
        self.0.insert(gpa, raw);
        self
    }

    fn answer(&self, cpu: &Cpu, gva: u64, access: Access) -> Answer {
        self.translate(cpu, gva, access).answer
    }

    fn translate(&self, cpu: &Cpu, gva: u64, access: Access) -> Translation {
        translate(cpu, gva, access, |at| Some(self.0.get(&at.gpa).copied().unwrap_or(0)))
    }
}

const fn access(op: Op, cpl3: bool) -> Access {
    Access { op, cpl3, implicit: false, ac: false }
}

const UR: Access = access(Op::Read, true);
const UW: Access = access(Op::Write, true);
const UX: Access = access(Op::Fetch, true);
const SR: Access = access(Op::Read, false);
const SW: Access = access(Op::Write, false);
const SX: Access = access(Op::Fetch, false);

fn cpu(mode: Mode) -> Cpu {
    let (cr0, cr4, efer) = match mode {
        Mode::Off => (1, 0, 0),
        Mode::Bits32 => (CR0_PG | 1, CR4_PSE, 0),
        Mode::Pae => (CR0_PG | 1, CR4_PAE, EFER_NXE),
        Mode::Level4 => (CR0_PG | 1, CR4_PAE, EFER_LME | EFER_NXE),
        Mode::Level5 => (CR0_PG | 1, CR4_PAE | CR4_LA57, EFER_LME | EFER_NXE),
    };
    Cpu {
        cr0: cr0 | CR0_WP,
        cr3: 0x1000,
        cr4,
        efer,
        pkru: 0,
        pdptes: [0x2001, 0, 0, 0],
        maxphyaddr: 40,
        gib_pages: true,
        pse36: true,
        amd_mbz: false,
    }
}

/// A four-level map of GVA 0: PML4 at 0x1000, then 0x2000, 0x3000, 0x4000.
fn four_level(leaf: u64) -> Entries {
    let mut entries = Entries::default();
    entries.set(0x1000, 0x2007).set(0x2000, 0x3007).set(0x3000, 0x4007).set(0x4000, leaf);
    entries
}

fn fault(code: u32) -> Answer {
    Answer::PageFault(code)
}

fn gpa(answer: Answer) -> u64 {
    match answer {
        Answer::Ok(leaf) => leaf.gpa,
        other => panic!("no translation: {other:?}"),
    }
}

#[test]
fn without_paging_an_address_is_itself_and_32_bits_wide() {
    let cpu = cpu(Mode::Off);
    let none = Entries::default();
    assert_eq!(gpa(none.answer(&cpu, 0x1234_5678, UW)), 0x1234_5678);
    assert_eq!(gpa(none.answer(&cpu, 0x1_0000_0010, SX)), 0x10);
}

#[test]
fn two_levels_index_with_ten_bits_each() {
    let mut entries = Entries::default();
    // GVA 0x00c0_5abc: PDE 3, PTE 5.
    entries.set(0x1000 + 3 * 4, 0x2007).set(0x2000 + 5 * 4, 0x9007);
    assert_eq!(gpa(entries.answer(&cpu(Mode::Bits32), 0x00c0_5abc, UW)), 0x9abc);
    assert_eq!(entries.answer(&cpu(Mode::Bits32), 0x0080_5abc, UW), fault(PF_W | PF_U));
}

#[test]
fn a_4_mib_page_takes_address_bits_39_32_from_bits_20_13() {
    let mut entries = Entries::default();
    entries.set(0x1000, 0x0080_0087 | 0x12 << 13);
    let cpu32 = cpu(Mode::Bits32);
    assert_eq!(gpa(entries.answer(&cpu32, 0x0012_3456, SR)), 0x12_0092_3456);
}

#[test]
fn pse_36_reserves_bit_21_and_what_lies_above_the_physical_width() {
    let mut wide = cpu(Mode::Bits32);
    let mut entries = Entries::default();
    entries.set(0x1000, 0x87 | 1 << 21);
    assert_eq!(entries.answer(&wide, 0, SR), fault(PF_P | PF_RSVD));
    // MAXPHYADDR 36: bits 21:17.
    wide.maxphyaddr = 36;
    entries.set(0x1000, 0x87 | 1 << 16);
    assert_eq!(gpa(entries.answer(&wide, 0, SR)), 0x8_0000_0000);
    entries.set(0x1000, 0x87 | 1 << 17);
    assert_eq!(entries.answer(&wide, 0, UW), fault(PF_P | PF_RSVD | PF_W | PF_U));
    // Without PSE-36 bits 21:13.
    wide.pse36 = false;
    entries.set(0x1000, 0x87 | 1 << 13);
    assert_eq!(entries.answer(&wide, 0, SR), fault(PF_P | PF_RSVD));
}

#[test]
fn without_pse_the_size_bit_is_ignored() {
    let mut old = cpu(Mode::Bits32);
    old.cr4 = 0;
    let mut entries = Entries::default();
    entries.set(0x1000, 0x2087).set(0x2000, 0x9007);
    assert_eq!(gpa(entries.answer(&old, 0x10, SR)), 0x9010);
}

#[test]
fn pae_takes_the_table_from_the_pdpte_register_and_not_from_memory() {
    let mut entries = Entries::default();
    entries.set(0x1000, 0).set(0x2000, 0x3007).set(0x3000, 0x9007);
    assert_eq!(gpa(entries.answer(&cpu(Mode::Pae), 0x10, UW)), 0x9010);
    assert_eq!(entries.answer(&cpu(Mode::Pae), 0x4000_0010, UW), fault(PF_W | PF_U));
}

#[test]
fn pae_pdptes_load_only_without_reserved_bits() {
    let cpu = cpu(Mode::Pae);
    assert!(cpu.pdptes_loadable([0x2001, 0x2e19, 0, 0x1e6]));
    for bit in [1, 2, 5, 6, 7, 8, 40, 51, 62, 63] {
        assert!(!cpu.pdptes_loadable([0, 0x2001 | 1 << bit, 0, 0]), "bit {bit}");
        assert!(cpu.pdptes_loadable([0, 1 << bit, 0, 0]), "bit {bit}, not present");
    }
}

#[test]
fn pae_entries_reserve_62_to_the_physical_width_and_20_13_of_large_ones() {
    let cpu = cpu(Mode::Pae);
    for bit in [40, 52, 59, 62] {
        let mut entries = Entries::default();
        entries.set(0x2000, 0x3007 | 1 << bit).set(0x3000, 0x9007);
        assert_eq!(entries.answer(&cpu, 0, SR), fault(PF_P | PF_RSVD), "PDE bit {bit}");
        entries.set(0x2000, 0x3007).set(0x3000, 0x9007 | 1 << bit);
        assert_eq!(entries.answer(&cpu, 0, SR), fault(PF_P | PF_RSVD), "PTE bit {bit}");
    }
    for bit in [13, 20] {
        let mut entries = Entries::default();
        entries.set(0x2000, 0x87 | 1 << bit);
        assert_eq!(entries.answer(&cpu, 0, SR), fault(PF_P | PF_RSVD), "large, bit {bit}");
    }
    let mut large = Entries::default();
    large.set(0x2000, 0x0040_0087 | 1 << 12);
    assert_eq!(gpa(large.answer(&cpu, 0x1f_ffff, SR)), 0x5f_ffff);
}

#[test]
fn four_levels_index_with_nine_bits_each() {
    let mut entries = Entries::default();
    let gva = 0xffff_8000_0000_0000 | 2 << 39 | 3 << 30 | 4 << 21 | 5 << 12 | 0x678;
    entries
        .set(0x1000 + 258 * 8, 0x2007)
        .set(0x2000 + 3 * 8, 0x3007)
        .set(0x3000 + 4 * 8, 0x4007)
        .set(0x4000 + 5 * 8, 0xab_cdef_9007);
    assert_eq!(gpa(entries.answer(&cpu(Mode::Level4), gva, UW)), 0xab_cdef_9678);
}

#[test]
fn five_levels_begin_one_table_higher() {
    let mut entries = four_level(0x9007);
    entries.set(0x7000 + 511 * 8, 0x1007);
    let mut five = cpu(Mode::Level5);
    five.cr3 = 0x7000;
    assert_eq!(gpa(entries.answer(&five, 0xffff_0000_0000_0123, UW)), 0x9123);
    assert_eq!(entries.answer(&five, 0, UW), fault(PF_W | PF_U));
    assert_eq!(entries.answer(&five, 0x0100_0000_0000_0000, UW), Answer::NonCanonical);
}

#[test]
fn a_non_canonical_address_never_faults_as_a_page() {
    let entries = four_level(0x9007);
    let four = cpu(Mode::Level4);
    assert_eq!(entries.answer(&four, 0x8000_0000_0000, UW), Answer::NonCanonical);
    assert_eq!(entries.answer(&four, 0xffff_7fff_ffff_ffff, UW), Answer::NonCanonical);
}

#[test]
fn large_pages_of_long_mode_end_the_walk_early() {
    let cpu = cpu(Mode::Level4);
    let mut entries = Entries::default();
    entries.set(0x1000, 0x2007).set(0x2000, 0x40000087);
    assert_eq!(gpa(entries.answer(&cpu, 0x3fff_ffff, UW)), 0x7fff_ffff);
    entries.set(0x2000, 0x3007).set(0x3000, 0x0060_1087);
    assert_eq!(gpa(entries.answer(&cpu, 0x1f_ffff, UW)), 0x7f_ffff);
}

#[test]
fn reserved_bits_of_long_mode() {
    let mut cpu = cpu(Mode::Level4);
    let rsvd = fault(PF_P | PF_RSVD);
    let check = |cpu: &Cpu, at: u64, raw: u64| {
        let mut entries = four_level(0x9007);
        entries.set(at, raw);
        entries.answer(cpu, 0, SR)
    };
    for (at, next) in [(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007), (0x4000, 0x9007)] {
        assert_eq!(check(&cpu, at, next | 1 << 40), rsvd);
        assert_eq!(check(&cpu, at, next | 1 << 51), rsvd);
        assert_eq!(gpa(check(&cpu, at, next | 0x7ff << 52)), 0x9000);
        let mut no_nx = cpu;
        no_nx.efer = EFER_LME;
        assert_eq!(check(&no_nx, at, next | XD), rsvd);
    }
    assert_eq!(check(&cpu, 0x1000, 0x2087), rsvd);
    assert_eq!(gpa(check(&cpu, 0x1000, 0x2107)), 0x9000);
    assert_eq!(check(&cpu, 0x2000, 0x87 | 1 << 13), rsvd);
    assert_eq!(check(&cpu, 0x2000, 0x87 | 1 << 29), rsvd);
    assert_eq!(check(&cpu, 0x3000, 0x87 | 1 << 20), rsvd);
    cpu.gib_pages = false;
    assert_eq!(check(&cpu, 0x2000, 0x87), rsvd);
    cpu.amd_mbz = true;
    assert_eq!(check(&cpu, 0x1000, 0x2107), rsvd);
}

#[test]
fn not_present_below_wins_over_rights_above_and_reserved_needs_present() {
    let cpu = cpu(Mode::Level4);
    let mut entries = four_level(0x9006);
    entries.set(0x1000, 0x2001);
    assert_eq!(entries.answer(&cpu, 0, UW), fault(PF_W | PF_U));
    entries.set(0x4000, 0x9006 | 1 << 45);
    assert_eq!(entries.answer(&cpu, 0, UW), fault(PF_W | PF_U));
    entries.set(0x4000, 0x9007 | 1 << 45);
    assert_eq!(entries.answer(&cpu, 0, UW), fault(PF_P | PF_W | PF_U | PF_RSVD));
}

#[test]
fn rights_are_the_conjunction_over_all_levels() {
    let cpu = cpu(Mode::Level4);
    for (at, next) in [(0x1000, 0x2000), (0x2000, 0x3000), (0x3000, 0x4000), (0x4000, 0x9000)] {
        let mut entries = four_level(0x9007);
        entries.set(at, next | 5);
        assert_eq!(entries.answer(&cpu, 0, UW), fault(PF_P | PF_W | PF_U));
        assert_eq!(entries.answer(&cpu, 0, SW), fault(PF_P | PF_W));
        assert_eq!(gpa(entries.answer(&cpu, 0, UR)), 0x9000);
        entries.set(at, next | 3);
        assert_eq!(entries.answer(&cpu, 0, UR), fault(PF_P | PF_U));
        assert_eq!(gpa(entries.answer(&cpu, 0, SW)), 0x9000);
        entries.set(at, next | 7 | XD);
        assert_eq!(entries.answer(&cpu, 0, UX), fault(PF_P | PF_U | PF_I));
        assert_eq!(entries.answer(&cpu, 0, SX), fault(PF_P | PF_I));
        assert_eq!(gpa(entries.answer(&cpu, 0, UW)), 0x9000);
    }
}

#[test]
fn without_wp_a_supervisor_writes_read_only_pages() {
    let mut cpu = cpu(Mode::Level4);
    cpu.cr0 &= !CR0_WP;
    let entries = four_level(0x9005);
    assert_eq!(gpa(entries.answer(&cpu, 0, SW)), 0x9000);
    assert_eq!(entries.answer(&cpu, 0, UW), fault(PF_P | PF_W | PF_U));
}

#[test]
fn smep_forbids_fetching_user_code_and_reports_the_fetch() {
    let mut cpu = cpu(Mode::Bits32);
    let mut entries = Entries::default();
    entries.set(0x1000, 0x2007).set(0x2000, 0x9007);
    assert_eq!(gpa(entries.answer(&cpu, 0, SX)), 0x9000);
    // Neither SMEP nor NX: I/D stays clear.
    assert_eq!(entries.answer(&cpu, 0x40_0000, SX), fault(0));
    cpu.cr4 |= CR4_SMEP;
    assert_eq!(entries.answer(&cpu, 0, SX), fault(PF_P | PF_I));
    assert_eq!(gpa(entries.answer(&cpu, 0, UX)), 0x9000);
    assert_eq!(entries.answer(&cpu, 0x40_0000, SX), fault(PF_I));
    entries.set(0x2000, 0x9003);
    assert_eq!(gpa(entries.answer(&cpu, 0, SX)), 0x9000);
}

#[test]
fn the_fetch_bit_needs_nx_with_pae_or_smep() {
    let mut cpu = cpu(Mode::Level4);
    let none = Entries::default();
    assert_eq!(none.answer(&cpu, 0, UX), fault(PF_U | PF_I));
    cpu.efer = EFER_LME;
    assert_eq!(none.answer(&cpu, 0, UX), fault(PF_U));
    let mut legacy = self::cpu(Mode::Bits32);
    legacy.efer = EFER_NXE;
    assert_eq!(none.answer(&legacy, 0, UX), fault(PF_U));
}

#[test]
fn smap_forbids_user_data_unless_ac_and_explicit() {
    let mut cpu = cpu(Mode::Level4);
    cpu.cr4 |= CR4_SMAP;
    let entries = four_level(0x9007);
    let with = |op, cpl3, implicit, ac| Access { op, cpl3, implicit, ac };
    assert_eq!(entries.answer(&cpu, 0, SR), fault(PF_P));
    assert_eq!(entries.answer(&cpu, 0, SW), fault(PF_P | PF_W));
    assert_eq!(gpa(entries.answer(&cpu, 0, with(Op::Write, false, false, true))), 0x9000);
    // Implicit: AC does not help, at CPL 3 neither, and U/S is clear.
    for cpl3 in [false, true] {
        for ac in [false, true] {
            let implicit = with(Op::Read, cpl3, true, ac);
            assert_eq!(entries.answer(&cpu, 0, implicit), fault(PF_P));
        }
    }
    assert_eq!(gpa(entries.answer(&cpu, 0, UW)), 0x9000);
    assert_eq!(gpa(entries.answer(&cpu, 0, SX)), 0x9000);
    // WP = 0 does not lift SMAP.
    cpu.cr0 &= !CR0_WP;
    assert_eq!(entries.answer(&cpu, 0, SW), fault(PF_P | PF_W));
    let supervisor = four_level(0x9003);
    assert_eq!(gpa(supervisor.answer(&cpu, 0, SW)), 0x9000);
}

#[test]
fn protection_keys_guard_data_of_user_pages() {
    let mut cpu = cpu(Mode::Level4);
    cpu.cr4 |= CR4_PKE;
    let entries = four_level(0x9007 | 3 << 59);
    cpu.pkru = 1 << 6;
    assert_eq!(entries.answer(&cpu, 0, UR), fault(PF_P | PF_U | PF_PK));
    assert_eq!(entries.answer(&cpu, 0, SR), fault(PF_P | PF_PK));
    assert_eq!(gpa(entries.answer(&cpu, 0, UX)), 0x9000);
    cpu.pkru = 1 << 7;
    assert_eq!(gpa(entries.answer(&cpu, 0, UR)), 0x9000);
    assert_eq!(entries.answer(&cpu, 0, UW), fault(PF_P | PF_W | PF_U | PF_PK));
    assert_eq!(entries.answer(&cpu, 0, SW), fault(PF_P | PF_W | PF_PK));
    cpu.cr0 &= !CR0_WP;
    assert_eq!(gpa(entries.answer(&cpu, 0, SW)), 0x9000);
    assert_eq!(entries.answer(&cpu, 0, UW), fault(PF_P | PF_W | PF_U | PF_PK));
    // A supervisor page has no key; a denied access reports the key as well.
    cpu.pkru = u32::MAX;
    let supervisor = four_level(0x9003 | 3 << 59);
    assert_eq!(gpa(supervisor.answer(&cpu, 0, SW)), 0x9000);
    let read_only = four_level(0x9005 | 3 << 59);
    cpu.cr0 |= CR0_WP;
    assert_eq!(read_only.answer(&cpu, 0, UW), fault(PF_P | PF_W | PF_U | PF_PK));
    cpu.cr4 &= !CR4_PKE;
    assert_eq!(read_only.answer(&cpu, 0, UW), fault(PF_P | PF_W | PF_U));
}

#[test]
fn global_counts_only_in_the_leaf_and_with_pge() {
    let mut cpu = cpu(Mode::Level4);
    let mut entries = four_level(0x9107);
    let global = |entries: &Entries, cpu: &Cpu| match entries.answer(cpu, 0, UR) {
        Answer::Ok(leaf) => leaf.global,
        other => panic!("{other:?}"),
    };
    assert!(!global(&entries, &cpu));
    cpu.cr4 |= CR4_PGE;
    assert!(global(&entries, &cpu));
    entries.set(0x4000, 0x9007).set(0x3000, 0x4107);
    assert!(!global(&entries, &cpu));
}

#[test]
fn accessed_goes_to_every_entry_and_dirty_to_the_leaf_of_a_write() {
    let cpu = cpu(Mode::Level4);
    let entries = four_level(0x9007);
    let set = |access| {
        entries
            .translate(&cpu, 0, access)
            .must_set()
            .map(|(at, bits)| (at.gpa, bits))
            .collect::<Vec<_>>()
    };
    assert_eq!(set(UR), [(0x1000, A), (0x2000, A), (0x3000, A), (0x4000, A)]);
    assert_eq!(set(UW), [(0x1000, A), (0x2000, A), (0x3000, A), (0x4000, A | D)]);
}

#[test]
fn a_faulting_walk_must_set_nothing_and_may_set_accessed_only() {
    let cpu = cpu(Mode::Level4);
    let entries = four_level(0x9005);
    let walk = entries.translate(&cpu, 0, UW);
    assert_eq!(walk.must_set().count(), 0);
    assert!(walk.may_set().all(|(_, bits)| bits == A));
    assert_eq!(walk.may_set().count(), 4);
    let cut = four_level(0).translate(&cpu, 0, UW);
    assert_eq!(cut.may_set().count(), 3);
}

#[test]
fn the_pdpte_of_pae_has_no_accessed_bit() {
    let mut entries = Entries::default();
    entries.set(0x2000, 0x3007).set(0x3000, 0x9007);
    let walk = entries.translate(&cpu(Mode::Pae), 0, SW);
    let set: Vec<_> = walk.must_set().map(|(at, bits)| (at.gpa, bits)).collect();
    assert_eq!(set, [(0x2000, A), (0x3000, A | D)]);
}

#[test]
fn a_table_outside_memory_reads_as_zero() {
    let walk = translate(&cpu(Mode::Level4), 0, UR, |_| None);
    assert_eq!(walk.answer, fault(PF_U));
    assert_eq!(walk.visited().count(), 0);
}
