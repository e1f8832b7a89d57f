use super::*;
use core::num::NonZeroU64;

/// A machine whose lines are at vector 0x20 and up, nothing masked.
fn with_pic() -> Devices {
    let mut devices = Devices::default();
    for (port, value) in [(0x20, 0x13), (0x21, 0x20), (0x21, 1)] {
        assert_eq!(devices.write(port, 1, value, NOW), Effect::None);
    }
    devices
}

const NOW: Now = Now::new(1_000, NonZeroU64::new(1_000_000_000).unwrap());

#[test]
fn exit_ports_end_the_run_with_what_was_written() {
    let mut devices = Devices::default();
    for (size, status) in [(1, 0x78), (2, 0x5678), (4, 0x1234_5678)] {
        assert_eq!(devices.write(port::EXIT, size, 0x1234_5678, NOW), Effect::Exit { status });
    }
    let end = devices.write(port::END_OF_RUN, 4, 7, NOW);
    assert_eq!(end, Effect::EndOfRun { status: 7 });
    assert_eq!(devices.write(port::END_OF_RUN, 1, 7, NOW), Effect::None, "32-bit only");
}

#[test]
fn consoles_pass_their_bytes_to_the_host() {
    let mut devices = Devices::default();
    assert_eq!(devices.write(port::DEBUG_CONSOLE, 1, 0x41, NOW), Effect::Print(b'A'));
    assert_eq!(devices.write(port::COM1, 1, 0x42, NOW), Effect::Serial(b'B'));
    assert_eq!(devices.read(port::DEBUG_CONSOLE, 1, NOW), 0xe9);
}

#[test]
fn benchmark_ports_decode_their_commands() {
    let mut devices = Devices::default();
    let zap = bench::Command::ZapAll { timed: true };
    assert_eq!(devices.write(port::BENCH_COMMAND, 4, zap.encode(), NOW), Effect::Bench(zap));
    assert_eq!(devices.write(port::BENCH_COMMAND, 4, 0xff, NOW), Effect::None);
    assert_eq!(devices.write(port::BENCH_NOP, 1, 1, NOW), Effect::None);
    assert!(devices.unknown.counts().is_empty());
}

#[test]
fn raised_vectors_wait_until_they_are_delivered() {
    let mut devices = Devices::default();
    assert_eq!(devices.write(port::RAISE_INTERRUPT, 1, 0x55, NOW), Effect::None);
    assert_eq!(devices.read(port::RAISE_INTERRUPT, 1, NOW), 1);
    assert_eq!(devices.interrupts.acknowledge(), Some(Vector(0x55)));
    assert_eq!(devices.read(port::RAISE_INTERRUPT, 1, NOW), 0);
    assert_eq!(devices.write(port::RAISE_NMI, 1, 0, NOW), Effect::RaiseNmi);
}

#[test]
fn input_raises_the_uarts_vector_and_reading_it_takes_that_back() {
    let mut devices = with_pic();
    let _ = devices.write(port::COM1 + 1, 1, 1, NOW);
    assert!(devices.input(b'x', NOW));
    assert!(devices.interrupts.is_pending());
    assert_eq!(devices.read(port::COM1, 1, NOW), u32::from(b'x'));
    assert!(!devices.interrupts.is_pending());
}

#[test]
fn each_byte_sent_raises_the_transmitter_interrupt_again() {
    let mut devices = with_pic();
    let _ = devices.write(port::COM1 + 1, 1, 2, NOW);
    for byte in *b"abc" {
        assert_eq!(devices.interrupts.acknowledge(), Some(Vector(0x24)));
        assert_eq!(devices.write(0x20, 1, 0x20, NOW), Effect::None);
        assert_eq!(devices.write(port::COM1, 1, byte.into(), NOW), Effect::Serial(byte));
    }
    assert_eq!(devices.read(port::COM1 + 2, 1, NOW), 0x02);
    assert!(!devices.interrupts.is_pending(), "reading IIR clears it");
}

#[test]
fn unknown_ports_read_all_ones_of_the_size_and_are_counted_once_an_access() {
    let mut devices = Devices::default();
    for (size, ones) in [(1, 0xff), (2, 0xffff), (4, u32::MAX)] {
        assert_eq!(devices.read(0x1234, size, NOW), ones);
        assert_eq!(devices.write(0x1234, size, 0, NOW), Effect::None);
    }
    assert_eq!((devices.unknown.counts()[0].reads, devices.unknown.counts()[0].writes), (3, 3));
}

