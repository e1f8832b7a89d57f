use super::*;
use core::num::NonZeroU64;

/// A host whose TSC ticks once a PIT pulse, so that times are counts.
fn at(pulses: u64) -> Now {
    Now::new(pulses, NonZeroU64::new(PIT_HERTZ).unwrap())
}

fn load(pit: &mut Pit, control: u8, count: u16, now: Now) {
    pit.write(3, control, now);
    let [low, high] = count.to_le_bytes();
    pit.write(control >> 6, low, now);
    pit.write(control >> 6, high, now);
}

fn count(pit: &mut Pit, channel: u8, now: Now) -> u16 {
    pit.write(3, channel << 6, now);
    u16::from_le_bytes([pit.read(channel, now), pit.read(channel, now)])
}

#[test]
fn mode_zero_on_channel_two_raises_its_output_when_the_count_is_through() {
    let mut pit = Pit::default();
    pit.write_port_b(GATE_2, at(0));
    load(&mut pit, 0xb0, 1_000, at(10));
    assert_eq!(pit.read_port_b(at(1_009)) & OUTPUT_2, 0);
    assert_eq!(pit.read_port_b(at(1_010)) & OUTPUT_2, OUTPUT_2);
    assert_eq!(pit.read_port_b(at(900_000)) & OUTPUT_2, OUTPUT_2);
}

#[test]
fn a_low_gate_stops_mode_zero_and_a_high_one_goes_on() {
    let mut pit = Pit::default();
    load(&mut pit, 0xb0, 1_000, at(0));
    assert_eq!(count(&mut pit, 2, at(500)), 1_000, "the gate is low");
    pit.write_port_b(GATE_2, at(500));
    pit.write_port_b(0, at(600));
    assert_eq!(count(&mut pit, 2, at(5_000)), 900);
    pit.write_port_b(GATE_2, at(5_000));
    assert_eq!(count(&mut pit, 2, at(5_100)), 800);
}

#[test]
fn mode_two_counts_its_period_again_and_again() {
    let mut pit = Pit::default();
    load(&mut pit, 0x34, 100, at(0));
    for period in 0..3 {
        assert_eq!(count(&mut pit, 0, at(period * 100)), 100);
        assert_eq!(count(&mut pit, 0, at(period * 100 + 99)), 1);
    }
}

#[test]
fn mode_three_counts_by_two_and_is_high_for_half_its_period() {
    let mut pit = Pit::default();
    pit.write_port_b(GATE_2, at(0));
    load(&mut pit, 0xb6, 100, at(0));
    assert_eq!(count(&mut pit, 2, at(10)), 80);
    let high = (0..1_000).filter(|&pulse| pit.read_port_b(at(pulse)) & OUTPUT_2 != 0).count();
    assert_eq!(high, 500);
}

#[test]
fn a_one_shot_waits_for_its_gate_to_rise() {
    let mut pit = Pit::default();
    load(&mut pit, 0xb2, 50, at(0));
    assert_ne!(pit.read_port_b(at(40)) & OUTPUT_2, 0);
    pit.write_port_b(GATE_2, at(100));
    assert_eq!(pit.read_port_b(at(149)) & OUTPUT_2, 0);
    assert_ne!(pit.read_port_b(at(150)) & OUTPUT_2, 0);
}

#[test]
fn a_strobe_is_low_for_one_pulse() {
    let mut pit = Pit::default();
    pit.write_port_b(GATE_2, at(0));
    load(&mut pit, 0xb8, 50, at(0));
    let low: u64 = (0..1_000).filter(|&pulse| pit.read_port_b(at(pulse)) & OUTPUT_2 == 0).sum();
    assert_eq!(low, 50, "only at pulse 50");
}

#[test]
fn a_count_of_zero_is_the_largest_and_wraps() {
    let mut pit = Pit::default();
    load(&mut pit, 0x30, 0, at(0));
    assert_eq!(count(&mut pit, 0, at(0)), 0);
    assert_eq!(count(&mut pit, 0, at(1)), 0xffff);
    assert_eq!(count(&mut pit, 0, at(0x1_0001)), 0xffff);
}

#[test]
fn decimal_counters_count_in_decimal() {
    let mut pit = Pit::default();
    load(&mut pit, 0x31, 0x1000, at(0));
    assert_eq!(count(&mut pit, 0, at(1)), 0x0999);
    assert_eq!(count(&mut pit, 0, at(1_001)), 0x9999);
}

#[test]
fn a_latched_count_stays_until_it_is_read() {
    let mut pit = Pit::default();
    load(&mut pit, 0x34, 1_000, at(0));
    pit.write(3, 0x00, at(100));
    pit.write(3, 0x00, at(200));
    assert_eq!(u16::from_le_bytes([pit.read(0, at(300)), pit.read(0, at(400))]), 900);
    assert_eq!(u16::from_le_bytes([pit.read(0, at(500)), pit.read(0, at(500))]), 500);
}

#[test]
fn read_back_gives_the_status_before_the_count() {
    let mut pit = Pit::default();
    pit.write_port_b(GATE_2, at(0));
    pit.write(3, 0xb0, at(0));
    pit.write(3, 0xe8, at(0));
    assert_eq!(pit.read(2, at(0)), 0x70, "output low, no count yet, low then high, mode 0");
    load(&mut pit, 0xb0, 10, at(0));
    pit.write(3, 0xc8, at(20));
    assert_eq!(pit.read(2, at(30)), 0xb0);
    assert_eq!(u16::from_le_bytes([pit.read(2, at(30)), pit.read(2, at(30))]), 0xfff6);
}

#[test]
fn single_byte_access_moves_one_byte() {
    let mut pit = Pit::default();
    pit.write(3, 0x14, at(0));
    pit.write(0, 0x80, at(0));
    assert_eq!([pit.read(0, at(0)), pit.read(0, at(1))], [0x80, 0x7f]);
    pit.write(3, 0x24, at(0));
    pit.write(0, 0x01, at(0));
    assert_eq!([pit.read(0, at(0)), pit.read(0, at(1))], [0x01, 0x00]);
}

#[test]
fn the_refresh_bit_toggles_every_fifteen_microseconds() {
    let pit = Pit::default();
    let toggles = (1..PIT_HERTZ / 100)
        .filter(|&pulse| {
            (pit.read_port_b(at(pulse)) ^ pit.read_port_b(at(pulse - 1))) & REFRESH != 0
        })
        .count();
    assert_eq!(toggles as u64, (PIT_HERTZ / 100 - 1) / REFRESH_PULSES);
}

#[test]
fn no_programming_makes_the_timer_panic() {
    let mut pit = Pit::default();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut time = 0_u64;
    for _ in 0..200_000 {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        time = time.saturating_add(state >> 50);
        let (register, value) = ((state >> 40) as u8 & 3, (state >> 32) as u8);
        match state >> 61 {
            0..4 => pit.write(register, value, at(time)),
            4 | 5 => drop(pit.read(register, at(time))),
            6 => pit.write_port_b(value, at(time)),
            _ => drop(pit.read_port_b(at(u64::MAX))),
        }
    }
}
