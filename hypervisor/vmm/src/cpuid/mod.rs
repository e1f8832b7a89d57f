//! What CPUID tells the guest.
//!
//! Computed once from the physical CPU and the table in [`policy`]; nothing in it
//! depends on the guest's state, so that an exit is an array access.

pub mod policy;

use anchorite_abi::{CPUID_SIGNATURE, CPUID_SIGNATURE_LEAF};
use anchorite_vcpu::Cr4;
use core::num::NonZeroU64;
use policy::{LAST_BASIC, LAST_EXTENDED, PASSED, Register, TABLE};

/// First leaf of the extended range.
const EXTENDED: u32 = 0x8000_0000;
/// Leaf with the TSC's frequency in kHz in EAX, as other hypervisors have it.
pub const FREQUENCY_LEAF: u32 = CPUID_SIGNATURE_LEAF + 0x10;

/// The four registers that CPUID fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

impl Leaf {
    /// One of the registers.
    pub const fn register(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Ebx => self.ebx,
            Register::Ecx => self.ecx,
            Register::Edx => self.edx,
        }
    }

    fn register_mut(&mut self, register: Register) -> &mut u32 {
        match register {
            Register::Eax => &mut self.eax,
            Register::Ebx => &mut self.ebx,
            Register::Ecx => &mut self.ecx,
            Register::Edx => &mut self.edx,
        }
    }
}

const BASIC_LEAVES: usize = LAST_BASIC as usize + 1;
const EXTENDED_LEAVES: usize = (LAST_EXTENDED - EXTENDED) as usize + 1;
const CACHE_SUBLEAVES: usize = 8;

/// The guest's CPUID.
#[derive(Clone, Debug)]
pub struct Cpuid {
    basic: [Leaf; BASIC_LEAVES],
    extended: [Leaf; EXTENDED_LEAVES],
    /// Leaf 4, which describes one cache a subleaf.
    caches: [Leaf; CACHE_SUBLEAVES],
    frequency_khz: u32,
}

impl Cpuid {
    /// The guest's view of a physical CPU whose CPUID is `host`, with a TSC of `hertz`.
    pub fn new(host: impl Fn(u32, u32) -> Leaf, hertz: NonZeroU64) -> Self {
        let shown = |leaf, subleaf| policed(&host, leaf, subleaf);
        let frequency_khz = u32::try_from(hertz.get() / 1_000).unwrap_or(u32::MAX);
        Self {
            basic: core::array::from_fn(|index| shown(index as u32, 0)),
            extended: core::array::from_fn(|index| shown(EXTENDED + index as u32, 0)),
            caches: core::array::from_fn(|subleaf| shown(4, subleaf as u32)),
            frequency_khz,
        }
    }

    /// Shows a local APIC: bit 9 of leaf 1 EDX, and of its copy where AMD's CPUs have one.
    pub const fn show_apic(&mut self) {
        self.basic[1].edx |= 1 << 9;
        if self.extended[1].edx & 1 != 0 {
            self.extended[1].edx |= 1 << 9;
        }
    }

    /// What the guest reads. Leaves that do not exist read as zeroes: Intel's CPUs
    /// repeat the last basic leaf there, AMD's give zeroes, and nothing depends on it.
    #[inline]
    pub fn get(&self, leaf: u32, subleaf: u32) -> Leaf {
        match self.basic.get(leaf as usize) {
            Some(found) if !has_subleaves(leaf) || subleaf == 0 => *found,
            Some(_) if leaf == 4 => self.caches.get(subleaf as usize).copied().unwrap_or_default(),
            Some(_) => Leaf::default(),
            None => self.beyond_basic(leaf),
        }
    }

    /// Whether a bit of leaf 1, 7, or another without subleaves, is shown.
    pub fn shows(&self, leaf: u32, register: Register, bit: u32) -> bool {
        self.get(leaf, 0).register(register) >> bit & 1 == 1
    }

    /// The guest's physical address width in bits.
    pub fn physical_bits(&self) -> u32 {
        match self.get(0x8000_0008, 0).eax & 0xff {
            bits @ 32..=52 => bits,
            _ => 36,
        }
    }

    /// The CR4 bits that the guest may set: those of features that it is shown.
    pub fn cr4_bits(&self) -> Cr4 {
        let shown = policy::CR4_BITS
            .iter()
            .filter(|(_, leaf, register, bit)| self.shows(*leaf, *register, *bit));
        shown.fold(Cr4::empty(), |bits, (cr4, ..)| bits | *cr4)
    }

    /// Whether the guest is shown no-execute pages.
    pub fn no_execute(&self) -> bool {
        self.shows(0x8000_0001, Register::Edx, 20)
    }

    /// Whether the guest is shown long mode.
    pub fn long_mode(&self) -> bool {
        self.shows(0x8000_0001, Register::Edx, 29)
    }

    fn beyond_basic(&self, leaf: u32) -> Leaf {
        let extended = leaf.checked_sub(EXTENDED).and_then(|at| self.extended.get(at as usize));
        match (extended, leaf) {
            (Some(found), _) => *found,
            (None, CPUID_SIGNATURE_LEAF) => signature(),
            (None, FREQUENCY_LEAF) => Leaf { eax: self.frequency_khz, ..Leaf::default() },
            _ => Leaf::default(),
        }
    }
}

const fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xb | 0xd)
}

/// A leaf of the host's after the table was applied to it.
fn policed(host: &impl Fn(u32, u32) -> Leaf, leaf: u32, subleaf: u32) -> Leaf {
    let last = host(leaf & EXTENDED, 0).eax;
    let mut shown = Leaf::default();
    if leaf <= last && PASSED.contains(&leaf) {
        shown = host(leaf, subleaf);
    }
    for rule in TABLE.iter().filter(|rule| rule.leaf == leaf) {
        let register = shown.register_mut(rule.register);
        *register = *register & rule.keep | rule.set;
    }
    match leaf {
        0 => shown.eax = shown.eax.min(LAST_BASIC),
        EXTENDED => shown.eax = shown.eax.min(LAST_EXTENDED),
        _ => {}
    }
    shown
}

fn signature() -> Leaf {
    let word = |at| u32::from_le_bytes(core::array::from_fn(|byte| CPUID_SIGNATURE[at + byte]));
    Leaf { eax: FREQUENCY_LEAF, ebx: word(0), ecx: word(4), edx: word(8) }
}

#[cfg(test)]
mod tests;
