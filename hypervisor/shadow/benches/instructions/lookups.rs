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
    let meta = |number: u64| {
        let generation = if number < CURRENT { GENERATION } else { GENERATION - 1 };
        // Half of the stale pages shadow tables that current ones shadow again.
        let gfn = if number % 2 == 0 { number % CURRENT } else { number };
        Meta { gfn: 0x1234 + gfn * 3, generation, role, ..Meta::default() }
    };
    // Number 0 is no page.
    let mut metas: Vec<Meta> = std::iter::once(Meta::default()).chain((0..all).map(meta)).collect();
    // The same room in every case, as an engine has that took as many frames once.
    let room = CURRENT as usize * 10;
    let mut directory = Directory::new(room).expect("room");
    directory.grow(&mut metas, room);
    // Oldest first, as an engine enters them.
    for number in (1..=all as u32).rev() {
        let chain = directory.chain_of(metas[number as usize].gfn);
        directory.insert(&mut metas, chain, PageNo(number));
    }

    for number in 1..=CURRENT as usize {
        let gfn = metas[number].gfn;
        let look_up = || {
            let chain = directory.chain_of(gfn);
            directory.look_up(&metas, chain, (gfn, role), GENERATION, GENERATION)
        };
        let found = counted(look_up);
        assert_eq!(found, Found::Current(PageNo(number as u32)));
    }
    section(&format!("lookup_stale_{stale_percent}"), 0, 0, CURRENT);
}
