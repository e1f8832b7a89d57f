//! ACPI's tables and timer.

use anchorite_guests::instructions::{inl, rdtsc};
use anchorite_guests::{Report, memory};

const BIOS_AREA: core::ops::Range<u64> = 0xe_0000..0x10_0000;
const TIMER: u16 = 0x608;

pub(crate) fn check(report: &mut Report) {
    let Some(root) = find() else {
        return report.skip("ACPI", "no root pointer in the BIOS area");
    };
    report.equal("the root pointer adds up to", sum(root, 20), 0);
    let rsdt = u64::from(memory::read::<u32>(root + 16));
    let bytes = u64::from(memory::read::<u32>(rsdt + 4));
    report.equal("the RSDT adds up to", sum(rsdt, bytes), 0);
    for at in (rsdt + 36..rsdt + bytes).step_by(4) {
        let table = u64::from(memory::read::<u32>(at));
        let bytes = memory::read::<u32>(table + 4);
        let name = memory::read::<u32>(table).to_le_bytes();
        let name = core::str::from_utf8(&name).unwrap_or("?");
        report.equal(format_args!("{name} adds up to"), sum(table, bytes.into()), 0);
    }
    timer(report);
}

fn find() -> Option<u64> {
    let signature = u64::from_le_bytes(*b"RSD PTR ");
    BIOS_AREA.step_by(16).find(|&at| memory::read::<u64>(at) == signature)
}

fn sum(start: u64, bytes: u64) -> u8 {
    (start..start + bytes).fold(0, |sum, at| sum.wrapping_add(memory::read::<u8>(at)))
}

/// The power-management timer goes on.
fn timer(report: &mut Report) {
    let (start, first) = (rdtsc(), inl(TIMER));
    while rdtsc().wrapping_sub(start) < 1_000_000 {}
    let counted = inl(TIMER).wrapping_sub(first) & 0xff_ffff;
    report.check(format_args!("the timer counts: {counted}"), counted > 0 && counted < 1 << 22);
}
