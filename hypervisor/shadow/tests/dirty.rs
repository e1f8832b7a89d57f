//! The dirty log cleared range by range, without a zap.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_addr::Gfn;
use anchorite_shadow::{PolicyKind, ShadowMmu, SlotError};
use support::fixture::*;
use support::ops::{LogAction, Op};

#[test]
fn a_cleared_frame_is_logged_again_by_the_next_write_and_its_neighbours_stay() {
    for policy in PolicyKind::ALL {
        let mut f = Fixture::new(policy, 1);
        let id = f.0.slot_id(0);
        let refused = f.0.mmu.clear_dirty(id, Gfn::new(0), 1);
        assert_eq!(refused, Err(SlotError::NotLogging(id)));
        f.step(Op::DirtyLog { slot: 0, action: LogAction::On });
        for page in 0..4 {
            f.write(0, gva(1, page), page);
        }
        let zapped = f.0.mmu.stats().mmu_shadow_zapped;
        let generation = f.0.mmu.generation();
        let first = Gfn::new(frame(1, 1));
        let promise = f.0.mmu.clear_dirty(id, first, 2).expect("the log runs");
        f.step(Op::Park { vcpu: 0 });
        f.0.mmu.discharge(promise, |_| ()).expect("the vCPU is outside");
        let dirty =
            |f: &Fixture| [0, 1, 2, 3].map(|page| f.0.mmu.is_dirty(Gfn::new(frame(1, page))));
        assert_eq!(dirty(&f), [true, false, false, true], "{policy:?}");
        f.read(0, gva(1, 1));
        assert_eq!(dirty(&f), [true, false, false, true], "{policy:?}: by a read");
        f.write(0, gva(1, 2), 9);
        assert_eq!(dirty(&f), [true, false, true, true], "{policy:?}");
        // Beyond the slot there is nothing to clear.
        let promise = f.0.mmu.clear_dirty(id, Gfn::new(0), u64::MAX).expect("the log runs");
        let _still = f.0.mmu.discharge(promise, |_| ()).expect_err("the vCPU is in the guest");
        assert_eq!(dirty(&f), [false; 4], "{policy:?}");
        assert_eq!(f.0.mmu.stats().mmu_shadow_zapped, zapped, "{policy:?}: without a zap");
        assert_eq!(f.0.mmu.generation(), generation);
    }
}
