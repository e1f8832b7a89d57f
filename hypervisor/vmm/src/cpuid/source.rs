//! What of the physical CPU may be shown.

use super::features::{
    Condition, FEATURES, STATE_AVX, STATE_AVX512, STATE_LEGACY, STATE_PKRU, STATES,
};
use super::masks::{GROUPS, Need, PASSED, Place, REGISTERS, SET, place};
use super::{EXTENDED, Leaf, LocalApic, Offer, XSAVE_LEAF};

/// Hidden features, and the states that go with them.
const GONE_WITH: [(Place, u64); 3] = [
    (place("avx"), STATE_AVX | STATE_AVX512),
    (place("avx512f"), STATE_AVX512),
    (place("pku"), STATE_PKRU),
];

/// The physical CPU, and what of it may be shown.
pub(super) struct Source<'a, F> {
    host: F,
    /// The last leaf of the basic range, and of the extended one.
    last: [u32; 2],
    offer: &'a Offer,
    /// Bits of XCR0 that the guest may set, if XSAVE is shown.
    states: u64,
    /// Whether it may be shown.
    xsave: bool,
}

impl<'a, F: Fn(u32, u32) -> Leaf> Source<'a, F> {
    /// Of the states that the CPU has, those can be shown that it also describes: Bochs 2.7
    /// takes PKRU's bit in XCR0 but tells neither its size nor its place, so that a guest
    /// makes its areas too small, and loads PKRU from behind them.
    ///
    /// Where XSETBV does not exit, the guest can set all bits of XCR0 that the CPU has:
    /// then either all may be shown or none.
    pub(super) fn new(host: F, offer: &'a Offer) -> Self {
        let last = [host(0, 0).eax, host(EXTENDED, 0).eax];
        let mut source = Self { host, last, offer, states: 0, xsave: false };
        let found = source.existing(XSAVE_LEAF, 0);
        let all = u64::from(found.edx) << 32 | u64::from(found.eax);
        let gone = GONE_WITH.iter().filter(|(place, _)| offer.hidden.contains(*place));
        let gone = gone.fold(0, |bits, (_, states)| bits | states);
        source.states = source.described(all & STATES & !gone);
        source.xsave = source.states & STATE_LEGACY == STATE_LEGACY
            && (offer.xsetbv_exits || source.states == all);
        source
    }

    /// The CPU.
    pub(super) const fn host(&self) -> &F {
        &self.host
    }

    /// Bits of XCR0 that the guest may set, if XSAVE is shown.
    pub(super) const fn states(&self) -> u64 {
        self.states
    }

    /// Those of `states` whose size CPUID tells; x87's and SSE's need no telling.
    fn described(&self, states: u64) -> u64 {
        let mut told = states;
        let mut rest = states & !STATE_LEGACY;
        while rest != 0 {
            let state = rest.trailing_zeros();
            rest &= rest - 1;
            if self.existing(XSAVE_LEAF, state).eax == 0 {
                told &= !(1 << state);
            }
        }
        told
    }

    /// A leaf of the host's; zeroes where it has none.
    pub(super) fn existing(&self, leaf: u32, subleaf: u32) -> Leaf {
        let last = self.last[(leaf >> 31) as usize];
        if leaf <= last { (self.host)(leaf, subleaf) } else { Leaf::default() }
    }

    /// What is shown of each register in [`FEATURES`].
    pub(super) fn features(&self) -> [u32; REGISTERS] {
        let there = self.there();
        let mut shown = core::array::from_fn(|index| there[index] & PASSED[index] | SET[index]);
        for group in &GROUPS {
            if !group.needs.iter().all(|need| self.holds(*need, &shown)) {
                continue;
            }
            for (index, shown) in shown.iter_mut().enumerate() {
                let possible =
                    if group.emulated { !self.offer.hidden.mask(index) } else { there[index] };
                *shown |= group.bits[index] & possible;
            }
        }
        shown
    }

    /// The bits of each register that the CPU has and that are not hidden.
    fn there(&self) -> [u32; REGISTERS] {
        let mut read = (u32::MAX, u32::MAX, Leaf::default());
        core::array::from_fn(|index| {
            let register = &FEATURES[index];
            if (read.0, read.1) != (register.leaf, register.subleaf) {
                let leaf = self.existing(register.leaf, register.subleaf);
                read = (register.leaf, register.subleaf, leaf);
            }
            read.2.register(register.register) & !self.offer.hidden.mask(index)
        })
    }

    fn holds(&self, need: Need, shown: &[u32; REGISTERS]) -> bool {
        match need {
            Need::Nothing => true,
            Need::Feature(Place { register, bit }) => shown[register] >> bit & 1 == 1,
            Need::Other(condition) => self.offers(condition),
        }
    }

    /// Whether a condition holds that names no feature.
    fn offers(&self, condition: Condition) -> bool {
        match condition {
            Condition::Feature(_) => false,
            Condition::States(states) => self.states & states == states,
            Condition::ExtendedStates => self.xsave,
            Condition::Compaction => self.offer.xsavec,
            Condition::LocalApic => self.offer.apic != LocalApic::None,
            Condition::X2Apic => self.offer.apic == LocalApic::X2,
        }
    }
}
