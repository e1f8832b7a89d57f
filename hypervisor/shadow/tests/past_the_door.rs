//! A device that writes a page table past the one door (`guest_wrote`) breaks what it promised, and
//! the guest sees old translations for it; but what hangs below the entry must not serve two
//! tables from then on. This is the second line of hazard H7.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::PolicyKind;
use support::fixture::*;
use support::ops::{Op, Place};

/// A guest with memory that cannot be mapped large: a large page of it becomes a direct child.
fn skewed(policy: PolicyKind) -> Fixture {
    let mut f = Fixture::new(policy, 1);
    for place in [Place::Gone, Place::Home { bank: 2, read_only: false }] {
        f.step(Op::Slot { slot: 1, place });
    }
    f
}

/// Another large page takes the place of one.
///
/// Seen to fail when `child` does not compare the gfn.
#[test]
fn h7_a_child_of_another_gfn_is_not_followed_though_nobody_reported_the_write() {
    for policy in PolicyKind::ALL {
        let mut f = skewed(policy);
        assert_eq!(gpa(f.read(0, gva(8, 1))), Some(1025 << 12));
        f.0.preset(entry(PD, 8), 8, 1536 << 12 | FULL | 0x80);
        assert_eq!(gpa(f.read(0, gva(8, 2))), Some(1538 << 12));
        f.poke(entry(PD, 13), 1024 << 12 | FULL | 0x80);
        assert_eq!(gpa(f.read(0, gva(13, 2))), Some(1026 << 12));
    }
}

/// A large page becomes a table in the frame where it began.
///
/// Seen to fail when `child` does not compare the role.
#[test]
fn h7_a_child_of_another_role_is_not_followed_though_nobody_reported_the_write() {
    for policy in PolicyKind::ALL {
        let mut f = skewed(policy);
        for index in 0..4 {
            f.poke(entry(1024, index), frame(3, index) << 12 | FULL);
        }
        assert_eq!(gpa(f.read(0, gva(8, 1))), Some(1025 << 12));
        f.0.preset(entry(PD, 8), 8, 1024 << 12 | FULL);
        assert_eq!(gpa(f.read(0, gva(8, 2))), Some(frame(3, 2) << 12));
        f.step(Op::Invlpg { vcpu: 0, gva: gva(8, 1) });
        assert_eq!(gpa(f.read(0, gva(8, 1))), Some(frame(3, 1) << 12));
        // A table again: the guest's writes to it are seen.
        f.poke(entry(1024, 2), frame(2, 2) << 12 | FULL);
        f.step(Op::Invlpg { vcpu: 0, gva: gva(8, 2) });
        assert_eq!(gpa(f.read(0, gva(8, 2))), Some(frame(2, 2) << 12));
    }
}
