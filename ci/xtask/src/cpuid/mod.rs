//! What CPUID shows under the image against what it shows in the same emulator without: every bit
//! that differs must be one that the documentation declares.
//!
//! The guest `cpuid` prints every leaf, in both runs; see [`declared`] for what is declared.

mod declared;

use std::collections::BTreeMap;

use crate::cmdline::DeviceSet;
use crate::error::Result;
use declared::{Declared, Feature, Need, PAGE, Place, Register, Rule, Shown};

/// How the guest begins the line of a leaf.
const PREFIX: &str = "cpuid: ";
const XSAVE_LEAF: u32 = 0xd;
/// The leaves of hypervisors: there, each hypervisor is its own.
const HYPERVISORS: std::ops::Range<u32> = 0x4000_0000..0x5000_0000;
/// The last leaves there are, which the page puts into words.
const LAST_LEAVES: [(u32, u32); 2] = [(0, 0xd), (0x8000_0000, 0x8000_0008)];
/// Sizes of addresses: the linear one is 48 bits where LA57 is hidden.
const ADDRESS_SIZES: u32 = 0x8000_0008;

/// The differences between two runs' consoles that the documentation does not declare.
pub(crate) fn undeclared(bare: &str, ours: &str, devices: DeviceSet) -> Result<Vec<String>> {
    let view = View {
        declared: Declared::read()?,
        bare: leaves(bare),
        ours: leaves(ours),
        apic: devices == DeviceSet::L4,
    };
    Ok(view.faults())
}

type Leaves = BTreeMap<(u32, u32), [u32; 4]>;

/// The leaves that the guest printed, by leaf and subleaf.
fn leaves(console: &str) -> Leaves {
    let lines = console.lines().filter_map(|line| line.trim_end().strip_prefix(PREFIX));
    lines.filter_map(leaf).collect()
}

/// "00000007.0 00000000 219c91a9 00000004 00000000"
fn leaf(line: &str) -> Option<((u32, u32), [u32; 4])> {
    let (place, registers) = line.split_once(' ')?;
    let (leaf, subleaf) = place.split_once('.')?;
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let registers: Option<Vec<u32>> = registers.split(' ').map(hex).collect();
    Some(((hex(leaf)?, hex(subleaf)?), registers?.try_into().ok()?))
}

struct View {
    declared: Declared,
    bare: Leaves,
    ours: Leaves,
    apic: bool,
}

impl View {
    fn faults(&self) -> Vec<String> {
        if self.bare.is_empty() || self.ours.is_empty() {
            return vec!["one of the runs printed no leaf".to_owned()];
        }
        let mut places: Vec<_> = self.bare.keys().chain(self.ours.keys()).copied().collect();
        places.sort_unstable();
        places.dedup();
        let compared = places.into_iter().filter(|(leaf, _)| !HYPERVISORS.contains(leaf));
        let registers = compared
            .flat_map(|(leaf, subleaf)| Register::ALL.map(|register| (leaf, subleaf, register)));
        registers.flat_map(|place| self.register(place)).collect()
    }

    /// A register of a leaf; zero where the leaf does not exist.
    fn value(leaves: &Leaves, (leaf, subleaf, register): Place) -> u32 {
        leaves.get(&(leaf, subleaf)).map_or(0, |registers| registers[register as usize])
    }

    fn register(&self, place: Place) -> Vec<String> {
        let (bare, ours) = (Self::value(&self.bare, place), Self::value(&self.ours, place));
        if self.declared.of(place).next().is_some() {
            return self.features(place, bare, ours);
        }
        let wanted = match place {
            (XSAVE_LEAF, subleaf, _) => self.xsave(subleaf, bare, ours),
            _ => self.number(place, bare),
        };
        if ours == wanted {
            return Vec::new();
        }
        let (leaf, subleaf, register) = place;
        let bits: Vec<String> = (0..u32::BITS)
            .filter(|bit| (ours ^ wanted) >> bit & 1 == 1)
            .map(|bit| bit.to_string())
            .collect();
        vec![format!(
            "CPUID leaf {leaf:#x}.{subleaf} {}: {ours:#x}, and {PAGE} makes {wanted:#x} of the \
             processor's {bare:#x}: bits {}",
            register.name(),
            bits.join(", "),
        )]
    }

