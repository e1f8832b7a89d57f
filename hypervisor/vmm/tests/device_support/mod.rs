//! A program for the devices as bytes, and what must hold after each of its steps.
//!
//! The first byte chooses the set of devices; each step has [`STEP_BYTES`]:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | the operation |
//! | 1–2 | a port, an offset into an APIC's page, or the number of an APIC's MSR |
//! | 3 | the size of the access (low half), and by which power of two time goes on (high half) |
//! | 4–7 | the value |
//!
//! The fuzz target shares this file with the test that replays its corpus.

use anchorite_abi::DeviceSet;
use anchorite_addr::Gpa;
use anchorite_vmm::devices::fw_cfg::{COMMAND_BYTES, Command, Contents, FwCfg};
use anchorite_vmm::devices::{Config, Devices, Effect, Now};
use std::num::NonZeroU64;

/// Bytes of a step.
pub(crate) const STEP_BYTES: usize = 8;
/// Steps of one program at most, so that none takes long.
const MOST_STEPS: usize = 4096;

/// In the first byte: uhyve's ports are there.
const UHYVE: u8 = 0x80;

const HERTZ: NonZeroU64 = NonZeroU64::new(1_000_000_000).unwrap();
const APIC_BASE: u64 = 0xfee0_0000;
const LOCAL: u64 = 0xfee0_0000;
const IO: u64 = 0xfec0_0000;

struct Step {
    operation: u8,
    place: u16,
    size: u8,
    ticks: u64,
    value: u32,
}

impl Step {
    fn from_bytes(bytes: &[u8]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            operation: bytes[0],
            place: half(1),
            size: [1, 2, 4, 8][usize::from(bytes[3] & 3)],
            // Up to about a day in 64 steps.
            ticks: 1 << (bytes[3] >> 4) * 3,
            value: u32::from(half(4)) | u32::from(half(6)) << 16,
        }
    }
}

/// Which of the sets of devices a program runs on.
pub(crate) fn set_number(program: &[u8]) -> Option<usize> {
    program.first().map(|&first| usize::from(first & !UHYVE) % DeviceSet::ALL.len())
}

/// Carries a program out; panics where something does not hold.
pub(crate) fn run(program: &[u8]) {
    let Some((&first, steps)) = program.split_first() else { return };
    let set = DeviceSet::ALL[set_number(program).unwrap_or(0)];
    let mut devices = Devices::new(Config { set, ..Config::default() });
    devices.fw_cfg = fw_cfg();
    if first & UHYVE != 0 {
        devices.add_uhyve();
    }
    let mut tsc = 0_u64;
    for step in steps.chunks_exact(STEP_BYTES).take(MOST_STEPS) {
        let step = Step::from_bytes(step);
        tsc = tsc.saturating_add(step.ticks).min(u64::MAX / 4);
        let now = Now::new(tsc, HERTZ);
        carry_out(&mut devices, &step, now);
        let waits = devices.interrupts.clone().acknowledge().is_some();
        assert_eq!(devices.interrupts.is_pending(), waits, "an interrupt is hidden, or invented");
    }
}

fn carry_out(devices: &mut Devices, step: &Step, now: Now) {
    let Step { place, size, value, .. } = *step;
    let narrow = size.min(4);
    let local = Gpa::new(LOCAL + u64::from(place & 0xfff));
    let io = Gpa::new(IO + u64::from(place & 0x1f));
    match step.operation % 16 {
        0..=2 => _ = devices.read(place, narrow, now),
        3..=6 => {
            let effect = devices.write(place, narrow, value, now);
            answer(devices, effect, value);
        }
        7 => _ = devices.read_mmio(local, size, now),
        8 | 9 => _ = devices.write_mmio(local, size, value.into(), now),
        10 => _ = devices.write_mmio(io, size, value.into(), now),
        11 => _ = devices.input(value as u8, now),
        12 => {
            devices.advance(now);
            assert!(devices.deadline() > now.tsc, "what was due is due still");
        }
        13 => _ = devices.interrupts.acknowledge(),
        14 => {
            // Two bits choose the mode; sometimes others are set, which is refused.
            let base = APIC_BASE | 0x100 | u64::from(value & 3) << 10 | u64::from(place & 0x80);
            let _ = devices.interrupts.set_apic_base(base, place & 1 != 0);
            devices.interrupts.set_priority(value as u8 & 15);
        }
        _ => {
            let _ = devices.interrupts.read_apic_msr(place as u8, now);
            let _ = devices.write_apic_msr(place as u8, value.into(), now);
        }
    }
}

/// Does what the machine would do.
fn answer(devices: &mut Devices, effect: Effect, value: u32) {
    if let Effect::FwCfg { .. } = effect {
        let length = value.rotate_left(7);
        let mut bytes = [0; COMMAND_BYTES];
        bytes[..4].copy_from_slice(&value.to_be_bytes());
        bytes[4..8].copy_from_slice(&length.to_be_bytes());
        if let Some(transfer) = devices.fw_cfg.begin(&Command::parse(&bytes)) {
            let whole = transfer.bytes.len() as u64 + u64::from(transfer.zeroes);
            assert_eq!(whole, length.into(), "another length than the command's");
        }
    }
}

fn fw_cfg() -> FwCfg {
    let contents = Contents { ram_bytes: 64 << 20, kernel: b"kernel", ..Contents::default() };
    let mut fw_cfg = FwCfg::new(contents);
    fw_cfg.add_file("opt/file", b"contents".as_slice()).expect("room");
    fw_cfg
}
