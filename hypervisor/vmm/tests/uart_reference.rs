//! The UART against a reference written from the PC16550D data sheet's text.
//!
//! The reference is slow and literal: queues are `VecDeque`s, every bit is a `bool`
//! with the data sheet's name, and nothing is shared with the device.

use anchorite_vmm::devices::Now;
use anchorite_vmm::devices::uart::Uart;
use core::num::NonZeroU64;
use oorandom::Rand64;
use std::collections::{BTreeSet, VecDeque};

/// TSC ticks a second: 8 a bit at divisor 1.
const HERTZ: NonZeroU64 = NonZeroU64::new(8 * 115_200).unwrap();

#[derive(Clone, Debug, Default)]
struct Reference {
    rbr: VecDeque<u8>,
    thr: VecDeque<u8>,
    fifo_mode: bool,
    trigger_level: usize,
    dll: u8,
    dlm: u8,
    // Interrupt enable register.
    erbfi: bool,
    etbei: bool,
    elsi: bool,
    edssi: bool,
    lcr: u8,
    // Modem control register.
    dtr: bool,
    rts: bool,
    out1: bool,
    out2: bool,
    loopback: bool,
    scr: u8,
    overrun_error: bool,
    // Modem status register, the changes.
    dcts: bool,
    ddsr: bool,
    teri: bool,
    ddcd: bool,
    // "Transmitter Holding Register Empty" as an interrupt, not as a status.
    thre_interrupt: bool,
    timeout_interrupt: bool,
    /// When the last character came or was read, and four character times then.
    quiet_since: u64,
    four_characters: u64,
}

impl Reference {
    fn new() -> Self {
        Self { trigger_level: 1, dll: 12, ..Self::default() }
    }

    /// Table II, read side.
    fn read(&mut self, register: u8, now: u64) -> u8 {
        self.watch_timeout(now);
        let dlab = self.lcr & 0x80 == 0x80;
        match (register, dlab) {
            (0, true) => self.dll,
            (1, true) => self.dlm,
            (0, false) => self.read_rbr(now),
            (1, false) => bits([self.erbfi, self.etbei, self.elsi, self.edssi]),
            (2, _) => self.read_iir(),
            (3, _) => self.lcr,
            (4, _) => {
                bits([self.dtr, self.rts, self.out1, self.out2]) | u8::from(self.loopback) << 4
            }
            (5, _) => self.read_lsr(),
            (6, _) => self.read_msr(),
            (7, _) => self.scr,
            _ => unreachable!("eight registers"),
        }
    }

    /// Table II, write side.
    fn write(&mut self, register: u8, value: u8, now: u64) {
        self.watch_timeout(now);
        let dlab = self.lcr & 0x80 == 0x80;
        match (register, dlab) {
            (0, true) => self.dll = value,
            (1, true) => self.dlm = value,
            (0, false) => self.write_thr(value),
            (1, false) => self.write_ier(value),
            (2, _) => self.write_fcr(value),
            (3, _) => self.lcr = value,
            (4, _) => self.write_mcr(value),
            (7, _) => self.scr = value,
            _ => {}
        }
    }

    /// 8.3: the interrupt output is the OR of the enabled sources.
    fn interrupt(&self) -> bool {
        self.line_status()
            || self.data_available()
            || self.timeout()
            || self.holding_register_empty()
            || self.modem_status()
    }

    /// The wire takes a character.
    fn transmit(&mut self, now: u64) -> Option<u8> {
        let character = self.thr.pop_front()?;
        if self.thr.is_empty() {
            self.thre_interrupt = true;
        }
        if self.loopback {
            self.character_arrives(character, now);
            return None;
        }
        Some(character)
    }

    /// The wire brings a character, if the host may send one.
    fn receive(&mut self, character: u8, now: u64) -> bool {
        let room = if self.fifo_mode { 16 } else { 1 };
        if self.loopback || self.rbr.len() >= room {
            return false;
        }
        self.watch_timeout(now);
        self.character_arrives(character, now);
        true
    }

    fn watch_timeout(&mut self, now: u64) {
        // 8.4.1 A: at least one character is in the FIFO, and neither did one arrive
        // nor was one read for four character times.
        let silent = now >= self.quiet_since + self.four_characters;
        if self.fifo_mode && !self.rbr.is_empty() && silent {
            self.timeout_interrupt = true;
        }
    }

    fn read_rbr(&mut self, now: u64) -> u8 {
        // "When a timeout interrupt has occurred it is cleared and the timer reset
        // when the CPU reads one character from the RCVR FIFO."
        self.timeout_interrupt = false;
        self.restart_timer(now);
        self.rbr.pop_front().unwrap_or(0)
    }

    fn write_thr(&mut self, value: u8) {
        // "… is reset when the THR is written."
        self.thre_interrupt = false;
        match (self.fifo_mode, self.thr.len()) {
            (false, _) => self.thr = VecDeque::from([value]),
            (true, 16) => {}
            (true, _) => self.thr.push_back(value),
        }
    }

