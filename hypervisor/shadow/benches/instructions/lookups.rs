//! The directory alone: lookups beside stale entries (hazard H11).

use crate::directory::{Directory, Found};
use crate::page::{Meta, PageNo};
use crate::registers::PagingMode;
use crate::role::{ALL_RIGHTS, Role, RoleBits};
use crate::{counted, section};

/// Pages that are looked up.
const CURRENT: u64 = 4096;
const GENERATION: u64 = 7;

/// Looks up all current pages, of which `stale_percent` of the entries are not.
pub(crate) fn with_stale(stale_percent: u64) {
    let all = CURRENT * 100 / (100 - stale_percent);
    let bits = RoleBits {
        mode: PagingMode::FourLevel,
        nx: true,
        wp: true,
        smep: false,
        smap: false,
        pke: false,
        pse: false,
    };
    let role = Role::base(bits).at(1, ALL_RIGHTS);
    let metas: Vec<Meta> = (0..all)
        .map(|number| {
            let generation = if number < CURRENT { GENERATION } else { GENERATION - 1 };
            // Half of the stale pages shadow tables that current ones shadow again.
            let gfn = if number % 2 == 0 { number % CURRENT } else { number };
            Meta { gfn: 0x1234 + gfn * 3, generation, role, ..Meta::default() }
        })
        .collect();
    // The same room in every case, as an engine has: it depends on the arena alone.
    let mut directory = Directory::new(CURRENT as usize * 10).expect("room");
    // Oldest first, as an engine enters them.
    for number in (0..all as u32).rev() {
        let Meta { gfn, role, .. } = metas[number as usize];
        match directory.look_up(&metas, gfn, role, GENERATION, 0) {
            Found::Twin => directory.insert_before(&metas, PageNo(number)),
            _ => directory.insert(&metas, PageNo(number)),
        }
    }

    for number in 0..CURRENT as usize {
        let gfn = metas[number].gfn;
        let found = counted(|| directory.look_up(&metas, gfn, role, GENERATION, GENERATION));
        assert_eq!(found, Found::Current(PageNo(number as u32)));
    }
    section(&format!("lookup_stale_{stale_percent}"), 0, 0, CURRENT);
}
