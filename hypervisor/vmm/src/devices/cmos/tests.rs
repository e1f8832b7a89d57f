use super::*;

/// 2026-03-14 15:09:26 UTC, a Saturday.
const CONFIG: Config = Config { unix_time: 1_773_500_966, ram_bytes: 64 << 20 };
const HERTZ: u64 = 1_000_000;

fn at(microseconds: u64) -> Now {
    Now::new(microseconds, NonZeroU64::new(HERTZ).unwrap())
}

fn read(cmos: &mut Cmos, index: u8, now: Now) -> u8 {
    cmos.select(index);
    cmos.read(now)
}

fn write(cmos: &mut Cmos, index: u8, value: u8, now: Now) {
    cmos.select(index);
    cmos.write(value, now);
}

fn time(cmos: &mut Cmos, now: Now) -> [u8; 8] {
    [CENTURY, 9, 8, 7, 6, 4, 2, 0].map(|index| read(cmos, index, now))
}

#[test]
fn a_flat_battery_reads_zero_and_memory_keeps_its_bytes() {
    let mut cmos = Cmos::flat();
    for index in 0..=u8::MAX {
        write(&mut cmos, index, index | 1, at(0));
        let expected = if index & 0x7f < FIRST_MEMORY_BYTE { 0 } else { index | 1 };
        assert_eq!(read(&mut cmos, index, at(0)), expected, "{index:#x}");
    }
}

#[test]
fn the_time_is_told_in_bcd_and_in_binary_to_24_and_to_12_hours() {
    let mut cmos = Cmos::new(CONFIG);
    assert_eq!(time(&mut cmos, at(0)), [0x20, 0x26, 0x03, 0x14, 7, 0x15, 0x09, 0x26]);
    write(&mut cmos, REGISTER_B, HOURS_24 | BINARY, at(0));
    assert_eq!(time(&mut cmos, at(0)), [20, 26, 3, 14, 7, 15, 9, 26]);
    write(&mut cmos, REGISTER_B, 0, at(0));
    assert_eq!(read(&mut cmos, 4, at(0)), 0x83);
    assert_eq!(read(&mut cmos, REGISTER_D, at(0)), VALID);
}

#[test]
fn noon_and_midnight_are_twelve() {
    let mut cmos = Cmos::new(Config { unix_time: 0, ..CONFIG });
    write(&mut cmos, REGISTER_B, 0, at(0));
    assert_eq!(read(&mut cmos, 4, at(0)), 0x12);
    assert_eq!(read(&mut cmos, 4, at(12 * 3_600 * HERTZ)), 0x92);
    write(&mut cmos, 4, 0x12, at(0));
    assert_eq!(time(&mut cmos, at(0))[5], 0x12);
}

#[test]
fn the_clock_goes_on_and_is_announced_before_it_does() {
    let mut cmos = Cmos::new(CONFIG);
    assert_eq!(read(&mut cmos, REGISTER_A, at(999_700)), A_INITIAL);
    assert_eq!(read(&mut cmos, REGISTER_A, at(999_900)), A_INITIAL | UPDATING);
    assert_eq!(read(&mut cmos, 0, at(999_999)), 0x26);
    assert_eq!(read(&mut cmos, 0, at(1_000_000)), 0x27);
    assert_eq!(time(&mut cmos, at(10 * 3_600 * HERTZ))[2..6], [0x03, 0x15, 1, 0x01]);
}

#[test]
fn a_clock_that_is_set_stands_and_starts_at_what_was_written() {
    let mut cmos = Cmos::new(CONFIG);
    write(&mut cmos, REGISTER_B, SET | HOURS_24, at(0));
    for (index, value) in [(0, 0x59), (2, 0x59), (4, 0x23), (7, 0x28), (8, 0x02), (9, 0x24)] {
        write(&mut cmos, index, value, at(0));
    }
    assert_eq!(time(&mut cmos, at(5 * HERTZ))[7], 0x59, "it stands");
    write(&mut cmos, REGISTER_B, HOURS_24, at(5 * HERTZ));
    assert_eq!(time(&mut cmos, at(6 * HERTZ)), [0x20, 0x24, 0x02, 0x29, 5, 0, 0, 0]);
}

#[test]
fn periodic_interrupts_come_at_their_rate_each_once_it_is_read() {
    let mut cmos = Cmos::new(CONFIG);
    write(&mut cmos, REGISTER_B, HOURS_24 | PERIODIC, at(0));
    let mut count = 0;
    let mut now = at(0);
    while let Some(deadline) = cmos.deadline(now).filter(|&deadline| deadline <= HERTZ) {
        cmos.advance(at(deadline - 1));
        assert!(!cmos.interrupt(), "early at {deadline}");
        now = at(deadline);
        cmos.advance(now);
        assert!(cmos.interrupt());
        assert_eq!(cmos.deadline(now), None, "until it is acknowledged nothing more comes");
        assert_eq!(read(&mut cmos, REGISTER_C, now) & !UPDATED, ACTIVE | PERIODIC);
        count += 1;
    }
    assert_eq!(count, 1024);
}

#[test]
fn the_alarm_rings_at_its_time_and_only_then() {
    let mut cmos = Cmos::new(CONFIG);
    for (index, value) in [(1, 0x05), (3, 0x10), (5, 0xff), (REGISTER_B, HOURS_24 | ALARM)] {
        write(&mut cmos, index, value, at(0));
    }
    let mut now = at(0);
    while let Some(deadline) = cmos.deadline(now) {
        now = at(deadline);
        cmos.advance(now);
    }
    assert_eq!(now.tsc, 39 * HERTZ, "15:10:05");
    assert_eq!(read(&mut cmos, REGISTER_C, now), ACTIVE | ALARM | UPDATED | PERIODIC);
}

#[test]
fn every_second_ends_with_an_update_interrupt() {
    let mut cmos = Cmos::new(CONFIG);
    write(&mut cmos, REGISTER_B, HOURS_24 | UPDATED, at(0));
    for second in 1..=3 {
        let deadline = cmos.deadline(at((second - 1) * HERTZ));
        assert_eq!(deadline, Some(second * HERTZ));
        cmos.advance(at(second * HERTZ));
        assert!(cmos.interrupt());
        assert_ne!(read(&mut cmos, REGISTER_C, at(second * HERTZ)) & UPDATED, 0);
        assert!(!cmos.interrupt());
    }
}

#[test]
fn memory_tells_how_much_ram_there_is() {
    let mut cmos = Cmos::new(CONFIG);
    let mut word = |index| {
        u16::from_le_bytes([read(&mut cmos, index, at(0)), read(&mut cmos, index + 1, at(0))])
    };
    assert_eq!([0x15, 0x17, 0x30, 0x34].map(&mut word), [640, 63 << 10, 63 << 10, 768]);
}

#[test]
fn no_sequence_of_accesses_panics() {
    let mut cmos = Cmos::new(CONFIG);
    let (mut state, mut tsc) = (1_u64, 0_u64);
    for _ in 0..200_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let [index, value, time, shift, what, ..] = (state >> 8).to_le_bytes();
        tsc = tsc.saturating_add(u64::from(time) << (shift & 63));
        let index = if what & 1 == 0 { index & 15 } else { CENTURY };
        let now = at(tsc);
        match what >> 6 {
            0 => drop(read(&mut cmos, index, now)),
            1 | 2 => write(&mut cmos, index, value, now),
            _ => cmos.advance(now),
        }
        let _ = (cmos.interrupt(), cmos.deadline(now));
    }
}