    fn write_ier(&mut self, value: u8) {
        let was_enabled = self.etbei;
        [self.erbfi, self.etbei, self.elsi, self.edssi] =
            [0, 1, 2, 3].map(|bit| value >> bit & 1 == 1);
        if self.etbei && !was_enabled && self.thr.is_empty() {
            self.thre_interrupt = true;
        }
    }

    fn write_fcr(&mut self, value: u8) {
        let enable = value & 1 == 1;
        // "When changing from the FIFO Mode to the 16450 Mode and vice versa, data is
        // automatically cleared from the FIFOs."
        let changes = enable != self.fifo_mode;
        // "This bit must be a 1 when other FCR bits are written to or they will not
        // be programmed."
        if changes || enable && value & 2 != 0 {
            self.rbr.clear();
            self.timeout_interrupt = false;
        }
        if changes || enable && value & 4 != 0 {
            if !self.thr.is_empty() {
                self.thre_interrupt = true;
            }
            self.thr.clear();
        }
        if enable {
            self.trigger_level = match value & 0xc0 {
                0x00 => 1,
                0x40 => 4,
                0x80 => 8,
                _ => 14,
            };
        }
        self.fifo_mode = enable;
    }

    fn write_mcr(&mut self, value: u8) {
        let [cts, dsr, ri, dcd] = self.modem_pins();
        [self.dtr, self.rts, self.out1, self.out2, self.loopback] =
            [0, 1, 2, 3, 4].map(|bit| value >> bit & 1 == 1);
        let [new_cts, new_dsr, new_ri, new_dcd] = self.modem_pins();
        self.dcts |= cts != new_cts;
        self.ddsr |= dsr != new_dsr;
        // "… the RI input to the chip has changed from a low to a high state": the
        // pin is active low, so the indicator went off.
        self.teri |= ri && !new_ri;
        self.ddcd |= dcd != new_dcd;
    }

    fn read_iir(&mut self) -> u8 {
        // Table IV, in order of priority.
        let table = [
            (self.line_status(), 0b0110),
            (self.data_available(), 0b0100),
            (self.timeout(), 0b1100),
            (self.holding_register_empty(), 0b0010),
            (self.modem_status(), 0b0000),
            (true, 0b0001),
        ];
        let identification = table.iter().find(|row| row.0).map_or(0, |row| row.1);
        if identification == 0b0010 {
            // "Reset: Reading the IIR Register (if source of interrupt)".
            self.thre_interrupt = false;
        }
        identification | if self.fifo_mode { 0b1100_0000 } else { 0 }
    }

    fn read_lsr(&mut self) -> u8 {
        let overrun = std::mem::replace(&mut self.overrun_error, false);
        let empty = self.thr.is_empty();
        bits([!self.rbr.is_empty(), overrun, false, false, false, empty, empty, false])
    }

    fn read_msr(&mut self) -> u8 {
        let changes = bits([self.dcts, self.ddsr, self.teri, self.ddcd]);
        [self.dcts, self.ddsr, self.teri, self.ddcd] = [false; 4];
        changes | bits(self.modem_pins()) << 4
    }

    fn line_status(&self) -> bool {
        self.elsi && self.overrun_error
    }

    fn data_available(&self) -> bool {
        let needed = if self.fifo_mode { self.trigger_level } else { 1 };
        self.erbfi && self.rbr.len() >= needed
    }

    fn timeout(&self) -> bool {
        self.erbfi && self.timeout_interrupt
    }

    fn holding_register_empty(&self) -> bool {
        self.etbei && self.thre_interrupt
    }

    fn modem_status(&self) -> bool {
        self.edssi && (self.dcts || self.ddsr || self.teri || self.ddcd)
    }

    /// CTS, DSR, RI, DCD. 8.6: in loopback RTS, DTR, OUT1, OUT2.
    fn modem_pins(&self) -> [bool; 4] {
        if self.loopback {
            [self.rts, self.dtr, self.out1, self.out2]
        } else {
            [true, true, false, true]
        }
    }

    fn character_arrives(&mut self, character: u8, now: u64) {
        self.restart_timer(now);
        let room = if self.fifo_mode { 16 } else { 1 };
        if self.rbr.len() < room {
            self.rbr.push_back(character);
            return;
        }
        // Without FIFOs "the character in the RBR was destroyed", with them "the
        // character in the shift register is overwritten, but it is not transferred".
        self.overrun_error = true;
        if !self.fifo_mode {
            self.rbr = VecDeque::from([character]);
        }
    }

    fn restart_timer(&mut self, now: u64) {
        if !self.fifo_mode {
            return;
        }
        let word = 5 + u64::from(self.lcr & 3);
        let parity = u64::from(self.lcr >> 3 & 1);
        let stop = if self.lcr >> 2 & 1 == 1 { 2 } else { 1 };
        let divisor = u64::from(self.dlm) << 8 | u64::from(self.dll);
        self.quiet_since = now;
        self.four_characters = 4 * (1 + word + parity + stop) * divisor.max(1) * 8;
    }
}