    fn features(&self, place: Place, bare: u32, ours: u32) -> Vec<String> {
        let bit_of = |value: u32, bit: u32| value >> bit & 1 == 1;
        let (leaf, subleaf, register) = place;
        let check = |bit: u32| {
            let row = self.declared.of(place).find(|row| row.bit == bit);
            let (has, shows) = (bit_of(bare, bit), bit_of(ours, bit));
            let wrong = row.map_or(shows, |row| self.is_wrong(row, has, shows));
            let name = row.map_or("without a row", |row| &row.name);
            wrong.then(|| {
                format!(
                    "CPUID leaf {leaf:#x}.{subleaf} {} bit {bit} ({name}): shown {}, the \
                     processor's {}, which {PAGE} does not declare",
                    register.name(),
                    u8::from(shows),
                    u8::from(has),
                )
            })
        };
        (0..u32::BITS).filter_map(check).collect()
    }

    fn is_wrong(&self, row: &Feature, has: bool, shows: bool) -> bool {
        let (there, needs) = match &row.shown {
            Shown::Never => return shows,
            // The guest itself compares it with CR4.
            Shown::Mirrors => return false,
            Shown::AsTheCpu(needs) => (has, needs),
            Shown::Always(needs) => (true, needs),
        };
        // What is up to the CPU's behaviour may be hidden, but not made up.
        let holds = needs.iter().map(|need| self.holds(need));
        let (mut surely, mut perhaps) = (there, there);
        for hold in holds {
            surely &= hold == Some(true);
            perhaps &= hold != Some(false);
        }
        if shows { !perhaps } else { surely }
    }

    /// `None`: CPUID alone does not tell.
    fn holds(&self, need: &Need) -> Option<bool> {
        match need {
            Need::Feature(name) => {
                let row = self.declared.feature(name)?;
                Some(Self::value(&self.ours, row.place) >> row.bit & 1 == 1)
            }
            Need::States(states) => Some(self.states() & states == *states),
            Need::LocalApic => Some(self.apic),
            Need::Behaviour => None,
        }
    }

    /// The bits of XCR0 that the guest may set.
    fn states(&self) -> u64 {
        let half = |register| u64::from(Self::value(&self.ours, (XSAVE_LEAF, 0, register)));
        half(Register::Edx) << 32 | half(Register::Eax)
    }

    /// Leaf 0xd is described by the states that are shown: those are the processor's, a state's
    /// subleaf is the processor's or, where the state is hidden, empty, and sizes follow.
    fn xsave(&self, subleaf: u32, bare: u32, ours: u32) -> u32 {
        match subleaf {
            0 | 1 if ours <= bare => ours,
            0 | 1 => bare,
            state if self.states() >> state.min(63) & 1 == 1 => bare,
            _ => 0,
        }
    }

    /// What the page makes of the processor's `bare`; a register without a row reads as zero.
    fn number(&self, place: Place, bare: u32) -> u32 {
        let (leaf, _, register) = place;
        let rules = &self.declared.rules;
        let applies = |rule: &&Rule| rule.leaf == leaf && rule.register == register;
        let value = rules.iter().find(applies).map_or(0, |rule| bare & rule.keep | rule.set);
        let last = LAST_LEAVES.iter().find(|(first, _)| *first == leaf);
        match (last, register) {
            (Some((_, last)), Register::Eax) => value.min(*last),
            _ if leaf == ADDRESS_SIZES && register == Register::Eax && !self.shows_la57() => {
                value & 0xff | (value & 0xff00).min(48 << 8)
            }
            _ => value,
        }
    }

    fn shows_la57(&self) -> bool {
        self.holds(&Need::Feature("la57".into())) == Some(true)
    }
}

#[cfg(test)]
mod tests;
