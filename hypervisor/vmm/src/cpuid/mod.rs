//! What CPUID tells the guest.
//!
//! Worked out once from the physical CPU, the tables in [`features`] and [`policy`],
//! and what the machine has. Only the bits that mirror CR4 and the sizes of XSAVE areas
//! depend on the guest's state; every other exit is an array access.

pub mod features;
mod hidden;
mod masks;
pub mod policy;
mod source;
mod xsave;

pub use hidden::{CannotHide, Hidden};
pub use xsave::Layout;

use anchorite_abi::{CPUID_SIGNATURE, CPUID_SIGNATURE_LEAF};
use anchorite_vcpu::{Cr4, Instructions};
use core::num::NonZeroU64;
use features::{FEATURES, Show};
use masks::LEAVES;
use policy::{LAST_BASIC, LAST_EXTENDED, Register};
use source::Source;

/// First leaf of the extended range.
const EXTENDED: u32 = 0x8000_0000;
/// Leaf with the TSC's frequency in kHz in EAX, as other hypervisors have it.
pub const FREQUENCY_LEAF: u32 = CPUID_SIGNATURE_LEAF + 0x10;
/// The leaf that describes XSAVE.
const XSAVE_LEAF: u32 = 0xd;

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

    const fn register_mut(&mut self, register: Register) -> &mut u32 {
        match register {
            Register::Eax => &mut self.eax,
            Register::Ebx => &mut self.ebx,
            Register::Ecx => &mut self.ecx,
            Register::Edx => &mut self.edx,
        }
    }
}

/// The local APIC that the machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalApic {
    /// None.
    #[default]
    None,
    /// Its registers are in memory.
    Memory,
    /// They can also be MSRs.
    X2,
}

/// What, besides the physical CPU, decides what the guest is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Features that this run hides.
    pub hidden: Hidden,
    /// The machine's local APIC.
    pub apic: LocalApic,
    /// Whether the guest's XSETBV exits.
    pub xsetbv_exits: bool,
    /// Whether XSAVEC works.
    pub xsavec: bool,
}

const BASIC_LEAVES: usize = LAST_BASIC as usize + 1;
const EXTENDED_LEAVES: usize = (LAST_EXTENDED - EXTENDED) as usize + 1;
/// The leaf that describes one cache a subleaf.
const CACHE_LEAF: u32 = 4;
const CACHE_SUBLEAVES: usize = 8;

/// The guest's CPUID.
#[derive(Clone, Debug)]
pub struct Cpuid {
    basic: [Leaf; BASIC_LEAVES],
    extended: [Leaf; EXTENDED_LEAVES],
    /// The subleaves of [`CACHE_LEAF`].
    caches: [Leaf; CACHE_SUBLEAVES],
    /// EAX of leaf 0xD, subleaf 1.
    xsave_instructions: u32,
    layout: Layout,
    frequency_khz: u32,
}

impl Cpuid {
    /// The guest's view of a physical CPU whose CPUID is `host`, with a TSC of `hertz`.
    pub fn new(host: impl Fn(u32, u32) -> Leaf, hertz: NonZeroU64, offer: &Offer) -> Self {
        let source = Source::new(host, offer);
        let frequency_khz = u32::try_from(hertz.get() / 1_000).unwrap_or(u32::MAX);
        let mut cpuid = Self {
            basic: [Leaf::default(); BASIC_LEAVES],
            extended: [Leaf::default(); EXTENDED_LEAVES],
            caches: [Leaf::default(); CACHE_SUBLEAVES],
            xsave_instructions: 0,
            layout: Layout::default(),
            frequency_khz,
        };
        cpuid.apply_rules(&source);
        cpuid.apply_features(&source);
        if cpuid.shows(1, Register::Ecx, 26) {
            cpuid.layout = Layout::new(source.host(), source.states());
        }
        cpuid.limit_linear_addresses();
        cpuid
    }

    /// Fills in what [`policy::RULES`] name.
    fn apply_rules<F: Fn(u32, u32) -> Leaf>(&mut self, source: &Source<'_, F>) {
        for masks in &LEAVES {
            if masks.leaf == CACHE_LEAF {
                for (subleaf, shown) in (0..).zip(&mut self.caches) {
                    *shown = masks.apply(&source.existing(CACHE_LEAF, subleaf));
                }
            } else if let Some(shown) = self.leaf_mut(masks.leaf) {
                *shown = masks.apply(&source.existing(masks.leaf, 0));
            }
        }
        self.basic[0].eax = self.basic[0].eax.min(LAST_BASIC);
        self.extended[0].eax = self.extended[0].eax.min(LAST_EXTENDED);
    }

    /// Fills in the feature bits.
    fn apply_features<F: Fn(u32, u32) -> Leaf>(&mut self, source: &Source<'_, F>) {
        for (register, shown) in FEATURES.iter().zip(source.features()) {
            if (register.leaf, register.subleaf) == (XSAVE_LEAF, 1) {
                self.xsave_instructions = shown;
            } else if let Some(leaf) = self.leaf_mut(register.leaf) {
                *leaf.register_mut(register.register) = shown;
            }
        }
    }