#[test]
fn a_word_to_an_index_register_also_writes_its_data() {
    let mut devices = Devices::default();
    assert_eq!(devices.write(0x3d4, 2, 0x120e, NOW), Effect::None);
    assert_eq!(devices.read(0x3d4, 2, NOW), 0x120e);
    assert_eq!(devices.vga.cursor() >> 8, 0x12);
}

#[test]
fn each_of_three_ports_resets_the_machine() {
    let mut devices = Devices::default();
    for (port, value) in [(0x64, 0xfe), (0x92, 0x01), (0xcf9, 0x06)] {
        assert_eq!(devices.write(port, 1, value, NOW), Effect::Reset, "port {port:#x}");
    }
}

#[test]
fn post_codes_are_stamped() {
    let mut devices = Devices::default();
    let _ = devices.write(port::POST, 1, 0x42, NOW);
    let codes = devices.post.iter().next().map(|post| (post.code, post.tsc));
    assert_eq!(codes, Some((0x42, 1_000)));
}

#[test]
fn the_test_device_answers_in_its_page_only() {
    let mut devices = Devices::default();
    let page = Gpa::new(mmio::DEVICE);
    assert_eq!(devices.write_mmio(page, 4, 0x1234_5678, NOW), Some(Effect::None));
    assert_eq!(devices.read_mmio(page, 2, NOW), Some(0x5678));
    assert_eq!(devices.read_mmio(page.wrapping_add(0x1000), 2, NOW), None);
    assert_eq!(devices.write_mmio(Gpa::new(0), 2, 0, NOW), None);
    let mut without = Devices::new(Config { mmio_test: None, ..Config::default() });
    assert_eq!(without.read_mmio(page, 2, NOW), None);
}

#[test]
fn no_access_panics_whatever_port_size_and_value() {
    let mut devices = Devices::default();
    for port in 0..=u16::MAX {
        for size in [1, 2, 4] {
            let value = devices.read(port, size, NOW);
            assert_eq!(value & !all_ones(size), 0, "port {port:#x} size {size}");
            let _ = devices.write(port, size, !u32::from(port), NOW);
        }
    }
}

#[test]
fn no_programming_panics_hides_an_interrupt_or_leaves_a_deadline_in_the_past() {
    for set in DeviceSet::ALL {
        let devices = Devices::new(Config { set, ..Config::default() });
        program_at_random(devices, 100_000);
    }
}

/// Accesses without any sense, in the course of about a day.
fn program_at_random(mut devices: Devices, steps: u32) {
    const PORTS: [u16; 25] = [
        0x92, 0xcf9, 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70,
        0x71, 0x4d1, 0x3d4, 0x3d5, 0x5aa, 0x3da, 0x600, 0x604, 0xcf8, 0xcfc,
    ];
    let (mut state, mut tsc) = (0x1234_5678_9abc_def1_u64, 0_u64);
    for step in 0..steps {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let [choice, value, size, time, place, ..] = (state >> 8).to_le_bytes();
        tsc = tsc.saturating_add(u64::from(time) << (value & 31));
        let now = Now::new(tsc, NOW.hertz);
        let port = match place {
            0..=127 => port::COM1 + u16::from(place & 7),
            _ => PORTS[usize::from(place) % PORTS.len()],
        };
        let page = if place % 4 == 0 { 0xfec0_0000 } else { 0xfee0_0000 };
        let gpa = Gpa::new(page + u64::from(place >> 2) * 16);
        let (bytes, word) = ([1, 1, 2, 4][usize::from(size & 3)], (state >> 20) as u32);
        match choice {
            0..=69 => drop(devices.read(port, bytes, now)),
            70..=149 => drop(devices.write(port, bytes, word, now)),
            150..=169 => drop(devices.read_mmio(gpa, 4, now)),
            170..=219 => drop(devices.write_mmio(gpa, 4, word.into(), now)),
            220..=239 => drop(devices.input(value, now)),
            240..=249 => {
                devices.advance(now);
                assert!(devices.deadline() > tsc, "step {step}: {devices:?}");
            }
            _ => drop(devices.interrupts.acknowledge()),
        }
        let waits = devices.interrupts.clone().acknowledge().is_some();
        assert_eq!(devices.interrupts.is_pending(), waits, "step {step}");
    }
}

