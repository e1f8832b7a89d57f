//! Guest state that neither vendor's hardware switches: the registers of XSAVE, and
//! TSC_AUX.
//!
//! Source: SDM vol. 1, 13.4 "XSAVE Area"; 13.5 "XSAVE-Managed State"; APM vol. 2, 11.5
//! "XSAVE/XRSTOR Instructions".

use crate::control::Cr4;

/// The states that fit into a [`StateArea`], as bits of XCR0: x87, SSE, AVX, AVX-512,
/// PKRU. Not MPX, LWP or AMX.
const STATES: u64 = 0x2e7;
/// x87 and SSE.
const LEGACY: u64 = 3;
/// The upper halves of the YMM registers.
const AVX: u64 = 1 << 2;

const ECX: usize = 2;
const EDX: usize = 3;

/// What of that state a CPU has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// The bits of XCR0 whose registers are carried along; 0 on a CPU without XSAVE,
    /// where FXSAVE has to do.
    pub states: u64,
    /// RDTSCP or RDPID reads TSC_AUX.
    pub tsc_aux: bool,
    /// RDPKRU reads PKRU.
    pub pkru: bool,
    /// XSAVEC writes the compacted format.
    pub xsavec: bool,
}

impl Extended {
    /// `cpuid` gives EAX, EBX, ECX, EDX of a leaf and a subleaf.
    pub fn collect(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> Self {
        let [highest, ..] = cpuid(0, 0);
        let [highest_extended, ..] = cpuid(0x8000_0000, 0);
        let ask_subleaf = |leaf: u32, subleaf| {
            let limit = if leaf < 0x8000_0000 { highest } else { highest_extended };
            if leaf <= limit { cpuid(leaf, subleaf) } else { [0; 4] }
        };
        let ask = |leaf| ask_subleaf(leaf, 0);
        let xsave = ask(1)[ECX] & 1 << 26 != 0;
        let states = if xsave { u64::from(ask(0xd)[0]) & STATES } else { 0 };
        let states = if states & LEGACY == LEGACY { states } else { 0 };
        Self {
            states,
            tsc_aux: ask(0x8000_0001)[EDX] & 1 << 27 != 0 || ask(7)[ECX] & 1 << 22 != 0,
            pkru: ask(7)[ECX] & 1 << 3 != 0,
            xsavec: states != 0 && ask_subleaf(0xd, 1)[0] & 1 << 1 != 0,
        }
    }

    /// Whether XSAVEC is there and puts the first state beyond SSE where it belongs, which
    /// Bochs 2.7 does not. `compacted` loads the registers of an area, and saves them in the
    /// compacted format. Without such a state there is nothing to misplace.
    pub fn compacts(&self, compacted: impl FnOnce(&StateArea) -> StateArea) -> bool {
        self.xsavec && (self.states & AVX == 0 || compacted(&StateArea::MARKED).is_marked())
    }

    /// The bits of CR4 that the host must set to reach these registers.
    pub fn host_cr4(&self) -> Cr4 {
        let mut cr4 = Cr4::empty();
        cr4.set(Cr4::OSXSAVE, self.states != 0);
        cr4.set(Cr4::PKE, self.pkru);
        cr4
    }
}

/// Bytes of the upper halves of the YMM registers, which lie first behind the header.
const AVX_BYTES: usize = 256;
/// What is looked for there.
const MARK: u8 = 0x5a;
/// Where XMM0 lies in [`StateArea::registers`]; the others follow it.
const XMM: usize = 160 - 28;

/// The memory image of XSAVE in the standard format, whose first half is FXSAVE's.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct StateArea {
    control_word: u16,
    other: [u8; 22],
    mxcsr: u32,
    registers: [u8; 484],
    header: [u64; 8],
    extended: [u8; Self::EXTENDED_BYTES],
}

impl StateArea {
    /// PKRU's offset and size: the last of the states.
    const EXTENDED_BYTES: usize = 2688 + 8 - 512 - 64;