    /// Subleaf 0 of a leaf that the guest is shown.
    fn leaf_mut(&mut self, leaf: u32) -> Option<&mut Leaf> {
        match leaf.checked_sub(EXTENDED) {
            Some(at) => self.extended.get_mut(at as usize),
            None => self.basic.get_mut(leaf as usize),
        }
    }

    /// What the guest reads, whose CR4 and XCR0 are these. Leaves that do not exist read
    /// as zeroes: Intel's CPUs repeat the last basic leaf there, AMD's give zeroes, and
    /// nothing depends on it.
    #[inline]
    pub fn get(&self, leaf: u32, subleaf: u32, state: impl FnOnce() -> (Cr4, u64)) -> Leaf {
        match (self.basic.get(leaf as usize), leaf) {
            (Some(_), 1 | 7 | XSAVE_LEAF) => self.dynamic(leaf, subleaf, state()),
            (Some(_), CACHE_LEAF) => self.caches.get(subleaf as usize).copied().unwrap_or_default(),
            (Some(_), 0xb) if subleaf != 0 => Leaf::default(),
            (Some(found), _) => *found,
            (None, _) => self.beyond_basic(leaf),
        }
    }

    /// Whether a bit of a leaf's subleaf 0 is shown.
    pub fn shows(&self, leaf: u32, register: Register, bit: u32) -> bool {
        let found = match self.basic.get(leaf as usize) {
            Some(found) => *found,
            None => self.beyond_basic(leaf),
        };
        found.register(register) >> bit & 1 == 1
    }

    /// The guest's physical address width in bits.
    pub const fn physical_bits(&self) -> u32 {
        match self.extended[8].eax & 0xff {
            bits @ 32..=52 => bits,
            _ => 36,
        }
    }

    /// Bits of a canonical address as MSRs and descriptor-table bases check them: by the
    /// widest paging mode that there is, not by the one in use.
    pub fn linear_bits(&self) -> u32 {
        if self.shows(7, Register::Ecx, 16) { 57 } else { 48 }
    }

    /// The CR4 bits that the guest may set: those of features that it is shown.
    pub fn cr4_bits(&self) -> Cr4 {
        let shown = policy::CR4_BITS
            .iter()
            .filter(|(_, leaf, register, bit)| self.shows(*leaf, *register, *bit));
        shown.fold(Cr4::empty(), |bits, (cr4, ..)| bits | *cr4)
    }

    /// Instructions that the guest is shown and that the CPU may have a switch for.
    pub fn instructions(&self) -> Instructions {
        let mut instructions = Instructions::empty();
        instructions.set(Instructions::RDTSCP, self.shows(EXTENDED + 1, Register::Edx, 27));
        instructions.set(Instructions::INVPCID, self.shows(7, Register::Ebx, 10));
        instructions
    }

    /// What XSAVE moves; no states where it is hidden.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the guest is shown no-execute pages.
    pub fn no_execute(&self) -> bool {
        self.shows(EXTENDED + 1, Register::Edx, 20)
    }

    /// Whether the guest is shown long mode.
    pub fn long_mode(&self) -> bool {
        self.shows(EXTENDED + 1, Register::Edx, 29)
    }

    /// Whether the guest is shown 1 GiB pages.
    pub fn gigabyte_pages(&self) -> bool {
        self.shows(EXTENDED + 1, Register::Edx, 26)
    }

    /// The leaves in which something follows the guest's state.
    #[inline(never)]
    fn dynamic(&self, leaf: u32, subleaf: u32, (cr4, xcr0): (Cr4, u64)) -> Leaf {
        if leaf == XSAVE_LEAF {
            return self.xsave(subleaf, xcr0);
        }
        if leaf == 7 && subleaf != 0 {
            return Leaf::default();
        }
        let mut shown = self.basic[leaf as usize];
        for register in FEATURES.iter().filter(|register| register.leaf == leaf) {
            for row in register.features {
                if let Show::Mirrors(bit) = row.show {
                    let value = u32::from(cr4.contains(bit)) << row.bit;
                    *shown.register_mut(register.register) |= value;
                }
            }
        }
        shown
    }

    fn xsave(&self, subleaf: u32, xcr0: u64) -> Leaf {
        let layout = &self.layout;
        let compacts = self.xsave_instructions & 0b1010 != 0;
        match subleaf {
            _ if layout.states == 0 => Leaf::default(),
            0 => Leaf {
                eax: layout.states as u32,
                ebx: layout.standard_bytes(xcr0),
                ecx: layout.standard_bytes(layout.states),
                edx: (layout.states >> 32) as u32,
            },
            1 => Leaf {
                eax: self.xsave_instructions,
                ebx: if compacts { layout.compacted_bytes(xcr0) } else { 0 },
                ..Leaf::default()
            },
            state => layout.state(state),
        }
    }

    /// Without LA57 linear addresses have 48 bits.
    fn limit_linear_addresses(&mut self) {
        let bits = self.linear_bits() << 8;
        let sizes = &mut self.extended[8].eax;
        if *sizes & 0xff00 > bits {
            *sizes = *sizes & !0xff00 | bits;
        }
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

fn signature() -> Leaf {
    let word = |at| u32::from_le_bytes(core::array::from_fn(|byte| CPUID_SIGNATURE[at + byte]));
    Leaf { eax: FREQUENCY_LEAF, ebx: word(0), ecx: word(4), edx: word(8) }
}

#[cfg(test)]
mod tests;