#[test]
fn the_timer_interrupts_a_hundred_times_a_second_and_nobody_has_to_ask_between() {
    let mut devices = with_pic();
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        assert_eq!(devices.write(port, 1, value, NOW), Effect::None);
    }
    let mut interrupts = 0;
    while devices.deadline() < 1_000_001_000 {
        devices.advance(Now::new(devices.deadline() - 1, NOW.hertz));
        assert!(!devices.interrupts.is_pending(), "a tick early");
        devices.advance(Now::new(devices.deadline(), NOW.hertz));
        assert_eq!(devices.interrupts.acknowledge(), Some(Vector(0x20)));
        assert_eq!(devices.write(0x20, 1, 0x20, NOW), Effect::None);
        interrupts += 1;
    }
    assert_eq!(interrupts, 99, "a count of 11932 is a little more than 10 ms");
}

#[test]
fn a_device_set_has_what_the_one_before_it_has_and_more() {
    let reads = |set, port| {
        let mut devices = Devices::new(Config { set, ..Config::default() });
        devices.read(port, 1, NOW);
        devices.unknown.counts().is_empty()
    };
    for (first, ports) in [
        (DeviceSet::L0, &[0x3f8, 0x71, 0xe9, 0x3da][..]),
        (DeviceSet::L1, &[0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1]),
        (DeviceSet::L2, &[0x40, 0x43]),
        (DeviceSet::L4, &[0xcfc, 0xcff, 0x600, 0x604, 0x608]),
        (DeviceSet::L3, &[0x41, 0x42, 0x60, 0x61, 0x64, 0x92, 0xcf9]),
    ] {
        for set in DeviceSet::ALL {
            let there = ports.iter().map(|&port| reads(set, port));
            assert!(there.into_iter().all(|there| there == (set >= first)), "{set:?} {first:?}");
        }
    }
}

#[test]
fn apics_and_power_are_there_in_the_largest_set_only() {
    let local = Gpa::new(0xfee0_0030);
    let io = Gpa::new(0xfec0_0010);
    let mut devices = Devices::default();
    assert_eq!((devices.read_mmio(local, 4, NOW), devices.read_mmio(io, 4, NOW)), (None, None));
    assert_eq!(devices.write(0x604, 2, 0x2000, NOW), Effect::None);
    let mut devices = Devices::new(Config { set: DeviceSet::L4, ..Config::default() });
    assert_eq!(devices.read_mmio(local, 4, NOW), Some(0x0005_0014));
    assert_eq!(devices.read_mmio(io, 4, NOW), Some(0x0100_0000));
    assert_eq!(devices.write(0xcf8, 4, 0x8000_0000, NOW), Effect::None);
    assert_eq!(devices.read(0xcf8, 4, NOW), 0x8000_0000);
    assert_eq!(devices.read(0xcfc, 4, NOW), u32::MAX);
    assert_eq!(devices.write(0x604, 2, 0x2001, NOW), Effect::PowerOff);
    assert!(devices.unknown.counts().is_empty());
}

#[test]
fn a_store_to_the_local_apic_sets_its_timer_sends_nmis_and_moves_cr8() {
    let mut devices = Devices::new(Config { set: DeviceSet::L4, ..Config::default() });
    let mut store =
        |register: u64, value| devices.write_mmio(Gpa::new(0xfee0_0000 + register), 4, value, NOW);
    assert_eq!(store(0x80, 0x50), Some(Effect::Priority(5)));
    assert_eq!(store(0x300, 0x4_0400), Some(Effect::RaiseNmi));
    assert_eq!(store(0x3e0, 0xb), Some(Effect::None));
    assert_eq!(store(0x320, 0x61), Some(Effect::None));
    assert_eq!(store(0x380, 500), Some(Effect::None));
    assert_eq!(devices.deadline(), NOW.tsc + 500);
    devices.advance(Now::new(NOW.tsc + 500, NOW.hertz));
    assert_eq!(devices.interrupts.acknowledge(), Some(Vector(0x61)));
    assert_eq!(devices.deadline(), u64::MAX);
}