    /// As FNINIT and reset leave it: all exceptions masked, registers empty.
    pub const INITIAL: Self = Self {
        control_word: 0x37f,
        other: [0; 22],
        mxcsr: 0x1f80,
        registers: [0; 484],
        header: [0; 8],
        extended: [0; Self::EXTENDED_BYTES],
    };

    /// The same with [`MARK`] in the upper halves of the YMM registers.
    const MARKED: Self = {
        let mut area = Self::INITIAL;
        area.header[0] = AVX;
        let mut byte = 0;
        while byte < AVX_BYTES {
            area.extended[byte] = MARK;
            byte += 1;
        }
        area
    };

    /// Whether [`MARK`] lies directly behind the header.
    fn is_marked(&self) -> bool {
        self.extended[..AVX_BYTES].iter().all(|&byte| byte == MARK)
    }

    /// XMM register `number` (0–15).
    pub fn xmm(&self, number: u8) -> u128 {
        let first = XMM + 16 * usize::from(number & 15);
        u128::from_le_bytes(core::array::from_fn(|byte| self.registers[first + byte]))
    }

    /// Sets it.
    pub fn set_xmm(&mut self, number: u8, value: u128) {
        let first = XMM + 16 * usize::from(number & 15);
        self.registers[first..first + 16].copy_from_slice(&value.to_le_bytes());
    }
}

const _: () = assert!(core::mem::offset_of!(StateArea, header) == 512);
const _: () = assert!(core::mem::offset_of!(StateArea, extended) == 576);

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU with these registers: CPUID.1:ECX, CPUID.7:ECX, CPUID.D:EAX, and
    /// CPUID.8000_0001:EDX.
    fn cpu(leaf_1: u32, leaf_7: u32, states: u32, extended: u32) -> Extended {
        Extended::collect(|leaf, subleaf| match leaf {
            0 => [0xd, 0, 0, 0],
            1 => [0, 0, leaf_1, 0],
            7 => [0, 0, leaf_7, 0],
            0xd if subleaf == 1 => [0b10, 0, 0, 0],
            0xd => [states, 0, 0, 0],
            0x8000_0000 => [0x8000_0001, 0, 0, 0],
            0x8000_0001 => [0, 0, 0, extended],
            _ => panic!("leaf {leaf:#x} does not exist"),
        })
    }

    #[test]
    fn states_beyond_the_area_are_not_carried() {
        let full = cpu(1 << 26, 1 << 22 | 1 << 3, !0, 0);
        assert_eq!(full, Extended { states: 0x2e7, tsc_aux: true, pkru: true, xsavec: true });
    }

    #[test]
    fn without_xsave_there_is_nothing_to_carry() {
        assert_eq!(cpu(0, 0, !0, 1 << 27), Extended { tsc_aux: true, ..Extended::default() });
        assert_eq!(cpu(1 << 26, 0, 1, 0), Extended::default(), "x87 alone is no XSAVE");
    }

    #[test]
    fn leaves_that_do_not_exist_are_not_asked() {
        let asked = Extended::collect(|leaf, _| match leaf {
            0 => [1, 0, 0, 0],
            1 => [0, 0, 1 << 26, 0],
            0x8000_0000 => [0, 0, 0, 0],
            _ => panic!("leaf {leaf:#x} does not exist"),
        });
        assert_eq!(asked, Extended::default());
    }

    #[test]
    fn xsavec_is_trusted_where_it_writes_the_first_state_behind_the_header() {
        let full = cpu(1 << 26, 0, 7, 0);
        let never = |_: &StateArea| panic!("there is nothing to try");
        assert!(full.compacts(StateArea::clone));
        assert!(!full.compacts(|marked| {
            let mut area = marked.clone();
            area.extended.rotate_left(160);
            area
        }));
        assert!(cpu(1 << 26, 0, 3, 0).compacts(never), "no state beyond SSE");
        assert!(!Extended { xsavec: false, ..full }.compacts(never));
    }
}
