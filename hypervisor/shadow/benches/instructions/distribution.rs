//! What a zap-all costs and what it leaves behind: each fault of the rebuild by itself.

use anchorite_shadow::ShadowMmu;
use anchorite_shadow::policy::ZapPolicy;

use crate::guest::{Guest, READ, Size, gva};
use crate::{counted, section};

/// Zaps `tables` shadowed tables of one leaf each, with `pages` shadow pages at most, and
/// touches all of them again.
pub(crate) fn measure<P: ZapPolicy>(policy: P, tables: u64, pages: u64) {
    let mut guest: Guest<P> = Guest::new(policy, Size::of(tables, 1).limited(pages));
    guest.touch_all();
    counted(|| guest.zap_all());
    section("zap_all", tables, 1, 1);

    guest.enter();
    let mut peak = 0;
    for table in 0..tables {
        let outcome = counted(|| guest.fault(gva(table, 0), READ));
        section("fault", tables, 1, 1);
        assert_eq!(outcome, anchorite_shadow::FaultOutcome::Fixed);
        let usage = guest.mmu.usage();
        peak = peak.max(usage.active + usage.stale + usage.limbo);
    }
    println!("peak {peak}");
}
