//! The 8254 timer (ports 0x40–0x43) and port B (0x61), computed from the time alone.
//!
//! A counter's value is derived from the moment at which it was loaded, so nothing
//! ticks. Channel 0's output is IRQ 0: what interrupts is its rising edge, whose time
//! is known in advance ([`Pit::deadline`]).
//!
//! Known differences from the chip: a new count takes effect at once in modes 2 and
//! 3 too, and a count is loaded without the delay of one clock. On the line to the
//! interrupt controller the low phase of a period lies right before the edge, so that
//! a guest that holds interrupts off loses no edge by it. Edges that follow each other
//! faster than [`SHORTEST_PERIOD`] are thinned out to that.
//!
//! Source: Intel 8254 data sheet, order number 231164.

mod channel;

use super::time::Now;
use channel::Channel;

/// Clock pulses a second.
pub const PIT_HERTZ: u64 = 1_193_182;
/// Port B bit 0: gate of channel 2.
const GATE_2: u8 = 1 << 0;
/// Port B bit 1: output of channel 2 to the speaker.
const SPEAKER: u8 = 1 << 1;
/// Port B bit 4: toggles with every memory refresh.
const REFRESH: u8 = 1 << 4;
/// Port B bit 5: output of channel 2.
const OUTPUT_2: u8 = 1 << 5;
/// Pulses between two refreshes: 15 µs.
const REFRESH_PULSES: u64 = 18;

/// Clock pulses between two interrupts of a periodic counter, at least: 100 µs.
pub const SHORTEST_PERIOD: u64 = 120;

/// The three counters and the writable bits of port B.
#[derive(Clone, Debug)]
pub struct Pit {
    channels: [Channel; 3],
    port_b: u8,
    /// The TSC at which the output of channel 0 rises next.
    rises: Option<u64>,
}

impl Default for Pit {
    fn default() -> Self {
        Self {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            port_b: 0,
            rises: None,
        }
    }
}

impl Pit {
    /// Ports 0x40–0x42: the next byte of counter `channel` (0–2); the control word
    /// register (3) cannot be read.
    pub fn read(&mut self, channel: u8, now: Now) -> u8 {
        self.channels.get_mut(usize::from(channel)).map_or(0xff, |channel| channel.read(now))
    }

    /// Ports 0x40–0x43: a byte of a count, or with `register` 3 a control word.
    pub fn write(&mut self, register: u8, value: u8, now: Now) {
        match self.channels.get_mut(usize::from(register)) {
            Some(channel) => channel.write(value, now),
            None => self.control(value, now),
        }
        if register == 0 || register == 3 && value >> 6 == 0 {
            self.rises = self.channels[0].next_rise(now);
        }
    }

    /// Lets time pass: whether the output of channel 0 has risen.
    pub fn advance(&mut self, now: Now) -> bool {
        let due = self.rises.is_some_and(|tsc| now.tsc >= tsc);
        if due {
            self.rises = self.channels[0].next_rise(now);
        }
        due
    }

    /// The TSC at which [`advance`](Self::advance) has something to do.
    pub const fn deadline(&self) -> Option<u64> {
        self.rises
    }

    /// The level of channel 0's output.
    pub fn timer_output(&self, now: Now) -> bool {
        self.channels[0].output(now)
    }

    /// Port 0x61: gate, speaker, refresh toggle, output of channel 2.
    pub fn read_port_b(&self, now: Now) -> u8 {
        let refresh = now.periods_since(0, PIT_HERTZ) / REFRESH_PULSES % 2 != 0;
        let output = self.channels[2].output(now);
        self.port_b | if refresh { REFRESH } else { 0 } | if output { OUTPUT_2 } else { 0 }
    }

    /// Port 0x61: moves channel 2's gate. Nothing listens to the speaker.
    pub fn write_port_b(&mut self, value: u8, now: Now) {
        self.port_b = value & (GATE_2 | SPEAKER);
        self.channels[2].set_gate(value & GATE_2 != 0, now);
    }

    /// A control word: select, access, mode, BCD.
    fn control(&mut self, word: u8, now: Now) {
        match (self.channels.get_mut(usize::from(word >> 6)), word >> 4 & 3) {
            (None, _) => self.read_back(word, now),
            (Some(channel), 0) => channel.latch_count(now),
            (Some(channel), access) => channel.program(access, word >> 1 & 7, word & 1 != 0),
        }
    }

    /// A read-back command: latches counts (bit 5 clear) and states (bit 4 clear) of
    /// the channels whose bits 1 to 3 are set.
    fn read_back(&mut self, word: u8, now: Now) {
        for (number, channel) in self.channels.iter_mut().enumerate() {
            if word & 2 << number == 0 {
                continue;
            }
            if word & 1 << 5 == 0 {
                channel.latch_count(now);
            }
            if word & 1 << 4 == 0 {
                channel.latch_status(now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
