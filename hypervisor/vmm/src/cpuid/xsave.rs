//! Leaf 0xD: the states that XSAVE moves, and the sizes of its areas.
//!
//! Source: SDM vol. 1, 13.2 "Enumeration of CPU Support for XSAVE Instructions and
//! XSAVE-Supported Features", 13.4 "XSAVE Area".

use super::Leaf;

/// Subleaves that describe a state: 2 up to PKRU's.
const LAST_STATE: usize = 9;
/// The legacy region and the header, which every area has.
const FIXED_BYTES: u32 = 512 + 64;

/// What XSAVE can move, and where to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The bits that the guest may set in XCR0.
    pub states: u64,
    /// Size, offset and flags of each state, as CPUID tells them.
    components: [Leaf; LAST_STATE + 1],
}

/// Flag in ECX of a state's subleaf: in the compacted format it starts at a multiple of 64.
const ALIGNED: u32 = 1 << 1;

impl Layout {
    /// The layout of `states` on a CPU whose CPUID is `host`.
    pub fn new(host: &impl Fn(u32, u32) -> Leaf, states: u64) -> Self {
        let describe = |state: usize| match states >> state & 1 {
            1 if state >= 2 => Leaf { edx: 0, ..host(0xd, state as u32) },
            _ => Leaf::default(),
        };
        Self { states, components: core::array::from_fn(describe) }
    }

    /// Whether XCR0 may hold `value`: only bits that are there, x87 always, AVX with SSE,
    /// AVX-512 as a whole and with AVX.
    pub const fn accepts(&self, value: u64) -> bool {
        const SSE: u64 = 1 << 1;
        const AVX: u64 = super::features::STATE_AVX;
        const AVX512: u64 = super::features::STATE_AVX512;
        let avx512 = value & AVX512;
        value & !self.states == 0
            && value & 1 == 1
            && (value & AVX == 0 || value & SSE != 0)
            && (avx512 == 0 || (avx512 == AVX512 && value & AVX != 0))
    }

    /// Bytes of an area in the standard format with the states of `enabled`.
    pub fn standard_bytes(&self, enabled: u64) -> u32 {
        let ends = self.enabled(enabled).map(|state| state.ebx.wrapping_add(state.eax));
        ends.fold(FIXED_BYTES, u32::max)
    }

    /// The same in the compacted format.
    pub fn compacted_bytes(&self, enabled: u64) -> u32 {
        self.enabled(enabled).fold(FIXED_BYTES, |at, state| {
            let start = if state.ecx & ALIGNED != 0 { at.next_multiple_of(64) } else { at };
            start + state.eax
        })
    }

    fn enabled(&self, enabled: u64) -> impl Iterator<Item = &Leaf> {
        let states = self.components.iter().enumerate();
        states.filter(move |(state, _)| enabled >> state & 1 == 1).map(|(_, leaf)| leaf)
    }

    /// The description of one state; zeroes where it is not there.
    pub fn state(&self, subleaf: u32) -> Leaf {
        self.components.get(subleaf as usize).copied().unwrap_or_default()
    }
}