fn bits<const N: usize>(bits: [bool; N]) -> u8 {
    (0..N).fold(0, |value, bit| value | u8::from(bits[bit]) << bit)
}

/// One thing that happens to both.
#[derive(Clone, Copy, Debug)]
enum Step {
    Read(u8),
    Write(u8, u8),
    Transmit,
    Receive(u8),
    Wait(u64),
}

/// Steps that reach the depth: FIFOs fill, divisors stay small, DLAB is mostly off.
fn step(random: &mut Rand64) -> Step {
    let byte = random.rand_range(0..256) as u8;
    match random.rand_range(0..32) {
        0..=9 => Step::Read(random.rand_range(0..8) as u8),
        10 | 11 => Step::Read(0),
        12..=14 => Step::Write(0, byte),
        15 => Step::Write(1, byte & 0x0f),
        16 => Step::Write(2, if random.rand_range(0..3) > 0 { byte & 0xc0 | 1 } else { byte }),
        17 => Step::Write(3, if random.rand_range(0..4) > 0 { byte & 0x7f } else { byte }),
        18 => Step::Write(4, byte),
        19 => Step::Write(random.rand_range(0..8) as u8, byte),
        20..=22 => Step::Transmit,
        23..=29 => Step::Receive(byte),
        _ => Step::Wait(random.rand_range(0..if byte < 8 { 40_000 } else { 400 })),
    }
}

#[test]
fn random_sequences_look_the_same_from_outside() {
    let mut random = Rand64::new(0xdead_beef_0bad_cafe);
    let mut identifications = BTreeSet::new();
    for sequence in 0..3_000 {
        let (mut uart, mut reference) = (Uart::default(), Reference::new());
        let mut now = 0;
        let mut history = Vec::new();
        // Small divisors, so that timeouts come within the waits.
        for (register, value) in [(3, 0x80), (0, 1 + random.rand_range(0..3) as u8), (3, 3), (2, 1)]
        {
            uart.write(register, value, Now::new(now, HERTZ));
            reference.write(register, value, now);
        }
        for _ in 0..400 {
            let step = step(&mut random);
            history.push(step);
            let (device, model) = apply(step, &mut uart, &mut reference, &mut now);
            if let Step::Read(2) = step {
                identifications.insert(device);
            }
            assert_eq!(device, model, "sequence {sequence}: {history:?}");
            let interrupts = (uart.interrupt(), reference.interrupt());
            assert_eq!(interrupts.0, interrupts.1, "sequence {sequence}: {history:?}");
        }
    }
    let every_cause = [
        Some(0x00),
        Some(0x01),
        Some(0x02),
        Some(0x04),
        Some(0x06),
        Some(0xc0),
        Some(0xc1),
        Some(0xc2),
        Some(0xc4),
        Some(0xc6),
        Some(0xcc),
    ];
    assert_eq!(identifications.into_iter().collect::<Vec<_>>(), every_cause);
}

fn apply(
    step: Step,
    uart: &mut Uart,
    reference: &mut Reference,
    now: &mut u64,
) -> (Option<u8>, Option<u8>) {
    let time = Now::new(*now, HERTZ);
    match step {
        Step::Read(register) => {
            (Some(uart.read(register, time)), Some(reference.read(register, *now)))
        }
        Step::Write(register, value) => {
            uart.write(register, value, time);
            reference.write(register, value, *now);
            (None, None)
        }
        Step::Transmit => (uart.transmit(time), reference.transmit(*now)),
        Step::Receive(byte) => {
            let taken = (uart.receive(byte, time), reference.receive(byte, *now));
            (Some(taken.0.into()), Some(taken.1.into()))
        }
        Step::Wait(ticks) => {
            *now += ticks;
            uart.advance(Now::new(*now, HERTZ));
            reference.watch_timeout(*now);
            (None, None)
        }
    }
}

#[test]
fn the_deadline_is_the_tick_at_which_the_interrupt_rises() {
    let mut random = Rand64::new(0x0dd_ba11_5eed);
    let mut reached = 0;
    for _ in 0..2_000 {
        let (mut uart, mut reference, mut now) = (Uart::default(), Reference::new(), 0);
        for (register, value) in [(3, 0x80), (0, 1), (3, 3), (2, 0xc1), (1, 1)] {
            uart.write(register, value, Now::new(now, HERTZ));
        }
        for _ in 0..40 {
            apply(step(&mut random), &mut uart, &mut reference, &mut now);
            let Some(deadline) = uart.deadline() else { continue };
            let mut early = uart.clone();
            early.advance(Now::new(deadline - 1, HERTZ));
            assert_eq!(early.interrupt(), uart.interrupt());
            early.advance(Now::new(deadline, HERTZ));
            assert!(early.interrupt());
            reached += 1;
        }
    }
    assert!(reached > 1_000, "only {reached} deadlines were met");
}
